"""Estimation plots (Gardner and Altman 1986): every seed, its pair, and the interval of the difference beside them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import Formatter
from scipy import stats

from analysis import text
from analysis.comparing import marks
from analysis.comparing.unpaired import UNPAIRED
from analysis.figures.style import (
    FAINT,
    FLAWED,
    INK,
    MUTED,
    label_left,
    metric_label,
    new_figure,
    short,
    verdict_colours,
)
from analysis.schema import FLAWS
from analysis.statistics.stopping import SHOWN, shown_difference
from analysis.study.results import Results
from analysis.study.runs import records
from analysis.summary import Analysis

MOST = 15
"""Comparisons that are drawn; more would be too small to read."""
COLUMNS = 5
LINE = 22
"""Characters of a name above a panel of the narrowest."""
BASE, CELL, DIFFERENCE = 0.0, 1.0, 1.75
"""Where in a panel the baseline's seeds, the cell's and their difference stand."""
CURVE = 0.5
"""Width of the difference's distribution."""


def estimation_figure(results: Results, analysis: Analysis) -> Figure | None:
    """Draw each comparison that has pairs as a panel: its seeds, paired, and their mean difference with its interval.

    Of more than MOST comparisons, the first of the ranking. None where nothing is paired.
    """
    table = analysis.comparisons[analysis.comparisons["n"] > 0]
    if table.empty:
        return None
    drawn = table.head(MOST)
    some = f" The first {MOST} of {len(table)} comparisons." if len(table) > MOST else ""
    groups = [rows for _, rows in drawn.groupby("scale", sort=False)]
    columns = min(COLUMNS, max(map(len, groups)))
    lines = [-(-len(rows) // columns) for rows in groups]
    what = (
        "Dots: seeds; right: difference of the means and its 95 % interval"
        if (drawn["pairing"] == UNPAIRED).all()
        else f"Dots: seeds, paired by lines; right: {_what(results)}"
    )
    values = results.finished(results.metric)
    figure = new_figure(
        max(2.15 * columns + 0.7, 7.0),
        1.1 + 2.35 * sum(lines),
        "Every seed against the baseline",
        f"{what}{' (scale on the right)' if columns > 1 else ''}.{_hollow(values, drawn)}{some}",
        marks.warning(results),
    )
    grid = figure.subplots(sum(lines), columns, squeeze=False)
    top = 0
    for rows, height in zip(groups, lines, strict=True):
        panels = grid[top : top + height].flatten()
        top += height
        ends = _ends(values, rows)
        for place, (axes, row, colour) in enumerate(zip(panels, records(rows), verdict_colours(rows), strict=False)):
            _panel(axes, values, row, colour)
            axes.set_ylim(*ends)
            rightmost = place % columns == columns - 1
            _difference_axis(axes, values, row, rightmost or place == len(rows) - 1, room=rightmost)
            if place % columns:
                axes.tick_params(labelleft=False)
        for axes in panels[len(rows) :]:
            axes.set_visible(False)
    label_left(figure, metric_label(results))
    return figure


def _what(results: Results) -> str:
    """Say what is drawn of a difference: one that could have stopped earlier has no t distribution."""
    if results.looks:
        return f"{SHOWN} and its 95 % interval"
    return "mean difference, its 95 % interval and t distribution"


def _hollow(values: pd.DataFrame, drawn: pd.DataFrame) -> str:
    """Say what hollow dots are, where there are any."""
    there = values.notna()
    alone = there.loc[drawn["cell"]].to_numpy() != there.loc[drawn["baseline"]].to_numpy()
    return " Hollow: without a pair." if alone.any() else ""


def _ends(values: pd.DataFrame, rows: pd.DataFrame) -> tuple[float, float]:
    """Return the ends of the panels' common axis: all seeds, and all intervals of differences from the baseline."""
    seen = values.loc[[*rows["cell"], *rows["baseline"]]].to_numpy()
    low, high = float(np.nanmin(seen)), float(np.nanmax(seen))
    for row in records(rows):
        zero = _zero(values, row)
        for end in ("difference_low", "difference_high"):
            if np.isfinite(row[end]):
                low, high = min(low, zero + row[end]), max(high, zero + row[end])
    room = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return low - room, high + room


def _zero(values: pd.DataFrame, row: dict[str, Any]) -> float:
    """Return the baseline's mean over the pairs (unpaired: over its seeds): where the difference is zero."""
    base = values.loc[row["baseline"]]
    return float((base if row["pairing"] == UNPAIRED else base.where(values.loc[row["cell"]].notna())).mean())


def _panel(axes: Axes, values: pd.DataFrame, row: dict[str, Any], colour: str) -> None:
    base, cell = values.loc[row["baseline"]], values.loc[row["cell"]]
    paired = base.notna() & cell.notna()
    lines = np.stack(
        [np.column_stack([np.full(paired.sum(), x), y[paired]]) for x, y in ((BASE, base), (CELL, cell))], axis=1
    )
    axes.add_collection(LineCollection(list(lines), colors=FAINT, linewidths=0.9, zorder=2))
    for x, seeds, ink in ((BASE, base, INK), (CELL, cell, colour)):
        for which, fill in ((paired, ink), (seeds.notna() & ~paired, "white")):
            axes.plot(
                np.full(which.sum(), x), seeds[which], "o", markersize=4, color=ink, markerfacecolor=fill,
                markeredgewidth=0.8, alpha=0.75, zorder=3,
            )  # fmt: skip
    zero = _zero(values, row)
    axes.plot([BASE, DIFFERENCE + CURVE], [zero, zero], color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
    mean, low, high = (zero + end for end in (shown_difference(row), row["difference_low"], row["difference_high"]))
    if np.isfinite(low):
        if row["pairing"] != UNPAIRED and np.isnan(row["adjusted_difference"]):
            _distribution(axes, mean, high - mean, row["n"], colour)
        axes.plot([DIFFERENCE] * 2, [low, high], color=colour, linewidth=2, solid_capstyle="round", zorder=4)
    axes.plot(
        [DIFFERENCE], [mean], "D", color=colour, markersize=6, markeredgecolor="white", markeredgewidth=0.8, zorder=5
    )
    axes.set_xlim(-0.3, DIFFERENCE + CURVE + 0.1)
    axes.set_xticks([BASE, CELL, DIFFERENCE], ["base", "cell", "diff."], fontsize=8)
    axes.grid(axis="x", visible=False)
    ink = FLAWED if row[FLAWS] else INK
    axes.set_title(_lines(marks.marked(short(row["cell"]), row[FLAWS])), fontsize=9, fontweight="bold", color=ink)


def _lines(name: str) -> str:
    """Return a name in lines of at most LINE characters, broken behind underscores, hyphens and spaces if it can be."""
    lines = [""]
    for part in re.findall(rf"[^_\s-]{{0,{LINE}}}[_\s-]?", name):
        if lines[-1] and len((lines[-1] + part).rstrip()) > LINE:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def _distribution(axes: Axes, mean: float, half: float, n: int, colour: str) -> None:
    """Draw the t distribution of the mean difference, from the half width of its 95 % interval."""
    df = n - 1
    error = half / stats.t.ppf(0.975, df)
    y = np.linspace(-1.6, 1.6, 201) * half
    density = stats.t.pdf(y / error, df)
    axes.fill_betweenx(
        mean + y, DIFFERENCE, DIFFERENCE + CURVE * density / density.max(), color=colour, alpha=0.18, linewidth=0
    )


class _Differences(Formatter):
    """Writes the ticks of a scale of differences, with the fewest decimals that tell them as they are."""

    def format_ticks(self, values: Sequence[float]) -> list[str]:
        step = float(np.diff(values).min()) if len(values) > 1 else 0.0
        decimals = next((d for d in range(text.MOST_DECIMALS) if abs(round(step, d) - step) <= step / 100), 0)
        return [text.number(value, decimals, sign=True) for value in values]


def _difference_axis(axes: Axes, values: pd.DataFrame, row: dict[str, Any], labelled: bool, room: bool) -> None:
    """Draw the scale of differences on the right: zero is the baseline's mean over the pairs.

    One that is there anyway is `labelled` in the last panel of a line alone. It needs `room` where a panel is above it.
    """
    zero = _zero(values, row)
    whole = zero == float(values.loc[row["baseline"]].mean())
    if whole and not labelled:
        axes.spines["right"].set_visible(True)
        return
    right = axes.secondary_yaxis("right", functions=(partial(np.add, -zero), partial(np.add, zero)))
    right.tick_params(labelsize=8, length=0)
    right.spines["right"].set_color(FAINT)
    right.yaxis.set_major_formatter(_Differences())
    right.set_in_layout(room or not labelled)
