"""Means over the grid at each combination of two factors: what interaction plots show."""

from __future__ import annotations

import itertools

import pandas as pd

from analysis.factors.grid import complete_grids
from analysis.statistics import significance
from analysis.study.results import Results

INTERACTION_COLUMNS = {
    "scale": "scale of the model; empty where scale is no factor of the study",
    "across": "the factor of the horizontal axis: of the two the one with more levels",
    "level": "its level",
    "by": "the other factor",
    "by_level": "its level",
    "n": "seeds that finished in every cell of the grid",
    "mean": "mean of the metric over seeds and over all cells with these two levels (nats for losses)",
    "mean_low": "95 % t interval over seeds, lower end; what seeds have in common is in it",
    "mean_high": "upper end",
}


def interactions(results: Results) -> pd.DataFrame:
    """Return INTERACTION_COLUMNS for every two factors of each complete grid; of a fraction, none can be told apart."""
    rows = []
    for grid in complete_grids(results)[0]:
        if grid.fraction is not None:
            continue
        for pair in itertools.combinations(grid.levels.columns, 2):
            across, by = sorted(pair, key=lambda factor: -grid.levels[factor].nunique())
            combinations = grid.levels[[across, by]].drop_duplicates().itertuples(index=False, name=None)
            for level, by_level in combinations:
                cells = (grid.levels[across] == level) & (grid.levels[by] == by_level)
                by_seed = grid.values[cells].mean()
                mean, n = by_seed.mean(), by_seed.size
                low, high = significance.t_interval(mean, by_seed.std(), n)
                rows.append((grid.scale, across, level, by, by_level, n, mean, float(low), float(high)))
    return pd.DataFrame(rows, columns=list(INTERACTION_COLUMNS))
