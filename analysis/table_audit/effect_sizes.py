"""Effect sizes: what they need, whether the printed means and sds give them, and the one that is none, |best -
baseline| / sd over variants."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from analysis.published import Interval, Printed
from analysis.published.derived import EFFECT_SIZE, follows
from analysis.schema import INVALID, WARNING
from analysis.statistics.effects import MIN_PAIRS, gamma_correction
from analysis.table_audit import columns
from analysis.table_audit.columns import EFFECT
from analysis.table_audit.differences import Moments, Spread, moments, pooled_sd
from analysis.table_audit.digits import ranges_beside
from analysis.table_audit.finding import Finding
from analysis.table_audit.replication import OR_A_MEAN
from analysis.table_audit.table import Group, Row, Table

NAME = "effect_size"
INSTEAD = (
    f"train each variant with {MIN_PAIRS} or more seeds, give the mean difference with its interval, "
    f"and divide by the sd over seeds; {OR_A_MEAN}"
)

LOOSE = 1.1
"""Where rounding lets a figure vary by more than this factor, that it agrees with another may well be chance."""


def effect_sizes(table: Table) -> Iterator[Finding]:
    """Refuse effect sizes without replicates, and those whose sd is over variants rather than seeds."""
    for column in table.columns.get(EFFECT, ()):
        figures = [(row, row.figures[column].printed) for row in table.with_loss if column in row.figures]
        yield from _check(table, column, figures)
    claims = [claim for claim in table.claims if claim.figure == EFFECT_SIZE]
    rows = {row.name: row for row in table.with_loss}
    yield from _check(table, "the claimed effect size", [(rows[claim.variant], claim.value) for claim in claims])


def _check(table: Table, what: str, figures: list[tuple[Row, Printed]]) -> Iterator[Finding]:
    n = {(group.context, group.name): group.n for group in table.groups}
    runs = {row.line: n[row.context, row.name] for row, _ in figures}
    over_variants = _fit_variants(table, what, figures, runs)
    arms = {context: [(group, moments(table, group)) for group in table.within(context)] for context in table.contexts}
    for row, printed in figures:
        said = f"{table.label(row)}: {what} is {printed.text}"
        count, given = runs[row.line], _given(table, row, arms[row.context])
        if over_variants and not (given and _is_one_of(printed, given)):
            # That a figure of unnamed formula may be of the differences by seed, no mean and sd can exclude.
            is_certain = count == 1 or (given is not None and columns.names_its_formula(what))
            yield _over_variants(table, row, said, count, is_certain)
        elif count is not None and count < MIN_PAIRS:
            yield Finding(
                name=NAME,
                severity=INVALID if count == 1 else WARNING,
                evidence=f"{said}, but n = {count}: no effect size exists"
                + (f" below {MIN_PAIRS} pairs" if count > 1 else ""),
                instead=INSTEAD,
            )
        elif columns.is_standardised(what) and not table.is_control(row) and given and not _is_one_of(printed, given):
            yield _recomputed(table, row, what, printed, given)


def _recomputed(table: Table, row: Row, column: str, printed: Printed, given: Sequence[Interval]) -> Finding:
    """Say that no definition gives an effect size, of either sign, from the printed means and sds."""
    words = ranges_beside(given, abs(printed.value))
    is_named = columns.names_its_formula(column)
    unnamed = "" if is_named else "; if it is of the differences by seed (d_z), call it so"
    return Finding(
        name=NAME,
        severity=INVALID if is_named else WARNING,
        evidence=f"{table.label(row)}: {column} is printed as {printed.text}, but means and sds give {words} "
        f"against {table.control}, whichever sd divides and with or without a small-sample correction",
        instead=f"recompute the column against {table.control}, and say by which sd{unnamed}",
    )


def _given(table: Table, row: Row, arms: Sequence[tuple[Group, Moments | None]]) -> list[Interval] | None:
    """Return what each definition gives from a context's means and sds; None where the table does not tell those."""
    one = next(arm for group, arm in arms if group.name == row.name)
    control = next((arm for group, arm in arms if table.is_control(group)), None)
    if one is None or control is None:
        return None
    others = [arm for _, arm in arms if arm is not None and arm is not one and arm is not control]
    return [_standardised([one, control, *others], sd) for sd in SDS]


def _standardised(arms: Sequence[Moments], sd: Callable[[Sequence[Spread]], float]) -> Interval:
    """Return the range of |difference of the first two means| / sd over the rounding of the figures.

    An sd may have been computed with n or n - 1. The strongest small-sample correction is J(n - 1), that of pairs;
    J(1) does not exist.
    """
    one, control = arms[:2]
    few = min(arm.n for arm in arms)
    either = math.sqrt(few / (few - 1))
    size = abs(one.mean - control.mean)
    blur = 0.0 if one is control else one.mean_blur + control.mean_blur
    low = max(size - blur, 0.0) * float(gamma_correction(max(min(one.n, control.n) - 1, 2))) / either
    high = (size + blur) * either
    least, most = (sd([(max(arm.sd + sign * arm.sd_blur, 0.0), arm.n) for arm in arms]) for sign in (-1, 1))
    return low / most if most > 0 else 0.0, high / least if least > 0 else math.inf


SDS: tuple[Callable[[Sequence[Spread]], float], ...] = (
    lambda spreads: pooled_sd(spreads[:2]),
    lambda spreads: math.sqrt((spreads[0][0] ** 2 + spreads[1][0] ** 2) / 2),
    lambda spreads: spreads[0][0],
    lambda spreads: spreads[1][0],
    pooled_sd,
)
"""What definitions divide by, of a name, the control and all others: the pooled sd of the two, the root of their mean
variance, (Glass) either one's own, and the pooled sd of all."""


def _fit_variants(table: Table, what: str, figures: list[tuple[Row, Printed]], runs: Mapping[int, int | None]) -> bool:
    """Whether all of a column's figures are as if their sd were over variants, and that is no chance."""
    ranges = [_variants_ranges(table, row) for row, _ in figures]
    fitting = [
        [ends for ends in found if _is_one_of(printed, [ends])]
        for found, (_, printed) in zip(ranges, figures, strict=True)
    ]
    if not all(fitting):
        return False
    if all(runs[row.line] == 1 for row, _ in figures):
        return True
    # With replicates a figure may fall on this one by chance; two and more that all do, closely, hardly have.
    close = [
        row
        for (row, _), found in zip(figures, fitting, strict=True)
        if not table.is_control(row) and all(high <= LOOSE * low for low, high in found)
    ]
    return columns.is_of_the_loss(what) and len(close) > 1


def _over_variants(table: Table, row: Row, said: str, count: int | None, is_certain: bool) -> Finding:
    that = f"|best - {table.control}| / sd over the {len(table.within(row.context))} variants"
    return Finding(
        name=NAME,
        severity=INVALID if is_certain else WARNING,
        evidence=(
            f"{said}: that is {that}, not over seeds{_own_best(table, row)}"
            if is_certain
            else f"{said}: so is {that}{_own_best(table, row)}, and no sd over seeds is printed that gives it"
        )
        + f"; n = {count if count is not None else 'unknown'}",
        instead=INSTEAD,
    )


def _own_best(table: Table, row: Row) -> str:
    best = (min if table.direction == "min" else max)(
        table.within(row.context), key=lambda group: _mean(table, group.rows)
    )
    return f", and the best is {table.control} itself" if table.is_control(best) else ""


def _variants_ranges(table: Table, row: Row) -> list[Interval]:
    """Return the ranges of |best - control| and |row - control| over the sd of all names' losses (n or n - 1)."""
    groups = table.within(row.context)
    control = [group for group in groups if table.is_control(group)]
    if not control or len(groups) < 2:
        return []
    losses = np.array([_mean(table, group.rows) for group in groups])
    half = max((high - low) / 2 for low, high in (table.loss(row).interval for group in groups for row in group.rows))
    base = _mean(table, control[0].rows)
    own = next(_mean(table, group.rows) for group in groups if group.name == row.name)
    ranges = []
    best = losses.min() if table.direction == "min" else losses.max()
    for size in (abs(best - base), abs(own - base)):
        for lost in (0, 1):
            sd = float(losses.std(ddof=lost))
            blur = half * math.sqrt(len(losses) / (len(losses) - lost))  # the sd moves by no more than that
            ranges.append(_quotient(size, 0.0 if size == 0 else 2 * half, sd, blur))
    return ranges


def _quotient(size: float, blur: float, sd: float, sd_blur: float) -> Interval:
    low = max(size - blur, 0.0) / (sd + sd_blur) if sd + sd_blur > 0 else 0.0
    return low, (size + blur) / (sd - sd_blur) if sd > sd_blur else math.inf


def _is_one_of(printed: Printed, ranges: Sequence[Interval]) -> bool:
    absolute = Printed(printed.text.lstrip("-+"))
    return any(follows(absolute, ends) for ends in ranges)


def _mean(table: Table, rows: tuple[Row, ...]) -> float:
    return float(np.mean([table.loss(row).value for row in rows]))
