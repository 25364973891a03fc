"""Whether there is a row that the others can be compared with."""

from __future__ import annotations

from collections.abc import Iterator

from analysis.schema import NOTE, WARNING
from analysis.table_audit.columns import COMPARED, EFFECT
from analysis.table_audit.differences import claims
from analysis.table_audit.finding import Finding
from analysis.table_audit.table import CONTROLS, Table

NAME = "baseline"


def control(table: Table) -> Iterator[Finding]:
    """Find a table that ranks or compares without a control, and contexts that lack theirs."""
    compared = [*table.columns.get(COMPARED, ()), *table.columns.get(EFFECT, ())]
    severity = WARNING if compared else NOTE
    if table.control is None:
        if not claims(table):
            return
        so = f", so {', '.join(compared)} compare with nobody knows what" if compared else ""
        yield Finding(
            name=NAME,
            severity=severity,
            evidence=f"no row, or more than one, is called {' or '.join(CONTROLS[:2])}{so}",
            instead="name the control with --baseline; what compares rows was not checked without it",
        )
        return
    for context in table.contexts:
        if not any(table.is_control(group) for group in table.within(context)):
            yield Finding(
                name=NAME,
                severity=severity,
                evidence=f"{', '.join(context)}: {table.control} has no row with a loss",
                instead="train the control wherever variants are trained",
            )
