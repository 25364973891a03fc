"""The critical-difference diagram: mean ranks over seeds, bars over what cannot be told apart (Demšar 2006)."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import text
from analysis.comparing import marks
from analysis.comparing.groups import MIN_SEEDS, MeanRanks
from analysis.figures.style import BETTER, FAINT, INK, MUTED, new_figure, short
from analysis.study.results import Results
from analysis.summary import Analysis

ROW, BAR = 0.27, 0.16
"""Inches a name and a bar take."""
MOST_MODELS = 60
"""Of a scale: names of more leave no diagram that can be read; the ranking table has their groups."""


def ranks_figure(results: Results, analysis: Analysis) -> Figure | None:
    """Draw the mean ranks of each scale; None below MIN_SEEDS seeds, three models or above MOST_MODELS."""
    found = [ranks for ranks in analysis.mean_ranks if len(ranks.cells) <= MOST_MODELS]
    if not found:
        return None
    heights = [0.9 + ROW * -(-len(ranks.cells) // 2) + BAR * len(ranks.groups) for ranks in found]
    figure = new_figure(
        9,
        0.95 + sum(heights),
        "Mean rank over seeds",
        f"Bars join cells that cannot be told apart (Nemenyi, 5 % over all pairs). Drawn from {MIN_SEEDS} seeds on. "
        "Left is best.",
        marks.warning(results),
    )
    grid = figure.subplots(len(found), 1, squeeze=False, height_ratios=heights)
    for axes, ranks, height in zip(grid[:, 0], found, heights, strict=True):
        _diagram(axes, ranks, height)
    return figure


def _diagram(axes: Axes, ranks: MeanRanks, height: float) -> None:
    """Draw one scale, in inches downwards from the axis of ranks; names left of the middle go to the left."""
    count = len(ranks.cells)
    axes.set_xlim(0.7, count + 0.3)
    axes.set_ylim(height - 0.55, -0.25)
    axes.xaxis.tick_top()
    axes.set_yticks([])
    axes.grid(visible=False)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.spines["top"].set_visible(True)
    axes.set_xticks(range(1, count + 1))
    scale = f"{ranks.scale}: " if ranks.scale else ""
    axes.set_title(
        f"{scale}{ranks.seeds} seeds, critical difference {ranks.critical:.2f}, "
        f"Friedman p {text.probability(ranks.friedman)}"
    )
    axes.plot([1, 1 + ranks.critical], [-0.12, -0.12], color=MUTED, linewidth=1.5)
    axes.annotate("critical difference", (1 + ranks.critical, -0.12), xytext=(5, 0), textcoords="offset points",
                  va="center", fontsize=8, color=MUTED)  # fmt: skip
    for place, (first, last) in enumerate(ranks.groups):
        y = 0.12 + BAR * place
        axes.plot([ranks.ranks[first] - 0.04, ranks.ranks[last] + 0.04], [y, y], color=BETTER, linewidth=3.5, zorder=4)
    half = -(-count // 2)
    below = 0.2 + BAR * len(ranks.groups)
    for place, (cell, rank) in enumerate(zip(map(short, ranks.cells), ranks.ranks, strict=True)):
        left = place < half
        y = below + ROW * (place if left else count - 1 - place)
        side = 0.7 if left else count + 0.3
        axes.plot([rank, rank, side], [0, y, y], color=FAINT, linewidth=1, zorder=2)
        axes.plot([rank], [0], "o", color=INK, markersize=4, zorder=5, clip_on=False)
        axes.annotate(
            f"{cell}  {rank:.2f}" if left else f"{rank:.2f}  {cell}", (side, y), xytext=(-4 if left else 4, 0),
            textcoords="offset points", ha="right" if left else "left", va="center", fontsize=8.5,
            annotation_clip=False,
        )  # fmt: skip
