"""Printed p values against the t tests that the printed means, sds and n give.

A p may be Welch's or that of the pooled sd; where nothing says that the runs are not paired it may also be a paired
one, of runs that go together as much or as little as they like. What none of them gives is a finding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from scipy import stats

from analysis.published import Interval, Printed
from analysis.published.derived import follows
from analysis.schema import INVALID, WARNING
from analysis.table_audit import columns
from analysis.table_audit.columns import P
from analysis.table_audit.differences import differences, moments, pooled_sd
from analysis.table_audit.digits import ranges_beside
from analysis.table_audit.finding import Finding
from analysis.table_audit.table import Group, Table

NAME = "p_value"


@dataclass(frozen=True)
class _Arm:
    """A name's runs, over the rounding of the figures that tell of them."""

    n: int
    mean: float
    mean_blur: float
    """How far the mean may be from where it is."""
    sd: Interval
    """With n - 1."""


def p_values(table: Table) -> Iterator[Finding]:
    """Find p values of differences from the control that no t test of the printed figures gives, two-sided."""
    if P not in table.columns:
        return
    compared = differences(table)
    for column in table.columns[P]:
        for difference in compared:
            if column in difference.group.rows[0].figures:
                yield from _check(table, column, difference.group, difference.control)


def _check(table: Table, column: str, group: Group, control: Group) -> Iterator[Finding]:
    row, is_named = group.rows[0], columns.says_unpaired(column)
    given = _given(table, group, control, may_be_paired=not is_named and not _are_apart(group, control))
    printed = row.figures[column].printed
    if not given or any(_is_within(printed, row.fields[column], ends) for ends in given.values()):
        return
    ranges = ranges_beside(list(given.values()), printed.value)
    unnamed = "" if is_named else "; if it is one-sided, corrected or of another test, say so in its column's name"
    yield Finding(
        name=NAME,
        severity=INVALID if is_named else WARNING,
        evidence=f"{table.label(row)}: {column} is printed as {row.fields[column]}, but means, sds and n give "
        f"{ranges} against {control.name} ({' or '.join(given)}, two-sided)",
        instead=f"recompute {column} against {control.name}{unnamed}",
    )


def _are_apart(group: Group, control: Group) -> bool:
    """Whether nothing can pair the runs of two names: their seeds have none in common, or they are not equally many."""
    ours, theirs = ({row.seed for row in one.rows if row.seed} for one in (group, control))
    return not ours & theirs if ours and theirs else group.n != control.n


def _is_within(printed: Printed, field: str, ends: Interval) -> bool:
    """Whether a printed p may be one of a range; `< 0.001` may be anything below."""
    return ends[0] <= printed.interval[1] if field.startswith("<") else follows(printed, ends)


def _given(table: Table, group: Group, control: Group, *, may_be_paired: bool) -> dict[str, Interval]:
    """Return the range of p by each test; empty where the table does not tell means, sds and n."""
    one, other = _arm(table, group), _arm(table, control)
    if one is None or other is None or (may_be_paired and one.n != other.n):  # of which runs a paired test is, is open
        return {}
    size, blur = abs(one.mean - other.mean), one.mean_blur + other.mean_blur
    sizes, arms = (max(size - blur, 0.0), size + blur), (one, other)
    given = {"Welch's t test": _welch(sizes, arms), "the pooled one": _pooled(sizes, arms)}
    if may_be_paired:
        given["any paired one"] = _paired(sizes, arms)
    return given


def _arm(table: Table, group: Group) -> _Arm | None:
    """Return a name's runs; a printed sd may have been computed with n or n - 1."""
    found = moments(table, group)
    if found is None:
        return None
    most = math.sqrt(found.n / (found.n - 1)) if len(group.rows) == 1 else 1.0
    sd = (max(found.sd - found.sd_blur, 0.0), (found.sd + found.sd_blur) * most)
    return _Arm(found.n, found.mean, found.mean_blur, sd)


def _welch(sizes: Interval, arms: Sequence[_Arm]) -> Interval:
    (a_low, a_high), (b_low, b_high) = (tuple(sd**2 / arm.n for sd in arm.sd) for arm in arms)
    free = [arm.n - 1 for arm in arms]
    dfs = [_welch_df(a, b, free) for a, b in ((a_low, b_high), (a_high, b_low))]
    if a_low * free[1] <= b_high * free[0] and a_high * free[1] >= b_low * free[0]:
        dfs.append(float(sum(free)))  # the most, which it has where both variances of a mean are as their n - 1
    return _two_sided(sizes, (math.sqrt(a_low + b_low), math.sqrt(a_high + b_high)), (min(dfs), max(dfs)))


def _welch_df(a: float, b: float, free: Sequence[int]) -> float:
    """Return Welch's degrees of freedom; where neither mean has a variance, the fewest."""
    return (a + b) ** 2 / (a**2 / free[0] + b**2 / free[1]) if a + b > 0 else float(min(free))


def _pooled(sizes: Interval, arms: Sequence[_Arm]) -> Interval:
    df, of_two_means = sum(arm.n - 1 for arm in arms), math.sqrt(sum(1 / arm.n for arm in arms))
    low, high = (of_two_means * pooled_sd([(arm.sd[end], arm.n) for arm in arms]) for end in (0, 1))
    return _two_sided(sizes, (low, high), (df, df))


def _paired(sizes: Interval, arms: Sequence[_Arm]) -> Interval:
    """Pairs differ by |sd - sd| where their correlation is 1 and by sd + sd where it is -1."""
    one, other = arms
    least = max(one.sd[0] - other.sd[1], other.sd[0] - one.sd[1], 0.0)
    root, df = math.sqrt(one.n), one.n - 1
    return _two_sided(sizes, (least / root, (one.sd[1] + other.sd[1]) / root), (df, df))


def _two_sided(sizes: Interval, errors: Interval, dfs: Interval) -> Interval:
    """Return the range of p over ranges of a difference's size, standard error and degrees of freedom."""
    most = sizes[1] / errors[0] if errors[0] > 0 else math.inf
    least = sizes[0] / errors[1] if errors[1] > 0 else 0.0
    return float(2 * stats.t.sf(most, dfs[1])), float(2 * stats.t.sf(least, dfs[0]))
