"""Runs that diverged as results: how often, and a comparison in which they count as worst.

The mean of a cell's survivors flatters it, so such a cell has no rank and no t test. A rank needs no value: a diverged
run is worse than any that finished, and two diverged runs of one seed are tied.

Rates are of all runs. The sign test rests on the seeds that other tests of the comparison would rest on: see
plan_check.py. A race's looks spend no error on it: there it is exploratory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy import stats

from analysis import schema, text
from analysis.statistics.looks import at_look
from analysis.statistics.significance import ALPHA, clopper_pearson, holm, t_interval
from analysis.study import plan_check
from analysis.study.results import Results

DIVERGENCE_COLUMNS = {
    "scale": "scale of the model; empty where scale is no factor of the study",
    "cell": "name of the cell",
    "baseline": "the cell it is compared with",
    "runs": "runs that finished or diverged",
    "diverged": "those that diverged",
    "rate": "diverged / runs",
    "rate_low": "lower end of its exact 95 % interval (Clopper-Pearson)",
    "rate_high": "upper end",
    "mean": "mean of the metric over the survivors: flatters the cell",
    "mean_low": "95 % t interval of that mean, lower end",
    "mean_high": "upper end",
    "median": "median over all runs, diverged ones counting as worst; null where the median run itself diverged",
    "plan": plan_check.PLAN_MEANING,
    "better": "seeds in which the cell is better than its baseline, diverged runs counting as worst; of those that the "
    "test rests on: of the primary comparison the registered ones, of others those that were added after results were "
    "known, if there are any, of a race those up to its look",
    "worse": "seeds in which it is worse",
    "tied": "seeds in which both diverged, or are equal",
    "p_sign": "exact two-sided sign test of better against worse (ties left out), paired by seed",
    "p_holm": "p_sign, Holm-corrected over the family: this table and, except in a race, the comparisons that have a t "
    "test instead; of the plan's primary comparison, which is tested alone, p_sign itself",
    "floor": "smallest p_sign that so many seeds can give, 2 / 2^n",
    "verdict": "of the sign test, in words",
}
SURVIVORS_COLUMN = {
    "survivors": "where the row's figures are of survivors alone, which flatter: how many runs of the cell, or of what "
    "it is compared with, diverged; empty elsewhere",
}
"""Of every table that shows figures of cells with diverged runs and has no verdict to say so."""


def survivors(results: Results, pairs: Mapping[str, str]) -> pd.Series:
    """Return for each cell how many runs of it, or else of what it is compared with, diverged; empty text for none.

    Args:
        results: the study.
        pairs: cell -> the cell that it is compared with; itself where it is described alone.
    """
    diverged, runs = results.count(schema.DIVERGED), results.statuses.notna().sum(axis=1)
    words = ("diverged in " + diverged.astype(str) + " of " + runs.astype(str) + " seeds").where(diverged > 0, "")
    said = [words[cell] or (words[base] and f"baseline {words[base]}") for cell, base in pairs.items()]
    return pd.Series(said, index=list(pairs), dtype=object)


def divergence(results: Results) -> pd.DataFrame:
    """Describe and compare every cell that has diverged runs, or whose baseline has.

    Runs that an audit found invalid and seeds that one of the two lacks are in no count.

    Returns:
        DIVERGENCE_COLUMNS, in the cells' order; empty where nothing diverged.
    """
    values = results.finished(results.metric)
    ended = results.statuses.where(results.statuses.isin((schema.FINISHED, schema.DIVERGED)))
    is_diverged = ended == schema.DIVERGED
    worst = math.inf if results.direction == "min" else -math.inf
    ranked = values.mask(is_diverged, worst)
    signs, plan = _signs(results, ranked)
    rows = []
    for cell in results.cells.index:
        baseline = results.baselines.get(cell, cell)
        if not (is_diverged.loc[cell].any() or is_diverged.loc[baseline].any()):
            continue
        better, worse, tied = (int((signs.loc[cell] == sign).sum()) for sign in (1, -1, 0))
        median = float(ranked.loc[cell].dropna().median()) if ended.loc[cell].notna().any() else math.nan
        rows.append(
            {
                "scale": results.scales[cell],
                "cell": cell,
                "baseline": baseline,
                "runs": int(ended.loc[cell].notna().sum()),
                "diverged": int(is_diverged.loc[cell].sum()),
                "n": values.loc[cell].count(),
                "mean": values.loc[cell].mean(),
                "sd": values.loc[cell].std(),
                "median": median if math.isfinite(median) else math.nan,
                "plan": plan.get(cell, ""),
                "better": better,
                "worse": worse,
                "tied": tied,
                "p_sign": _sign_test(better, worse) if cell != baseline else math.nan,
                "floor": 2.0 ** (1 - better - worse) if better + worse and cell != baseline else math.nan,
            }
        )
    table = pd.DataFrame(rows, columns=[*DIVERGENCE_COLUMNS, "n", "sd"])
    table["rate"] = table["diverged"] / table["runs"]
    table["rate_low"], table["rate_high"] = clopper_pearson(table["diverged"], table["runs"])
    table["mean_low"], table["mean_high"] = t_interval(table["mean"], table["sd"], table["n"])
    alone = table["plan"] == plan_check.PRIMARY
    elsewhere = plan[~plan.index.isin(table["cell"])]
    others = 0 if results.looks else int((elsewhere != plan_check.PRIMARY).sum())
    table["p_holm"] = np.where(alone, table["p_sign"], holm(table["p_sign"].mask(alone), others))
    together = table["floor"].mask(alone)
    # Holm's first step is that of the smallest p: where even the smallest that there can be is too large, none passes.
    family = np.where(alone, 1, 1 if together.min() * (size := int(together.count()) + others) <= ALPHA else size)
    rows_of = zip(table["better"], table["worse"], table["p_holm"], table["floor"], family, strict=True)
    table["verdict"] = [_verdict(*row) for row in rows_of]
    return table[list(DIVERGENCE_COLUMNS)]


def _signs(results: Results, ranked: pd.DataFrame) -> tuple[pd.DataFrame, pd.Series]:
    """Return what the sign tests rest on, and what the plan says of each compared cell.

    Args:
        results: the study.
        ranked: the metric, cells x seeds; infinite where a run diverged, NaN where there is none.

    Returns:
        Cells x seeds: 1 where a cell is better than its baseline, -1 where it is worse, 0 for a tie, else NaN.
    """
    here, there = ranked, ranked.loc[[results.baselines.get(cell, cell) for cell in ranked.index]].to_numpy()
    better, worse = (here < there, here > there) if results.direction == "min" else (here > there, here < there)
    signs = (better.astype(float) - worse.astype(float)).where(here.notna() & ~np.isnan(there))
    baselines = {str(cell): results.baselines.get(cell, cell) for cell in ranked.index}
    plan = plan_check.standing(results, {cell: base for cell, base in baselines.items() if cell != base})
    signs = plan_check.of_registered_seeds(at_look(signs, results.looks), plan.reindex(signs.index), results)
    if results.looks:
        plan[:] = f"{plan_check.EXPLORATORY}: the looks are not made for a sign test"
    return plan_check.of_added_seeds(signs, results), plan


def _sign_test(better: int, worse: int) -> float:
    return float(stats.binomtest(better, better + worse).pvalue) if better + worse else math.nan


def _verdict(better: int, worse: int, p_holm: float, floor: float, family: int) -> str:
    """Return what a sign test comes to.

    Args:
        better: seeds in which the cell is better.
        worse: seeds in which it is worse.
        p_holm: NaN where there is no test.
        floor: smallest p that so many seeds can give.
        family: by how many comparisons the smallest p of all is multiplied where none can pass; else 1.
    """
    if math.isnan(p_holm):
        return "not tested"
    if p_holm <= ALPHA:
        return "better" if better > worse else "worse"
    if floor > ALPHA:
        return f"cannot reject with {better + worse} seeds (smallest p {floor:.3g})"
    if floor * family > ALPHA:
        times = text.times(floor, family)
        return f"cannot reject with {better + worse} seeds (smallest p {floor:.3g}, {times})"
    return "not resolved"
