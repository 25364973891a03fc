"""Which cells can be told apart: groups from simultaneous differences, and mean ranks with a critical difference.

Groups rest on the model of cells and seeds (`joint.py`): all pairs of cells differ by less than Tukey's honestly
significant difference within a group. Mean ranks need no model but many seeds: they are drawn from 10 seeds on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from string import ascii_lowercase

import numpy as np
import pandas as pd
from scipy import stats

from analysis.statistics.effects import MIN_PAIRS
from analysis.statistics.joint import pooled_residual, stand_ins
from analysis.statistics.significance import ALPHA, Array
from analysis.study.results import Results

MIN_SEEDS = 10
"""Below, ranks can hardly tell any two cells apart: the critical difference is most of the scale."""
GROUP_COLUMNS = {
    "groups": "letters: two cells without a common one differ, by the simultaneous 95 % intervals of all pairs (Tukey, "
    "one model of cells and seeds, pooled residual: assumes equal variances); null below 3 seeds, for unequal seeds or "
    "no rank; exploratory: no plan registers them",
}


def groups(results: Results, ranking: pd.DataFrame, models: Mapping[str, str]) -> pd.DataFrame:
    """Return GROUP_COLUMNS for the rows of `rank_cells`.

    Args:
        results: the study.
        ranking: its `rank_cells`.
        models: `joint.one_model`; cells that are one model share their letters and count once.
    """
    table = pd.DataFrame({"groups": pd.Series(None, index=ranking.index, dtype=object)})
    for data, names in _blocks(results, ranking, models):
        seeds = data.shape[1]
        if seeds < MIN_PAIRS:
            continue
        variance, df = pooled_residual(data.to_numpy())
        if variance <= 0:
            continue
        means = data.mean(axis=1)
        gap = float(tukey(len(means), df) * np.sqrt(variance / seeds))
        letters = dict(zip(means.index, letter(runs(means.to_numpy(), gap), len(means)), strict=True))
        table.loc[names.index, "groups"] = [letters[name] for name in names]
    return table


def _blocks(results: Results, ranking: pd.DataFrame, models: Mapping[str, str]) -> list[tuple[pd.DataFrame, pd.Series]]:
    """Return of each scale the values of its models, models x seeds, the best mean first, and where they belong.

    A model is named by the cell that stands in for it: of each row that competes its name is the second part. Scales
    with less than two models, or in which one lacks a seed that another has, are left out.
    """
    values = results.finished(results.metric)
    competing = ranking[ranking["rank"].notna() & ~ranking["cell"].isin(results.marks)]
    found = []
    for _, rows in competing.groupby("scale", sort=False):
        names = rows["cell"].map(stand_ins(values.loc[rows["cell"]], models))
        data = values.loc[names.unique()].dropna(axis=1, how="all")
        if len(data) > 1 and not data.isna().any(axis=None):
            order = data.mean(axis=1).sort_values(ascending=results.direction == "min", kind="stable").index
            found.append((data.loc[order], names))
    return found


@lru_cache(maxsize=64)
def tukey(cells: int, df: float, alpha: float = ALPHA) -> float:
    """Return the upper quantile of the studentised range of so many means."""
    return float(stats.studentized_range.isf(alpha, cells, df))


def runs(means: Array, gap: float) -> list[tuple[int, int]]:
    """Return the longest runs of sorted means (rising or falling) within `gap`, as (first, last), inclusive.

    With equal errors two cells differ exactly where their means are further apart, so such runs are all groups.
    """
    found: list[tuple[int, int]] = []
    for first in range(means.size):
        last = int(np.flatnonzero(np.abs(means - means[first]) <= gap).max())
        if not found or last > found[-1][1]:
            found.append((first, last))
    return found


def letter(found: Sequence[tuple[int, int]], cells: int) -> list[str]:
    """Return the letters of each cell: one for each group that it is in; beyond z, numbers in brackets."""
    names = [ascii_lowercase[i] if i < len(ascii_lowercase) else f"[{i + 1}]" for i in range(len(found))]
    return [
        "".join(name for name, (first, last) in zip(names, found, strict=True) if first <= place <= last)
        for place in range(cells)
    ]


@dataclass(frozen=True)
class MeanRanks:
    """Ranks within each seed, averaged over seeds (Demšar 2006, https://jmlr.org/papers/v7/demsar06a.html)."""

    scale: str
    cells: tuple[str, ...]
    """The models, the best first."""
    ranks: Array
    """Mean rank of each; 1 is best, ties share the mean of theirs."""
    seeds: int
    critical: float
    """Mean ranks further apart differ at the family-wise 5 % (Nemenyi)."""
    friedman: float
    """p of Friedman's test that all cells rank alike."""

    @property
    def groups(self) -> list[tuple[int, int]]:
        """The runs of cells that cannot be told apart, of two and more."""
        return [(first, last) for first, last in runs(self.ranks, self.critical) if last > first]


def mean_ranks(results: Results, ranking: pd.DataFrame, models: Mapping[str, str]) -> list[MeanRanks]:
    """Return the mean ranks of each scale that has three or more models and MIN_SEEDS or more common seeds."""
    found = []
    for data, names in _blocks(results, ranking, models):
        cells, seeds = data.shape
        if seeds < MIN_SEEDS or cells < 3:
            continue
        values = data.to_numpy() * (1 if results.direction == "min" else -1)
        ranks = stats.rankdata(values, axis=0).mean(axis=1)
        order = np.argsort(ranks, kind="stable")
        found.append(
            MeanRanks(
                scale=str(ranking.loc[names.index[0], "scale"]),
                cells=tuple(str(cell) for cell in data.index[order]),
                ranks=ranks[order],
                seeds=seeds,
                critical=critical_difference(cells, seeds),
                friedman=float(stats.friedmanchisquare(*values).pvalue),
            )
        )
    return found


def critical_difference(cells: int, seeds: int) -> float:
    """Return Nemenyi's critical difference of mean ranks, q sqrt(k (k + 1) / (6 n)), q of the range over sqrt(2)."""
    return tukey(cells, np.inf) / np.sqrt(2) * float(np.sqrt(cells * (cells + 1) / (6 * seeds)))
