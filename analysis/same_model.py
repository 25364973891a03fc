"""The audit `same_model`: two cells whose runs cannot be told apart are one model under two names."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from analysis.schema import FINISHED, INVALID, NOTE, TRAIN_LOSS, VAL_LOSS, Audit, TrialRecord

NAME = "same_model"

Outcome = tuple[float, float]
"""Validation and training loss at the end of a run."""


def mark_same_models(records: Sequence[TrialRecord], plan: Mapping[str, Any]) -> list[TrialRecord]:
    """Return the records, those of a cell that repeats an earlier one with what this audit found.

    Two cells are one model where their losses agree to the last bit in every seed that both have finished: equal seeds
    mean equal data and equal initial values. Cells that differ in nothing but the declared negative control may do so:
    that is a note. The earlier cell of the plan keeps its name and its results.

    Args:
        records: of one study.
        plan: its `plan.json`: the cells in their order, and the negative control.
    """
    order = {cell["name"]: place for place, cell in enumerate(plan["cells"])}
    control = (plan.get("negative_control") or {}).get("factor")
    factors = {record.cell: record.factors for record in records}
    outcomes: defaultdict[str, dict[int, Outcome]] = defaultdict(dict)
    sharing: defaultdict[tuple[int, Outcome], set[str]] = defaultdict(set)
    for record in records:
        row = record.result_row()
        if record.status == FINISHED and row[VAL_LOSS] is not None:
            outcome = (row[VAL_LOSS], row[TRAIN_LOSS])
            outcomes[record.cell][record.seed] = outcome
            sharing[record.seed, outcome].add(record.cell)

    def marked(record: TrialRecord) -> TrialRecord:
        mine = outcomes[record.cell]
        if record.seed not in mine:
            return record
        for cell in sorted(sharing[record.seed, mine[record.seed]], key=order.__getitem__):
            common = mine.keys() & outcomes[cell].keys()
            if order[cell] < order[record.cell] and all(mine[seed] == outcomes[cell][seed] for seed in common):
                differing = {name for name, level in record.factors.items() if level != factors[cell].get(name)}
                is_control = differing == {control}
                evidence = f"the losses of '{cell}' to the last bit in {len(common)} of {len(common)} seeds" + (
                    f", as the negative control {control} should have" if is_control else ": one model under two names"
                )
                found = Audit(name=NAME, severity=NOTE if is_control else INVALID, evidence=evidence)
                return replace(record, audits=[*record.audits, found])
        return record

    return [marked(record) for record in records]
