"""The words of a report, generated from its numbers: the verdict, what was run, what to keep in mind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis import outcomes, text
from analysis.results import NATS, Results
from analysis.runs import records
from analysis.schema import CELL, DIVERGED, FAILED, FINISHED, SEED, STATUS, STATUSES, STEPS, TOKENS, TRAIN_SECONDS
from analysis.summary import Analysis


@dataclass(frozen=True)
class Finding:
    """One line of the verdict: what is said, of which cells."""

    kind: str
    """`alarm`, `best`, an outcome of outcomes.py, a status, or `missing`."""
    claim: str
    cells: tuple[tuple[str, str], ...]
    """(cell, its figures in words); empty where the claim holds of none."""


def verdict(results: Results, analysis: Analysis) -> dict[str, list[Finding]]:
    """Return the findings of each scale (the scale is "" where it is no factor)."""
    found = analysis.comparisons.assign(outcome=analysis.comparisons["verdict"].map(outcomes.outcome))
    return {
        str(scale): [
            *_alarms(analysis.negative_control[analysis.negative_control["scale"] == scale]),
            *_findings(results, ranking, found[found["scale"] == scale]),
        ]
        for scale, ranking in analysis.ranking.groupby("scale", sort=False)
    }


def _alarms(control: pd.DataFrame) -> list[Finding]:
    """Return a finding where a negative control is off: then no other figure of the study can be relied on."""
    rows = control[control["verdict"].str.startswith("ALARM")]
    cells = _cells(rows, lambda row: f"against {row['partner']}: {row['verdict'].removeprefix('ALARM: ')}")
    return [Finding("alarm", "ALARM, the negative control is off", cells)] if cells else []


def _findings(results: Results, ranking: pd.DataFrame, found: pd.DataFrame) -> list[Finding]:
    unit = " nats" if results.metric in NATS else ""
    findings = [_best(results, ranking, unit)]
    baselines = sorted(set(found["baseline"]))
    name = baselines[0] if len(baselines) == 1 else "the baseline"
    for kind, claim in (
        (outcomes.BETTER, f"Clearly better than {name}"),
        (outcomes.WORSE, f"Clearly worse than {name}"),
    ):
        rows = found[found["outcome"] == kind]
        if len(found):
            findings.append(Finding(kind, claim, _cells(rows, lambda row: _figures(row, unit))))
    rows = found[found["outcome"] == outcomes.OPEN]
    if len(rows):
        cells = _cells(
            rows, lambda row: f"{_figures(row, unit)}; could detect {text.number(row['detectable'])}{unit} or more"
        )
        findings.append(Finding(outcomes.OPEN, f"Not resolved with {_seeds(rows['n'])}", cells))
    for kind, claim in ((outcomes.IDENTICAL, f"The same as {name}"), (outcomes.UNTESTED, "Not tested")):
        rows = found[found["outcome"] == kind]
        if len(rows):
            findings.append(Finding(kind, claim, _cells(rows, lambda row: str(row["verdict"]))))
    for kind, claim in ((DIVERGED, "Diverged"), (FAILED, "Failed"), ("missing", "Without a result yet")):
        rows = ranking[ranking[kind] > 0]
        if len(rows):
            cells = tuple((row["cell"], _seeds([row[kind]])) for row in records(rows))
            findings.append(Finding(kind, claim, cells))
    return findings


def _best(results: Results, ranking: pd.DataFrame, unit: str) -> Finding:
    first = ranking[ranking["rank"] == 1]
    claim = (
        f"{'Lowest' if results.direction == 'min' else 'Highest'} mean {results.metric.replace('val_', 'validation ')}"
    )
    cells = _cells(first, lambda row: text.estimate(row["mean"], row["ci_low"], row["ci_high"]) + unit)
    return Finding("best", claim, cells)


def _cells(rows: pd.DataFrame, words: Callable[[dict[str, Any]], str]) -> tuple[tuple[str, str], ...]:
    return tuple((str(row["cell"]), words(row)) for row in records(rows))


def _figures(row: dict[str, Any], unit: str) -> str:
    return text.estimate(row["difference"], row["difference_low"], row["difference_high"], sign=True) + unit


def _seeds(counts: pd.Series | list[float]) -> str:
    low, high = text.whole(min(counts)), text.whole(max(counts))
    return f"{low} seed{'' if high == '1' else 's'}" if low == high else f"{low} to {high} seeds"


def facts(results: Results) -> list[tuple[str, str]]:
    """Return (what, value) pairs: what was run, on what, how much of it."""
    plan, runs = results.plan, results.runs
    finished = runs[runs[STATUS] == FINISHED]
    counts = runs[STATUS].value_counts()
    ended = [f"{counts[status]} {status}" for status in STATUSES if status in counts]
    planned = sum(len(cell["hashes"]) for cell in plan.get("cells", ()))
    seconds = runs[TRAIN_SECONDS].sum(min_count=1)
    pairs = [
        ("study", results.study),
        ("script", plan.get("script")),
        ("design", plan.get("design")),
        ("scale", ", ".join(plan.get("scales", ()))),
        ("corpus", plan.get("corpus")),
        ("data hash", plan.get("data_hash")),
        ("cells", text.whole(runs[CELL].nunique())),
        ("seeds", f"{runs[SEED].nunique()} ({_range(runs[SEED])})"),
        ("runs", ", ".join(ended) + (f", of {planned} planned" if planned else "")),
        ("updates a run", _range(finished[STEPS])),
        ("training tokens a run", _range(finished[TOKENS])),
        ("training time in all", f"{text.number(seconds / 60, 1)} minutes" if pd.notna(seconds) else None),
        ("compared by", f"{results.metric}, {'lower' if results.direction == 'min' else 'higher'} is better"),
        *((f"{name} (chosen by measurement)", _plainly(value)) for name, value in plan.get("choices", {}).items()),
        *plan.get("environment", {}).items(),
    ]
    return [(str(name), str(value)) for name, value in pairs if value not in (None, "")]


def _plainly(value: Any) -> str:
    """Return a choice in words: one that differs by scale as `fp32 (cpu), bf16 (paper_256d)`."""
    if isinstance(value, Mapping):
        return ", ".join(f"{choice} ({scale})" for scale, choice in value.items())
    return str(value)


def _range(values: pd.Series) -> str:
    known = values.dropna()
    if known.empty:
        return ""
    low, high = text.whole(known.min()), text.whole(known.max())
    return low if low == high else f"{low} to {high}"


def remarks(results: Results, analysis: Analysis) -> list[str]:
    """Return all that a reader must keep in mind: the plan's notes, what was left out, the analysis' warnings."""
    return [*map(str, results.plan.get("notes", ())), *results.notes, *analysis.notes]
