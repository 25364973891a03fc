"""Differences by seed turned into estimates, intervals, tests and a verdict in words.

Every comparison of the analysis is one row of differences over seeds (cell - baseline, or a contrast of the grid), so
that the seed is a block everywhere and nothing is counted twice. Only arms that share no seed are compared unpaired.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from analysis import looks, significance
from analysis.effects import MIN_PAIRS
from analysis.looks import repeated_t_interval, repeated_t_test
from analysis.results import NATS, Results
from analysis.unpaired import PAIRED, UNPAIRED

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
) -> pd.DataFrame:
    """Estimate and test the mean of each row of differences; the tested rows are one Holm family.

    Where the plan declares several looks, intervals and p are repeated ones: they hold at all looks at once.

    Args:
        differences: rows x seeds, NaN where a seed has no pair; as they were `at_look`.
        blocked: for each row why it is not tested, or empty text.
        results: the study: its metric (percentages of perplexity exist for nats alone) and direction.
        unpaired: `unpaired.unpaired_rows`: the rows that are compared without pairs.
        primary: for each row whether it is tested alone, in no family.

    Returns:
        One row a row of `differences`, with pairing, n, difference and its interval, percent and its interval,
        sd_difference, p, p_holm, family, p_sign_flip, p_max_t, sign_flip_floor, detectable and verdict, as described in
        COMPARISON_COLUMNS; t_n and t_sd, the pairs and the sd that intervals and tests are made of.
    """
    in_nats = results.metric in NATS
    n = differences.count(axis=1)
    mean, sd = differences.mean(axis=1), differences.std(axis=1)
    identical = (n > 0) & (differences.abs().max(axis=1) == 0)
    constant = ~identical & (sd <= rounding(results))
    sd = sd.where(~constant, 0.0)
    table = pd.DataFrame({"n": n, "difference": mean, "sd_difference": sd, "t_n": n.astype(float), "t_sd": sd})
    apart = pd.Series(False, index=table.index)
    if unpaired is not None and len(unpaired):
        apart[unpaired.index] = True
        table.loc[apart, list(table.columns)] = unpaired[list(table.columns)]
    table["pairing"] = apart.map({False: PAIRED, True: UNPAIRED})
    testable = (blocked == "") & (table["n"] >= MIN_PAIRS) & ~identical

    moments = table["difference"], table["t_sd"], table["t_n"]
    table["difference_low"], table["difference_high"] = repeated_t_interval(*moments, results.looks)
    for name in ("", "_low", "_high"):
        table["percent" + name] = 100 * np.expm1(table["difference" + name]) if in_nats else np.nan
    table["p"] = np.where(testable, repeated_t_test(*moments, results.looks), np.nan)
    alone = pd.Series(False, index=table.index) if primary is None else primary
    table["p_holm"] = np.where(alone, table["p"], significance.holm(table["p"].mask(alone)))
    family = int((table["p"].notna() & ~alone).sum())
    table["family"] = np.where(alone, 1, family)
    values = differences.to_numpy()
    flips = [
        significance.sign_flip(row[~np.isnan(row)]) if test else np.nan
        for row, test in zip(values, testable, strict=True)
    ]
    table["p_sign_flip"] = flips
    joint = table["p"].notna() & ~apart
    table["p_max_t"] = np.nan
    for together in () if results.looks else (joint & ~alone, joint & alone):  # it is made for one look
        table.loc[together, "p_max_t"] = significance.sign_flip_max_t(values[together])
    table["sign_flip_floor"] = np.where(testable, significance.sign_flip_floor(n), np.nan)
    tested = table["p"].notna()
    effect = np.where(
        alone,
        looks.detectable(table["t_n"], 1, results.looks),
        looks.detectable(table["t_n"], max(family, 1), results.looks),
    )
    detectable = effect * table["t_sd"]
    table["detectable"] = np.where(tested, detectable, np.nan)

    rows = table.assign(identical=identical).to_dict("records")
    verdicts = [reason or _verdict(row, results) for reason, row in zip(blocked, rows, strict=True)]
    table["verdict"] = pd.Series(verdicts, index=table.index, dtype=object)
    return table


def _verdict(row: Mapping[Any, Any], results: Results) -> str:
    """Say in words what a row of the table comes to."""
    n = row["n"]
    if n == 0:
        return NO_SEEDS
    if row["identical"]:
        return f"identical in {n} of {n} seeds"
    apart = row["pairing"] == UNPAIRED
    if n < MIN_PAIRS:
        return f"n too small ({n} of the {MIN_PAIRS} {'runs' if apart else 'pairs'} needed)"
    if results.looks and n < results.looks[0]:
        return f"before the first look ({n} of {results.looks[0]} pairs)"
    if np.isnan(row["p"]):
        same = "nothing varies over seeds" if apart else "the same difference in all seeds"
        return f"{same}: no t test exists"
    if row["p_holm"] <= significance.ALPHA:
        return "better" if (row["difference"] < 0) == (results.direction == "min") else "worse"
    unit = " nats" if results.metric in NATS else ""
    return f"not resolved (could detect {row['detectable']:.2g}{unit})"
