"""The figure of a study over scales: loss against what grows, on logarithmic axes, with each cell's power law."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from analysis.comparing import marks
from analysis.comparing.scaling import ABSCISSAS, points
from analysis.figures import style as figure_style
from analysis.figures.style import new_figure
from analysis.schema import DIVERGED, FLAWS
from analysis.study.results import Results
from analysis.study.runs import records

OF_SURVIVORS = " (survivors)"
"""Follows a cell's name where some of its runs diverged."""


def scaling_figure(results: Results, laws: pd.DataFrame) -> Figure | None:
    """Draw one panel for each thing that grows; None where the study has too few scales."""
    if laws.empty:
        return None
    shown = [(column, words) for column, words in ABSCISSAS.items() if (laws["against"] == words).any()]
    rows = -(-len(shown) // 2)
    figure = new_figure(
        9, 1.3 + 2.9 * rows, "How losses fall as models grow",
        "Dot and bar: mean with its 95 % interval at one scale; line: power law, the mean of the seeds' own fits.",
        marks.warning(results),
    )  # fmt: skip
    panels = list(figure.subplots(rows, 2, squeeze=False).flat)
    counts = results.count(DIVERGED)
    names = {cell: str(cell).rpartition("@")[0] for cell in counts.index}
    diverged = {names[cell] for cell in counts.index[counts > 0]}
    colours = dict(zip(dict.fromkeys(names.values()), itertools.cycle(figure_style.COLOURS), strict=False))
    flawed = set(laws.loc[laws[FLAWS] != "", "cell"])
    for axes, (column, words) in zip(panels, shown, strict=False):
        axes.set_xscale("log")
        axes.set_yscale("log")
        for cell, found in points(results, column).groupby("cell", sort=False):
            colour = figure_style.FLAWED if cell in flawed else colours[str(cell)]
            x, mean = found["x"].to_numpy(), found["mean"].to_numpy()
            bars = np.nan_to_num([mean - found["low"], found["high"] - mean])
            name = f"{cell}{OF_SURVIVORS if cell in diverged else ''}"
            label = marks.marked(name, "flawed" if cell in flawed else "")
            axes.errorbar(x, mean, bars, fmt="o", color=colour, markersize=4, elinewidth=1.2, label=label)
            for law in records(laws[(laws["cell"] == cell) & (laws["against"] == words)]):  # one, or none
                line = law["loss_at_end"] * (x / x[-1]) ** -law["exponent"]
                axes.plot(x, line, ":" if cell in diverged else "-", color=colour, linewidth=1, alpha=0.7)
        axes.set_xlabel(words)
        axes.set_ylabel(results.metric.replace("val_", "validation "))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    for axes in panels[len(shown) :]:
        axes.remove()
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(6, len(labels)), frameon=False, fontsize=8.5)
    return figure
