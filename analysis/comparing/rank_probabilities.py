"""How sure a ranking is: the probability of each rank, from the model of cells and seeds."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from analysis.statistics.effects import MIN_PAIRS
from analysis.statistics.joint import pooled_residual, stand_ins
from analysis.statistics.significance import LEVEL, Array
from analysis.study.results import Results

DRAWS = 10_000
"""Of the true means; a probability is then off by 0.01 at most (two standard errors)."""
CHUNK = 2_000_000
"""Numbers drawn at once, to bound memory."""
RANK_PROBABILITY_COLUMNS = {
    "p_best": "probability that the cell's true mean is the best of its scale (normal residuals of equal variance, "
    "seeds as blocks, flat prior); equal models share it; null below 3 seeds, for unequal seeds or no rank; "
    "exploratory: no plan registers it",
    "rank_low": "rank that the true mean is below with 2.5 % probability at most; exploratory: no plan registers it",
    "rank_high": "rank that it is above with 2.5 % probability at most; exploratory, too",
}


def rank_probabilities(results: Results, ranking: pd.DataFrame, models: Mapping[str, str]) -> pd.DataFrame:
    """Return RANK_PROBABILITY_COLUMNS for the rows of `rank_cells`.

    Given the data, the true means are t-distributed about the cells' means, with the pooled residual's standard error;
    what the seeds have in common cancels in their order. Ranks are drawn from it, with fixed random numbers.

    Args:
        results: the study.
        ranking: its `rank_cells`.
        models: `joint.one_model`; cells that are one model have one mean, and ties share the better rank.
    """
    values = results.finished(results.metric)
    table = pd.DataFrame(np.nan, index=ranking.index, columns=list(RANK_PROBABILITY_COLUMNS))
    ranked = ranking[ranking["rank"].notna() & ~ranking["cell"].isin(results.marks)]
    for _, rows in ranked.groupby("scale", sort=False):
        names = rows["cell"].map(stand_ins(values.loc[rows["cell"]], models))
        distinct = list(dict.fromkeys(names))
        data = values.loc[distinct].dropna(axis=1, how="all")
        seeds = data.shape[1]
        if len(distinct) < 2 or seeds < MIN_PAIRS or data.isna().any(axis=None):
            continue
        variance, df = pooled_residual(data.to_numpy())
        if variance <= 0:
            continue
        means = data.mean(axis=1).to_numpy() * (1 if results.direction == "min" else -1)
        sizes = names.value_counts()[distinct].to_numpy()
        shares = rank_shares(means, float(np.sqrt(variance / seeds)), df, sizes)
        below = shares.cumsum(axis=1)
        tail = (1 - LEVEL) / 2
        summary = np.column_stack(
            [shares[:, 0], 1 + (below > tail).argmax(axis=1), 1 + (below >= 1 - tail - 1e-12).argmax(axis=1)]
        )
        table.loc[rows.index] = summary[[distinct.index(name) for name in names]]
    return table


def rank_shares(means: Array, error: float, df: int, sizes: np.ndarray) -> Array:
    """Return the probability of each rank (columns) of each model (rows); rank 1 has the lowest true mean.

    Args:
        means: shape (models,).
        error: standard error of a mean, from the pooled residual.
        df: its degrees of freedom.
        sizes: cells that are each model; a model of several leaves out as many ranks after it.

    Returns:
        Shape (models, sum of sizes); rows sum to 1.
    """
    generator = np.random.default_rng(0)
    models, ranks = means.size, int(sizes.sum())
    counts = np.zeros(models * ranks)
    for start in range(0, DRAWS, max(1, CHUNK // models)):
        draws = min(max(1, CHUNK // models), DRAWS - start)
        scale = error / np.sqrt(generator.chisquare(df, (draws, 1)) / df)
        order = np.argsort(means + scale * generator.standard_normal((draws, models)), axis=1)
        ahead = sizes[order].cumsum(axis=1) - sizes[order]
        counts += np.bincount((order * ranks + ahead).ravel(), minlength=counts.size)
    return counts.reshape(models, ranks) / DRAWS
