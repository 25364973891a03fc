"""Figures of whole factors over a grid: interaction plots and Shapley bars."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import text
from analysis.comparing import marks
from analysis.factors.factorial import INTERACTION, TIMES
from analysis.factors.shapley import TOTAL
from analysis.figures import style as figure_style
from analysis.figures.style import COLOURS, INK, MUTED, OPEN, label_left, metric_label, new_figure
from analysis.schema import FLAWS
from analysis.study import learning_rates
from analysis.study.results import Results
from analysis.study.runs import records
from analysis.summary import Analysis

MOST_PANELS = 12
"""Pairs of factors in one figure; of more, those whose interaction is largest."""
COLUMNS = 3
APART = 0.06
"""Shift of one level's points against the next one's, in steps of the axis, so that their bars can be told apart."""


def interactions_figure(results: Results, analysis: Analysis) -> Figure | None:
    """Draw the mean at each combination of two factors, one panel a pair; None where there is no grid.

    Pairs with the negative control are left out: its levels are one model.
    """
    table = analysis.interactions
    control = (results.plan.get("negative_control") or {}).get("factor")
    table = table[(table["across"] != control) & (table["by"] != control)]
    groups = [(key, rows) for key, rows in table.groupby(["scale", "across", "by"], sort=False)]
    if not groups:
        return None
    effects = analysis.main_effects[analysis.main_effects["kind"] == INTERACTION]
    found = {(row["scale"], frozenset(row["effect"].split(TIMES))): row for row in records(effects)}
    sized = [(found.get((key[0], frozenset(key[1:]))), key, rows) for key, rows in groups]
    sized.sort(key=lambda item: -abs(item[0]["difference"]) if item[0] else 0.0)
    shown = sized[:MOST_PANELS]
    columns = min(COLUMNS, len(shown))
    lines = math.ceil(len(shown) / columns)
    differences = (
        " Figures: difference of differences, paired by seed." if any(effect for effect, _, _ in shown) else ""
    )
    of_all = "" if len(shown) == len(sized) else f" The {len(shown)} largest of {len(sized)}."
    figure = new_figure(
        max(3.3 * columns, 7.6),
        1.0 + 2.75 * lines,
        "How components act together",
        f"Means with 95 % intervals over seeds. Parallel: no interaction.{differences}{of_all}",
        marks.warning(results),
    )
    grid = figure.subplots(lines, columns, squeeze=False)
    for axes, (effect, (scale, across, by), rows) in zip(grid.flat, shown, strict=False):
        _lines(axes, rows, str(across), str(by))
        title = f"{across}{TIMES}{by}" + (f" at {scale}" if scale else "")
        if effect:
            figures = (effect["difference"], effect["difference_low"], effect["difference_high"])
            title += "\n" + text.estimate(*figures, sign=True)
        axes.set_title(title, fontsize=9)
    for axes in list(grid.flat)[len(shown) :]:
        axes.set_visible(False)
    for scale in dict.fromkeys(key[0] for _, key, _ in shown):
        panels = [axes for axes, (_, key, _) in zip(grid.flat, shown, strict=False) if key[0] == scale]
        low, high = min(axes.get_ylim()[0] for axes in panels), max(axes.get_ylim()[1] for axes in panels)
        for axes in panels:
            axes.set_ylim(low, high + 0.2 * (high - low))  # room for the key
    label_left(figure, metric_label(results))
    return figure


def _lines(axes: Axes, rows: pd.DataFrame, across: str, by: str) -> None:
    """Draw one line a level of `by` over the levels of `across`."""
    levels, lines = list(dict.fromkeys(rows["level"])), list(dict.fromkeys(rows["by_level"]))
    flawed = (rows[FLAWS] != "").any()
    for place, by_level in enumerate(lines):
        row = rows[rows["by_level"] == by_level].set_index("level").loc[levels]
        x = np.arange(len(levels)) + APART * (place - (len(lines) - 1) / 2)
        colour = figure_style.FLAWED if flawed else (OPEN, *COLOURS)[place]
        axes.plot(x, row["mean"], "o-", color=colour, markersize=4.5, linewidth=1.6, label=f"{by}: {by_level}")
        axes.vlines(x, row["mean_low"], row["mean_high"], color=colour, linewidth=1.4)
    axes.set_xticks(range(len(levels)), levels, fontsize=8.5)
    axes.set_xlim(-0.35, len(levels) - 0.65)
    axes.set_xlabel(across)
    axes.grid(axis="x", visible=False)
    axes.legend(frameon=False, fontsize=8, handlelength=1.4, loc="upper left", ncols=len(lines), borderaxespad=0.1)


def shapley_figure(results: Results, analysis: Analysis) -> Figure | None:
    """Draw each factor's Shapley value as a bar with its interval, one panel a scale; None without a full grid."""
    table = analysis.shapley
    if table.empty:
        return None
    groups = list(table.groupby("scale", sort=False))
    figure = new_figure(
        9,
        1.0 + sum(0.36 * len(rows) + 0.85 for _, rows in groups),
        learning_rates.titled("What each component contributes, in every order", results),
        "Bar: Shapley value, mean over seeds; line: its 95 % t interval. The bars add up to the last one.",
        marks.warning(results),
    )
    grid = figure.subplots(len(groups), 1, squeeze=False, height_ratios=[len(rows) + 1 for _, rows in groups])
    for axes, (scale, rows) in zip(grid[:, 0], groups, strict=True):
        axes.axvline(0, color=INK, linewidth=0.9)
        for place, row in enumerate(records(rows)):
            value, low, high = row["shapley"], row["shapley_low"], row["shapley_high"]
            axes.barh(place, value, height=0.62, color=_colour(row, results.direction))
            axes.hlines(place, low, high, color=INK, linewidth=1.4)
            axes.annotate(
                text.estimate(value, low, high, sign=True), (1.015, place), xycoords=("axes fraction", "data"),
                va="center", fontsize=8.5, color=MUTED, annotation_clip=False,
            )  # fmt: skip
        axes.set_yticks(range(len(rows)), [marks.marked(row["factor"], row[FLAWS]) for row in records(rows)])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.grid(axis="y", visible=False)
        axes.set_title(str(scale))
    grid[-1, 0].set_xlabel(f"change of {metric_label(results)} when switched on")
    return figure


def _colour(row: dict, direction: str) -> str:
    """Return the bar's colour: the sum is black, what its own interval does not tell from 0 is grey."""
    if row[FLAWS]:
        return figure_style.FLAWED
    if row["factor"] == TOTAL:
        return MUTED
    if not row["shapley_low"] * row["shapley_high"] > 0:
        return OPEN
    return figure_style.BETTER if (row["shapley"] < 0) == (direction == "min") else figure_style.WORSE
