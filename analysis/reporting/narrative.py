"""The words of a report, generated from its numbers: the verdict, what was run, what to keep in mind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd

from analysis import text
from analysis.comparing import equivalence, marks, outcomes
from analysis.comparing.scaling import ABSCISSAS
from analysis.factors.factorial import LEVEL_EFFECT, MAIN_EFFECT
from analysis.schema import (
    CELL,
    DIVERGED,
    FAILED,
    FINISHED,
    FLAWS,
    INVALID,
    PARAMS_TOTAL,
    SEED,
    STATUS,
    STATUSES,
    STEPS,
    TOKENS,
    TRAIN_SECONDS,
)
from analysis.statistics.stopping import shown_difference
from analysis.study import learning_rates, plan_check
from analysis.study.results import NATS, Results
from analysis.study.runs import records
from analysis.summary import Analysis

OVER_SCALES = "As models grow"
"""Stands in a verdict where a scale does, before what is said over all of them: a ladder's question, so first."""


@dataclass(frozen=True)
class Finding:
    """One line of the verdict: what is said, of which cells."""

    kind: str
    """`alarm`, `primary`, `best`, an outcome of outcomes.py, `exploratory`, a status, `invalid`, `missing`, or the
    table that it sums up: `main_effects`, `growth`, `scaling`, `variance`."""
    claim: str
    cells: tuple[tuple[str, str], ...]
    """(cell or factor, its figures in words); empty where the claim holds of none. Marked names end in marks.MARK."""


@dataclass(frozen=True)
class Banner:
    """What stands above everything else where numbers are no results."""

    claim: str
    flaws: list[tuple[str, str]]
    """(name, what it means); the meaning is empty where the plan does not say."""


def banner(results: Results) -> Banner | None:
    """Return the banner of results with marks; None where there are none."""
    if not results.marks:
        return None
    flawed, cells = len(results.marks), results.runs[CELL].nunique()
    which = (
        "No number here is a finding." if flawed == cells else f"Numbers with the mark {marks.MARK} are no findings."
    )
    how = "the study" if flawed == cells else f"{flawed} of {cells} cells"
    return Banner(f"{which} What is wrong with {how}:", marks.explanations(results))


def verdict(results: Results, analysis: Analysis) -> dict[str, list[Finding]]:
    """Return the findings over scales, if any, then those of each scale (the scale is "" where it is no factor)."""
    found = analysis.comparisons.assign(outcome=analysis.comparisons["verdict"].map(outcomes.outcome))
    unit = " nats" if results.metric in NATS else ""

    def at(table: pd.DataFrame, scale: object) -> pd.DataFrame:
        return table[table["scale"] == scale]

    said = {
        str(scale): [
            *_plan_alarm(analysis.plan_check),
            *_alarms(at(analysis.negative_control, scale)),
            *_sources(at(analysis.variance, scale), unit),
            *_findings(results, ranking, at(found, scale)),
            *_whole_factors(at(analysis.main_effects, scale), unit),
        ]
        for scale, ranking in analysis.ranking.groupby("scale", sort=False)
    }
    over_scales = [*_growth(analysis.growth, unit), *_laws(analysis.scaling)]
    if not over_scales:
        return said
    alarms = [*_plan_alarm(analysis.plan_check), *_alarms(analysis.negative_control)]
    return {OVER_SCALES: [*alarms, *over_scales], **said}


def _alarms(control: pd.DataFrame) -> list[Finding]:
    """Return a finding where a negative control is off: then no other figure of the study can be relied on."""
    rows = control[control["verdict"].str.startswith("ALARM")]
    cells = _cells(rows, lambda row: f"against {row['partner']}: {row['verdict'].removeprefix('ALARM: ')}")
    return [Finding("alarm", "ALARM, the negative control is off", cells)] if cells else []


def _plan_alarm(checked: pd.DataFrame) -> list[Finding]:
    """Return a finding where the registered plan is not the one that was written before the first trial."""
    first = checked.iloc[:1]
    if first.empty or first.iloc[0]["agrees"] == plan_check.YES:
        return []
    words = "it no longer has the hash that was written with it, or under which runs were trained: nothing was planned"
    return [Finding("alarm", "ALARM, the registered plan was changed", (("plan.json", words),))]


def _findings(results: Results, ranking: pd.DataFrame, found: pd.DataFrame) -> list[Finding]:
    unit = " nats" if results.metric in NATS else ""
    flawed, found = found[found[FLAWS] != ""], found[found[FLAWS] == ""]
    findings = [] if flawed.empty and (ranking[FLAWS] == "").all() else [_flawed(ranking, flawed, unit)]
    primary = found["plan"] == plan_check.PRIMARY
    if primary.any():
        primary |= found["verdict"].str.startswith(outcomes.SAME_AS_PRIMARY)
    exploratory = found["plan"].map(plan_check.is_exploratory).astype(bool)
    findings += _primary(results, found[primary], unit)
    findings += _best(results, ranking, unit)
    unplanned, found = found[exploratory & ~primary], found[~primary & ~exploratory]
    baselines = sorted(set(found["baseline"]))
    name = baselines[0] if len(baselines) == 1 else "the baseline"
    for kind, claim in (
        (outcomes.BETTER, f"Clearly better than {name}"),
        (outcomes.WORSE, f"Clearly worse than {name}"),
    ):
        rows = found[found["outcome"] == kind]
        if len(found):
            findings.append(Finding(kind, claim, _cells(rows, lambda row: _found(row, unit))))
    rows = found[found["outcome"] == outcomes.DEPENDS]
    if len(rows):
        cells = _cells(rows, lambda row: f"{_figures(row, unit)}; {_after_colon(row['verdict'])}")
        findings.append(Finding(outcomes.DEPENDS, "Depends on whether variances are equal", cells))
    rows = found[found["outcome"] == outcomes.OPEN]
    if len(rows):
        margin = equivalence.margin(results)
        cells = _cells(rows, lambda row: _unresolved(row, unit, margin))
        findings.append(Finding(outcomes.OPEN, f"Not resolved with {_seeds(rows['n'])}", cells))
    rows = found[found["outcome"] == outcomes.EQUIVALENT]
    if len(rows):
        cells = _cells(rows, lambda row: f"{_figures(row, unit)}; {row['verdict']}")
        findings.append(Finding(outcomes.EQUIVALENT, f"Shown to be as good as {name}, within the plan's margin", cells))
    for kind, claim in ((outcomes.IDENTICAL, f"The same as {name}"), (outcomes.UNTESTED, "Not tested")):
        rows = found[found["outcome"] == kind]
        if len(rows):
            findings.append(Finding(kind, claim, _cells(rows, lambda row: str(row["verdict"]))))
    for reason, rows in unplanned.groupby("plan", sort=False):
        cells = _cells(rows, lambda row: _with_verdict(row, unit))
        findings.append(Finding(plan_check.EXPLORATORY, f"E{str(reason)[1:]}", cells))
    for kind, claim in (
        (DIVERGED, "Diverged"),
        (FAILED, "Failed"),
        (INVALID, "Found invalid by an audit and left out"),
        ("missing", "Without a result yet"),
    ):
        rows = ranking[ranking[kind] > 0]
        if len(rows):
            findings.append(Finding(kind, claim, _cells(rows, partial(_lost, kind=kind))))
    return findings


def _primary(results: Results, rows: pd.DataFrame, unit: str) -> list[Finding]:
    """Return the line on the primary comparison and its model's other names: what it comes to, and of what kind."""
    if rows.empty:
        return []
    first = rows[rows["plan"] == plan_check.PRIMARY].iloc[0]
    said = f"Primary comparison, {first['cell']} against {first['baseline']}, tested alone at 5 %"
    return [
        Finding(
            plan_check.PRIMARY, learning_rates.titled(said, results), _cells(rows, lambda row: _with_verdict(row, unit))
        )
    ]


def _with_verdict(row: dict[str, Any], unit: str) -> str:
    """Return a comparison's verdict, and its figures where there are any: the p is that of what is said."""
    n, tested = text.whole(row["n"]), text.whole(row["n_tested"])
    if row["verdict"].startswith(outcomes.TOO_FEW_ADDED):
        return f"{_figures(row, unit)} over all {n} seeds; {row['verdict']}"
    if pd.isna(row["p"]):
        return str(row["verdict"])
    equivalent = outcomes.outcome(row["verdict"]) == outcomes.EQUIVALENT
    p = text.probability(row["p_equivalence"] if equivalent else row["p_holm"])
    said = (f"p {p}" if p.startswith("<") else f"p = {p}") + (" of equivalence" if equivalent else "")
    alone = "" if tested == n else f" by the {tested} added seeds alone"
    return f"{row['verdict']}: {_figures(row, unit)}, {said}{alone}, n = {n}"


def _whole_factors(effects: pd.DataFrame, unit: str) -> list[Finding]:
    """Return the line on whole factors: the effect of each, and of their interactions those that say something."""
    sound = effects[effects[FLAWS] == ""]
    if sound.empty:
        return []
    comes_to = sound["verdict"].map(outcomes.outcome)
    of_factors = sound["kind"].isin((MAIN_EFFECT, LEVEL_EFFECT))
    silent = ~of_factors & ~comes_to.isin((outcomes.BETTER, outcomes.WORSE, outcomes.EQUIVALENT))
    cells = [(str(row["effect"]), _planned(row, unit)) for row in records(sound[~silent])]
    if silent.any():
        counts = comes_to[silent].value_counts()
        named = ", ".join(f"{count} {found}" for found, count in counts.items())
        cells.append(("other interactions" if len(cells) > of_factors.sum() else "interactions", named))
    return [Finding("main_effects", "Each component, averaged over the levels of all others", tuple(cells))]


def _growth(growth: pd.DataFrame, unit: str) -> list[Finding]:
    """Return the line on how the differences from the baseline change from the smallest to the largest scale."""
    sound = growth[growth[FLAWS] == ""]
    if sound.empty:
        return []
    first = sound.iloc[0]
    claim = f"Difference from {first['baseline']}, how it changes from {first['from_scale']} to {first['to_scale']}"
    return [Finding("growth", claim, tuple((str(row["cell"]), _grown(row, unit)) for row in records(sound)))]


def _grown(row: dict[str, Any], unit: str) -> str:
    first, last = (text.number(row[end], sign=True) for end in ("at_first", "at_last"))
    return f"{_planned(row, unit)}; {first} at first, {last} at last"


def _laws(laws: pd.DataFrame) -> list[Finding]:
    """Return the line on how each cell's loss falls with its parameters."""
    rows = laws[(laws[FLAWS] == "") & (laws["against"] == ABSCISSAS[PARAMS_TOTAL])]
    cells = tuple((str(row["cell"]), f"b = {_exponent(row)}; {row['verdict']}") for row in records(rows))
    plan = next((f"; {row['plan']}" for row in records(rows) if row["plan"]), "")
    return [Finding("scaling", f"Loss against parameters, as a x^-b{plan}", cells)] if cells else []


def _exponent(row: dict[str, Any]) -> str:
    return text.estimate(row["exponent"], row["exponent_low"], row["exponent_high"], 3)


def _planned(row: dict[str, Any], unit: str) -> str:
    """Return a verdict with its figures, and that it is exploratory where it is."""
    return _with_verdict(row, unit) + (f"; {row['plan']}" if plan_check.is_exploratory(row["plan"]) else "")


def _sources(variance: pd.DataFrame, unit: str) -> list[Finding]:
    """Return a line a model on what each source of variance alone gives a run."""
    findings = []
    for cell, rows in variance[variance[FLAWS] == ""].groupby("cell", sort=False):
        cells = tuple(
            (
                row["source"],
                f"sd {text.estimate(row['sd'], row['sd_low'], row['sd_high'])}{unit}"
                + ("" if pd.isna(row["share"]) else f", {100 * row['share']:.0f} % of the variance between runs"),
            )
            for row in records(rows)
        )
        findings.append(Finding("variance", f"Where the spread of {cell} comes from, each source alone", cells))
    return findings


def _flawed(ranking: pd.DataFrame, compared: pd.DataFrame, unit: str) -> Finding:
    """Return the line on marked cells: their differences as they are, or why there is none, and no claim."""
    words = {
        row["cell"]: _figures(row, unit) if row["verdict"] == marks.NO_FINDING else str(row["verdict"])
        for row in records(compared)
    }
    rows = ranking[(ranking[FLAWS] != "") | ranking["cell"].isin(words)]
    mean = {
        row["cell"]: f"mean {text.estimate(row['mean'], row['ci_low'], row['ci_high'])}{unit}" for row in records(rows)
    }
    cells = tuple((f"{cell} {marks.MARK}", words.get(cell, mean[cell])) for cell in rows["cell"])
    return Finding(outcomes.FLAWED, "Flawed, so no finding", cells)


def _best(results: Results, ranking: pd.DataFrame, unit: str) -> list[Finding]:
    """Return the line on the best cell of those without a mark; none where not one of these has a rank."""
    sound = ranking[ranking[FLAWS] == ""]
    if sound["rank"].isna().all():
        return []
    first = sound[sound["rank"] == sound["rank"].min()]
    lowest = "Lowest" if results.direction == "min" else "Highest"
    among = "" if len(sound) == len(ranking) else ", of the cells without a mark"
    claim = f"{lowest} mean {results.metric.replace('val_', 'validation ')}{among}"
    cells = _cells(first, lambda row: text.estimate(row["mean"], row["ci_low"], row["ci_high"]) + unit)
    return [Finding("best", claim, cells)]


def _cells(rows: pd.DataFrame, words: Callable[[dict[str, Any]], str]) -> tuple[tuple[str, str], ...]:
    return tuple((marks.marked(str(row["cell"]), row.get(FLAWS, "")), words(row)) for row in records(rows))


def _figures(row: dict[str, Any], unit: str) -> str:
    return text.estimate(shown_difference(row), row["difference_low"], row["difference_high"], sign=True) + unit


def _found(row: dict[str, Any], unit: str) -> str:
    """Return the figures of a difference that is found, and by which analysis where it is not by both."""
    alone = row["verdict"].partition(" ")[2]
    return f"{_figures(row, unit)}; {alone}" if alone else _figures(row, unit)


def _unresolved(row: dict[str, Any], unit: str, margin: float | None) -> str:
    """Return the figures of a difference that is not resolved, and what the data leave room for."""
    together = text.interval(row["simultaneous_low"], row["simultaneous_high"], sign=True)
    detectable = f"could detect {text.spread(row['detectable'])}{unit} or more"
    few = f"; too few seeds to show none within \u00b1{margin:g}" if equivalence.too_few(row, margin) else ""
    return f"{_figures(row, unit)}; interval of all together {together}; {detectable}{few}"


def _after_colon(verdict: str) -> str:
    return verdict.partition(": ")[2]


def _lost(row: dict[str, Any], kind: str) -> str:
    return _seeds([row[kind]])


def _seeds(counts: pd.Series | list[float]) -> str:
    low, high = text.whole(min(counts)), text.whole(max(counts))
    return f"{low} seed{'' if high == '1' else 's'}" if low == high else f"{low} to {high} seeds"


def facts(results: Results) -> list[tuple[str, str]]:
    """Return (what, value) pairs: what was run, on what, how much of it."""
    plan, runs = results.plan, results.runs
    finished = runs[runs[STATUS] == FINISHED]
    counts = runs[STATUS].value_counts()
    ended = [f"{counts[status]} {status}" for status in STATUSES if status in counts]
    invalid = int(results.left_out.sum())
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
        (
            "runs",
            ", ".join(ended)
            + (f", of {planned} {'at most' if results.looks else 'planned'}" if planned else "")
            + (f"; {invalid} found invalid and left out" if invalid else ""),
        ),
        ("flaws", ", ".join(results.marks_of(results.marks).split())),
        ("updates a run", _range(finished[STEPS])),
        ("training tokens a run", _range(finished[TOKENS])),
        ("training time in all", f"{text.number(seconds / 60, 1)} minutes" if pd.notna(seconds) else None),
        ("compared by", f"{results.metric}, {'lower' if results.direction == 'min' else 'higher'} is better"),
        ("equivalence margin", f"{margin:g} nats" if (margin := equivalence.margin(results)) else None),
        *((name, _plainly(value)) for name, value in plan.get("choices", {}).items()),
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
    is_tuned = learning_rates.rates(results) == learning_rates.TUNED
    tuned = [learning_rates.sentence(results)] if is_tuned else []  # where it is not, the analysis warns
    return [*map(str, results.plan.get("notes", ())), *results.notes, *tuned, *analysis.notes]
