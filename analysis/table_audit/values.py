"""Losses that are not there, and figures that cannot be: losses, accuracies, p values, spreads and counts."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator

from analysis import text
from analysis.schema import INVALID, NOTE, WARNING
from analysis.table_audit import columns
from analysis.table_audit.columns import LOSS, MEASURED, MILLION, MINUTES, REPLICATED, SD, P
from analysis.table_audit.finding import Finding
from analysis.table_audit.table import Table, number

NAME = "values"


def values(table: Table) -> Iterator[Finding]:
    """Count rows without a finite loss, which no other rule reads, and find figures that cannot be."""
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
    negative = [
        f"{table.label(row)} ({table.loss(row).text})"
        for row in table.with_loss
        if table.is_loss and table.loss(row).value < 0
    ]
    if negative:
        yield Finding(
            name=NAME,
            severity=WARNING,
            evidence=f"{column} is below 0, which a cross-entropy cannot be: {text.listing(negative)}",
            instead="name the column that holds the loss in nats per token with --metric",
        )
    for column in filter(columns.is_accuracy, (*table.columns[LOSS], *table.columns.get(MEASURED, ()))):
        yield from _accuracies(table, column)
    yield from _impossible(table)


def _impossible(table: Table) -> Iterator[Finding]:
    """Find p values outside 0 to 1, and spreads, times and counts below 0."""
    tests = table.columns.get(REPLICATED, ())
    for column in (*table.columns.get(P, ()), *filter(columns.is_probability, tests)):
        yield from _beyond(table, column, 1.0, "0 to 1, which no probability can be")
    errors = (*table.columns.get(SD, ()), *filter(columns.is_error, tests))
    for column in (*errors, *table.columns.get(MINUTES, ()), *table.columns.get(MILLION, ())):
        what = "spread" if column in errors else "time or count"
        yield from _beyond(table, column, math.inf, f"0 and more, which no {what} can be")


def _beyond(table: Table, column: str, most: float, within: str) -> Iterator[Finding]:
    """Find a column's figures outside 0 to `most`."""
    figures = [(row, number(row.fields[column])) for row in table.rows]
    beyond = [
        f"{table.label(row)} ({figure.text})"
        for row, figure in figures
        if figure is not None and not 0 <= figure.value <= most
    ]
    if beyond:
        yield Finding(
            name=NAME,
            severity=INVALID,
            evidence=f"{column} is outside {within}: {text.listing(beyond)}",
            instead="recompute the column, or call it what it holds",
        )


def _accuracies(table: Table, column: str) -> Iterator[Finding]:
    """Find accuracies outside their range: of shares where most figures can be shares, else of percent."""
    figures = [(row, row.figures[column]) for row in table.rows if column in row.figures]
    if not figures:
        return
    is_share = not columns.is_percent(column) and statistics.median_low(figure.value for _, figure in figures) <= 1
    most = 1 if is_share else 100
    beyond = [
        f"{table.label(row)} ({figure.text})"
        for row, figure in figures
        if figure.interval[1] < 0 or figure.interval[0] > most
    ]
    if beyond:
        yield Finding(
            name=NAME,
            severity=INVALID,
            evidence=f"{column} is outside 0 to {most}, which no {'share' if is_share else 'percentage'} can be: "
            f"{text.listing(beyond)}",
            instead="print shares from 0 to 1, or percentages from 0 to 100 in a column that says percent",
        )
