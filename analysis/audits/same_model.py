"""The audit `same_model`: two cells that train one model are one cell under two names.

Told by what was trained: the configurations that the runs recorded, and the parameters after the first updates, which
equal seeds make from equal batches and equal initial values. Runs of one configuration and seed must also end alike on
a CPU: there it is a check that nothing but the configuration and the seed decides a result.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from analysis.schema import (
    CODE,
    DEVICE,
    DIGEST_UPDATES,
    FINISHED,
    HARDWARE,
    INVALID,
    NOTE,
    TRAIN_LOSS,
    VAL_LOSS,
    VERSIONS,
    Audit,
    TrialRecord,
)

NAME = "same_model"
TRAINED = ("model", "training", "data", "data_seed")
"""Parts of a configuration that say what is trained, and on what in which order, where a study varies that; others say
what it is called and which streams it draws from."""
MACHINE = (DEVICE, HARDWARE, VERSIONS, CODE)
"""Of a run's environment: what rounding may depend on."""


@dataclass(frozen=True)
class _Twin:
    """What a run has in common with that of an earlier cell."""

    cell: str
    words: str


def mark_same_models(records: Sequence[TrialRecord], plan: Mapping[str, Any]) -> list[TrialRecord]:
    """Return the records, those of a cell or a seed that repeats an earlier one with what this audit found.

    Two cells are one model where they trained one configuration, or where their parameters are equal to the last bit
    after DIGEST_UPDATES updates in every seed that both have. Cells that differ in nothing but the declared negative
    control may be: that is a note. The earlier cell of the plan keeps its name and its results. Two seeds of one cell
    that have equal parameters then are one run counted twice, of which the lower seed is kept.

    Args:
        records: of one study.
        plan: its `plan.json`: the cells in their order, and the negative control.
    """
    order = {cell["name"]: place for place, cell in enumerate(plan["cells"])}
    control = (plan.get("negative_control") or {}).get("factor")
    factors = {record.cell: record.factors for record in records}
    by_run = {(record.cell, record.seed): record for record in records}
    trained = {run: _trained(record) for run, record in by_run.items() if record.config}
    digests: defaultdict[str, dict[int, str]] = defaultdict(dict)
    sharing: defaultdict[Any, set[str]] = defaultdict(set)
    seeds: defaultdict[tuple[str, str], set[int]] = defaultdict(set)
    for record in records:
        if record.digest:
            digests[record.cell][record.seed] = record.digest
            seeds[record.cell, record.digest].add(record.seed)
            sharing[record.seed, record.digest].add(record.cell)
        if record.config:
            sharing[trained[record.cell, record.seed]].add(record.cell)

    def twin(record: TrialRecord) -> _Twin | None:
        """Return the first earlier cell that trained the same model."""
        mine = digests[record.cell]
        same = trained.get((record.cell, record.seed))
        earlier = [sharing[same] if same else set(), sharing[record.seed, record.digest]]
        for cell in sorted({*earlier[0], *earlier[1]}, key=order.__getitem__):
            common = mine.keys() & digests[cell].keys()
            if order[cell] >= order[record.cell]:
                return None
            if cell in earlier[0]:
                return _Twin(cell, f"it trained the configuration of '{cell}'")
            if all(mine[seed] == digests[cell][seed] for seed in common):
                after = f"the parameters of '{cell}' after {DIGEST_UPDATES} updates to the last bit"
                return _Twin(cell, f"{after} in {len(common)} of {len(common)} seeds")
        return None

    def marked(record: TrialRecord) -> TrialRecord:
        first = min(seeds[record.cell, record.digest], default=record.seed) if record.digest else record.seed
        if first != record.seed:
            same = f"the parameters of seed {first} after {DIGEST_UPDATES} updates to the last bit"
            audit = Audit(name=NAME, severity=INVALID, evidence=f"{same}: one run under two seeds")
            return replace(record, audits=[*record.audits, audit])
        found = twin(record)
        if found is None:
            return record
        differing = {name for name, level in record.factors.items() if level != factors[found.cell].get(name)}
        is_control = differing == {control}
        evidence = found.words + (
            f", as the negative control {control} should have" if is_control else ": one model under two names"
        )
        other = by_run.get((found.cell, record.seed))
        apart = [] if other is None else list(_nondeterminism(record, other))
        severity = NOTE if is_control and not apart else INVALID
        audit = Audit(name=NAME, severity=severity, evidence="; ".join([evidence, *apart]))
        return replace(record, audits=[*record.audits, audit])

    return [marked(record) for record in records]


def _trained(record: TrialRecord) -> str:
    return json.dumps({part: record.config.get(part) for part in TRAINED}, sort_keys=True)


def _nondeterminism(one: TrialRecord, other: TrialRecord) -> Iterator[str]:
    """Say how far apart two runs ended that must end alike: one configuration, one stream, one kind of CPU."""
    same_run = _trained(one) == _trained(other) and one.config.get("place") == other.config.get("place")
    same_machine = all(one.environment.get(key) == other.environment.get(key) for key in MACHINE)
    if not same_run or not same_machine or one.environment.get(DEVICE) != "cpu":
        return
    rows = one.result_row(), other.result_row()
    if one.status != other.status:
        yield f"yet of two equal runs on one CPU one {one.status} and one {other.status}: training is not deterministic"
    elif one.status == FINISHED and any(rows[0][name] != rows[1][name] for name in (VAL_LOSS, TRAIN_LOSS)):
        apart = max(abs(rows[0][name] - rows[1][name]) for name in (VAL_LOSS, TRAIN_LOSS))
        yield f"yet two equal runs on one CPU ended {apart:.2g} nats apart: training is not deterministic"
