"""The figures of a report: ranking, differences, contributions (and curves, in plot_curves.py)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import text
from analysis.comparing import marks, outcomes
from analysis.comparing.comparisons import WITHOUT
from analysis.comparing.unpaired import UNPAIRED
from analysis.figures import style as figure_style
from analysis.figures.curves import loss_figure
from analysis.figures.estimation import estimation_figure
from analysis.figures.factorial import interactions_figure, shapley_figure
from analysis.figures.pareto import pareto_figure
from analysis.figures.power import power_figure
from analysis.figures.ranks import ranks_figure
from analysis.figures.scaling import scaling_figure
from analysis.figures.style import INK, MUTED, metric_label, new_figure, points, short, strokes, verdict_colours
from analysis.figures.variance import variance_figure
from analysis.schema import FLAWS, INVALID, SCALE, TOKENS, TRAIN_SECONDS
from analysis.statistics.stopping import SHOWN, shown_difference
from analysis.study import learning_rates
from analysis.study.results import Results
from analysis.study.runs import records
from analysis.summary import Analysis

KEY = {
    outcomes.BETTER: "better",
    outcomes.WORSE: "worse",
    outcomes.EQUIVALENT: "equal within the margin",
    outcomes.DEPENDS: "by one of two analyses alone",
    outcomes.OPEN: "neither is shown",
}
"""What colours of comparisons mean, in words."""
RARE = (outcomes.EQUIVALENT, outcomes.DEPENDS)
"""In the key where there is one."""
NO_RESULT = "no result"
"""In the key where something is marked."""
FIGURE_SPACE = "\u2007"
ROW = 0.3
"""Inches a row of a horizontal figure takes."""
BELOW = 0.27
"""Of a row, how far below its estimate its seeds stand."""
MOST_ROWS = 60
"""Rows of a scale that are drawn; the tables hold all."""


def ranking_figure(results: Results, analysis: Analysis) -> Figure:
    """Each cell's mean with its interval and every seed as a dot, in the ranking's order, one panel a scale."""
    table = analysis.ranking
    ranked = table["rank"].notna().any()
    unpaired = (analysis.comparisons["pairing"] == UNPAIRED).any()
    colours = dict(zip(analysis.comparisons["cell"], verdict_colours(analysis.comparisons), strict=True))
    figure, panels = _rows_figure(
        results,
        table,
        f"{'Ranking by' if ranked else 'Means of'} {results.metric.replace('val_', 'validation ')}",
        "Diamond and bar: mean with its 95 % interval; dots: seeds; dashes: the baseline's mean. "
        f"Colour: the comparison{'' if unpaired else ' paired by seed'}.",
    )
    values = results.finished(results.metric)
    for axes, rows in panels:
        inks = [figure_style.FLAWED if row[FLAWS] else colours.get(row["cell"], INK) for row in records(rows)]
        seeds = [
            (value, place + BELOW, ink)
            for place, (cell, ink) in enumerate(zip(rows["cell"], inks, strict=True))
            for value in values.loc[cell].dropna()
        ]
        points(axes, seeds, "o", 3.5, alpha=0.5, markeredgewidth=0)
        _estimates(axes, rows[["mean", "ci_low", "ci_high"]].to_numpy(), inks)
        for place, (row, ink) in enumerate(zip(records(rows), inks, strict=True)):
            if row["is_baseline"]:
                axes.axvline(row["mean"], color=ink, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
            lost = [f"{row[word]} {word}" for word in ("diverged", "failed", INVALID) if row[word]]
            _beside(axes, place, ", ".join([text.estimate(row["mean"], row["ci_low"], row["ci_high"]), *lost]))
        ranks = [text.whole(row["rank"]).rjust(2, FIGURE_SPACE) for row in records(rows)] if ranked else []
        _label_rows(axes, rows, "cell", rows["is_baseline"].tolist(), after=ranks)
        axes.set_xlabel(metric_label(results))
    _key(figure, results, [analysis.comparisons], {"baseline": INK})
    return figure


def differences_figure(results: Results, analysis: Analysis) -> Figure | None:
    """Forest plot of each cell's paired difference from its baseline; None where there is nothing to compare."""
    table = analysis.comparisons
    if table.empty:
        return None
    family = int(table["family"].max())
    figure, panels = _rows_figure(
        results,
        table,
        "Difference from the baseline" + ("" if (table["pairing"] == UNPAIRED).any() else ", paired by seed"),
        f"Diamond and bar: {_estimated(results)} with its 95 % interval."
        + (f" Colour: after Holm's correction over {text.counted(family, 'comparison')}." if family else ""),
    )
    for axes, rows in panels:
        _forest(axes, rows)
        _label_rows(axes, rows, "cell")
        axes.set_xlabel(f"difference in {metric_label(results)}, cell {text.MINUS} baseline")
    _key(figure, results, [rows for _, rows in panels])
    return figure


def contributions_figure(results: Results, analysis: Analysis) -> Figure | None:
    """What each component does: alone against the baseline and, where the design allows, averaged over the others.

    None where both would be the differences once more: in a study of one factor.
    """
    if results.has_one_factor:
        return None
    parts = [
        (title, table, name)
        for title, table, name in (
            ("one at a time, against the baseline", analysis.contributions, "factor"),
            ("averaged over the other components", analysis.main_effects, "effect"),
        )
        if not table.empty
    ]
    if not parts:
        return None
    subtitle = f"Diamond and bar: {_estimated(results)} with its 95 % interval. Colour: after Holm's correction."
    if any(len(table) > MOST_ROWS for _, table, _ in parts):
        subtitle += f"\nThe first {MOST_ROWS} rows of each panel: the tables have all."
    parts = [(title, table.head(MOST_ROWS), name) for title, table, name in parts]
    height = 1.35 + sum(ROW * len(table) + 0.75 for _, table, _ in parts)
    figure = new_figure(
        9,
        height,
        learning_rates.titled("What each component contributes", results),
        subtitle,
        marks.warning(results),
    )
    grid = figure.subplots(
        len(parts), 1, sharex=True, squeeze=False, height_ratios=[len(table) + 1 for _, table, _ in parts]
    )
    for axes, (title, table, name) in zip(grid[:, 0], parts, strict=True):
        _forest(axes, table)
        _label_rows(axes, table, name, after=_which(table, name))
        axes.set_title(title)
    levels = set(results.cells.drop(columns=SCALE, errors="ignore").to_numpy().flat)
    ends = f", with {text.MINUS} without" if levels <= {0, 1} else f", cell {text.MINUS} baseline"
    if analysis.contributions["factor"].str.startswith(WITHOUT).any():
        ends = ""  # names say it
    grid[-1, 0].set_xlabel(f"difference in {metric_label(results)}{ends}")
    _key(figure, results, [table for _, table, _ in parts])
    return figure


def _which(table: pd.DataFrame, name: str) -> list[str]:
    """Return what tells rows of one name apart: of a factor with several levels their cell, else their scale."""
    twice = table.duplicated(["scale", name], keep=False)
    return [
        f"({row['cell']})" if again else f"@{row['scale']}" if row["scale"] else ""
        for row, again in zip(records(table), twice, strict=True)
    ]


def _estimated(results: Results) -> str:
    """Say what the differences of figures are."""
    return SHOWN if results.looks else "mean difference"


def _rows_figure(
    results: Results, table: pd.DataFrame, title: str, subtitle: str
) -> tuple[Figure, list[tuple[Axes, pd.DataFrame]]]:
    """Return a figure with one panel a scale, its height from the rows, of which the first MOST_ROWS are drawn."""
    if (table.groupby("scale").size() > MOST_ROWS).any():
        subtitle += f"\nThe first {MOST_ROWS} rows of {len(table)}: the table has all."
        table = table.groupby("scale", sort=False).head(MOST_ROWS)
    groups = list(table.groupby("scale", sort=False))
    height = 1.3 + sum(ROW * len(rows) + 0.55 for _, rows in groups)
    figure = new_figure(9, height, title, subtitle, marks.warning(results))
    grid = figure.subplots(len(groups), 1, squeeze=False, height_ratios=[len(rows) + 1 for _, rows in groups])
    for axes, (scale, _) in zip(grid[:, 0], groups, strict=True):
        axes.set_title(str(scale))
    return figure, [(axes, rows) for axes, (_, rows) in zip(grid[:, 0], groups, strict=True)]


def _estimates(axes: Axes, figures: np.ndarray, colours: Sequence[str]) -> None:
    """Draw each row's estimate and interval: `figures` are estimate, low and high, shape (rows, 3)."""
    strokes(axes, [[(low, y), (high, y)] for y, (_, low, high) in enumerate(figures)], colours, 2)
    estimates = [(value, y, colour) for y, (value, colour) in enumerate(zip(figures[:, 0], colours, strict=True))]
    points(axes, estimates, "D", 5.5, markeredgecolor="white", markeredgewidth=0.8)


def _forest(axes: Axes, rows: pd.DataFrame) -> None:
    """Draw the rows' differences with their intervals about a line at zero, and their figures beside."""
    axes.axvline(0, color=INK, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
    shown = [(shown_difference(row), row["difference_low"], row["difference_high"]) for row in records(rows)]
    figures = np.array(shown, dtype=float)
    _estimates(axes, figures, verdict_colours(rows))
    for place, (difference, low, high) in enumerate(figures):
        _beside(axes, place, text.estimate(difference, low, high, sign=True))


def _beside(axes: Axes, place: int, words: str) -> None:
    """Write words right of the panel, level with a row."""
    axes.text(1.015, place, words, transform=axes.get_yaxis_transform(), va="center", fontsize=8.5, color=MUTED)


def _label_rows(
    axes: Axes, rows: pd.DataFrame, name: str, bold: Sequence[bool] = (), after: Sequence[str] = ()
) -> None:
    """Label a panel's rows by the column `name`, marked and red where they are no results, and what comes after it."""
    n = len(rows)
    names = [marks.marked(short(row[name]), row[FLAWS]) for row in records(rows)]
    axes.set_yticks(
        range(n), [f"{label}  {more}".rstrip() for label, more in zip(names, after or [""] * n, strict=True)]
    )
    axes.set_ylim(n - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    for tick, flaws, strong in zip(axes.get_yticklabels(), rows[FLAWS], bold or [False] * n, strict=True):
        tick.set_color(figure_style.FLAWED if flaws else INK)
        tick.set_fontweight("bold" if strong else "normal")


def _key(
    figure: Figure, results: Results, tables: Sequence[pd.DataFrame], beside: Mapping[str, str] | None = None
) -> None:
    """Say below what the colours of the tables' comparisons mean, and others (colours by words)."""
    found = {outcomes.outcome(verdict) for table in tables for verdict in table["verdict"]}
    said = {outcome: words for outcome, words in KEY.items() if outcome not in RARE or outcome in found}
    key = {words: figure_style.VERDICTS[outcome] for outcome, words in said.items()} | dict(beside or {})
    if results.marks:
        key[f"{NO_RESULT} {marks.MARK}"] = figure_style.FLAWED
    handles: list[Any] = [
        figure.axes[0].plot([], [], "D", color=colour, markersize=6, label=name)[0] for name, colour in key.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=8.5)


FIGURES: dict[str, Callable[[Results, Analysis], Figure | None]] = {
    "ranking": ranking_figure,
    "mean_ranks": ranks_figure,
    "differences": differences_figure,
    "estimation": estimation_figure,
    "power": power_figure,
    "contributions": contributions_figure,
    "scaling": lambda results, analysis: scaling_figure(results, analysis.scaling),
    "interactions": interactions_figure,
    "shapley": shapley_figure,
    "loss_tokens": lambda results, _: loss_figure(results, TOKENS),
    "loss_seconds": lambda results, _: loss_figure(results, TRAIN_SECONDS),
    "difference_tokens": lambda results, _: loss_figure(results, TOKENS, relative=True),
    "variance": variance_figure,
    "pareto": pareto_figure,
}
"""Figures by the name of their file (without .png), in the report's order; None where one does not apply."""
