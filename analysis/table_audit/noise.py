"""Figures and differences finer than what runs of one name differ by."""

from __future__ import annotations

import math
from collections.abc import Iterator
from decimal import Decimal

from analysis import text
from analysis.schema import NOTE, WARNING
from analysis.statistics.significance import ALPHA
from analysis.table_audit import columns
from analysis.table_audit.columns import LOSS, RANK, REPLICATED, SD, P
from analysis.table_audit.differences import Difference, claims, differences
from analysis.table_audit.finding import Finding
from analysis.table_audit.table import Group, Table

NAME = "precision"


def noise(table: Table) -> Iterator[Finding]:
    """Find means printed to digits that their standard error does not carry, and differences within the noise."""
    yield from _digits(table)
    yield from _unresolved(table)


def _digits(table: Table) -> Iterator[Finding]:
    """Two digits of the standard error are enough: no decimal of the mean below them says anything."""
    fine = []
    for group in table.groups:
        sd = table.figure(group.rows[0], SD)
        if len(group.rows) > 1 or sd is None or sd.value <= 0 or group.n is None or group.n < 2:
            continue
        error = sd.value / math.sqrt(group.n)
        loss = table.loss(group.rows[0])
        last = 10.0 ** int(Decimal(loss.text).as_tuple().exponent)
        if last < 0.99 * 10.0 ** (math.floor(math.log10(error)) - 1):
            fine.append((group, loss.text, error))
    if fine:
        group, printed, error = fine[0]
        more = f", and so in {len(fine) - 1} other rows" if len(fine) > 1 else ""
        yield Finding(
            name=NAME,
            severity=NOTE,
            evidence=f"{table.label(group)}: {table.columns[LOSS][0]} is printed as {printed}, finer than its standard "
            f"error of {text.significant(error, 2)}{more}",
            instead="print two digits of the standard error, and the mean to the same decimal",
        )


def _unresolved(table: Table) -> Iterator[Finding]:
    """Differences from the control that its own test does not find, where the table ranks or compares by them."""
    if not claims(table):
        return
    from_control = differences(table)
    for context in table.contexts:
        found = [difference for difference in from_control if difference.group.context == context]
        within = [one for one in found if _is_within(one) and not _admitted(table, one.group)]
        if within:
            shown = [f"{table.label(one.group)} {_interval(one) or f'(p {text.probability(one.p)})'}" for one in within]
            more = f" and {len(within) - 3} more" if len(within) > 3 else ""
            remarks = ["95 % intervals"] * any(_interval(one) for one in within)
            remarks += ["if the runs are not paired"] * any(one.if_unpaired for one in within)
            yield Finding(
                name=NAME,
                severity=WARNING,
                evidence=f"{len(within)} of {len(found)} differences from {found[0].control.name} are within the noise "
                f"of the runs: {', '.join(shown[:3])}{more}" + (f" ({', '.join(remarks)})" if remarks else ""),
                instead="print the difference with its interval, and no order among what it does not tell apart",
            )


def _is_within(one: Difference) -> bool:
    return one.low <= 0 <= one.high or (math.isnan(one.low) and one.p > ALPHA)


def _interval(one: Difference) -> str:
    return text.interval(one.low, one.high, 4, sign=True)


def _admitted(table: Table, group: Group) -> bool:
    """Whether the table prints an interval or a test beside each of a name's differences, and no order of them."""
    tests = [*table.columns.get(P, ()), *filter(columns.judges_a_difference, table.columns.get(REPLICATED, ()))]
    return RANK not in table.columns and all(
        any(column in row.figures or column in row.words for column in tests) for row in group.rows
    )
