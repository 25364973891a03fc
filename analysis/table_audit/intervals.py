"""Printed intervals: whether their ends are in order, and whether they hold the figure that they are of."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from analysis.published import Interval, Printed, derived
from analysis.published.derived import FORMULAS
from analysis.schema import INVALID
from analysis.table_audit import columns
from analysis.table_audit.columns import COMPARED, EFFECT, LOSS, MEASURED, PERPLEXITY, REPLICATED
from analysis.table_audit.finding import Finding
from analysis.table_audit.table import Row, Table, number

NAME = "interval"
INSTEAD = "print the lower end first, and each interval beside the figure that it is of"

_NUMBER = r"([-\u2212+]?\d[\d.]*(?:[eE][-+]?\d+)?)"
_ENDS = re.compile(rf"[\[(]?\s*{_NUMBER}\s*(?:,|;|\.\.|to|\u2013|\s)\s*{_NUMBER}\s*[\])]?")
"""Both ends in one field, such as `[2.8, 2.9]`."""


@dataclass(frozen=True, kw_only=True)
class PrintedInterval:
    """An interval of a row, in one column or in two."""

    words: str
    """Column and ends, as they are printed."""
    of: str
    """The figure that its column's name says, as `columns.normal` writes it; empty where it says none."""
    level: str
    """In percent, by its column's name; empty where that says none."""
    low: Printed
    high: Printed


def intervals(table: Table) -> Iterator[Finding]:
    """Find intervals with their ends swapped, and those that leave out their own estimate."""
    runs = {row.line: len(group.rows) for group in table.groups for row in group.rows}
    for row in table.rows:
        for interval in printed_intervals(table, row):
            said = f"{table.label(row)}: {interval.words}"
            if interval.low.value > interval.high.value:
                yield Finding(
                    name=NAME,
                    severity=INVALID,
                    evidence=f"{said}: its lower end is above its upper one",
                    instead=INSTEAD,
                )
            elif runs.get(row.line) == 1 and (estimate := _left_out(table, row, interval)) is not None:
                yield Finding(
                    name=NAME,
                    severity=INVALID,
                    evidence=f"{said}, which leaves out its own estimate: {estimate}",
                    instead=INSTEAD,
                )


def printed_intervals(table: Table, row: Row) -> Iterator[PrintedInterval]:
    """Yield the intervals that a row has."""
    ends: dict[tuple[str, str], dict[str, str]] = {}
    for column in (*table.columns.get(REPLICATED, ()), *table.columns.get(EFFECT, ())):
        of, level, end = columns.interval_of(column)
        if end:
            ends.setdefault((of, level), {})[end] = column
        elif both := _ENDS.fullmatch(row.fields[column]):
            low, high = (number(field) for field in both.groups())
            if low is not None and high is not None:
                yield PrintedInterval(words=f"{column} is {row.fields[column]}", of=of, level=level, low=low, high=high)
    for (of, level), pair in ends.items():
        low, high = (number(row.fields[pair[end]]) if end in pair else None for end in ("low", "high"))
        if low is not None and high is not None:
            words = f"{pair['low']} to {pair['high']} is {low.text} to {high.text}"
            yield PrintedInterval(words=words, of=of, level=level, low=low, high=high)


def _left_out(table: Table, row: Row, interval: PrintedInterval) -> str | None:
    """Return the estimate that an interval should hold and does not; None where it does, or nobody knows which it is.

    An interval whose column does not say of what it is may be of any figure of the row, read or not, or of the loss
    against any other; that it is the loss's is taken for granted where none of them is in it and the loss is nearest.
    """
    loss = table.columns[LOSS][0]
    names = {columns.normal(column): column for column in row.fields}
    column = names.get(interval.of, loss if interval.of in _names(table) else None)
    if interval.of and column is not None:
        printed = number(row.fields[column])
        return None if printed is None or _meet(printed.interval, interval) else f"{column} {printed.text}"
    middle = (interval.low.value + interval.high.value) / 2
    value = table.loss(row).value
    if interval.of or abs(middle - value) >= abs(middle) or any(_meet(ends, interval) for ends in _all(table, row)):
        return None
    return f"{loss} {table.loss(row).text}"


def _names(table: Table) -> tuple[str, ...]:
    """Return what the mean that rows are compared by is called in the name of its interval's column."""
    base = columns.normal(table.columns[LOSS][0]).removesuffix("_mean").removeprefix("mean_")
    return (base, f"{base}_mean", f"mean_{base}", "mean", *(("loss",) if table.is_loss else ()))


def _all(table: Table, row: Row) -> Iterator[Interval]:
    """Yield the ranges of all figures that an interval may be of."""
    kinds = (LOSS, MEASURED, PERPLEXITY, COMPARED, EFFECT)
    others = {name for role, names in table.columns.items() if role not in kinds for name in names}
    for column, field in row.fields.items():
        if column not in others and (printed := number(field)) is not None:
            yield printed.interval
    own = table.loss(row).interval
    for group in table.within(row.context):
        for other in group.rows:
            ends = {"loss": own, "other": table.loss(other).interval}
            if min(own[0], ends["other"][0]) > 0:
                for figure in (derived.DIFFERENCE, derived.CHANGE, derived.TIMES_LOWER):
                    low, high = FORMULAS[figure].interval(ends)
                    yield low, high
                    yield -high, -low


def _meet(ends: Interval, interval: PrintedInterval) -> bool:
    """Whether a figure's range may be within an interval, its own rounding counted."""
    return ends[1] >= interval.low.interval[0] and ends[0] <= interval.high.interval[1]
