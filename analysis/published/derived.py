"""Figures that a report derives from others: whether what is printed follows its own formula.

A printed number stands for all that round to it, so a formula over printed numbers gives an interval, and a printed
result follows its formula where the two intervals meet.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from analysis.published import Interval, Printed, PublishedTable


@dataclass(frozen=True)
class Formula:
    """A figure as a function of others."""

    words: str
    inputs: tuple[str, ...]
    """Out of `loss` (nats per token), `minutes`, `million` (10^6 parameters) and `other` (the loss compared with)."""
    function: Callable[..., float]
    """Of the inputs in order; it rises or falls in each of them throughout."""

    def value(self, figures: Mapping[str, float]) -> float:
        """Return the figure; NaN where an input is missing (NaN) or not positive."""
        values = [figures[name] for name in self.inputs]
        return self.function(*values) if all(value > 0 for value in values) else math.nan

    def interval(self, figures: Mapping[str, Interval]) -> Interval:
        """Return the range of the figure over intervals of its inputs, which is that over their ends."""
        corners = [self.function(*ends) for ends in itertools.product(*(figures[name] for name in self.inputs))]
        return min(corners), max(corners)


SINGLE_PRECISION = 1e-6
"""Relative error of a figure that was computed in 32-bit floating point (exp of a loss of 10 loses that much)."""
LARGEST_EXPONENT = 709.0
"""exp of more is no floating-point number."""


def exp(value: float) -> float:
    """Return exp(value), infinite where that is beyond floating point."""
    return math.exp(value) if value <= LARGEST_EXPONENT else math.inf


def follows(printed: Printed, formula: Interval) -> bool:
    """Return whether a printed figure may be one of the formula's range, up to rounding and single precision."""
    low, high = printed.interval
    slack = SINGLE_PRECISION * max(abs(low), abs(high))
    return low - slack <= formula[1] and formula[0] <= high + slack


PERPLEXITY, EFFICIENCY, LOSS_PER_MILLION = "perplexity", "efficiency", "loss per million parameters"
CHANGE, TIMES_LOWER, DIFFERENCE = "change, %", "times lower", "difference"
EFFECT_SIZE = "effect size"
"""A claim that no formula of two losses gives."""
FORMULAS = {
    PERPLEXITY: Formula("exp(loss)", ("loss",), exp),
    EFFICIENCY: Formula(
        "1 / (minutes x loss x million parameters)",
        ("minutes", "loss", "million"),
        lambda minutes, loss, million: 1 / (minutes * loss * million),
    ),
    LOSS_PER_MILLION: Formula(
        "loss / million parameters", ("loss", "million"), lambda loss, million: loss / million
    ),
    CHANGE: Formula("100 (loss / other loss - 1)", ("loss", "other"), lambda loss, other: 100 * (loss / other - 1)),
    TIMES_LOWER: Formula("other loss / loss", ("loss", "other"), lambda loss, other: other / loss),
    DIFFERENCE: Formula("loss - other loss", ("loss", "other"), lambda loss, other: loss - other),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Derived:
    """A figure of a published row, recomputed from the printed figures that its formula names."""

    variant: str
    figure: str
    """A key of FORMULAS."""
    against: str | None
    """The variant whose loss is `other`; None where the formula has none."""
    value: float
    """From the printed numbers as they stand."""
    interval: Interval
    """From all numbers that are printed so."""
    printed: Printed | None
    """What the report has; None where it has nothing."""
    remark: str = ""

    @property
    def follows(self) -> bool:
        """Whether the printed figure may be the formula's; also where none is printed."""
        return self.printed is None or follows(self.printed, self.interval)


def derive(table: PublishedTable, baseline: str = "baseline") -> list[Derived]:
    """Return every derived figure of a table, and then those that its reports claim in words.

    Each row has its perplexity and its change against the baseline (once, with the claim where there is one);
    efficiency and loss a parameter are there where the table prints them in any row. Claimed effect sizes, which are no
    formula of two losses, are left out.
    """
    columns: dict[str, list[Printed | None]] = {
        PERPLEXITY: [row.val_perplexity for row in table.rows],
        EFFICIENCY: [row.efficiency_score for row in table.rows],
        LOSS_PER_MILLION: [row.loss_per_million_params for row in table.rows],
    }
    figures = [
        _derived(table, row.variant, figure, None, printed)
        for figure, column in columns.items()
        if any(column)
        for row, printed in zip(table.rows, column, strict=True)
    ]
    claimed = {(claim.variant, claim.figure, claim.against) for claim in table.claims}
    changes = [
        _derived(table, row.variant, CHANGE, baseline, None)
        for row in table.rows
        if row.variant != baseline and (row.variant, CHANGE, baseline) not in claimed
    ]
    claims = [
        _derived(table, claim.variant, claim.figure, claim.against, claim.value, claim.remark)
        for claim in table.claims
        if claim.figure in FORMULAS
    ]
    return [*figures, *changes, *claims]


def _derived(
    table: PublishedTable, variant: str, figure: str, against: str | None, printed: Printed | None, remark: str = ""
) -> Derived:
    formula, row = FORMULAS[figure], table.by_variant[variant]
    million = row.params_total / 1e6
    inputs = {"loss": row.val_loss, "minutes": row.train_minutes}
    if against is not None:
        inputs["other"] = table.by_variant[against].val_loss
    values = {"million": million} | {name: number.value for name, number in inputs.items()}
    intervals = {"million": (million, million)} | {name: number.interval for name, number in inputs.items()}
    return Derived(
        variant=variant,
        figure=figure,
        against=against,
        value=formula.value(values),
        interval=formula.interval(intervals),
        printed=printed,
        remark=remark,
    )
