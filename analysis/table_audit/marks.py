"""Rows that the table itself marks: this project's results carry what each run was trained under."""

from __future__ import annotations

from collections.abc import Iterator

from analysis.schema import FLAWS, INVALID
from analysis.table_audit.columns import MARKS, normal
from analysis.table_audit.finding import Finding
from analysis.table_audit.table import Table

NAME = "marked"
SAID = {FLAWS: "trained under", INVALID: "found invalid by"}


def marks(table: Table) -> Iterator[Finding]:
    """Pass on which rows were trained under published flaws, and which an audit of the training found invalid."""
    for column in table.columns.get(MARKS, ()):
        marked: dict[str, list[str]] = {}
        for row in table.rows:
            if column in row.words:
                marked.setdefault(row.words[column], []).append(table.label(row))
        for names, labels in marked.items():
            more = f" and {len(labels) - 1} more rows" if len(labels) > 1 else ""
            yield Finding(
                name=NAME,
                severity=INVALID,
                evidence=f"{labels[0]}{more}: {SAID[normal(column)]} {', '.join(names.split())}",
                instead="leave such rows out of every ranking, difference and test",
            )
