"""Effect sizes: what they need, whether the printed means and sds give them, and the one that is none, |best -
baseline| / sd over variants."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

from analysis.derived import EFFECT_SIZE, follows
from analysis.effects import MIN_PAIRS, gamma_correction
from analysis.published import Interval, Printed
from analysis.schema import INVALID, WARNING
from analysis.table_audit import columns
from analysis.table_audit.columns import EFFECT
from analysis.table_audit.differences import Moments, moments
from analysis.table_audit.finding import Finding
from analysis.table_audit.table import Row, Table

NAME = "effect_size"
INSTEAD = (
    f"train each variant with {MIN_PAIRS} or more seeds, give the mean difference in nats with its interval, "
    "and divide by the sd over seeds; if rows are means already, say over how many in a column n"
)

Spread = tuple[float, int]
"""An sd and the runs that it is of."""


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
    replicated = [row for row, _ in figures if (runs[row.line] or MIN_PAIRS) >= MIN_PAIRS]
    others = [row for row, _ in figures if not table.is_control(row)]
    # With replicates a figure may fall on this one by chance; two and more that all do have not.
    over_variants = all(_is_over_variants(table, row, printed) for row, printed in figures) and (
        not replicated or len(others) > 1
    )
    for row, printed in figures:
        said = f"{table.label(row)}: {what} is {printed.text}"
        count = runs[row.line]
        if over_variants:
            yield Finding(
                name=NAME,
                severity=INVALID,
                evidence=f"{said}: that is |best - {table.control}| / sd over the {len(table.within(row.context))} "
                f"variants, not over seeds{_own_best(table, row)}; n = {count if count is not None else 'unknown'}",
                instead=INSTEAD,
            )
        elif count is not None and count < MIN_PAIRS:
            yield Finding(
                name=NAME,
                severity=INVALID if count == 1 else WARNING,
                evidence=f"{said}, but n = {count}: no effect size exists"
                + (f" below {MIN_PAIRS} pairs" if count > 1 else ""),
                instead=INSTEAD,
            )
        elif columns.is_standardised(what) and not table.is_control(row):
            yield from _recomputed(table, row, what, printed)


def _recomputed(table: Table, row: Row, column: str, printed: Printed) -> Iterator[Finding]:
    """Find an effect size, of either sign, that no definition gives from the printed means and sds."""
    groups = table.within(row.context)
    one = next(moments(table, group) for group in groups if group.name == row.name)
    control = next((moments(table, group) for group in groups if table.is_control(group)), None)
    if one is None or control is None or control.n < MIN_PAIRS:
        return
    ranges = [_standardised(one, control, sd) for sd in SDS]
    if any(follows(_absolute(printed), ends) for ends in ranges):
        return
    low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
    is_named = columns.names_its_formula(column)
    unnamed = "" if is_named else "; if it is of the differences by seed (d_z), call it so"
    yield Finding(
        name=NAME,
        severity=INVALID if is_named else WARNING,
        evidence=f"{table.label(row)}: {column} is printed as {printed.text}, but means and sds give {low:.3g} to "
        f"{high:.3g} against {table.control}, whichever sd divides and with or without a small-sample correction",
        instead=f"recompute the column against {table.control}, and say by which sd{unnamed}",
    )


def _standardised(one: Moments, control: Moments, sd: Callable[[Spread, Spread], float]) -> Interval:
    """Return the range of |difference of the means| / sd over the rounding of the figures.

    An sd may have been computed with n or n - 1. The strongest small-sample correction is J(n - 1), that of pairs.
    """
    few = min(one.n, control.n)
    either = math.sqrt(few / (few - 1))
    size, blur = abs(one.mean - control.mean), one.mean_blur + control.mean_blur
    low, high = max(size - blur, 0.0) * float(gamma_correction(few - 1)) / either, (size + blur) * either
    least, most = (sd(*((max(arm.sd + sign * arm.sd_blur, 0.0), arm.n) for arm in (one, control))) for sign in (-1, 1))
    return low / most if most > 0 else 0.0, high / least if least > 0 else math.inf


def _pooled(one: Spread, control: Spread) -> float:
    squares = (one[1] - 1) * one[0] ** 2 + (control[1] - 1) * control[0] ** 2
    return math.sqrt(squares / (one[1] + control[1] - 2))


SDS: tuple[Callable[[Spread, Spread], float], ...] = (
    _pooled,
    lambda one, control: math.sqrt((one[0] ** 2 + control[0] ** 2) / 2),
    lambda one, control: one[0],
    lambda one, control: control[0],
)
"""What definitions divide by: the pooled sd, the root of the mean variance, and (Glass) either arm's own."""


def _own_best(table: Table, row: Row) -> str:
    best = min(table.within(row.context), key=lambda group: _mean(table, group.rows))
    return f", and the best is {table.control} itself" if table.is_control(best) else ""


def _is_over_variants(table: Table, row: Row, printed: Printed) -> bool:
    """Whether |best - control| or |row - control|, over the sd of all names' losses (n or n - 1), is printed so."""
    groups = table.within(row.context)
    control = [group for group in groups if table.is_control(group)]
    if not control or len(groups) < 2:
        return False
    losses = np.array([_mean(table, group.rows) for group in groups])
    half = max((high - low) / 2 for low, high in (table.loss(row).interval for group in groups for row in group.rows))
    base = _mean(table, control[0].rows)
    own = next(_mean(table, group.rows) for group in groups if group.name == row.name)
    for size in (abs(losses.min() - base), abs(own - base)):
        for lost in (0, 1):
            sd = float(losses.std(ddof=lost))
            blur = half * math.sqrt(len(losses) / (len(losses) - lost))  # the sd moves by no more than that
            if follows(_absolute(printed), _quotient(size, 0.0 if size == 0 else 2 * half, sd, blur)):
                return True
    return False


def _quotient(size: float, blur: float, sd: float, sd_blur: float) -> Interval:
    low = max(size - blur, 0.0) / (sd + sd_blur) if sd + sd_blur > 0 else 0.0
    return low, (size + blur) / (sd - sd_blur) if sd > sd_blur else math.inf


def _absolute(printed: Printed) -> Printed:
    return Printed(printed.text.lstrip("-+"))


def _mean(table: Table, rows: tuple[Row, ...]) -> float:
    return float(np.mean([table.loss(row).value for row in rows]))
