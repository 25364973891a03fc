"""Differences by seed turned into estimates, intervals, tests and a verdict in words.

Every comparison of the analysis is one row of differences over seeds (cell - baseline, or a contrast of the grid), so
that the seed is a block everywhere and nothing is counted twice. Only arms that share no seed are compared unpaired.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from analysis import text
from analysis.comparing import outcomes
from analysis.comparing.unpaired import PAIRED, TESTED_COLUMNS, UNPAIRED
from analysis.statistics import looks, significance
from analysis.statistics.effects import MIN_PAIRS
from analysis.statistics.looks import repeated_t_interval, repeated_t_test
from analysis.study import plan_check
from analysis.study.results import NATS, Results

ROUNDING = 8 * np.finfo(float).eps
"""Spread of differences, in units of the largest value behind them, that rounding alone can make."""
NO_SEEDS = "no common seeds"
WITHIN_TOLERANCE = "within tolerance ({:g} nats): the same model up to rounding"


def rounding(results: Results) -> float:
    """Return the spread of differences of the metric that rounding alone can make."""
    return ROUNDING * float(results.finished(results.metric).abs().fillna(0.0).to_numpy().max())


def paired_table(
    differences: pd.DataFrame,
    blocked: pd.Series,
    results: Results,
    unpaired: pd.DataFrame | None = None,
    primary: pd.Series | None = None,
    twins: pd.Series | None = None,
    others: int = 0,
) -> pd.DataFrame:
    """Estimate and test the mean of each row of differences; the tested rows are one Holm family.

    Where the plan declares several looks, intervals and p are repeated ones: they hold at all looks at once. Rows with
    seeds that were added after results were known are estimated from all and tested on these alone.

    Args:
        differences: rows x seeds, NaN where a seed has no pair; as they were `at_look`.
        blocked: for each row why it is not tested, or empty text.
        results: the study: its metric (percentages of perplexity exist for nats alone) and direction.
        unpaired: `unpaired.unpaired_rows`: the rows that are compared without pairs.
        primary: for each row whether it is tested alone, in no family.
        twins: for each row whether it has no test of its own, being the primary one's model under another name.
        others: comparisons of the family that are tested elsewhere, or will be.

    Returns:
        One row a row of `differences`, with pairing, n, difference and its interval, percent and its interval,
        sd_difference, n_tested, p, p_holm, family, p_sign_flip, p_max_t, sign_flip_floor, detectable and verdict, as
        described in COMPARISON_COLUMNS; t_n and t_sd, the pairs and the sd that intervals are made of;
        tested_difference, tested_n and tested_sd, what tests are made of; estimated, whether there is variance to tell
        a difference by; awaits, whether it has too few added seeds for a test: its share in the family's 5 % stays.
    """
    in_nats = results.metric in NATS
    none = pd.Series(False, index=differences.index)
    alone, twins = (none if rows is None else rows for rows in (primary, twins))
    identical = (differences.count(axis=1) > 0) & (differences.abs().max(axis=1) == 0)
    tested = plan_check.of_added_seeds(differences, results)
    table = moments_of(differences, results)
    of_tests = moments_of(tested, results)[["n", "difference", "t_n", "t_sd"]]
    table[list(TESTED_COLUMNS)] = of_tests.set_axis(list(TESTED_COLUMNS), axis=1)
    apart = none.copy()
    if unpaired is not None and len(unpaired):
        apart[unpaired.index] = True
        table.loc[apart, list(table.columns)] = unpaired[list(table.columns)]
    table["pairing"] = apart.map({False: PAIRED, True: UNPAIRED})
    possible = (blocked == "") & (table["n"] >= MIN_PAIRS) & ~identical

    moments = table["difference"], table["t_sd"], table["t_n"]
    table["difference_low"], table["difference_high"] = repeated_t_interval(*moments, results.looks)
    for name in ("", "_low", "_high"):
        table["percent" + name] = percent_of_perplexity(table["difference" + name]) if in_nats else np.nan
    table["estimated"] = possible & table["difference_low"].notna()
    testable = possible & ~twins & (table["n_tested"] >= MIN_PAIRS)
    table["awaits"] = possible & ~alone & ~twins & ~testable
    others += int(table["awaits"].sum())
    moments = table["tested_difference"], table["tested_sd"], table["tested_n"]
    table["p"] = np.where(testable, repeated_t_test(*moments, results.looks), np.nan)
    table["p_holm"] = np.where(alone, table["p"], significance.holm(table["p"].mask(alone), others))
    family = int((table["p"].notna() & ~alone).sum()) + others
    table["family"] = np.where(alone, 1, family)
    values = tested.to_numpy()
    flips = [
        significance.sign_flip(row[~np.isnan(row)]) if test else np.nan
        for row, test in zip(values, testable, strict=True)
    ]
    table["p_sign_flip"] = flips
    joint = table["p"].notna() & ~apart
    table["p_max_t"] = np.nan
    for together in () if results.looks else (joint & ~alone, joint & alone):  # it is made for one look
        table.loc[together, "p_max_t"] = significance.sign_flip_max_t(values[together])
    table["sign_flip_floor"] = np.where(testable, significance.sign_flip_floor(tested.count(axis=1)), np.nan)
    effect = np.where(
        alone,
        looks.detectable(table["tested_n"], 1, results.looks),
        looks.detectable(table["tested_n"], max(family, 1), results.looks),
    )
    table["detectable"] = np.where(table["p"].notna(), effect * table["tested_sd"], np.nan)

    rows = table.assign(identical=identical).to_dict("records")
    verdicts = [reason or _verdict(row, results) for reason, row in zip(blocked, rows, strict=True)]
    table["verdict"] = pd.Series(verdicts, index=table.index, dtype=object)
    return table


def percent_of_perplexity(nats: pd.Series) -> pd.Series:
    """Return differences of losses in percent of perplexity; NaN where they are too large for one (some 700 nats)."""
    with np.errstate(over="ignore"):
        percent = 100 * np.expm1(nats)
    return percent.mask(np.isinf(percent))


def moments_of(differences: pd.DataFrame, results: Results) -> pd.DataFrame:
    """Return n, difference, sd_difference, t_n and t_sd of rows of differences; an sd that rounding can make is 0."""
    n, mean, sd = differences.count(axis=1), differences.mean(axis=1), differences.std(axis=1)
    sd = sd.mask((sd <= rounding(results)) & (differences.abs().max(axis=1) > 0), 0.0)
    return pd.DataFrame({"n": n, "difference": mean, "sd_difference": sd, "t_n": n.astype(float), "t_sd": sd})


def _verdict(row: Mapping[Any, Any], results: Results) -> str:
    """Say in words what a row of the table comes to."""
    n = row["n"]
    if n == 0:
        return NO_SEEDS
    # A study's runs are deterministic, their losses unrounded means over many tokens: equal ones are of one model. In
    # anyone's table one or two may be equal by rounding, or by chance.
    if row["identical"] and (n >= MIN_PAIRS or results.plan.get("cells")):
        return f"identical in {n} of {n} seeds"
    apart = row["pairing"] == UNPAIRED
    if n < MIN_PAIRS:
        return f"n too small ({n} of the {MIN_PAIRS} {'runs' if apart else 'pairs'} needed)"
    if results.looks and n < results.looks[0]:
        return f"before the first look ({n} of {results.looks[0]} pairs)"
    if row["n_tested"] < MIN_PAIRS:
        added = f"{text.counted(row['n_tested'], 'seed')} {'was' if row['n_tested'] == 1 else 'were'} added"
        needed = f"{MIN_PAIRS} are needed for a test of their own"
        return f"{outcomes.TOO_FEW_ADDED}{added} after results were known, {needed}"
    if np.isnan(row["p"]):
        same = "nothing varies over seeds" if apart else "the same difference in all seeds"
        return f"{same}: no t test exists"
    if row["p_holm"] <= significance.ALPHA:
        return "better" if (row["tested_difference"] < 0) == (results.direction == "min") else "worse"
    unit = " nats" if results.metric in NATS else ""
    return f"not resolved (could detect {row['detectable']:.2g}{unit})"
