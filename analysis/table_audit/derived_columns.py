"""Derived columns against their formulas: a figure is wrong only where nothing that rounds to the inputs gives it.

Where a row is a mean over runs, efficiency and perplexity may be means of each run's: those lie above the formula of
the means (Jensen; both are convex), so above is a note and below is wrong.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from analysis import text
from analysis.published import Interval, Printed, derived
from analysis.published.derived import FORMULAS, Formula, exp, follows
from analysis.schema import INVALID, NOTE, WARNING
from analysis.table_audit import columns
from analysis.table_audit.columns import COMPARED, EFFICIENCY, LOSS, LOSS_PER_MILLION, MILLION, MINUTES, PERPLEXITY, SD
from analysis.table_audit.digits import beside
from analysis.table_audit.finding import Finding
from analysis.table_audit.table import Figure, Row, Table

NAME = "derived_column"
SMALLEST = 1e-12
"""Stands for 0 where a positive figure is printed as 0."""
EPSILON = 2.0**-23
"""Relative spacing of single-precision numbers, of which inputs may be one."""
INSTEAD = {
    PERPLEXITY: "print exp of the printed loss; call a mean over runs of exp(loss) by that name",
    EFFICIENCY: "recompute the column from loss, minutes and parameters, or print the formula that was used",
    LOSS_PER_MILLION: "recompute the column from loss and parameters, or print the formula that was used",
}
INPUTS = {"loss": LOSS, "minutes": MINUTES, "million": MILLION}
"""Role of each input of a formula."""
CONVEX = (PERPLEXITY, EFFICIENCY)
SHOWN = 5
"""Rows named in one line."""


def derived_columns(table: Table) -> Iterator[Finding]:
    """Check efficiency, loss per million parameters, perplexity, percentages, differences and claims in words."""
    for role, figure in (
        (PERPLEXITY, derived.PERPLEXITY),
        (EFFICIENCY, derived.EFFICIENCY),
        (LOSS_PER_MILLION, derived.LOSS_PER_MILLION),
    ):
        if role in table.columns:
            yield from _formula(table, role, FORMULAS[figure])
    if table.control is not None:
        for column in table.columns.get(COMPARED, ()):
            yield from _compared(table, column, table.control)
    yield from _claims(table)


def _formula(table: Table, role: str, formula: Formula) -> Iterator[Finding]:
    column, lacking = table.columns[role][0], []
    for row in table.rows:
        figure = table.figure(row, role)
        if figure is None:
            continue
        inputs = _inputs(table, row)
        if not all(name in inputs for name in formula.inputs):
            lacking.append(table.label(row))
            continue
        right = _recomputed(formula, inputs)
        if follows(figure.printed, right.interval):
            continue
        printed = f"{table.label(row)}: {column} is printed as {figure.text}"
        evidence = f"{printed}, but {formula.words} is {right.words(figure.printed)}"
        upwards = (right.interval[0], _most(table, row, role))
        if role in CONVEX and table.is_mean(row) and follows(figure.printed, upwards):
            yield Finding(
                name=NAME,
                severity=NOTE,
                evidence=f"{evidence}; a mean over runs of each one's {role} lies above, as this does",
                instead=f"say that it is a mean over runs: the mean of {role} is not the {role} of the mean loss",
            )
        else:
            yield Finding(name=NAME, severity=INVALID, evidence=evidence, instead=INSTEAD[role])
    if lacking:
        yield Finding(
            name=NAME,
            severity=NOTE,
            evidence=f"{column} of {_some(lacking)} could not be checked: {formula.words} lacks an input there",
            instead="print every figure that the formula needs",
        )


@dataclass(frozen=True)
class _Recomputed:
    """A figure by its formula."""

    value: float
    """From the printed inputs as they stand; NaN where one of them is printed as 0."""
    interval: Interval
    """From all inputs that are printed so."""

    def words(self, printed: Printed) -> str:
        """Return it with the digits in which it differs from what is printed."""
        value, *ends = beside((self.value, *self.interval), printed.value)
        rounding = f"{' to '.join(ends)} by rounding"
        if ends[0] == ends[1]:
            return ends[0]
        return rounding if math.isnan(self.value) else f"{value} ({rounding})"


def _recomputed(formula: Formula, inputs: Mapping[str, Figure]) -> _Recomputed:
    values = {name: figure.value for name, figure in inputs.items()}
    return _Recomputed(
        formula.value(values), formula.interval({name: _positive(figure) for name, figure in inputs.items()})
    )


def _inputs(table: Table, row: Row) -> dict[str, Figure]:
    """Return a row's figures that formulas need and that can stand in one."""
    figures = {name: table.figure(row, role) for name, role in INPUTS.items()}
    return {name: figure for name, figure in figures.items() if figure is not None and figure.value >= 0}


def _positive(figure: Figure) -> Interval:
    """Return the positive part of a figure's range, with room for what single precision loses."""
    low, high = figure.interval
    return max(low * (1 - EPSILON), SMALLEST), high * (1 + EPSILON)


def _most(table: Table, row: Row, role: str) -> float:
    """Return the largest mean over runs that a convex figure can have; infinite where the table does not bound it.

    Given n, mean and sd, the mean of exp is largest with one run above n - 1 equal others; without the sd, with all
    others at 0, the least that a cross-entropy can be. The sd may have been computed with n or n - 1.
    """
    n, sd = table.figure(row, columns.N), table.figure(row, SD)
    if role != PERPLEXITY or n is None:
        return math.inf
    mean, runs = _positive(table.loss(row))[1], n.value
    rise = mean * (runs - 1)
    if sd is not None:
        rise = min(rise, sd.interval[1] * math.sqrt(runs - 1))
    return (exp(mean + rise) + (runs - 1) * exp(mean - rise / (runs - 1))) / runs


def _compared(table: Table, column: str, control: str) -> Iterator[Finding]:
    """Check a column of changes against the control, under the reading of its name that most of it follows."""
    figures = [(row, row.figures[column].printed) for row in table.with_loss if column in row.figures]
    readable = [(row, printed) for row, printed in figures if _is_comparable(table, row, control)]
    if len(readable) < len(figures):
        rest = [table.label(row) for row, _ in figures if not _is_comparable(table, row, control)]
        yield Finding(
            name=NAME,
            severity=NOTE,
            evidence=f"{column} of {_some(rest)} could not be checked: it takes one row of {control} to compare with, "
            "and no figure below 0",
            instead="give each run its seed, and the control the same seeds",
        )
    if not any(not table.is_control(row) for row, _ in readable):
        return
    readings = _readings(column, table)
    wrong = {formula: _wrong(table, readable, formula, control) for formula in readings}
    best = min(readings, key=lambda formula: len(wrong[formula]))
    if wrong[best]:
        other = _other(table, readable, readings, control)
        if other is not None:
            name, formula = other
            yield Finding(
                name="baseline",
                severity=INVALID,
                evidence=f"{column} is {formula.words} with {name} as the other, not with {control}, in all "
                f"{len(readable)} rows",
                instead=f"compare every row with the control {control}",
            )
            return
        by_steps = _by_steps(table, readable, readings, control)
        if by_steps is not None:
            yield Finding(
                name="baseline",
                severity=WARNING,
                evidence=f"{column} is {by_steps.words} with the row before as the other, not with {control}, in all "
                f"{len(readable)} rows",
                instead=f"say that each row is compared with the one before it, or compare with {control}",
            )
            return
    for row, printed in wrong[best]:
        mean = table.is_mean(row)
        right = _change(table, row, best, control).words(printed)
        rounded = f"{table.label(row)}: {column} is printed as {printed.text}, but {best.words} is {right}"
        yield Finding(
            name=NAME,
            severity=WARNING if mean else INVALID,
            evidence=f"{rounded} against {control}" + ("; it may be a mean over runs of each one's" if mean else ""),
            instead=f"recompute the column against {control}, and print its formula",
        )
    if not wrong[best] and best is not readings[0]:
        yield Finding(
            name=NAME,
            severity=NOTE,
            evidence=f"{column} follows {best.words}, not {readings[0].words}",
            instead="print the formula beside the column",
        )


def _wrong(
    table: Table, readable: list[tuple[Row, Printed]], formula: Formula, other: str
) -> list[tuple[Row, Printed]]:
    right = [_change(table, row, formula, other).interval for row, _ in readable]
    return [figure for figure, interval in zip(readable, right, strict=True) if not follows(figure[1], interval)]


def _change(table: Table, row: Row, formula: Formula, other: str) -> _Recomputed:
    """Return the comparison of a row with its partner; a row is exactly equal to itself."""
    partner = table.partners(row, other)[0]
    if partner is row:
        value = formula.function(1.0, 1.0)
        return _Recomputed(value, (value, value))
    return _recomputed(formula, {"loss": table.loss(row), "other": table.loss(partner)})


def _is_comparable(table: Table, row: Row, other: str) -> bool:
    """Whether a row has one partner of the name, and both have losses that formulas take."""
    partners = table.partners(row, other)
    return len(partners) == 1 and min(table.loss(row).value, table.loss(partners[0]).value) >= 0


def _other(
    table: Table, readable: list[tuple[Row, Printed]], readings: tuple[Formula, ...], control: str
) -> tuple[str, Formula] | None:
    """Return the row against which a whole column of two and more comparisons was computed, and how."""
    names = dict.fromkeys(row.name.partition("@")[0] for row in table.with_loss)
    for name in names if len(readable) > 2 else ():
        if name == control:
            continue
        for formula in readings:
            if all(
                _is_comparable(table, row, name) and follows(printed, _change(table, row, formula, name).interval)
                for row, printed in readable
            ):
                return name, formula
    return None


def _by_steps(
    table: Table, readable: list[tuple[Row, Printed]], readings: tuple[Formula, ...], control: str
) -> Formula | None:
    """Return how a whole column was computed in which each row is compared with the one before it; else None."""
    figures = {row.line: printed for row, printed in readable if not table.is_control(row)}
    steps = [
        (row, figures[row.line], before.name.partition("@")[0])
        for before, row in itertools.pairwise(table.with_loss)
        if row.line in figures and before.context == row.context
    ]
    if len(steps) < max(2, len(figures)) or not all(_is_comparable(table, row, name) for row, _, name in steps):
        return None
    for formula in readings:
        if all(follows(printed, _change(table, row, formula, name).interval) for row, printed, name in steps):
            return formula
    return None


def _readings(column: str, table: Table) -> tuple[Formula, ...]:
    """Return what a column of comparisons may mean, the likeliest first; more is better where its name says so."""
    if table.is_loss:
        return _readings_of_losses(column)
    found = _readings_of_losses(column) if table.direction == "min" else _readings_of_gains(column)
    return tuple(replace(formula, words=formula.words.replace("loss", "value")) for formula in found)


def _readings_of_gains(column: str) -> tuple[Formula, ...]:
    """Return what a column of comparisons may mean, the likeliest first, of a metric of which more is better.

    `other` is the control's; of percentages a difference is in percent, too.
    """
    inputs = ("loss", "other")
    times = Formula("loss / other loss", inputs, lambda loss, other: loss / other)
    if columns.is_times(column):
        return (times,)
    change, difference = FORMULAS[derived.CHANGE], FORMULAS[derived.DIFFERENCE]
    share = Formula("loss / other loss - 1", inputs, lambda loss, other: loss / other - 1)
    percent = Formula("100 loss / other loss", inputs, lambda loss, other: 100 * loss / other)
    rest = (change, share, times, percent)
    return (difference, *rest) if columns.says_difference(column) else (*rest, difference)


def _readings_of_losses(column: str) -> tuple[Formula, ...]:
    if columns.is_times(column):
        return (FORMULAS[derived.TIMES_LOWER],)
    inputs = ("loss", "other")
    lower = Formula("other loss - loss", inputs, lambda loss, other: other - loss)
    differences = _ordered(column, FORMULAS[derived.DIFFERENCE], lower)
    if columns.is_difference(column):
        return differences
    percents = [
        *_ordered(
            column,
            FORMULAS[derived.CHANGE],
            Formula("100 (1 - loss / other loss)", inputs, lambda loss, other: 100 * (1 - loss / other)),
        ),
        Formula("100 (other loss / loss - 1)", inputs, lambda loss, other: 100 * (other / loss - 1)),
        *_ordered(
            column,
            Formula("100 (exp(loss - other loss) - 1)", inputs, lambda loss, other: 100 * (exp(loss - other) - 1)),
            Formula("100 (1 - exp(loss - other loss))", inputs, lambda loss, other: 100 * (1 - exp(loss - other))),
        ),
    ]
    percents.append(Formula("100 loss / other loss", inputs, lambda loss, other: 100 * loss / other))
    if columns.is_percent(column):
        return tuple(percents)
    shares = [
        Formula(f"({formula.words}) / 100", inputs, lambda loss, other, of=formula.function: of(loss, other) / 100)
        for formula in percents
    ]
    return (*percents, *shares, *differences)


def _ordered(column: str, rises: Formula, falls: Formula) -> tuple[Formula, Formula]:
    return (falls, rises) if columns.improves(column) else (rises, falls)


def _claims(table: Table) -> Iterator[Finding]:
    """Check what reports say in words against the table's rows."""
    for claim in table.claims:
        if claim.figure not in FORMULAS:
            continue
        rows = {row.name: row for row in table.with_loss}
        formula, row = FORMULAS[claim.figure], rows[claim.variant]
        right = _change(table, row, formula, claim.against)
        said = f"{claim.variant} against {claim.against}: {claim.figure} is said to be {claim.value.text}"
        if not follows(claim.value, right.interval):
            where = f" ({claim.remark})" if claim.remark else ""
            yield Finding(
                name="claim",
                severity=INVALID,
                evidence=f"{said}{where}, but {formula.words} is {right.words(claim.value)}",
                instead="state the figure that the table's own losses give",
            )
        elif table.control not in (None, claim.against):
            fair = _change(table, row, formula, str(table.control)).words(claim.value)
            yield Finding(
                name="baseline",
                severity=WARNING,
                evidence=f"{said}; {claim.against} is not the control: against {table.control} it is {fair}",
                instead=f"compare with the control {table.control}",
            )


def _some(labels: list[str]) -> str:
    more = len(labels) - SHOWN
    return text.listing([*labels[:SHOWN], f"{more} more"] if more > 0 else labels)
