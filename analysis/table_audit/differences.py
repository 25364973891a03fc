"""Each name's difference from the control, with what the table's own figures say of its noise."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.comparing.unpaired import UnpairedMoments, welch_interval, welch_test
from analysis.statistics.effects import MIN_PAIRS
from analysis.statistics.significance import ALPHA, holm, t_interval, t_test
from analysis.table_audit.columns import COMPARED, EFFECT, RANK, SD, P, is_difference, is_paired_effect
from analysis.table_audit.intervals import printed_intervals
from analysis.table_audit.table import Group, Table

Spread = tuple[float, int]
"""An sd and the runs that it is of."""


@dataclass(frozen=True, kw_only=True)
class Moments:
    """What a table says of a name's runs, and by how much the rounding of its figures may have moved it."""

    mean: float
    sd: float
    """With n - 1, where the rows are runs; as printed where one row is their mean."""
    n: int
    mean_blur: float
    sd_blur: float


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A name against the control of its context; NaN is what the table does not tell."""

    group: Group
    control: Group
    low: float
    """Of its own 95 % interval: by seed; else by the d_z or the interval that its row prints, which know of pairs; else
    Welch's."""
    high: float
    p: float
    """Uncorrected: of the same test; as printed where a row prints it and no d_z, or where there is no test."""
    if_unpaired: bool
    """Whether interval and p are Welch's, of runs of which the table does not say that they are not paired."""


def claims(table: Table) -> bool:
    """Whether the table itself says that its names differ: by a rank, a difference or an effect size."""
    return any(role in table.columns for role in (RANK, COMPARED, EFFECT))


def differences(table: Table) -> tuple[Difference, ...]:
    """Return every difference from a control, in the table's order."""
    found = []
    for context in table.contexts:
        groups = table.within(context)
        control = next((group for group in groups if table.is_control(group)), None)
        if control is not None:
            found += [_difference(table, group, control) for group in groups if group is not control]
    return tuple(found)


def corrected(found: tuple[Difference, ...]) -> np.ndarray:
    """Return Holm's p of the differences, over all of them; NaN where the table does not tell."""
    return holm([difference.p for difference in found])


def are_resolved(table: Table) -> bool:
    """Whether every comparison that the table invites finds a difference, all of them counted."""
    found = differences(table)
    without = [c for c in table.contexts if not any(table.is_control(group) for group in table.within(c))]
    return not without and bool((corrected(found) <= ALPHA).all())


def moments(table: Table, group: Group) -> Moments | None:
    """Return the moments of a name's runs; None where the table does not give them, or there are less than two.

    Several means of one name give none: nothing says what tells them apart.
    """
    losses = np.array([table.loss(row).value for row in group.rows])
    blur = max((high - low) / 2 for low, high in (table.loss(row).interval for row in group.rows))
    sd = table.figure(group.rows[0], SD)
    if group.n is None or group.n < 2:
        return None
    if (n := len(losses)) > 1:
        if any(table.states_runs(row) for row in group.rows):
            return None
        mean, spread = float(losses.mean()), float(losses.std(ddof=1))
        return Moments(mean=mean, sd=spread, n=n, mean_blur=blur, sd_blur=blur * math.sqrt(n / (n - 1)))
    if sd is None:
        return None
    half = (sd.interval[1] - sd.interval[0]) / 2
    return Moments(mean=float(losses[0]), sd=sd.value, n=group.n, mean_blur=blur, sd_blur=half)


def pooled_sd(spreads: Sequence[Spread]) -> float:
    """Return the root of the mean variance, each counted by its n - 1."""
    squares = sum((n - 1) * sd**2 for sd, n in spreads)
    return math.sqrt(squares / sum(n - 1 for _, n in spreads))


def _difference(table: Table, group: Group, control: Group) -> Difference:
    told = _paired(table, group, control) or _stated(table, group, control)
    low, high, p = told or _unpaired(table, group, control)
    printed = table.figure(group.rows[0], P)
    return Difference(
        group=group,
        control=control,
        low=low,
        high=high,
        p=printed.value if math.isnan(p) and printed is not None else p,
        if_unpaired=told is None and not all(row.seed for row in (*group.rows, *control.rows)),
    )


def _stated(table: Table, group: Group, control: Group) -> tuple[float, float, float] | None:
    """Return interval and p by what the row of a mean prints: its d_z, an interval, a p; None where it prints none."""
    if len(group.rows) > 1:
        return None
    row, n = group.rows[0], min(group.n or 0, control.n or 0)
    printed = table.figure(row, P)
    d_z = [row.figures[c].value for c in table.columns.get(EFFECT, ()) if is_paired_effect(c) and c in row.figures]
    if d_z and n >= MIN_PAIRS:
        size = table.loss(row).value - float(np.mean([table.loss(other).value for other in control.rows]))
        ends = t_interval(size, abs(size / d_z[0]) if d_z[0] != 0 else math.nan, n)
        return float(ends[0]), float(ends[1]), float(t_test(d_z[0], 1.0, n))
    for interval in printed_intervals(table, row):
        if is_difference(interval.of) and interval.level in ("", "95"):
            low, high = sorted((interval.low.value, interval.high.value))
            half = t_interval(0.0, 1.0, n)[1]  # of n pairs whose sd is 1
            p = t_test((low + high) / 2, (high - low) / 2 / half, n)
            return low, high, float(p) if printed is None else printed.value
    return None if printed is None else (math.nan, math.nan, printed.value)


def _paired(table: Table, group: Group, control: Group) -> tuple[float, float, float] | None:
    """Return interval and p over the seeds that both have; None where they have none in common."""
    ours, theirs = _by_seed(table, group), _by_seed(table, control)
    pairs = np.array([ours[seed] - theirs[seed] for seed in ours if seed in theirs])
    if pairs.size == 0:
        return None
    if pairs.size == 1:
        return math.nan, math.nan, math.nan
    mean, sd = pairs.mean(), pairs.std(ddof=1)
    low, high = t_interval(mean, sd, pairs.size)
    p = float(t_test(mean, sd, pairs.size)) if pairs.size >= MIN_PAIRS else math.nan
    return float(low), float(high), p


def _by_seed(table: Table, group: Group) -> Mapping[str, float]:
    return {row.seed: table.loss(row).value for row in group.rows if row.seed}


def _unpaired(table: Table, group: Group, control: Group) -> tuple[float, float, float]:
    one, other = moments(table, group), moments(table, control)
    if one is None or other is None:
        return math.nan, math.nan, math.nan
    both = UnpairedMoments(
        *(np.array([float(figure)]) for figure in (one.n, other.n, one.mean, other.mean, one.sd, other.sd))
    )
    (low,), (high,) = welch_interval(both)
    return float(low), float(high), float(welch_test(both)[0])
