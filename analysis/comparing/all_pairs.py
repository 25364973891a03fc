"""Every model against every other, for looking around: paired t with Benjamini-Hochberg's q, labelled exploratory."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from analysis import schema
from analysis.comparing.comparisons import changed_factors
from analysis.comparing.paired import moments_of
from analysis.comparing.unpaired import (
    MIN_RUNS,
    PAIRED,
    UNPAIRED,
    UnpairedMoments,
    as_pairs,
    games_howell,
    tested_moments,
)
from analysis.statistics import significance
from analysis.statistics.looks import at_look, repeated_t_interval, repeated_t_test
from analysis.statistics.significance import ALPHA, Array
from analysis.study import plan_check
from analysis.study.results import Results

MOST_PAIRS = 5_000
"""Pairs of a study beyond which there is no table: nobody reads them."""
MOST_ARMS = 20
"""Disjoint arms for which Games and Howell's test is made: it is integrated, pair by pair."""
ALL_PAIRS_COLUMNS = {
    "scale": "scale of the model; empty where scale is no factor of the study",
    "cell": "the cell with the better mean",
    "partner": "the one that it is compared with",
    "pairing": "'paired' by seed, or 'unpaired' (Welch, with the smaller arm's degrees of freedom where sizes are "
    "unequal) where the two share no seed",
    "n": "pairs: seeds that finished in both, of a race those up to the last look; unpaired: finished runs of the "
    "smaller of the two",
    "n_tested": "pairs, or runs, that p rests on: n, save where seeds were added after results were known: then these "
    "alone",
    "difference": "mean paired difference of the metric, cell - partner (nats for losses)",
    "difference_low": "95 % t interval of this difference alone, lower end; with several looks it holds, as p does, at "
    "all of them",
    "difference_high": "upper end",
    "p": "paired (or Welch's) t test, two-sided, uncorrected; null below 3 pairs, where a run of either diverged, and "
    "where nothing varies",
    "q": "p adjusted by Benjamini and Hochberg over all pairs tested: of those with q <= 5 % about 5 % are expected to "
    "be none; exploratory, no family-wise promise",
    "family": "pairs tested",
    "p_games_howell": "adjusted for all pairs of the scale (Games-Howell), where all its cells have disjoint seeds",
}


def all_pairs(
    results: Results, order: Sequence[str], models: Mapping[str, str]
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Compare all pairs of different models within each scale, and each order of the data.

    Args:
        results: the study.
        order: its cells, the best first.
        models: `joint.one_model`: of cells that are one model the first in the order is taken.

    Returns:
        ALL_PAIRS_COLUMNS and a note in words; without three cells to compare, or with more than MOST_PAIRS pairs,
        there is no table.
    """
    finished = results.count(schema.FINISHED)
    distinct = list({models[cell]: cell for cell in reversed([c for c in order if finished[c] > 0])}.values())[::-1]
    found = [pair for pair in itertools.combinations(distinct, 2) if results.scales[pair[0]] == results.scales[pair[1]]]
    if schema.DATA_ORDER in results.factors:  # of several orders one is always the best
        found = [pair for pair in found if schema.DATA_ORDER not in changed_factors(results, *pair)]
    empty = pd.DataFrame(columns=list(ALL_PAIRS_COLUMNS))
    if len(found) < 2:
        return empty, ()
    if len(found) > MOST_PAIRS:
        return empty, (
            f"exploratory: no table of all pairs, {len(found):,} are more than anyone reads ({MOST_PAIRS:,})",
        )
    cells, partners = (list(names) for names in zip(*found, strict=True))
    values = results.finished(results.metric)
    x, y = values.loc[cells].to_numpy(), values.loc[partners].to_numpy()
    differences = at_look(pd.DataFrame(x - y, columns=values.columns), results.looks)
    by_seed = moments_of(differences, results)
    of_tests = moments_of(plan_check.of_added_seeds(differences, results), results)
    apart = (by_seed["n"] == 0).to_numpy()
    m = UnpairedMoments.of(x, y)
    tested_m = tested_moments(x, y, plan_check.additions(results, values.columns))
    (mean, t_sd, t_n), (tested_mean, tested_sd, tested_n) = (
        [
            np.where(apart, unpaired, rows[name])
            for name, unpaired in zip(("difference", "t_sd", "t_n"), as_pairs(moments), strict=True)
        ]
        for rows, moments in ((by_seed, m), (of_tests, tested_m))
    )
    diverged = results.count(schema.DIVERGED)
    whole = ~((diverged[cells] > 0).to_numpy() | (diverged[partners] > 0).to_numpy())
    low, high = repeated_t_interval(mean, t_sd, t_n, results.looks)
    n, n_tested = (
        np.where(apart, moments.smaller, rows["n"]).astype(int)
        for rows, moments in ((by_seed, m), (of_tests, tested_m))
    )
    p = np.where(
        whole & (n_tested >= MIN_RUNS), repeated_t_test(tested_mean, tested_sd, tested_n, results.looks), np.nan
    )
    columns = (
        results.scales[cells].to_numpy(), cells, partners, np.where(apart, UNPAIRED, PAIRED), n, n_tested,
        mean, low, high, p, significance.benjamini_hochberg(p), int((~np.isnan(p)).sum()),
        _games_howell(results, values, found, tested_m, p),
    )  # fmt: skip
    table = pd.DataFrame(dict(zip(ALL_PAIRS_COLUMNS, columns, strict=True)))
    tested, told_apart = int(table["p"].notna().sum()), int((table["q"] <= ALPHA).sum())
    if not tested:
        return empty, ()
    others = f", the other {tested - told_apart} in results.json alone" if told_apart < tested else ""
    note = (
        f"exploratory, all pairs of different models: of {tested} tested {told_apart} with a q of 5 % or less "
        f"(Benjamini-Hochberg){others}; no family-wise error rate is promised for them"
    )
    return table, (note,)


def _games_howell(
    results: Results, values: pd.DataFrame, found: Sequence[tuple[str, str]], m: UnpairedMoments, p: Array
) -> Array:
    """Return Games and Howell's p of the pairs whose scale has nothing but disjoint seeds; NaN elsewhere."""
    adjusted = np.full(len(found), np.nan)
    scales = results.scales[[cell for cell, _ in found]].to_numpy()
    for scale in dict.fromkeys(scales):
        here = scales == scale
        arms = list(dict.fromkeys(name for pair, there in zip(found, here, strict=True) if there for name in pair))
        if len(arms) <= MOST_ARMS and not (values.loc[arms].notna().sum() > 1).any():
            adjusted[here] = np.where(np.isnan(p[here]), np.nan, games_howell(m, len(arms))[here])
    return adjusted
