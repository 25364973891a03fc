"""The report of a search: tuning.md, tuning.csv and figures, beside the report of the study that confirms it."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from analysis import text
from analysis.figures.style import png, style
from analysis.reporting.report import write_all
from analysis.schema import CELL, CONFIG_HASH, ERROR, INVALID, SEED, STATUS, STEPS, TOKENS, VAL_LOSS
from analysis.tuning import plots as tuning_plots
from analysis.tuning.findings import EDGE_SHARE, Tuning, load_tuning
from analysis.tuning_records import ARMS, RANDOM, SEARCH, SWEEP

TUNING_MD = "tuning.md"
TUNING_CSV = "tuning.csv"
WHAT = {
    SEARCH: "TPE, poor trials stopped at rungs",
    RANDOM: "independent draws, all trained to the end",
    SWEEP: "one learning rate varied, the rest at the best found",
}


def write_tuning_report(folder: Path) -> Path:
    """Write the report of the search in a study's folder and return its path.

    Raises:
        AnalysisError: there is no search, or its records cannot be read.
    """
    tuning = load_tuning(folder)
    with style():
        pictures = {name: png(figure) for name, figure in tuning_plots.figures(tuning).items()}
    write_all(
        folder,
        {
            TUNING_MD: markdown(tuning, pictures).encode(),
            TUNING_CSV: trials_csv(tuning).encode(),
            **{f"{name}.png": picture for name, picture in pictures.items()},
        },
    )
    return folder / TUNING_MD


def trials_csv(tuning: Tuning) -> str:
    """Return all trials as CSV. The loss is empty for trials that were not trained to the end."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    names = list(tuning.declared["space"])
    writer.writerow(
        [CELL, "arm", "number", "varied", *names, SEED, STATUS, STEPS, TOKENS, VAL_LOSS, CONFIG_HASH, ERROR, INVALID]
    )
    for record in tuning.records:
        values = [repr(record.hyperparameters[name]) for name in names]
        loss = "" if record.loss is None else repr(record.loss)
        writer.writerow(
            [record.cell, record.arm, record.number, record.varied or "", *values, record.seed, record.status,
             record.updates, record.tokens, loss, record.config_hash, record.error or "", " ".join(record.invalid)]
        )  # fmt: skip
    return file.getvalue()


def markdown(tuning: Tuning, pictures: Iterable[str]) -> str:
    """Return the report."""
    declared = tuning.declared
    parts = [f"# Tuning of {declared['study']}", *_introduction(tuning), "## Budget", *_budget(tuning), "## Best found"]
    parts += _best(tuning)
    if tuning.sensitivities:
        parts += ["## Sensitivity to the learning rate", *_sensitivity(tuning)]
    shown = list(pictures)
    parts += [f"![{name}]({name}.png)" for name in shown if name != "tuning_budget"]
    parts += ["## Best loss against the budget", *_expected_best(tuning)]
    parts += [f"![{name}]({name}.png)" for name in shown if name == "tuning_budget"]
    parts += ["## Importance of the hyperparameters", *_importance(tuning)]
    return "\n\n".join(parts) + "\n"


def _introduction(tuning: Tuning) -> list[str]:
    declared = tuning.declared
    rungs = text.listing([str(rung) for rung in declared["rungs"]])
    most = declared.get("max_tokens")
    trials = f"{declared['trials']} trials"
    if most:
        trials = f"as many trials as {text.whole(most)} tokens allow, {declared['trials']} at most,"
    return [
        f"Every cell had the same search: {trials} over the same space, each of up to "
        f"{declared['updates']} updates ({text.whole(declared['trial_tokens'])} tokens). "
        + (
            f"At the rungs (updates {rungs}) a trial goes on only if it is among the best 1/{declared['reduction']} of "
            "its own cell's trials there; a trial stopped there is part of a longer schedule and has no loss: what it "
            "had there helps to choose what is tried next, and no more. "
            if declared["rungs"]
            else "No trial was stopped early. "
        )
        + f"All trials have seed {declared['seed']} and the validation split alone. What is claimed about the cells is "
        "the confirmation's, on fresh seeds, and never a figure of this report: the best of many trials looks better "
        "than it is.",
        "\n".join(
            [
                "| hyperparameter | lowest | highest | scale |",
                "| :-- | --: | --: | :-- |",
                *(
                    f"| {name} | {axis['low']:g} | {axis['high']:g} | {'log' if axis['log'] else 'linear'} |"
                    for name, axis in declared["space"].items()
                ),
            ]
        ),
    ]


def _table(headers: Sequence[str], words: int, rows: Iterable[Sequence[str]]) -> str:
    """Lay a table out; its first `words` columns hold words."""
    rules = [":--" if place < words else "--:" for place in range(len(headers))]
    return "\n".join("| " + " | ".join(row) + " |" for row in (headers, rules, *rows))


def _budget(tuning: Tuning) -> list[str]:
    rows = [
        [
            cell.cell,
            f"{arm}: {WHAT[arm]}",
            str(sum(cell.counts[arm].values())),
            ", ".join(f"{count} {status}" for status, count in cell.counts[arm].items()),
            text.whole(cell.tokens[arm]),
        ]
        for cell in tuning.cells
        for arm in ARMS
        if cell.counts[arm]
    ]
    return [_table(("cell", "arm", "trials", "ended", "tokens"), 2, rows), *_invalid(tuning)]


def _invalid(tuning: Tuning) -> list[str]:
    """Return the line on trials that an audit found invalid."""
    said = []
    for cell in tuning.declared["cells"]:
        found = [record for record in tuning.records if record.cell == cell and record.invalid]
        audits = sorted({name for record in found for name in record.invalid})
        said += [f"{cell} ({len(found)}: {', '.join(audits)})"] if found else []
    if not said:
        return []
    return [
        f"**Found invalid by an audit:** trials of {text.listing(said)}. None of them is a cell's best, unless all "
        f"that finished are invalid; they are in the other figures, and named in {TUNING_CSV}."
    ]


def _best(tuning: Tuning) -> list[str]:
    names = list(tuning.declared["space"])
    rows = []
    for cell in tuning.cells:
        best = cell.best
        values = ["" if best is None else f"{best.hyperparameters[name]:.3g}" for name in names]
        values = [value + (" (edge)" if name in cell.edge else "") for name, value in zip(names, values, strict=True)]
        rows.append([cell.cell, *values, "no trial finished" if best is None else text.number(best.loss)])
    lines = [_table(("cell", *names, "validation loss, of the best trial"), 1, rows)]
    missed = [
        f"{cell.cell} ({text.number(lowest)})"
        for cell in tuning.cells
        if cell.best is not None and (lowest := _lowest(tuning, cell.cell)) < (cell.best.loss or 0)
    ]
    if missed:
        lines.append(
            f"**Not the lowest:** beside the search, trials of {text.listing(missed)} had a lower loss; the search was "
            "too short to find it. What is confirmed is the search's best all the same: every cell's comes from an "
            "equal search."
        )
    edges = [f"{cell.cell} ({', '.join(cell.edge)})" for cell in tuning.cells if cell.edge]
    if edges:
        lines.append(
            f"**At the edge:** the best of {text.listing(edges)} lies within the outermost {100 * EDGE_SHARE:g} % of "
            "its range and may lie beyond it: widen the range before comparing these cells."
        )
    return lines


def _lowest(tuning: Tuning, cell: str) -> float:
    """Return the lowest loss of all trials of a cell that were trained to the end, of sound ones if there are any."""
    ended = [(bool(it.invalid), it.loss) for it in tuning.records if it.cell == cell and it.loss is not None]
    return min(ended)[1]


def _sensitivity(tuning: Tuning) -> list[str]:
    rows = [
        [
            line.cell,
            line.hyperparameter,
            text.number(line.decades, 1),
            str(len(line.rates)),
            text.number(line.deviation),
        ]
        for line in tuning.sensitivities
    ]
    return [
        "Expected loss above the optimum where the learning rate is drawn from its whole range, on a log scale, all "
        "else at the best that the search found (arXiv:2309.14322); losses are limited to that of guessing, "
        f"{text.number(tuning.declared['guess_loss'])}. One seed a point.",
        _table(("cell", "learning rate", "decades", "points", "sensitivity (nats)"), 2, rows),
    ]


def _expected_best(tuning: Tuning) -> list[str]:
    if not tuning.expected_best:
        return ["Not estimated: this takes independent draws that have all ended (`--random N`)."]
    rows = [
        [
            cell,
            str(best.draws),
            text.whole(best.draws * tuning.declared["trial_tokens"]),
            text.number(best.expected),
            text.number(best.median),
            _interval(best.low, best.high),
        ]
        for cell, found in tuning.expected_best.items()
        for best in found
        if best.draws & (best.draws - 1) == 0 or best is found[-1]
    ]
    return [
        "From the random arm alone. *Expected* is the unbiased estimate of the expected best of so many draws "
        "(arXiv:2010.02903), *median* the loss that the best is below every second time, with its exact 95 % interval "
        "(an open end: so few draws do not bound it).",
        _table(("cell", "draws", "tokens", "expected best", "median best", "95 %"), 1, rows),
    ]


def _interval(low: float | None, high: float | None) -> str:
    if low is None and high is None:
        return text.NOTHING
    return f"[{'…' if low is None else text.number(low)}, {'…' if high is None else text.number(high)}]"


def _importance(tuning: Tuning) -> list[str]:
    found = tuning.declared.get("importance", {})
    names = list(tuning.declared["space"])
    rows = [
        [cell, str(entry["n"]), *(text.number(entry["shares"].get(name), 2) for name in names)]
        for cell, entry in found.items()
        if entry["shares"]
    ]
    lines = [_table(("cell", "n", *names), 1, rows)] if rows else []
    lines += [f"{cell}: {entry['reason']}." for cell, entry in found.items() if not entry["shares"]]
    if rows:
        lines.insert(
            0,
            "Share of the loss's variance over the space that each explains alone (fANOVA, a random forest fitted to "
            "independent draws, losses limited to that of guessing). The seed is no hyperparameter. With few draws "
            "they are rough: of 10, one of two without any effect had 0.07 to 0.46 in nine of ten simulated searches.",
        )
    return lines or ["Not estimated: no draws."]
