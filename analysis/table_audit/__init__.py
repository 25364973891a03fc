"""Audits of a table of results, however it was made: `python -m analysis audit TABLE.csv`.

One file a rule; `columns.py` says what a column's name means, `table.py` reads a table, `show.py` prints the findings.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from analysis.schema import INVALID, SEVERITIES
from analysis.table_audit.control import control
from analysis.table_audit.derived_columns import derived_columns
from analysis.table_audit.effect_sizes import effect_sizes
from analysis.table_audit.finding import Finding, Rule
from analysis.table_audit.intervals import intervals
from analysis.table_audit.marks import marks
from analysis.table_audit.multiplicity import multiplicity
from analysis.table_audit.noise import noise
from analysis.table_audit.p_values import p_values
from analysis.table_audit.ranks import ranks
from analysis.table_audit.repeats import repeats
from analysis.table_audit.replication import replication
from analysis.table_audit.table import Table, load_table
from analysis.table_audit.values import values

RULES: tuple[Rule, ...] = (
    values,
    intervals,
    marks,
    replication,
    effect_sizes,
    p_values,
    control,
    derived_columns,
    ranks,
    repeats,
    noise,
    multiplicity,
)


@dataclass(frozen=True)
class TableAudit:
    """A table and what the rules found in it."""

    table: Table
    findings: tuple[Finding, ...]
    """The worst first, within a severity in the order of RULES."""

    @property
    def is_invalid(self) -> bool:
        """Whether anything in the table means nothing."""
        return any(finding.severity == INVALID for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Return the audit as plain data."""
        return {
            "table": self.table.source,
            "rows": len(self.table.rows),
            "names": len({row.name for row in self.table.rows}),
            "baseline": self.table.control,
            "direction": self.table.direction,
            "columns": {self.table.what(role): list(names) for role, names in self.table.columns.items()},
            "not_checked": list(self.table.not_checked),
            "findings": [dataclasses.asdict(finding) for finding in self.findings],
        }


def audit_table(
    source: str, baseline: str | None = None, metric: str | None = None, direction: str | None = None
) -> TableAudit:
    """Audit a CSV file, or a published table by its study's name; arguments and errors are those of `load_table`."""
    table = load_table(source, baseline, metric, direction)
    found = [finding for rule in RULES for finding in rule(table)]
    return TableAudit(table, tuple(sorted(found, key=lambda finding: SEVERITIES.index(finding.severity))))
