"""Exact Shapley values of the factors over a full 2^k grid: the total difference, shared out fairly."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from analysis.comparing.paired import rounding
from analysis.factors.factorial import contrast
from analysis.factors.grid import ON, complete_grids
from analysis.statistics.looks import repeated_t_interval
from analysis.study.results import Results

TOTAL = "all together"
"""The row of the sum: the cell with every factor on against that with none."""
SHAPLEY_COLUMNS = {
    "scale": "scale of the model; empty where scale is no factor of the study",
    "factor": f"what is switched on; '{TOTAL}' is every factor, the sum of the others",
    "n": "seeds that finished in every cell of the grid",
    "shapley": "mean over seeds of the factor's Shapley value: what switching it on changes, averaged over all orders "
    "in which factors can be switched on (nats for losses); the main effect where no three factors interact",
    "shapley_low": "95 % t interval over seeds, lower end; null below two seeds or without variance",
    "shapley_high": "upper end",
    "main_effect": "what switching it on changes, averaged over all combinations of the others; null for the sum",
}


def shapley_weights(on: np.ndarray) -> np.ndarray:
    """Return the weights over the cells that make each factor's Shapley value (Shapley 1953).

    The coalition's value is the mean loss of its cell; one that has i's company S of size s weighs
    s! (k - s - 1)! / k!.

    Args:
        on: bool, shape (2^k, k): which factors are on in each cell.

    Returns:
        Shape (k, 2^k).
    """
    k = on.shape[1]
    company = on.sum(axis=1)[:, None] - on
    share = np.vectorize(lambda s: math.factorial(s) * math.factorial(k - s - 1) / math.factorial(k))(company)
    return np.asarray((np.where(on, 1, -1) * share).T)


def shapley(results: Results) -> pd.DataFrame:
    """Return SHAPLEY_COLUMNS for each scale with a full 2^k grid of a factorial design; empty elsewhere."""
    rows = []
    for grid in complete_grids(results)[0]:
        if grid.joined or grid.fraction is not None:
            continue
        on = (grid.levels == ON).to_numpy()
        k = on.shape[1]
        values = [contrast(results, grid, weights) for weights in shapley_weights(on)]
        main = [contrast(results, grid, np.where(row, 1, -1) * 2 / len(on)).mean() for row in on.T]
        total = contrast(results, grid, 1.0 * (on.sum(axis=1) == k) - 1.0 * (on.sum(axis=1) == 0))
        named = zip([*grid.levels.columns, TOTAL], [*values, total], [*main, np.nan], strict=True)
        for factor, by_seed, effect in named:
            mean, sd, n = by_seed.mean(), by_seed.std(), by_seed.size
            low, high = repeated_t_interval(mean, sd if sd > rounding(results) else 0.0, n, results.looks)
            rows.append((grid.scale, factor, n, mean, float(low), float(high), effect))
    return pd.DataFrame(rows, columns=list(SHAPLEY_COLUMNS))
