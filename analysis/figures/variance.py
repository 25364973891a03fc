"""Where the spread between runs comes from: the standard deviation that each source alone gives a run."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from analysis import text
from analysis.comparing import marks
from analysis.comparing.variance_sources import DOCUMENTS
from analysis.figures.style import BETTER, FLAWED, MUTED, OPEN, metric_label, new_figure
from analysis.schema import FLAWS
from analysis.study.results import Results
from analysis.study.runs import records
from analysis.summary import Analysis

ROW = 0.42
"""Inches a row takes."""


def variance_figure(results: Results, analysis: Analysis) -> Figure | None:
    """Draw each source's standard deviation with its interval, a panel a model; None where they are not told apart."""
    groups = list(analysis.variance.groupby(["scale", "cell"], sort=False))
    if not groups:
        return None
    heights = [len(rows) + 0.6 for _, rows in groups]
    figure = new_figure(
        9,
        1.35 + sum(ROW * height + 0.3 for height in heights),
        "Where the spread between runs comes from",
        "Standard deviation that each source alone gives one run, with its 95 % interval. Grey: not between runs, but "
        "between sets of documents.",
        marks.warning(results),
    )
    grid = figure.subplots(len(groups), 1, sharex=True, squeeze=False, height_ratios=heights)
    for axes, (_, rows) in zip(grid[:, 0], groups, strict=True):
        for place, row in enumerate(records(rows)):
            colour = FLAWED if row[FLAWS] else OPEN if row["source"] == DOCUMENTS else BETTER
            if np.isfinite(row["sd_low"]):
                axes.plot([row["sd_low"], row["sd_high"]], [place, place], color=colour, linewidth=2)
            axes.plot([row["sd"]], [place], "D", color=colour, markersize=6, markeredgecolor="white")
            share = "" if np.isnan(row["share"]) else f"   {100 * row['share']:.0f} %"
            axes.annotate(
                text.estimate(row["sd"], row["sd_low"], row["sd_high"]) + share, (1.015, place), va="center",
                xycoords=("axes fraction", "data"), fontsize=8.5, color=MUTED, annotation_clip=False,
            )  # fmt: skip
        axes.set_yticks(range(len(rows)), list(rows["source"]))
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        first = rows.iloc[0]
        name = marks.marked(str(first["cell"]), first[FLAWS])
        axes.set_title(
            f"{name}: {first['seeds']} initialisations x {first['orders']} orders of the data",
            **({"color": FLAWED} if first[FLAWS] else {}),
        )
    grid[-1, 0].set_xlim(left=0)  # once all is drawn: the panels have one scale, and it no longer grows after this
    grid[-1, 0].set_xlabel(f"standard deviation of {metric_label(results)}")
    return figure
