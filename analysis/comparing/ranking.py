"""Ranking of the cells by the mean of the metric over their finished seeds."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis import schema
from analysis.comparing.paired import rounding
from analysis.comparing.racing import Race
from analysis.comparing.variance_sources import models_by_order
from analysis.statistics.significance import clopper_pearson, t_interval
from analysis.study.results import Results

RANKING_COLUMNS = {
    "scale": "scale of the model; empty where scale is no factor of the study",
    "cell": "name of the cell",
    "rank": "1 is best, within the scale, flawed cells apart; means equal up to rounding share the better rank; "
    "null with diverged runs or without finished ones, and for all cells where some are one model in several orders of "
    "the data",
    "n": "runs (seeds) that the mean is over: finished, and none that an audit found invalid unless included",
    "mean": "mean of the metric over them",
    "sd": "standard deviation over seeds (n - 1); null for n = 1",
    "ci_low": "95 % t interval of the mean, lower end; null for n = 1",
    "ci_high": "95 % t interval of the mean, upper end; null for n = 1",
    "val_accuracy": "mean validation accuracy, 0 to 1; null where unknown",
    "params_total": "trainable parameters; null where unknown",
    "diverged": "runs that diverged: they are outcomes, and the mean is that of the survivors alone",
    "diverged_low": "exact 95 % interval (Clopper-Pearson) of the rate of divergence, lower end",
    "diverged_high": "upper end",
    "failed": "runs that an error ended",
    "missing": "planned runs without a record",
    "invalid": "runs left out of all numbers because an audit found them invalid",
    "is_baseline": "whether other cells of its scale are compared with this one",
}


def rank_cells(results: Results, race: Race | None = None) -> pd.DataFrame:
    """Rank the cells within their scale by the mean of the metric over finished seeds.

    A cell with diverged runs has no rank: the mean of its survivors would flatter it. Means that are equal up to
    rounding share a rank. Cells that were trained under flaws are ranked apart: they take no place from a result. Of
    several orders of the data one is always the best: where cells are one model in several, none has a rank.

    Returns:
        RANKING_COLUMNS, by rank within each scale; flawed cells after the others, of each those without a rank last.
        With several orders of the data as in the plan.
    """
    values = results.finished(results.metric)
    table = pd.DataFrame({"scale": results.scales, "cell": values.index}, index=values.index)
    n, mean, sd = values.count(axis=1), values.mean(axis=1), values.std(axis=1)
    sd = sd.mask((n > 1) & (values.min(axis=1) == values.max(axis=1)), 0.0)  # a mean of equal figures may be rounded
    table["n"], table["mean"], table["sd"] = n, mean, sd
    table["ci_low"], table["ci_high"] = t_interval(mean, sd, n)
    table["val_accuracy"] = results.finished(schema.VAL_ACCURACY).mean(axis=1, skipna=True)
    table["params_total"] = results.runs.groupby(schema.CELL)[schema.PARAMS_TOTAL].max()
    for name in (schema.DIVERGED, schema.FAILED, schema.INVALID):
        table[name] = results.count(name)
    ends = clopper_pearson(table[schema.DIVERGED], n + table[schema.DIVERGED])
    table["diverged_low"], table["diverged_high"] = ends
    planned = pd.Series(len(results.plan.get("seeds", ())), index=values.index)
    for entry in results.plan.get("cells", ()):  # some cells alone may have been extended by further seeds
        planned[entry["name"]] = len(entry.get("hashes", ())) or planned[entry["name"]]
    if race is not None:  # what it has decided is not missing
        planned = planned.clip(upper=pd.Series(race.asked()).reindex(values.index, fill_value=0))
    table["missing"] = (planned - results.statuses.notna().sum(axis=1)).clip(lower=0)
    baselines = {base for cell, base in results.baselines.items() if cell != base}
    table["is_baseline"] = table["cell"].isin(baselines)
    table["level"] = np.nan if has_orders(results) else level(mean, rounding(results))
    rankable = table["level"].where(table[schema.DIVERGED] == 0)
    flawed = table["cell"].isin(results.runs.loc[results.runs[schema.FLAWS] != "", schema.CELL])
    ranks = rankable.groupby([table["scale"], flawed]).rank(method="min", ascending=results.direction == "min")
    table["rank"] = ranks.astype("Int64")
    order = {scale: place for place, scale in enumerate(table["scale"].unique())}
    table["order"] = 2 * table["scale"].map(order) + flawed
    # Equal ranks keep the plan's order; among cells without a rank those that have a mean come first.
    table = table.sort_values(
        ["order", "rank", "level"], kind="stable", ascending=[True, True, results.direction == "min"]
    )
    return table[list(RANKING_COLUMNS)].reset_index(drop=True)


def has_orders(results: Results) -> bool:
    """Return whether some cells are one model in several orders of the data."""
    return any(len(cells) > 1 for cells in models_by_order(results))


def level(means: pd.Series, tolerance: float) -> pd.Series:
    """Return means with those that are equal up to rounding made equal: to the smallest of them.

    Args:
        means: NaN where there is none.
        tolerance: by how much two that follow one another may differ.
    """
    rising = means.sort_values(kind="stable")
    return rising.mask(rising.diff() <= tolerance).ffill().where(rising.notna()).reindex(means.index)
