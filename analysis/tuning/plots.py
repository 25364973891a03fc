"""The figures of a tuning report: loss against each learning rate, best loss against the budget."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.figures.style import COLOURS, INK, MUTED, new_figure
from analysis.schema import FAILED, VAL_LOSS
from analysis.tuning.findings import Tuning, limited
from analysis.tuning_records import RUNNING, STOPPED, SWEEP, TuningRecord

LOSS = "validation loss (nats per token)"
MARGIN = 0.06
"""Of a panel's height, below the lowest loss."""


def figures(tuning: Tuning) -> dict[str, Figure]:
    """Draw all figures that apply, by the name of their file (without .png)."""
    drawn = {f"tuning_{name}": _rate_figure(tuning, name) for name in tuning.learning_rates}
    if tuning.expected_best:
        drawn["tuning_budget"] = _budget_figure(tuning)
    return drawn


def _colours(tuning: Tuning) -> dict[str, str]:
    return {cell: COLOURS[place % len(COLOURS)] for place, cell in enumerate(tuning.declared["cells"])}


def _rate_figure(tuning: Tuning, name: str) -> Figure:
    """Every trial as a dot over its learning rate; the sweep, which varies this rate alone, as a line."""
    guess = tuning.declared["guess_loss"]
    figure = new_figure(
        8.2,
        4.6,
        f"Loss against {name.replace('_', ' ')}",
        "Line: the sweep, this rate alone varied around the cell's best. Dots: all other trials; "
        "hollow: stopped early,\nwith the loss at that point, not comparable with the others. Star: the best of the "
        "search. Dotted: guessing.",
        "",
    )
    axes = figure.add_subplot()
    shown = []
    for cell, colour in _colours(tuning).items():
        ended = [r for r in tuning.records if r.cell == cell and r.status not in (RUNNING, FAILED)]
        others = [record for record in ended if record.arm != SWEEP]
        whole = [record for record in others if record.status != STOPPED]
        part = [record for record in others if record.status == STOPPED]
        shown += [_last_loss(record, guess) if record.status == STOPPED else limited(record, guess) for record in ended]
        axes.plot(
            [record.hyperparameters[name] for record in whole],
            [limited(record, guess) for record in whole],
            "o", color=colour, markersize=4, alpha=0.6, mew=0,
        )  # fmt: skip
        axes.plot(
            [record.hyperparameters[name] for record in part],
            [_last_loss(record, guess) for record in part],
            "o", color=colour, markersize=4, alpha=0.6, mfc="none",
        )  # fmt: skip
        (tuned,) = (found for found in tuning.cells if found.cell == cell)
        if tuned.best is not None and tuned.best.loss is not None:
            axes.plot(tuned.best.hyperparameters[name], tuned.best.loss, "*", color=colour, markersize=12, mec="white")
        label = cell
        for line in tuning.sensitivities:
            if (line.cell, line.hyperparameter) == (cell, name):
                axes.plot(line.rates, line.losses, "-", color=colour, linewidth=1.6)
                label = f"{cell}: sensitivity {line.deviation:.3f} nats"
        axes.plot([], [], "o-", color=colour, label=label)
    axes.set_xscale("log")
    space = tuning.declared["space"][name]
    axes.set_xlim(space["low"] / 1.15, space["high"] * 1.15)
    _loss_axis(axes, shown, guess)
    axes.set_xlabel(name.replace("_", " "))
    axes.legend(frameon=False, loc="best", labelcolor=INK)
    return figure


def _last_loss(record: TuningRecord, guess: float) -> float:
    """Return the loss at the rung where a trial was stopped."""
    return min(guess, next(row[VAL_LOSS] for row in reversed(record.rows) if row.get(VAL_LOSS) is not None))


def _loss_axis(axes: Axes, shown: list[float], guess: float) -> None:
    axes.axhline(guess, color=MUTED, linewidth=0.9, linestyle=":")
    low = min(shown, default=0.0)
    axes.set_ylim(low - MARGIN * (guess - low), guess + MARGIN * (guess - low))
    axes.set_ylabel(LOSS)


def _budget_figure(tuning: Tuning) -> Figure:
    """Expected best loss of k independent draws, with the interval of the median best."""
    figure = new_figure(
        8.2,
        4.6,
        "Best loss against the tuning budget",
        "Line: expected best of so many independent draws, unbiased. Band: 95 % interval of the median best, "
        "exact for any\ndistribution; it ends where the draws can no longer bound it from below.",
        "",
    )
    axes = figure.add_subplot()
    for cell, colour in _colours(tuning).items():
        found = tuning.expected_best.get(cell, ())
        bounded = [(best.draws, best.low, best.high) for best in found if None not in (best.low, best.high)]
        numbers = [best.draws for best in found]
        axes.plot(numbers, [best.expected for best in found], "-o", color=colour, label=cell, markersize=3)
        axes.fill_between(*np.array(bounded, dtype=float).reshape(-1, 3).T, color=colour, alpha=0.15, linewidth=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("random draws, each trained to the end")
    axes.set_ylabel(LOSS)
    axes.legend(frameon=False, loc="best", labelcolor=INK)
    return figure
