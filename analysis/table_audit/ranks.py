"""Printed ranks against the order of the losses."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from decimal import Decimal

import numpy as np

from analysis.published import Printed
from analysis.schema import INVALID, NOTE
from analysis.table_audit.columns import LOSS, RANK
from analysis.table_audit.finding import Finding
from analysis.table_audit.table import Row, Table

NAME = "rank"


def ranks(table: Table) -> Iterator[Finding]:
    """Find ranks that no order of the losses gives; losses that are printed alike may stand either way."""
    if RANK not in table.columns:
        return
    column = table.columns[RANK][0]
    for row in table.rows:
        figure = table.figure(row, RANK)
        if figure is not None and table.figure(row, LOSS) is None:
            yield Finding(
                name=NAME,
                severity=INVALID,
                evidence=f"{table.label(row)}: {column} {figure.text}, but it has no finite loss",
                instead="give a run without a result no rank, and say what became of it",
            )
    if _over_all(table):
        yield Finding(
            name=NAME,
            severity=NOTE,
            evidence=f"{column} is over all {len(table.groups)} rows, and not within each of the {len(table.contexts)} "
            "that the rules compare within",
            instead="rank within each, or say that the rank is over all",
        )
        return
    for context in table.contexts:
        groups = table.within(context)
        if any(len(group.rows) > 1 for group in groups):
            yield Finding(
                name=NAME,
                severity=NOTE,
                evidence=f"{column} was not checked: names have several rows each",
                instead="rank the means over runs, one row a name",
            )
            return
        rows = [group.rows[0] for group in groups]
        if _are_dense(table, rows):
            continue
        places = _places([table.loss(row).printed for row in rows], table.direction)
        for row, (low, high) in zip(rows, places, strict=True):
            figure = table.figure(row, RANK)
            if figure is not None and not low <= figure.value <= high:
                place = str(low) if low == high else f"between {low} and {high}"
                yield Finding(
                    name=NAME,
                    severity=INVALID,
                    evidence=f"{table.label(row)}: {column} is {figure.text}, but its {table.columns[LOSS][0]} of "
                    f"{table.loss(row).text} is {place} of {len(rows)}",
                    instead=f"rank by {table.columns[LOSS][0]}, or name the column that the rank follows",
                )


def _over_all(table: Table) -> bool:
    """Whether ranks are right over all rows, whatever their context, and not within each."""
    rows = [group.rows[0] for group in table.groups]
    if len(table.contexts) < 2 or any(len(group.rows) > 1 for group in table.groups):
        return False
    within = [[group.rows[0] for group in table.within(context)] for context in table.contexts]
    return _fits(table, rows) and not all(_fits(table, some) for some in within)


def _fits(table: Table, rows: Sequence[Row]) -> bool:
    """Whether the ranks of these rows are theirs among these rows."""
    places = _places([table.loss(row).printed for row in rows], table.direction)
    ranked = [
        (figure.value, place) for row, place in zip(rows, places, strict=True) if (figure := table.figure(row, RANK))
    ]
    return _are_dense(table, rows) or all(low <= rank <= high for rank, (low, high) in ranked)


def _are_dense(table: Table, rows: Sequence[Row]) -> bool:
    """Whether equal losses share a rank and the next one follows without a gap: 1, 1, 2."""
    sign = 1 if table.direction == "min" else -1
    distinct = sorted({sign * table.loss(row).value for row in rows})
    ranked = [(figure.value, row) for row in rows if (figure := table.figure(row, RANK)) is not None]
    return all(rank == 1 + bisect_left(distinct, sign * table.loss(row).value) for rank, row in ranked)


def _places(losses: Sequence[Printed], direction: str) -> list[tuple[int, int]]:
    """Return the first and last place that each printed loss may have, 1 being the best.

    Rounding never turns an order round: of two losses with equally many decimals the smaller one was smaller, and only
    equal ones may stand either way. Where one has fewer decimals, all that round to it may.
    """
    values = np.array([printed.value for printed in losses])
    decimals = np.array([-int(Decimal(printed.text).as_tuple().exponent) for printed in losses])
    lows, highs = np.array([printed.interval for printed in losses]).T
    is_below = [
        (values < value) & (decimals == own) | (highs < low)
        for value, own, low in zip(values, decimals, lows, strict=True)
    ]
    before, after = np.sum(is_below, axis=1), np.sum(is_below, axis=0)
    if direction == "max":
        before, after = after, before
    return [(1 + int(few), len(losses) - int(many)) for few, many in zip(before, after, strict=True)]
