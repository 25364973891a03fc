"""`confound`: what a cell and its baseline differ in beyond their declared factors.

Judged on the configurations that the runs recorded. A study declares which parts of a configuration (slots) each of its
factors may change, and what these are meant to be in each cell; where it declares nothing, that is said. And on where
the runs of equal seeds were made: by other code, with other packages, on other hardware.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from analysis.schema import (
    CODE,
    FAILED,
    FLOPS_PER_TOKEN,
    HARDWARE,
    NOTE,
    PARAMS_TOTAL,
    VERSIONS,
    WARNING,
    Audit,
    TrialRecord,
)
from analysis.study.results import StudyAudit

NAME = "confound"
MATCHED = 0.01
"""Largest share by which the counts of two models may differ that pass as matched."""
COUNTS = {PARAMS_TOTAL: "parameters", FLOPS_PER_TOKEN: "FLOPs a token"}
REMEDY = "python -m sweeps replay FOLDER CELL SEED finds out whether that changes a run, and keeps it"
MADE_APART = {
    CODE: (WARNING, "by other code", REMEDY),
    VERSIONS: (WARNING, "with other packages", REMEDY),
    HARDWARE: (NOTE, "on other hardware", "times compare the machines, too, and losses may differ by rounding"),
}
"""Of a run's environment, what should be one for a cell and its baseline: severity, how it was made, what follows."""
NOT_CHECKED = Audit(
    name=NAME,
    severity=NOTE,
    evidence="not checked: the study does not declare which parts of a configuration its factors may change (`slots`)",
)
SHOWN = 6
"""Most differences named in one finding."""

WHERE = (CODE, VERSIONS)
"""What a run that is had again shows to make no difference."""

Config = Mapping[str, Any]
Slots = Mapping[str, Any]
"""Dotted part of a configuration -> what the cell's declaration makes of it."""
Replays = Mapping[str, Sequence[Mapping[str, str]]]
"""A run's hash -> where it was had again."""


def audit(records: Sequence[TrialRecord], plan: Mapping[str, Any], replays: Replays | None = None) -> list[StudyAudit]:
    """Compare each cell with its baseline: a warning for what no factor explains, a note for counts that follow.

    Findings in the same words are one, of several cells.

    Args:
        records: of one study.
        plan: its `plan.json`, with `slots` (factor -> dotted parts of a configuration) and each cell's `declared`.
        replays: by a run's hash, the environments in which it was had again to the last bit.
    """
    slots, entries = plan.get("slots") or {}, {cell["name"]: cell for cell in plan["cells"]}
    tuned = {f"training.{name}" for arm in plan.get("tuning", {}).values() for name in arm["space"]}
    found: dict[Audit, list[str]] = {}
    for name, baseline, here, there in _pairs(records, entries):
        levels = entries[name]["factors"], entries[baseline]["factors"]
        factors = [factor for factor in levels[0] if levels[0][factor] != levels[1][factor]]
        allowed = {slot for factor in factors for slot in slots.get(factor, ())} | tuned
        declared = entries[name]["declared"], entries[baseline]["declared"]
        beyond = list(unexplained(here.config, there.config, *declared, allowed)) if slots else []
        audits = [] if slots else [NOT_CHECKED]
        audits += [_warning(beyond, factors, baseline)] if beyond else []
        audits += _counts(here, there, baseline, explained=bool(factors or beyond))
        for item in audits:
            found.setdefault(item, []).append(name)
    for name, item in _made_apart(records, entries, replays or {}):
        found.setdefault(item, []).append(name)
    return [StudyAudit(item, tuple(dict.fromkeys(cells))) for item, cells in found.items()]


def _pairs(
    records: Sequence[TrialRecord], entries: Mapping[str, Mapping[str, Any]]
) -> Iterator[tuple[str, str, TrialRecord, TrialRecord]]:
    """Yield each cell and its baseline with a run of either: one pair for all runs of equal configurations."""
    runs: dict[str, dict[str, TrialRecord]] = {}
    for record in records:
        if record.config and record.rows:
            runs.setdefault(record.cell, {}).setdefault(json.dumps(record.config, sort_keys=True), record)
    for name, entry in entries.items():
        baseline = entry["baseline"]
        if name != baseline and "declared" in entry and "declared" in entries[baseline]:
            for here in runs.get(name, {}).values():
                for there in runs.get(baseline, {}).values():
                    yield name, baseline, here, there


def unexplained(
    here: Config, there: Config, declared_here: Slots, declared_there: Slots, allowed: set[str]
) -> Iterator[str]:
    """Say where a cell's configuration differs from its baseline's though no factor explains it.

    A factor explains that its slots differ as declared. What was made of them beyond the declaration is a difference,
    unless the same was made of the baseline.

    Args:
        here: the cell's configuration.
        there: the baseline's.
        declared_here: the cell's slots as declared.
        declared_there: the baseline's.
        allowed: dotted parts that may differ: the slots of the factors that do, and what was tuned for each cell.
    """
    for path, mine, its in differences(here, there):
        if not any(_within(path, slot) for slot in allowed):
            yield f"{path} is {_said(mine)}, there {_said(its)}"
    changed = [
        {
            (path, json.dumps(trained, sort_keys=True)): f"{path} is {_said(trained)}{whose}, declared {_said(meant)}"
            for slot in sorted(allowed & declared.keys())
            for path, trained, meant in differences(_at(config, slot), declared[slot], slot)
        }
        for config, declared, whose in ((here, declared_here, ""), (there, declared_there, " in the baseline"))
    ]
    for mine, its in (changed, changed[::-1]):
        yield from (words for change, words in mine.items() if change not in its)


def differences(here: Any, there: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield where two plain configurations differ, dotted, and what stands in each; None where there is nothing.

    Components of two kinds differ as a whole: their fields do not mean the same.
    """
    if isinstance(here, Mapping) and isinstance(there, Mapping) and here.get("kind") == there.get("kind"):
        for name in {**there, **here}:
            yield from differences(here.get(name), there.get(name), f"{path}.{name}" if path else name)
    elif here != there:
        yield path, here, there


def _within(path: str, slot: str) -> bool:
    return path == slot or path.startswith(f"{slot}.")


def _at(config: Config, path: str) -> Any:
    value: Any = config
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _said(value: Any) -> str:
    """Return a value in words: a component by its kind; what is left out of plain data is at its default."""
    if isinstance(value, Mapping):
        return str(value.get("kind", "another"))
    return "left at its default" if value is None else json.dumps(value)


def _warning(beyond: Sequence[str], factors: Sequence[str], baseline: str) -> Audit:
    what = " and ".join(factors) or "its name"
    more = f"; and {len(beyond) - SHOWN} more" if len(beyond) > SHOWN else ""
    evidence = f"beyond {what} it differs from '{baseline}' in {len(beyond)}: {'; '.join(beyond[:SHOWN])}{more}"
    return Audit(name=NAME, severity=WARNING, evidence=evidence)


def _made_apart(
    records: Sequence[TrialRecord], entries: Mapping[str, Mapping[str, Any]], replays: Replays
) -> Iterator[tuple[str, Audit]]:
    """Yield each cell that was made elsewhere than its baseline in seeds of both, as far as the runs say where.

    Other code or packages are none where a run of either cell was had again, to the last bit, with those of the other.
    """
    made: dict[str, dict[int, Mapping[str, str]]] = {}
    again: dict[str, list[Mapping[str, str]]] = {}
    for record in records:
        if record.status != FAILED and CODE in record.environment:
            made.setdefault(record.cell, {})[record.seed] = record.environment
            again.setdefault(record.cell, []).extend(replays.get(record.config_hash, ()))
    for name, entry in entries.items():
        baseline = entry["baseline"]
        here, there = made.get(name, {}), made.get(baseline, {})
        pairs = [(here[seed], there[seed]) for seed in here if seed in there and name != baseline]
        for key, (severity, how, follows) in MADE_APART.items():
            apart = sum(
                mine.get(key) != its.get(key)
                and not (key in WHERE and (_among(mine, again[baseline]) or _among(its, again[name])))
                for mine, its in pairs
            )
            if apart:
                evidence = f"made {how} than '{baseline}' in {apart} of {len(pairs)} seeds: {follows}"
                yield name, Audit(name=NAME, severity=severity, evidence=evidence)


def _among(environment: Mapping[str, str], others: Sequence[Mapping[str, str]]) -> bool:
    return any(all(environment.get(key) == other.get(key) for key in WHERE) for other in others)


def _counts(here: TrialRecord, there: TrialRecord, baseline: str, *, explained: bool) -> Iterator[Audit]:
    """Yield a finding where a cell has more or fewer parameters or FLOPs: a note where its configuration says why."""
    last = here.rows[-1], there.rows[-1]
    changes = {what: last[0][name] / last[1][name] - 1 for name, what in COUNTS.items() if last[1].get(name)}
    apart = [f"{what} {change:+.0%}" for what, change in changes.items() if abs(change) >= MATCHED]
    if apart:
        why = "" if explained else ", though it differs in nothing else"
        evidence = f"not matched with '{baseline}': {', '.join(apart)}{why}"
        yield Audit(name=NAME, severity=NOTE if explained else WARNING, evidence=evidence)
