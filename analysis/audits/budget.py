"""`budget` between runs: cells that are compared were given as much of everything.

Each run's own audit of that name holds it to its schedule; here runs are held to one another, and searches for
hyperparameters, where a study made some.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from analysis.schema import FINISHED, NOTE, STEP, TOKENS, VAL_LOSS, WARNING, Audit, TrialRecord
from analysis.study.results import StudyAudit

NAME = "budget"
SHOWN = 4
"""Most runs or cells named in one finding."""
SEARCHES = {
    "trials": "trials",
    "space": "search spaces",
    "max_tokens": "tokens that a search may spend",
    "trial_tokens": "tokens a full trial",
    "rungs": "rungs",
    "reduction": "reductions at a rung",
}
"""What must be equal of the searches of all cells (keys of the plan's `tuning`), in words."""


def audit(records: Sequence[TrialRecord], plan: Mapping[str, Any]) -> list[StudyAudit]:
    """Compare the finished runs of each scale with one another, and the searches of all cells.

    Args:
        records: of one study.
        plan: its `plan.json`; where hyperparameters were searched for, `tuning` says by cell how.
    """
    found: list[StudyAudit] = []
    finished = [record for record in records if record.status == FINISHED and record.rows]
    for scale in dict.fromkeys(record.scale for record in finished):
        runs = [record for record in finished if record.scale == scale]
        for what, spent in SPENT.items():
            found += _unequal(what, [(f"{r.cell}, seed {r.seed}", r.cell, spent(r)) for r in runs], "runs")
    return [*found, *_searches(plan.get("tuning", {}), [cell["name"] for cell in plan["cells"]])]


SPENT: dict[str, Callable[[TrialRecord], Any]] = {
    "updates": lambda record: record.rows[-1].get(STEP),
    "training tokens": lambda record: record.rows[-1].get(TOKENS),
    "evaluations": lambda record: sum(row.get(VAL_LOSS) is not None for row in record.rows),
}
"""What each run of a scale must have had as much of."""


def _searches(tuning: Mapping[str, Mapping[str, Any]], cells: Sequence[str]) -> Iterator[StudyAudit]:
    if not tuning:
        return
    untuned = tuple(cell for cell in cells if cell not in tuning)
    if untuned:
        yield _finding(f"hyperparameters were searched for, but not of {_named(untuned)}", untuned)
    for key, what in SEARCHES.items():
        yield from _unequal(what, [(cell, cell, search.get(key)) for cell, search in tuning.items()], "cells")
    spent = {cell: search["tokens"] for cell, search in tuning.items() if search.get("tokens")}
    if len(set(spent.values())) > 1:
        most, least = max(spent, key=spent.__getitem__), min(spent, key=spent.__getitem__)
        evidence = (
            f"searches spent between {spent[least]:,} ({least}) and {spent[most]:,} training tokens ({most}), as early "
            "stopping let them"
        )
        yield StudyAudit(Audit(name=NAME, severity=NOTE, evidence=evidence), tuple(spent))
    for cell, search in tuning.items():
        for name in search.get("edge", ()):
            ends = search["space"][name]
            best = f"{search['best'][name]:.3g}" if name in search.get("best", {}) else "found"
            yield _finding(
                f"the best {name} of {cell}, {best}, lies at the edge of its range, {ends['low']:g} to "
                f"{ends['high']:g}: what lies beyond was not tried",
                (cell,),
            )


def _unequal(what: str, values: Sequence[tuple[str, str, Any]], of: str) -> Iterator[StudyAudit]:
    """Yield a finding where (name, cell, value) triples have different values: those that are not the commonest."""
    counts = Counter(repr(value) for _, _, value in values)
    if len(counts) < 2:
        return
    usual = counts.most_common(1)[0][0]
    others = [(f"{name} ({_said(value)})", cell) for name, cell, value in values if repr(value) != usual]
    common = next(value for _, _, value in values if repr(value) == usual)
    yield _finding(
        f"{len(others)} of {len(values)} {of} have other {what} than {_said(common)}: "
        f"{_named([name for name, _ in others])}",
        tuple(dict.fromkeys(cell for _, cell in others)),
    )


def _finding(evidence: str, cells: tuple[str, ...]) -> StudyAudit:
    return StudyAudit(Audit(name=NAME, severity=WARNING, evidence=evidence), cells)


def _named(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if names[SHOWN:] else "")


def _said(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else "none" if value is None else str(value)
