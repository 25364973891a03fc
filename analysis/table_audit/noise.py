"""Figures and differences finer than what runs of one name differ by."""

from __future__ import annotations

import math
from collections.abc import Iterator
from decimal import Decimal

import numpy as np

from analysis import text
from analysis.schema import NOTE, WARNING
from analysis.significance import t_interval
from analysis.table_audit.columns import COMPARED, LOSS, RANK, SD
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
    """Differences from the control whose own 95 % interval holds 0; a warning where the table ranks or compares."""
    for context in table.contexts:
        groups = table.within(context)
        control = next((group for group in groups if table.is_control(group)), None)
        if control is None:
            continue
        within = []
        for group in groups:
            low, high = (math.nan, math.nan) if group is control else _interval(table, group, control)
            if low <= 0 <= high:
                within.append(f"{table.label(group)} {text.interval(low, high, 4, sign=True)}")
        if within:
            more = f" and {len(within) - 3} more" if len(within) > 3 else ""
            yield Finding(
                name=NAME,
                severity=WARNING if RANK in table.columns or COMPARED in table.columns else NOTE,
                evidence=f"{len(within)} of {len(groups) - 1} differences from {control.name} are within the noise "
                f"of the runs: {', '.join(within[:3])}{more} (95 % intervals)",
                instead="print the difference with its interval, and no order among what it does not tell apart",
            )


def _interval(table: Table, group: Group, control: Group) -> tuple[float, float]:
    """Return the 95 % interval of group - control: paired by seed, else by both sds with the smaller n's freedom."""
    if all(row.seed for row in (*group.rows, *control.rows)):
        ours, theirs = ({row.seed: table.loss(row).value for row in rows} for rows in (group.rows, control.rows))
        differences = np.array([ours[seed] - theirs[seed] for seed in ours if seed in theirs])
        if len(differences) < 2:
            return math.nan, math.nan
        ends = t_interval(differences.mean(), differences.std(ddof=1), len(differences))
        return float(ends[0]), float(ends[1])
    one, other = _moments(table, group), _moments(table, control)
    if one is None or other is None:
        return math.nan, math.nan
    n = min(one[2], other[2])
    error = math.sqrt(one[1] ** 2 / one[2] + other[1] ** 2 / other[2])
    ends = t_interval(one[0] - other[0], error * math.sqrt(n), n)
    return float(ends[0]), float(ends[1])


def _moments(table: Table, group: Group) -> tuple[float, float, int] | None:
    """Return mean, sd (n - 1) and n, where the table gives them."""
    losses = np.array([table.loss(row).value for row in group.rows])
    sd = table.figure(group.rows[0], SD)
    if group.n is None or group.n < 2:
        return None
    if len(losses) > 1:
        return float(losses.mean()), float(losses.std(ddof=1)), len(losses)
    return (float(losses[0]), sd.value, group.n) if sd is not None else None
