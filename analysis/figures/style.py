"""One look for all figures: light, quiet, safe for the colour-blind (Okabe and Ito's palette), readable in print."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from typing import Any, cast

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.text import Text
from matplotlib.textpath import text_to_path

from analysis.comparing import outcomes
from analysis.schema import FLAWS
from analysis.study.results import NATS, Results

INK, MUTED, FAINT = "#1f2933", "#5b6672", "#c3cad2"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Of the cells in one panel of curves."""
BETTER, WORSE, OPEN = "#0072B2", "#D55E00", "#8a94a0"
"""What a comparison says: a cell is better than its baseline, worse, or it cannot be told."""
VERDICTS = {
    outcomes.BETTER: BETTER,
    outcomes.WORSE: WORSE,
    outcomes.EQUIVALENT: COLOURS[2],
    outcomes.DEPENDS: COLOURS[3],
    outcomes.OPEN: OPEN,
}
"""Colours of comparisons by their outcome; any other has that of the last."""
FLAWED = "#c1121f"
"""Of everything that is no result."""
MARGIN = 0.18
"""Inches left of the words on top, and at least right of them."""
LETTERS = 11.5
"""Letters of the warning that an inch holds, wide ones included."""
LONGEST = 60
"""Characters of a name that a figure has room for."""
DPI = 150
"""Pixels of an inch in a PNG."""

STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "text.color": INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e9ecf0",
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "lines.solid_capstyle": "round",
    "figure.facecolor": "white",
    "figure.dpi": DPI,
    "savefig.dpi": DPI,
}


def style() -> Any:
    """Return the context in which figures are made and saved."""
    return matplotlib.rc_context(rc=cast(Any, STYLE))


def new_figure(width: float, height: float, title: str, subtitle: str, warning: str) -> Figure:
    """Return a figure that says on top what it shows and, below that, how to read it.

    Args:
        width: inches.
        height: inches, with one line of the subtitle and without the warning.
        title: what it shows.
        subtitle: how to read it; a line that the figure is too narrow for is broken.
        warning: why it shows no results, in red under the title; empty where it does.
    """
    lines = textwrap.wrap(warning, int(LETTERS * width))
    high = 0.18 * len(lines)
    said = [part for line in subtitle.split("\n") for part in _broken(line, width - 2 * MARGIN)]
    more = 0.16 * (len(said) - 1)
    height += high + more
    below = 1 - (0.62 + high + more) / height
    layout = ConstrainedLayoutEngine(rect=(0.01, 0.01, 0.98, below - 0.01))
    figure = Figure(figsize=(width, height), layout=layout)
    figure.text(MARGIN / width, 1 - 0.12 / height, title, va="top", fontsize=13, fontweight="bold")
    if lines:
        words = "\n".join(lines)
        figure.text(MARGIN / width, 1 - 0.38 / height, words, va="top", fontsize=9, fontweight="bold", color=FLAWED)
    figure.text(MARGIN / width, 1 - (0.38 + high) / height, "\n".join(said), va="top", fontsize=9, color=MUTED)
    return figure


def label_left(figure: Figure, words: str) -> None:
    """Label the y axes of all panels, level with their middle: the figure's own is too near its title."""
    _, bottom, _, height = cast(ConstrainedLayoutEngine, figure.get_layout_engine()).get()["rect"]
    figure.supylabel(words, y=bottom + height / 2, fontsize=9.5, color=MUTED)


def short(name: object) -> str:
    """Return a cell's name as figures show it: of one that is too long both ends, of which one tells it apart."""
    words = str(name)
    end = (LONGEST - 1) // 2
    return words if len(words) <= LONGEST else f"{words[:end]}\u2026{words[-end:]}"


def _broken(line: str, width: float) -> list[str]:
    """Break a line of a subtitle where it would be wider than so many inches."""
    font, lines = FontProperties(family=STYLE["font.family"], size=9), [""]
    for word in line.split(" "):
        longer = f"{lines[-1]} {word}".lstrip()
        if lines[-1] and text_to_path.get_text_width_height_descent(longer, font, ismath=False)[0] > 72 * width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def inches(picture: bytes) -> float:
    """Return how wide a figure is that `png` made."""
    return int.from_bytes(picture[16:20], "big") / DPI  # a PNG begins with its header, and that with its width


def png(figure: Figure) -> bytes:
    """Return a figure as the bytes of a PNG: laid out and drawn once, where `savefig` would draw it twice.

    Dollars in a name make no formula of it. Numbers on logarithmic axes, which are formulas, are made while drawing.
    """
    for words in cast(list[Text], figure.findobj(Text)):
        words.set_parse_math("$" not in words.get_text())
    file = io.BytesIO()
    FigureCanvasAgg(figure).print_png(file)
    return file.getvalue()


def strokes(
    axes: Axes, lines: Sequence[Any], colours: str | Sequence[str], width: float, alpha: float = 1.0, zorder: float = 2
) -> None:
    """Draw lines with round ends as one artist: hundreds of single ones take seconds.

    Args:
        axes: where.
        lines: of each line its points, shape (points, 2); what is not finite is not drawn.
        colours: of all lines, or of each.
        width: points.
        alpha: opacity.
        zorder: what is drawn over what.
    """
    axes.add_collection(
        LineCollection(
            lines, colors=colours, linewidths=width, alpha=alpha, zorder=zorder, capstyle="round", joinstyle="round"
        )
    )


def points(axes: Axes, places: Sequence[tuple[float, float, str]], marker: str, size: float, **look: Any) -> None:
    """Draw points (x, y, colour) as one artist a colour; `look` is as `Axes.plot` has it."""
    for colour in dict.fromkeys(ink for _, _, ink in places):
        x, y = zip(*((x, y) for x, y, ink in places if ink == colour), strict=True)
        axes.plot(x, y, marker, color=colour, markersize=size, **look)


def metric_label(results: Results) -> str:
    """Return the metric with its unit, for an axis."""
    return f"{results.metric.replace('val_', 'validation ')}{' (nats per token)' if results.metric in NATS else ''}"


def verdict_colours(table: pd.DataFrame) -> list[str]:
    """Return the colour of each row of a table with verdicts and marks."""
    return [
        FLAWED if flaws else VERDICTS.get(outcomes.outcome(verdict), OPEN)
        for verdict, flaws in zip(table["verdict"], table[FLAWS], strict=True)
    ]
