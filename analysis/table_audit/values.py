"""Losses that are not there, or cannot be."""

from __future__ import annotations

from collections.abc import Iterator

from analysis import text
from analysis.schema import NOTE, WARNING
from analysis.table_audit.columns import LOSS
from analysis.table_audit.finding import Finding
from analysis.table_audit.table import Table

NAME = "values"


def values(table: Table) -> Iterator[Finding]:
    """Count rows without a finite loss, which no other rule reads, and find losses below 0."""
    column = table.columns[LOSS][0]
    without = [table.label(row) for row in table.rows if table.figure(row, LOSS) is None]
    if without:
        yield Finding(
            name=NAME,
            severity=NOTE,
            evidence=f"{len(without)} of {len(table.rows)} rows have no finite {column} and count nowhere: "
            f"{text.listing(without)}",
            instead="report how many runs diverged or failed beside the means of those that did not",
        )
    negative = [f"{table.label(row)} ({table.loss(row).text})" for row in table.with_loss if table.loss(row).value < 0]
    if negative:
        yield Finding(
            name=NAME,
            severity=WARNING,
            evidence=f"{column} is below 0, which a cross-entropy cannot be: {text.listing(negative)}",
            instead="name the column that holds the loss in nats per token with --metric",
        )
