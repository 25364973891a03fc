"""Efficiency scores of the cells: means over seeds of each run's score."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from analysis import schema
from analysis.comparing.divergence import SURVIVORS_COLUMN, survivors
from analysis.study.results import Results

EFFICIENCY_COLUMNS = {
    "scale": "scale of the model; empty where scale is no factor of the study",
    "cell": "name of the cell",
    "n": "finished runs (seeds)",
    "score": "1 / (minutes x loss x million live parameters)",
    "loss_per_million_parameters": "loss / million live parameters",
    "loss_per_minute": "loss / minutes",
    "loss_per_gb": "loss / GB",
} | SURVIVORS_COLUMN
"""Each score's text is its formula: the validation loss in nats, minutes of training, 10^6 live parameters (all but
those that training never reached, where the source knows these), peak memory in 10^9 bytes. A score is null where any
of the cell's runs lacks a figure that it needs, or has a loss that is not positive: nothing is a share of that."""


def efficiency(results: Results, order: Sequence[str]) -> pd.DataFrame:
    """Return EFFICIENCY_COLUMNS, one row a cell in the given order; `score` is the published one.

    Diverged and failed runs have no score; a time, memory or parameter count of 0 or below is taken as unknown.
    """

    def figure(column: str) -> pd.DataFrame:
        values = results.finished(column).loc[list(order)]
        return values.where(values > 0)

    loss = figure(schema.VAL_LOSS)
    minutes = figure(schema.TRAIN_SECONDS) / 60
    live = results.live_parameters().loc[list(order)]
    million = live.where(live > 0) / 1e6
    gigabytes = figure(schema.PEAK_MEMORY_BYTES) / 1e9
    n = results.count(schema.FINISHED).loc[list(order)]
    table = pd.DataFrame({"scale": results.scales.loc[list(order)], "cell": list(order), "n": n})
    scores = {
        "score": 1 / (minutes * loss * million),
        "loss_per_million_parameters": loss / million,
        "loss_per_minute": loss / minutes,
        "loss_per_gb": loss / gigabytes,
    }
    for name, values in scores.items():
        table[name] = values.mean(axis=1).where(values.count(axis=1) == n)
    table["survivors"] = survivors(results, {cell: cell for cell in order})
    return table[list(EFFICIENCY_COLUMNS)].reset_index(drop=True)
