"""Loss against what it costs: every cell with its intervals, the front drawn, what is dominated faint."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import text
from analysis.comparing import marks
from analysis.comparing.pareto import COSTS, Cost
from analysis.figures.style import BETTER, FAINT, INK, label_left, metric_label, new_figure, short, strokes
from analysis.study.results import Results
from analysis.study.runs import records
from analysis.summary import Analysis

LOGARITHMIC = 20
"""Ratio of the largest to the smallest cost, ends of intervals among them, from which the axis is logarithmic."""
LETTERS = "abcdefghijklmno"
"""Name the points of a front."""
ROOM = (0.06, 0.07)
"""What a letter takes of a panel, across and upwards; points that are closer are named together."""


def pareto_figure(results: Results, analysis: Analysis) -> Figure | None:
    """Draw the metric against each cost that differs between cells, one row of panels a scale; None without any."""
    table = analysis.pareto
    costs = [cost for cost in COSTS if _fronts(table, cost)]
    if not costs:
        return None
    scales = list(dict.fromkeys(table["scale"]))
    columns = min(2, len(costs))
    rows = -(-len(costs) // columns)
    figure = new_figure(
        5.6 * columns + 0.4,
        0.9 + (3.4 if columns > 1 else 4.2) * rows * len(scales),
        f"{metric_label(results).partition(' (')[0].capitalize()} against cost",
        "Diamonds and steps: the front, no other cell is both "
        f"{'lower' if results.direction == 'min' else 'higher'} and cheaper; P: how sure that is. Black: the baseline. "
        "Bars: 95 % intervals over seeds.",
        marks.warning(results),
    )
    grid = figure.subplots(rows * len(scales), columns, squeeze=False)
    for place, scale in enumerate(scales):
        panels = list(grid[place * rows : (place + 1) * rows].flat)
        for axes, cost in zip(panels, costs, strict=False):
            _panel(axes, table[(table["scale"] == scale) & table[f"{cost.name}_front"].notna()], cost, results)
            axes.set_xlabel(cost.axis)
            axes.set_title(str(scale))
        for axes in panels[len(costs) :]:
            axes.set_visible(False)
    label_left(figure, metric_label(results))
    return figure


def _fronts(table: pd.DataFrame, cost: Cost) -> bool:
    """Return whether the cost differs between cells of a scale."""
    judged = table[table[f"{cost.name}_front"].notna()]
    return bool((judged.groupby("scale")[cost.name].nunique() > 1).any())


def _panel(axes: Axes, rows: pd.DataFrame, cost: Cost, results: Results) -> None:
    """Draw the cells, the front as steps, and beside the panel the names of the front's cells, the cheapest first."""
    baselines = set(results.baselines.values())
    kinds = [(bool(on), cell in baselines) for on, cell in zip(rows[f"{cost.name}_front"], rows["cell"], strict=True)]
    for on, baseline in dict.fromkeys(kinds):
        some = rows[[kind == (on, baseline) for kind in kinds]]
        value, low, high = (some[cost.name + end] / cost.scale for end in ("", "_low", "_high"))
        colour, order = INK if baseline else BETTER if on else FAINT, 2 + on + baseline
        crosses = [
            bar
            for x, x_low, x_high, y, y_low, y_high in zip(
                value, low, high, some["mean"], some["ci_low"], some["ci_high"], strict=True
            )
            for bar in ([(x_low, y), (x_high, y)], [(x, y_low), (x, y_high)])
        ]
        strokes(axes, crosses, colour, 1.2, alpha=0.8, zorder=order)
        axes.plot(
            value, some["mean"], "D" if on else "o", color=colour, markersize=6 if on else 4.5, zorder=2 + order,
            markeredgecolor="white", markeredgewidth=0.8,
        )  # fmt: skip
    ends = rows[[cost.name, f"{cost.name}_low", f"{cost.name}_high"]].to_numpy(dtype=float)
    if len(ends) and np.nanmax(ends) > LOGARITHMIC * np.nanmin(ends):
        axes.set_xscale("log")
    else:
        axes.locator_params(axis="x", nbins=6)  # beside the names there is room for no more labels
    axes.margins(0.1, 0.1)
    front = rows[rows[f"{cost.name}_front"].astype(bool)].sort_values([cost.name, "mean"], kind="stable")
    axes.step(front[cost.name] / cost.scale, front["mean"], where="post", color=BETTER, linewidth=1.4, zorder=3)
    key, points = [], []
    places = front.groupby([cost.name, "mean"], sort=False)
    for letter, (_, cells) in zip(LETTERS, places, strict=False):
        points.append((letter, (float(cells[cost.name].iloc[0]) / cost.scale, float(cells["mean"].iloc[0]))))
        key += [f"{letter}  {short(row['cell'])}{_sure(row[f'{cost.name}_p_front'])}" for row in records(cells)]
    _name_points(axes, points, results.direction)
    more = len(places) - len(LETTERS)
    axes.annotate(
        "\n".join([*key, *([f"and {more} more"] if more > 0 else [])]), (1.02, 1.0), xycoords="axes fraction", va="top",
        fontsize=8.5, linespacing=1.5, annotation_clip=False,
    )  # fmt: skip


def _name_points(axes: Axes, points: Sequence[tuple[str, tuple[float, float]]], direction: str) -> None:
    """Write letters at the points of a front, the cheapest first, on the side of what is better: no cell is there.

    Points too close for letters of their own have one label.
    """
    axes.autoscale_view()
    places = (axes.transData - axes.transAxes).transform([point for _, point in points])
    labels: list[tuple[str, tuple[float, float]]] = []
    first = -np.ones(2)
    for (letter, point), place in zip(points, places, strict=True):
        if labels and (np.abs(place - first) < ROOM).all():
            (letters, (cheapest, _)), (_, best) = labels[-1], point
            labels[-1] = (f"{letters}, {letter}", (cheapest, best))
        else:
            labels.append((letter, point))
            first = place
    below = direction == "min"
    for label, point in labels:
        axes.annotate(
            label, point, xytext=(-4, -4 if below else 4), textcoords="offset points", ha="right",
            va="top" if below else "bottom", fontsize=9, fontweight="bold", zorder=7,
        )  # fmt: skip


def _sure(p: float) -> str:
    return "" if pd.isna(p) else f"  P {text.number(p, 2)}"
