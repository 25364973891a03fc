"""Pareto fronts: which cells no other beats in both the metric and a cost, and how sure that is over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis import schema
from analysis.comparing.divergence import SURVIVORS_COLUMN, survivors
from analysis.statistics.effects import MIN_PAIRS
from analysis.statistics.joint import pooled_residual, stand_ins
from analysis.statistics.significance import Array, t_interval
from analysis.study.results import Results

DRAWS = 4_000
"""Of the true values; a probability is then off by 0.016 at most (two standard errors)."""
CHUNK = 2_000_000
"""Numbers drawn at once, to bound memory."""


@dataclass(frozen=True)
class Cost:
    """What a cell costs."""

    name: str
    meaning: str
    axis: str
    """In figures, with the unit that `scale` makes."""
    scale: float
    unit: str


COSTS = (
    Cost(
        "live_parameters",
        "trainable parameters, without those known to be dead",
        "live parameters (millions)",
        1e6,
        "M",
    ),
    Cost("training_flops", "training FLOPs in all, forward and backward", "training FLOPs (10\u00b9\u00b2)", 1e12, "T"),
    Cost("train_seconds", "seconds of training alone", "training time (seconds)", 1.0, "s"),
    Cost("peak_memory_bytes", "peak memory of the run, bytes", "peak memory (10\u2079 bytes)", 1e9, "GB"),
)
PARETO_COLUMNS = {
    "scale": "scale of the model; empty where scale is no factor of the study",
    "cell": "name of the cell",
    "n": "runs (seeds) that the means are over",
    "mean": "mean of the metric over them",
    "ci_low": "95 % t interval of the mean, lower end",
    "ci_high": "upper end",
} | {
    cost.name + end: words
    for cost in COSTS
    for end, words in (
        ("", f"geometric mean over seeds: {cost.meaning}; null where a run lacks it"),
        ("_low", "lower end of its 95 % interval, a t interval of the logarithm; null where all seeds cost the same"),
        ("_high", "upper end"),
        ("_front", "whether no other cell of the scale has a mean as good and a cost as low, one of them better; null "
         "for a cell without a rank, with a mark or with an unknown cost"),
        ("_p_front", "probability that this holds of the true values (t model of cells and seeds; a measured cost on "
         "a log scale); null below 3 seeds and for unequal seeds; exploratory: no plan registers it"),
        ("_dominated_by", "the best of the cells that have both; null on the front"),
    )
} | SURVIVORS_COLUMN  # fmt: skip


def pareto(results: Results, ranking: pd.DataFrame, models: Mapping[str, str]) -> pd.DataFrame:
    """Return PARETO_COLUMNS for the rows of `rank_cells`.

    Args:
        results: the study.
        ranking: its `rank_cells`.
        models: `joint.one_model`; cells that are one model have one mean.
    """
    table = ranking[["scale", "cell", "n", "mean", "ci_low", "ci_high"]].copy()
    table["survivors"] = survivors(results, {cell: cell for cell in table["cell"]}).to_numpy()
    metric = results.finished(results.metric)
    competing = ranking["rank"].notna() & ~ranking["cell"].isin(results.marks)
    for cost in COSTS:
        values = _costs(results, cost.name)
        complete = values.count(axis=1) == metric.count(axis=1)
        figures = _geometric(values.where(complete, axis=0)).loc[table["cell"]]
        for end in figures:
            table[f"{cost.name}{end}"] = figures[end].to_numpy()
        judged = pd.DataFrame(None, index=table.index, columns=["_front", "_p_front", "_dominated_by"], dtype=object)
        for _, rows in table[competing & table[cost.name].notna()].groupby("scale", sort=False):
            cells = list(rows["cell"])
            names = stand_ins(metric.loc[cells], models)
            judged.loc[rows.index] = _judge(
                results, metric, values, figures.loc[cells, ""], [names[cell] for cell in cells]
            )
        judged["_p_front"] = judged["_p_front"].astype(float)
        table = table.join(judged.add_prefix(cost.name))
    return table[list(PARETO_COLUMNS)]


def _costs(results: Results, name: str) -> pd.DataFrame:
    """Return a cost of the counted runs, cells x seeds; one that is not positive is unknown."""
    if name == "training_flops":
        values = results.finished(schema.FLOPS_PER_TOKEN) * results.finished(schema.TOKENS)
    else:
        values = results.live_parameters() if name == "live_parameters" else results.finished(name)
    return values.where(values > 0)


def _geometric(values: pd.DataFrame) -> pd.DataFrame:
    """Return each cell's geometric mean and both ends of its 95 % interval, columns "", "_low" and "_high".

    A cost is positive, and times of runs on a busy machine differ by factors: the t interval is of their logarithms,
    as the draws for probabilities are. That of their mean ends below 0 where one of three seeds took twice as long.
    """
    one = values.min(axis=1) == values.max(axis=1)
    logs = pd.DataFrame(np.log(values), values.index, values.columns)
    mean = logs.mean(axis=1)
    low, high = t_interval(mean, logs.std(axis=1).mask(one), logs.count(axis=1))
    value = np.exp(mean).mask(one, values.max(axis=1))
    return pd.DataFrame({"": value, "_low": np.exp(low), "_high": np.exp(high)}, index=values.index)


def _judge(
    results: Results, metric: pd.DataFrame, costs: pd.DataFrame, means: pd.Series, names: Sequence[str]
) -> Array:
    """Return for each cell whether it is on the front, with which probability, and the best cell that dominates it.

    Args:
        results: the study.
        metric: cells x seeds.
        costs: the same of a cost.
        means: that cost of each cell that competes.
        names: by which the metric of each of these is known (`joint.stand_ins`).
    """
    sign, cells = 1 if results.direction == "min" else -1, list(means.index)
    loss, cost = sign * metric.loc[list(names)].mean(axis=1).to_numpy(), means.to_numpy()
    front = on_front(loss[None], cost[None])[0]
    better = (loss[:, None] <= loss) & (cost[:, None] <= cost) & ((loss[:, None] < loss) | (cost[:, None] < cost))
    best = np.where(better, loss[:, None], np.inf).argmin(axis=0)
    p = _probability(sign * metric.loc[list(names)], costs.loc[cells], names)
    columns = (
        front.astype(object),
        p.astype(object),
        [None if f else cells[i] for f, i in zip(front, best, strict=True)],
    )
    return np.column_stack([np.array(column, dtype=object) for column in columns])


def on_front(loss: Array, cost: Array) -> np.ndarray:
    """Return whether no other has both a loss and a cost as low and one of them lower.

    Args:
        loss: shape (draws, cells).
        cost: the same.

    Returns:
        Shape (draws, cells), bool; equal pairs are on the front together or not at all.
    """
    order = np.lexsort((loss, cost), axis=-1)
    loss, cost = np.take_along_axis(loss, order, -1), np.take_along_axis(cost, order, -1)
    ahead = np.minimum.accumulate(loss, axis=-1)
    first = np.ones(loss.shape, dtype=bool)
    first[:, 1:] = (loss[:, 1:] != loss[:, :-1]) | (cost[:, 1:] != cost[:, :-1])
    lower = np.ones(loss.shape, dtype=bool)
    lower[:, 1:] = loss[:, 1:] < ahead[:, :-1]
    leader = np.maximum.accumulate(np.where(first, np.arange(loss.shape[-1]), 0), axis=-1)
    result = np.empty(loss.shape, dtype=bool)
    np.put_along_axis(result, order, np.take_along_axis(lower, leader, -1), -1)
    return result


def _probability(loss: pd.DataFrame, cost: pd.DataFrame, names: Sequence[str]) -> Array:
    """Return the probability that each cell is on the front of the true values; NaN where there is no model of them."""
    nothing = np.full(len(names), np.nan)
    seen = loss.notna().any().to_numpy()
    loss, cost = loss.loc[:, seen], cost.loc[:, seen]
    places = {name: place for place, name in enumerate(dict.fromkeys(names))}
    model = np.array([places[name] for name in names])
    data = loss.to_numpy()[[list(names).index(name) for name in places]]
    if len(places) < 2 or data.shape[1] < MIN_PAIRS or np.isnan(data).any() or cost.isna().any(axis=None):
        return nothing
    spread = pooled_residual(data)
    measured = np.log(cost.to_numpy())
    exact = bool((np.ptp(measured, axis=1) == 0).all())
    if spread[0] <= 0:
        return nothing
    generator = np.random.default_rng(0)
    found, step = np.zeros(len(names)), max(1, CHUNK // len(names))
    for start in range(0, DRAWS, step):
        draws = min(step, DRAWS - start)
        losses = _true_means(generator, data, spread, draws)[:, model]
        costs = (
            np.broadcast_to(measured[:, 0], losses.shape)
            if exact
            else _true_means(generator, measured, pooled_residual(measured), draws)
        )
        found += on_front(losses, costs).sum(axis=0)
    return found / DRAWS


def _true_means(generator: np.random.Generator, data: Array, spread: tuple[Array, int], draws: int) -> Array:
    """Draw the rows' true means: t-distributed about the means, with the pooled residual's standard error."""
    variance, df = spread
    error = np.sqrt(variance / data.shape[1]) / np.sqrt(generator.chisquare(df, (draws, 1)) / df)
    return np.asarray(data.mean(axis=1) + error * generator.standard_normal((draws, data.shape[0])))
