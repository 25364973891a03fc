"""Validation loss while training: small multiples, the lines labelled at their ends."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.comparing import marks
from analysis.figures.style import COLOURS, FAINT, FLAWED, INK, MUTED, label_left, new_figure, short, strokes
from analysis.schema import CELL, SEED, STEP, TOKENS, TRAIN_SECONDS, VAL_LOSS
from analysis.study.results import Results

AXES = {
    TOKENS: "training tokens (thousands)",
    TRAIN_SECONDS: "training time (seconds, without start-up and evaluation)",
}
"""What a curve is drawn against, in words."""
UNITS = {TOKENS: 1e3, TRAIN_SECONDS: 1.0}
MOST = 36
"""Cells whose curves are drawn: the best, and their baselines."""
SHOWN_FROM = 1 / 3
"""Share of the updates that is cut off on the left: there the loss falls by far more than the cells differ."""


def mean_curves(results: Results, x: str, relative: bool = False) -> pd.DataFrame:
    """Average the validation curves of the runs that count over seeds.

    Args:
        results: the study.
        x: the column that the loss is drawn against.
        relative: take from each loss the baseline's at the same update and seed; seeds that the baseline lacks are left
            out.

    Returns:
        columns cell, step, x (mean over seeds), mean, low, high (lowest and highest seed, nats per token), n; one row
        an evaluation that all of the cell's (paired) seeds have.
    """
    counted = results.counted[[CELL, SEED]]
    curves = results.curves.dropna(subset=[VAL_LOSS, x]).merge(counted, on=[CELL, SEED])
    if relative:
        reference = curves[[CELL, SEED, STEP, VAL_LOSS]].rename(columns={CELL: "baseline", VAL_LOSS: "reference"})
        curves["baseline"] = curves[CELL].map(results.baselines)
        curves = curves.merge(reference, on=["baseline", SEED, STEP])
        curves[VAL_LOSS] -= curves["reference"]
    table = curves.groupby([CELL, STEP], sort=False).agg(
        x=(x, "mean"), mean=(VAL_LOSS, "mean"), low=(VAL_LOSS, "min"), high=(VAL_LOSS, "max"), n=(SEED, "size")
    )
    seeds = curves.groupby(CELL)[SEED].nunique()
    table = table.reset_index()
    return table[table["n"] == table[CELL].map(seeds)].sort_values([CELL, STEP], ignore_index=True)


def panels(results: Results, cells: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Split the cells into panels of at most as many as there are colours.

    Cells that share the levels of the last factors stand together, as few factors as will do; cells without factors are
    split in the order given.

    Returns:
        (title, cells) of each panel.
    """
    for count in range(len(results.factors)):
        shared = list(results.factors[len(results.factors) - count :])
        groups: dict[tuple[Any, ...], list[str]] = {}
        for cell in cells:
            groups.setdefault(tuple(results.cells.loc[cell, shared]), []).append(cell)
        if max(map(len, groups.values())) <= len(COLOURS):
            switches = {factor for factor in shared if set(results.cells[factor]) <= {0, 1}}
            return [(_title(shared, key, switches), members) for key, members in groups.items()]
    chunks = [list(cells[i : i + len(COLOURS)]) for i in range(0, len(cells), len(COLOURS))]
    return [("", chunk) for chunk in chunks]


def _title(factors: Sequence[str], levels: Sequence[Any], switches: Collection[str]) -> str:
    """Say what a panel's cells share; `switches` are the factors that are on or off."""
    words = []
    for factor, level in zip(factors, levels, strict=True):
        words.append(f"{'with' if level else 'without'} {factor}" if factor in switches else f"{factor} {level}")
    return ", ".join(words)


def loss_figure(results: Results, x: str, relative: bool = False) -> Figure | None:
    """Draw validation loss against `x` (tokens or train_seconds), or its difference from the baseline's.

    Cells with a single evaluation have no curve; None where that is all.
    """
    curves = mean_curves(results, x, relative)
    curves = curves[curves.groupby(CELL)[STEP].transform("size") > 1].reset_index(drop=True)
    if curves.empty:
        return None
    curves["x"] /= UNITS[x]
    known = set(curves[CELL])
    cells = [cell for cell in results.baselines if cell in known]
    some = ""
    if len(cells) > MOST:
        best = set(curves.groupby(CELL)["mean"].last().nsmallest(MOST).index) | set(results.baselines.values())
        some = f" The {MOST} best of {len(cells)} cells."
        cells = [cell for cell in cells if cell in best]
    groups = panels(results, cells)
    columns = min(2, len(groups))
    rows = -(-len(groups) // columns)
    updates = curves.groupby(CELL)[STEP].transform("max")
    late = curves[curves[STEP] >= SHOWN_FROM * updates]
    is_cut = not relative and late.groupby(CELL).size().min() > 1
    shown = late if is_cut else curves
    figure = new_figure(
        5.2 * columns + 1,
        0.9 + (2.7 if columns > 1 else 4.2) * rows,
        _heading(x, relative),
        f"Mean over {_seeds(curves)}; band: lowest to highest seed. Grey: the other cells."
        + (" Paired by seed." if relative else " The first third of training is cut off." if is_cut else "")
        + some,
        marks.warning(results),
    )
    # Cells of other scales have other baselines: they are neither shown beside these nor on the same axes.
    shared = len({results.baselines[cell] for cell in cells}) == 1
    grid = figure.subplots(rows, columns, sharex=shared, sharey=shared, squeeze=False)
    for axes, (title, members) in zip(grid.flat, groups, strict=False):
        references = {results.baselines[cell] for cell in members}
        others = [cell for cell in cells if results.baselines[cell] in references and cell not in members]
        names = {
            cell: marks.marked(short(cell), results.marks_of([cell, *([results.baselines[cell]] if relative else [])]))
            for cell in [*members, *others]
        }
        _panel(axes, shown[shown[CELL].isin(list(names))], members, others, references, names)
        axes.set_title(title)
    for place in range(len(groups), grid.size):
        grid.flat[place].set_visible(False)
        if place >= columns:  # what stands over the gap is the lowest of its column
            grid.flat[place - columns].tick_params(labelbottom=True)
    figure.supxlabel(AXES[x], fontsize=9.5, color=MUTED)
    label_left(figure, f"{'difference in ' if relative else ''}validation loss (nats per token)")
    return figure


def _heading(x: str, relative: bool) -> str:
    against = "training tokens" if x == TOKENS else "training time"
    return f"{'Difference from the baseline' if relative else 'Validation loss'} against {against}"


def _seeds(curves: pd.DataFrame) -> str:
    low, high = curves["n"].min(), curves["n"].max()
    return f"{low} seeds" if low == high else f"{low} to {high} seeds"


def _panel(
    axes: Axes,
    curves: pd.DataFrame,
    members: list[str],
    others: list[str],
    references: set[str],
    names: Mapping[str, str],
) -> None:
    """Draw the members in colour over the others in grey, their key beside the panel in the order of their ends.

    `names` are the cells' with the mark where they have one: such a name is red in the key.
    """
    lines = dict(list(curves.groupby(CELL, sort=False)))
    for cell in others:
        if cell in references:
            axes.plot(lines[cell]["x"], lines[cell]["mean"], color=INK, linewidth=1.3, zorder=2, label=cell)
    strokes(axes, [lines[cell][["x", "mean"]].to_numpy() for cell in others if cell not in references], FAINT, 0.8)
    for i, cell in enumerate(members):
        line, colour = lines[cell], COLOURS[i]
        axes.fill_between(line["x"], line["low"], line["high"], color=colour, alpha=0.12, linewidth=0)
        # Thin dashes over thick lines: cells that are the same model are both seen.
        over = i >= len(members) / 2
        axes.plot(
            line["x"], line["mean"], color=colour, linewidth=1.5 if over else 2.6, zorder=3 + i, label=cell,
            linestyle=(0, (3, 2)) if over else "-", marker="o", markersize=2.5 if over else 4.5,
        )  # fmt: skip
    handles = {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    order = sorted(handles, key=lambda cell: -lines[cell]["mean"].iloc[-1])
    legend = axes.legend(
        [handles[cell] for cell in order], [names[cell] for cell in order], loc="center left",
        bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8.5, handlelength=2.4,
    )  # fmt: skip
    for label in legend.get_texts():
        label.set_color(FLAWED if marks.is_marked(label.get_text()) else INK)
