"""The page about the published flaws: what each of them fakes, measured where it does its damage.

Every flaw is looked at twice: taken out of the published protocol, where the others remain, and put alone into the
sound one. Runs of one seed are paired.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from analysis.figures.style import COLOURS, FAINT, OPEN, WORSE, new_figure, style
from analysis.published import load_published
from analysis.schema import PARAMS_TOTAL, STEP, TRAIN_SECONDS, VAL_LOSS, TrialRecord
from analysis.statistics.significance import LEVEL, t_interval
from analysis.text import estimate, number

WARNING = "Trained under published flaws: no number here is a finding."
PAGE = "what-was-wrong.md"
OVERVIEW, LEAK_CURVES = "what-was-wrong.png", "what-was-wrong-leak.png"

PUBLISHED, UNDONE, SOUND, ALONE = "published", "undone", "sound", "alone"
"""The published protocol, the same without the one flaw, without any, and with the one flaw alone."""
WITH_AND_WITHOUT = ((PUBLISHED, UNDONE), (ALONE, SOUND))

Runs = Mapping[str, Sequence[TrialRecord]]
"""Each cell's finished runs, one a seed, by rising seed; all cells the same seeds."""


@dataclass(frozen=True)
class Quantity:
    """What a flaw corrupts."""

    name: str
    decimals: int
    in_nats: bool
    """Whether it is a loss or a difference of losses."""


LOSS = Quantity("validation loss of `{cell}` (nats)", 3, True)
DIFFERENCE = Quantity("validation loss of `{cell}` minus that of `{reference}` (nats)", 3, True)
SPREAD = Quantity("sd over seeds of `{cell}` minus `{reference}` (nats)", 4, False)
SCORE = Quantity("efficiency score of `{cell}`, 1 / (minutes x loss x million parameters)", 4, False)


@dataclass(frozen=True, kw_only=True)
class Demonstration:
    """One flaw, with the runs that show what it does."""

    flaw: str
    explanation: str
    """What was done, in a sentence."""
    study: str
    quantity: Quantity
    cell: str
    reference: str
    updates: int
    runs: Mapping[str, Runs]
    """By condition."""

    @property
    def what(self) -> str:
        """The quantity in words."""
        return self.quantity.name.format(cell=self.cell, reference=self.reference)

    def values(self, condition: str) -> np.ndarray:
        """Return the quantity of each seed (of SPREAD: the differences whose spread it is)."""
        runs = self.runs[condition]
        if self.quantity is SCORE:
            return np.array([_score(record) for record in runs[self.cell]])
        own = _losses(runs[self.cell])
        return own if self.quantity is LOSS else own - _losses(runs[self.reference])

    def estimate(self, condition: str) -> tuple[float, float, float]:
        """Return the quantity under a condition with its 95 % interval over seeds."""
        values = self.values(condition)
        if self.quantity is SPREAD:
            return spread(values)
        return _mean(values)

    def worth(self, with_it: str, without: str) -> tuple[float, float, float] | None:
        """Return by how much the flaw changes the quantity, paired by seed; None for a spread."""
        if self.quantity is SPREAD:
            return None
        return _mean(self.values(with_it) - self.values(without))


def spread(values: np.ndarray) -> tuple[float, float, float]:
    """Return the standard deviation with its chi-square interval (normal values); no interval where it is 0."""
    n, sd = len(values), float(np.std(values, ddof=1))
    if sd == 0:
        return 0.0, math.nan, math.nan
    tail = (1 - LEVEL) / 2
    low, high = (sd * math.sqrt((n - 1) / stats.chi2.ppf(q, n - 1)) for q in (1 - tail, tail))
    return sd, low, high


def _mean(values: np.ndarray) -> tuple[float, float, float]:
    mean = float(np.mean(values))
    low, high = t_interval(mean, np.std(values, ddof=1), len(values))
    return mean, float(low), float(high)


def _losses(records: Sequence[TrialRecord]) -> np.ndarray:
    return np.array([record.rows[-1][VAL_LOSS] for record in records])


def _score(record: TrialRecord) -> float:
    last = record.rows[-1]
    return 1 / (last[TRAIN_SECONDS] / 60 * last[VAL_LOSS] * last[PARAMS_TOTAL] / 1e6)


def write_page(
    demonstrations: Sequence[Demonstration], duplicates: Runs, command: str, folder: Path, hardware: str
) -> Path:
    """Write the page and its figures into `folder` and `folder/images`; return the page's path.

    Args:
        demonstrations: in the order of the page; the first one on attention is drawn against steps.
        duplicates: runs of one model under several published names, the baseline's first.
        command: what makes this page again.
        folder: the documentation's folder.
        hardware: what the runs were made on.
    """
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    leak = next(d for d in demonstrations if d.quantity is DIFFERENCE)
    with style():
        overview_figure(demonstrations).savefig(images / OVERVIEW)
        leak_figure(leak).savefig(images / LEAK_CURVES)
    page = folder / PAGE
    page.write_text(markdown(demonstrations, duplicates, command, hardware))
    return page


def markdown(demonstrations: Sequence[Demonstration], duplicates: Runs, command: str, hardware: str) -> str:
    """Return the page's text."""
    seeds = len(next(iter(duplicates.values())))
    parts = [
        "# What was wrong with the published numbers\n",
        "Each published effect rests on a flaw. Here every flaw is rebuilt and measured by itself, twice: taken out of "
        "the published protocol, in which all the others remain, and put alone into the sound one. "
        "**No number under a flaw is a finding**; the last column, what the flaw is worth, is what this page is "
        "about.\n",
        "All runs: scale `cpu`, the embedded corpus, the published budget (4 micro-steps an update, the corpus's first "
        f"100,000 training tokens), {seeds} seeds; intervals are 95 % over seeds, differences paired by seed. "
        f"Trained on {hardware}. This page and its figures are made by\n",
        f"```\n{command}\n```\n",
        f"![What each flaw is worth](images/{OVERVIEW})\n",
    ]
    for demonstration in demonstrations:
        parts += _section(demonstration)
    parts += _duplicates(duplicates)
    return "\n".join(parts)


def _section(d: Demonstration) -> list[str]:
    micro_steps = f"{4 * d.updates:,} micro-steps"
    lines = [
        f"## `{d.flaw}`\n",
        f"{d.explanation} Measured in `{d.study}` after {micro_steps}: {d.what}.\n",
    ]
    if d.quantity is SPREAD:
        lines += ["| protocol | with the flaw | without it |", "|---|---|---|"]
    else:
        lines += ["| protocol | with the flaw | without it | the flaw is worth |", "|---|---|---|---|"]
    for name, (with_it, without) in zip(("published", "sound"), WITH_AND_WITHOUT, strict=True):
        cells = [name, *(_shown(d.estimate(c), d.quantity.decimals, sign=False) for c in (with_it, without))]
        worth = d.worth(with_it, without)
        if worth is not None:
            cells.append(_shown(worth, d.quantity.decimals, sign=True))
        lines.append(f"| {' | '.join(cells)} |")
    lines.append("")
    if d.flaw.startswith("leak"):
        lines.append(f"![Loss against steps, with and without the mask](images/{LEAK_CURVES})\n")
    return lines


def _shown(value: tuple[float, float, float], decimals: int, *, sign: bool) -> str:
    mean, low, high = value
    if mean == 0 and math.isnan(low):
        return "0 in every seed"
    return estimate(mean, low, high, decimals, sign)


def _duplicates(runs: Runs) -> list[str]:
    """Say what one model under several names shows."""
    names = list(runs)
    printed = {row.variant: row.val_loss.value for row in load_published("exp6_grid").rows}
    losses = {name: _losses(records) for name, records in runs.items()}
    sd = float(np.sqrt(np.mean([np.var(values, ddof=1) for values in losses.values()])))
    listed = ", ".join(f"`{name}`" for name in names)
    lines = [
        "## One model under several names\n",
        f"{listed} of the published grid are one model. Run as published, one random state running on through all "
        f"variants, their losses differ by noise alone: the sd over seeds within a name is {number(sd, 4)} nats.\n",
        "| name | printed loss | printed gap | measured loss | measured gap |",
        "|---|---|---|---|---|",
    ]
    for name in names:
        gap = _mean(losses[name] - losses[names[0]]) if name != names[0] else None
        printed_gap = number(printed[name] - printed[names[0]], 4, sign=True) if gap else ""
        lines.append(
            f"| {name} | {number(printed[name], 4)} | {printed_gap} | {_shown(_mean(losses[name]), 4, sign=False)} | "
            f"{_shown(gap, 4, sign=True) if gap else ''} |"
        )
    return [*lines, ""]


def overview_figure(demonstrations: Sequence[Demonstration]) -> Figure:
    """Return what each flaw is worth in nats, taken out of the published protocol and put alone into the sound one."""
    rows = [d for d in demonstrations if d.quantity.in_nats]
    figure = new_figure(
        9.5,
        1.5 + 0.42 * len(rows),
        "What each flaw is worth",
        "Change of the quantity in nats, with the flaw minus without it; 95 % intervals over seeds, paired.",
        WARNING,
    )
    axes = figure.subplots()
    axes.axvline(0, color=FAINT, linewidth=1)
    styles = (("in the published protocol", WORSE, -0.13), ("alone in the sound protocol", OPEN, 0.13))
    for (label, colour, shift), (with_it, without) in zip(styles, WITH_AND_WITHOUT, strict=True):
        for place, d in enumerate(rows):
            worth = d.worth(with_it, without)
            assert worth is not None
            mean, low, high = worth
            axes.plot([low, high], [place + shift] * 2, color=colour, linewidth=2)
            axes.plot(mean, place + shift, "o", color=colour, markersize=5, label=label if place == 0 else None)
    axes.set_yticks(range(len(rows)), [f"{d.flaw}\n{_of_what(d)}" for d in rows])
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("nats per token")
    axes.set_xscale("symlog", linthresh=0.05)
    low, high = axes.get_xlim()
    axes.set_xticks([tick for tick in (-1.0, -0.1, 0.0, 0.1, 1.0) if low <= tick <= high])
    axes.xaxis.set_major_formatter(lambda value, _: number(value, 2, sign=True))
    axes.legend(frameon=False, loc="best")
    return figure


def _of_what(d: Demonstration) -> str:
    return f"{d.cell}, loss" if d.quantity is LOSS else f"{d.cell} minus {d.reference}"


def leak_figure(d: Demonstration) -> Figure:
    """Return the losses of the demonstration's two cells against steps, with the flaw and without it."""
    figure = new_figure(
        9.5,
        3.9,
        "Without a causal mask the loss falls towards zero",
        "Published protocol, validation loss against micro-steps; line: mean over seeds, band: lowest to highest.",
        WARNING,
    )
    panels = figure.subplots(1, 2, sharey=True)
    titles = ("as published: no mask in the latent attention", "the mask put back, nothing else changed")
    for axes, condition, title in zip(panels, (PUBLISHED, UNDONE), titles, strict=True):
        for name, colour in ((d.reference, COLOURS[0]), (d.cell, COLOURS[1])):
            steps, losses = _curve(d.runs[condition][name])
            axes.plot(4 * steps, losses.mean(0), "o-", color=colour, label=name, markersize=4)
            axes.fill_between(4 * steps, losses.min(0), losses.max(0), color=colour, alpha=0.2, linewidth=0)
        axes.set_title(title)
        axes.set_xlabel("micro-steps")
        axes.set_ylim(bottom=0)
    panels[0].set_ylabel("validation loss (nats per token)")
    panels[0].legend(frameon=False)
    return figure


def _curve(records: Sequence[TrialRecord]) -> tuple[np.ndarray, np.ndarray]:
    """Return the steps of the evaluations and the losses there (seeds, steps)."""
    rows = [[row for row in record.rows if row[VAL_LOSS] is not None] for record in records]
    steps = np.array([row[STEP] for row in rows[0]])
    return steps, np.array([[row[VAL_LOSS] for row in curve] for curve in rows])
