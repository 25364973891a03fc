"""Effect sizes: what they need, and the one that is none, |best - baseline| / sd over variants."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from analysis.derived import EFFECT_SIZE, follows
from analysis.effects import MIN_PAIRS
from analysis.published import Interval, Printed
from analysis.schema import INVALID, WARNING
from analysis.table_audit.columns import EFFECT
from analysis.table_audit.finding import Finding
from analysis.table_audit.table import Row, Table

NAME = "effect_size"
INSTEAD = (
    f"train each variant with {MIN_PAIRS} or more seeds, give the mean difference in nats with its interval, "
    "and divide by the sd over seeds; if rows are means already, say over how many in a column n"
)


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
