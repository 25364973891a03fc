"""Anybody's table as the rules read it: rows of printed figures, told apart by what their columns hold."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import cached_property
from pathlib import Path

from analysis.csv_file import NULLS, read_csv
from analysis.errors import AnalysisError
from analysis.published import FOLDER, Claim, Interval, Printed, load_published
from analysis.study.runs import refuse_direction, unknown
from analysis.table_audit import columns
from analysis.table_audit.columns import (
    CONTEXT,
    EFFICIENCY,
    LOSS,
    LOSS_PER_MILLION,
    MARKS,
    MEASURED,
    MILLION,
    MINUTES,
    MODEL,
    NAME,
    PERPLEXITY,
    REPLICATED,
    SD,
    SEED,
    N,
    P,
)
from analysis.table_audit.latex import plain, without_latex
from analysis.table_audit.plus_minus import Lines, spreads_apart, stated_runs
from analysis.text import MINUS, listing

RUNS = "n runs"
"""Column of the runs behind each row that the name of the metric's column states."""
SUMMARIES = ("mean", "avg", "average", "median", "sd", "std", "min", "max", "best", "all")
"""In the place of a seed: a row that sums up others, and is no run."""
CONTROLS = ("baseline", "control", "reference", "vanilla", "default")
"""Names, or first words of names, of the row that others are compared with."""
WORDS = (NAME, CONTEXT, SEED, MODEL, REPLICATED, MARKS)
"""Roles whose columns are not read as numbers."""
OF_NAMES = "of names (variant, cell, model ...)"
TO_COMPARE_BY = "to compare by (val_loss, perplexity, accuracy ...)"
DASHES = ("-", MINUS, "\u2013", "\u2014", "n/a", "n.s.")
"""Fields that hold nothing, beside NULLS."""
OWN_COLUMNS = ("cell", "remark")
"""Of the published tables' files: what this project put beside the printed figures, for others than the audit."""


@dataclass(frozen=True)
class Figure:
    """A printed number in its role's unit."""

    printed: Printed
    unit: float
    """What the printed number is multiplied by."""

    @property
    def text(self) -> str:
        """As printed."""
        return self.printed.text

    @property
    def value(self) -> float:
        """The number itself."""
        return self.printed.value * self.unit

    @property
    def interval(self) -> Interval:
        """All numbers that are printed so; a count that is written out is exact."""
        is_count = self.unit == columns.COUNT and Decimal(self.text).as_tuple().exponent == 0
        low, high = (self.printed.value, self.printed.value) if is_count else self.printed.interval
        return low * self.unit, high * self.unit


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of a table."""

    line: int
    """Of the file; the header is line 1."""
    name: str
    context: tuple[str, ...]
    """Values of the context columns: rows are compared within them."""
    seed: str
    """Empty where the table has none."""
    model: str
    """What was really trained; empty where the table does not say."""
    words: Mapping[str, str]
    """Fields of the columns of spreads, tests and marks, as they stand; without empty ones."""
    figures: Mapping[str, Figure]
    """By column; without those that are empty or not finite."""
    fields: Mapping[str, str]
    """All that stands in the row, by column; without columns that have no name, which number rows."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """All rows of one name in one context that have a loss; a mean over runs that stands twice is there once."""

    name: str
    context: tuple[str, ...]
    rows: tuple[Row, ...]
    n: int | None
    """Runs behind them; None where rows are means over a number of runs that is not stated."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table, its columns by role, and what was left alone."""

    source: str
    columns: Mapping[str, tuple[str, ...]]
    rows: tuple[Row, ...]
    not_checked: tuple[str, ...]
    """Columns that no rule reads, with the reason where it is not their name."""
    control: str | None
    """Name of the row that others are compared with; None where no name says so."""
    is_loss: bool = True
    """Whether rows are compared by the validation loss in nats per token; else by another metric in its place."""
    direction: str = "min"
    """`min` where less of what rows are compared by is better, `max` where more is."""
    claims: tuple[Claim, ...] = ()
    """What a report says of the table in words."""

    def what(self, role: str) -> str:
        """Return what the columns of a role hold, in words."""
        return "metric" if role == LOSS and not self.is_loss else role

    def figure(self, row: Row, role: str) -> Figure | None:
        """Return a row's figure in a role that one column has."""
        return row.figures.get(self.columns[role][0]) if role in self.columns else None

    def loss(self, row: Row) -> Figure:
        """Return what rows are compared by, of a row that has it."""
        return row.figures[self.columns[LOSS][0]]

    @cached_property
    def with_loss(self) -> tuple[Row, ...]:
        """Rows that have a finite loss."""
        return tuple(row for row in self.rows if self.figure(row, LOSS) is not None)

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """Rows with a loss, by context and name in the table's order."""
        members: dict[tuple[tuple[str, ...], str], list[Row]] = {}
        means: set[tuple[str, ...]] = set()
        for row in self.with_loss:
            if self.states_runs(row):
                fields = tuple(row.fields.values())
                if fields in means:
                    continue
                means.add(fields)
            members.setdefault((row.context, row.name), []).append(row)
        return tuple(
            Group(name=name, context=context, rows=tuple(rows), n=self._runs(rows))
            for (context, name), rows in members.items()
        )

    @cached_property
    def contexts(self) -> tuple[tuple[str, ...], ...]:
        """Every context that has a row with a loss, in the table's order."""
        return tuple(dict.fromkeys(group.context for group in self.groups))

    def within(self, context: tuple[str, ...]) -> list[Group]:
        """Return the groups of a context."""
        return [group for group in self.groups if group.context == context]

    def is_control(self, row: Row | Group) -> bool:
        """Whether others are compared with it."""
        return self.control is not None and row.name.partition("@")[0] == self.control

    def is_mean(self, row: Row) -> bool:
        """Whether a row is a mean over runs, or may be one."""
        n = self.figure(row, N)
        if n is not None:
            return n.value > 1
        return self._has_spread(row) or columns.says_mean(self.columns[LOSS][0])

    def states_runs(self, row: Row) -> bool:
        """Whether a row that has no seed says that several runs are behind it: by its n, or by a spread or test."""
        n = self.figure(row, N)
        return not row.seed and (n.value > 1 if n is not None else self._has_spread(row))

    def _has_spread(self, row: Row) -> bool:
        """Whether a row has a figure that exists only over several runs."""
        figures = any(self.figure(row, role) is not None for role in (SD, P))
        return figures or any(column in row.words for column in self.columns.get(REPLICATED, ()))

    @cached_property
    def by_run(self) -> dict[tuple[str, tuple[str, ...], str], list[Row]]:
        """Rows with a loss by name (before any `@scale`), context and seed."""
        runs: dict[tuple[str, tuple[str, ...], str], list[Row]] = {}
        for row in self.with_loss:
            runs.setdefault((row.name.partition("@")[0], row.context, row.seed), []).append(row)
        return runs

    def partners(self, row: Row, name: str) -> list[Row]:
        """Return the rows of a name that a row is compared with: same context, same seed."""
        return self.by_run.get((name, row.context, row.seed), [])

    def label(self, row: Row | Group) -> str:
        """Return how a row is called in a finding: its name, with context and seed where the table has several."""
        context = [value for value in row.context if len(self.contexts) > 1]
        seed = [f"seed {row.seed}"] if isinstance(row, Row) and row.seed else []
        words = ", ".join([*context, *seed])
        return f"{row.name} ({words})" if words else row.name

    def _runs(self, rows: Sequence[Row]) -> int | None:
        stated = [figure.value for row in rows if (figure := self.figure(row, N)) is not None]
        if stated and (len(rows) == 1 or not all(row.seed for row in rows)):
            return round(sum(stated))
        if SEED in self.columns:
            return len({row.seed for row in rows})
        return None if any(self.is_mean(row) for row in rows) else len(rows)


def load_table(
    source: str, baseline: str | None = None, metric: str | None = None, direction: str | None = None
) -> Table:
    """Load a table for the audit.

    Args:
        source: a CSV file with a header, or the name of a published study (or as much of it as says which).
        baseline: name of the row that others are compared with; None takes the row called so.
        metric: column that rows are compared by; None takes the validation loss in nats per token, or where there is
            none perplexity or accuracy, told by their names.
        direction: `min` where less of the metric is better, `max` where more is; needed where its name does not say it.

    Raises:
        AnalysisError: there is no such table, it lacks a column that is needed, nothing says which direction of the
            metric is better, or a figure is not a number.
    """
    path = Path(source)
    left_out: tuple[str, ...] = ()
    claims: tuple[Claim, ...] = ()
    if not path.is_file():
        if path.is_dir():
            raise AnalysisError(f"'{source}' is a folder: name a CSV file, such as the results.csv of a study's report")
        if path.suffix or "/" in source:
            raise AnalysisError(f"there is no file '{source}': name a CSV file, or a published study such as exp6")
        published = load_published(source)
        source, claims, left_out = published.study, published.claims, OWN_COLUMNS
        path = FOLDER / f"{source}.csv"
    header, lines = spreads_apart(path, *without_latex(path, *read_csv(path)))
    header = [column for column in header if column not in left_out]
    metric = None if metric is None else plain(metric)
    if metric is not None and metric not in header:
        raise unknown("metric", metric, header)
    empty = [column for column in header if all(_is_empty(row[column]) for _, row in lines)]
    full = [column for column in header if column not in empty]
    metric = metric or columns.compared_by(full)
    found = columns.roles(full, metric)
    if metric is None or NAME not in found:
        raise _lacking(path, OF_NAMES if metric else TO_COMPARE_BY, header, empty)
    if (n := stated_runs(metric)) and _are_one_row_a_name(found, lines):
        header, lines = [*header, RUNS], [(line, row | {RUNS: n}) for line, row in lines]
        found = columns.roles([*full, RUNS], metric)
    is_loss, better = columns.is_loss(metric), columns.better(path, metric, direction)
    refuse_direction(metric, direction, better)
    rows = tuple(_row(path, line, {column: row[column] for column in header}, found) for line, row in lines)
    if not any(found[LOSS][0] in row.figures for row in rows):
        raise AnalysisError(f"{path}: no row has a finite {found[LOSS][0]}")
    reasons = _without_inputs(found, rows, is_loss)
    taken = {column for names in found.values() for column in names}
    unread = [
        f"{column or '(unnamed)'}{' (empty)' if column in empty else ''}" for column in header if column not in taken
    ]
    names = list(dict.fromkeys(row.name.partition("@")[0] for row in rows))
    baseline = None if baseline is None else plain(baseline)
    if baseline is not None and baseline not in names:
        raise unknown("baseline", baseline, names)
    return Table(
        source=source,
        columns={role: names for role, names in found.items() if role not in reasons},
        rows=rows,
        not_checked=(*unread, *(f"{found[role][0]} ({reason})" for role, reason in reasons.items())),
        control=baseline or _control(names),
        is_loss=is_loss,
        direction=better,
        claims=claims if is_loss else (),
    )


def _are_one_row_a_name(found: Mapping[str, tuple[str, ...]], lines: Lines) -> bool:
    """Whether each name stands once in its context, and no column says which runs are behind it."""
    told = [column for role in (CONTEXT, NAME) for column in found.get(role, ())]
    names = [tuple(row[column] for column in told) for _, row in lines]
    return not {N, SEED} & set(found) and len(set(names)) == len(names)


def _lacking(path: Path, words: str, header: Sequence[str], empty: Sequence[str]) -> AnalysisError:
    """Return the error that a table has no column of names, or none to compare by."""
    seeds = columns.by_seed(header)
    if words == TO_COMPARE_BY and seeds:
        return AnalysisError(
            f"{path}: {listing(seeds)} look like one figure a seed: write one row a run, with columns variant, seed "
            "and val_loss"
        )
    has = ", ".join(f"{column} (empty)" if column in empty else column for column in header if column)
    hint = "; --metric names another" if words == TO_COMPARE_BY else ""
    return AnalysisError(f"{path}: no column {words}: it has {has}{hint}")


def _row(path: Path, line: int, raw: Mapping[str, str], found: Mapping[str, tuple[str, ...]]) -> Row:
    def word(role: str) -> str:
        return raw[found[role][0]] if role in found else ""

    if not word(NAME):
        raise AnalysisError(f"{path}, line {line}: {found[NAME][0]} is empty")
    figures = {
        column: Figure(printed, columns.unit(role, column))
        for role, names in found.items()
        if role not in WORDS
        for column in names
        if (printed := _printed(f"{path}, line {line}", column, raw[column])) is not None
    }
    runs = figures.get(found[N][0]) if N in found else None
    if runs is not None and (runs.value < 1 or not runs.value.is_integer()):
        raise AnalysisError(f"{path}, line {line}: {found[N][0]} must be a whole number from 1 but got '{runs.text}'")
    if word(SEED).lower() in SUMMARIES:
        raise AnalysisError(
            f"{path}, line {line}: {found[SEED][0]} is '{word(SEED)}': that row sums up runs and is none; leave such "
            "rows out"
        )
    context = tuple(raw[column] for column in found.get(CONTEXT, ()))
    return Row(
        line=line,
        name=word(NAME),
        context=context,
        seed=word(SEED),
        model=word(MODEL),
        words={
            column: raw[column]
            for role in (REPLICATED, MARKS)
            for column in found.get(role, ())
            if not _is_empty(raw[column])
        },
        figures=figures,
        fields={column: field for column, field in raw.items() if column},
    )


def number(field: str) -> Printed | None:
    """Return what stands in any field as a number; None where it is none."""
    try:
        return _printed("", "", field)
    except AnalysisError:
        return None


def _printed(where: str, column: str, text: str) -> Printed | None:
    """Return a figure as it was printed, or None for an empty field, NaN or infinity.

    Thousands may be set apart by commas, `<` may stand before (a bound counts as the figure), a percent sign or marks
    such as `*` may follow, and K, M or B stand for 10^3, 10^6 and 10^9.
    """
    if _is_empty(text):
        return None
    plain = re.sub(r"(?<=\d),(?=\d{3})", "", text.replace(MINUS, "-")).strip(" <%*\u2020\u2021")
    if plain[-1:] in ("K", "M", "B"):
        plain = f"{plain[:-1]}E{'KMB'.index(plain[-1]) * 3 + 3}"
    try:
        finite = Decimal(plain).is_finite() and math.isfinite(float(plain))
    except InvalidOperation as error:
        raise AnalysisError(f"{where}: {column} must be a number but got '{text}'") from error
    return Printed(plain) if finite else None


def _is_empty(text: str) -> bool:
    return text.lower() in (*NULLS, *DASHES)


def _without_inputs(found: Mapping[str, tuple[str, ...]], rows: Iterable[Row], is_loss: bool) -> dict[str, str]:
    """Return the roles that no rule can read, and why."""
    if not is_loss:
        of_the_loss = (PERPLEXITY, EFFICIENCY, LOSS_PER_MILLION)
        return {role: f"its formula needs the loss, not {found[LOSS][0]}" for role in of_the_loss if role in found}
    needs = {EFFICIENCY: (MINUTES, MILLION), LOSS_PER_MILLION: (MILLION,)}
    reasons = {}
    if MILLION in found:
        figures = [row.figures[found[MILLION][0]] for row in rows if found[MILLION][0] in row.figures]
        if any(figure.unit == columns.COUNT and not figure.printed.value.is_integer() for figure in figures):
            reasons[MILLION] = "not whole numbers: call it params_million if it is in millions"
    for role, inputs in needs.items():
        missing = [name for name in inputs if name not in found or name in reasons]
        if role in found and missing:
            unit = {MINUTES: "the training time (train_minutes)", MILLION: "the parameters (params_total)"}
            reasons[role] = f"its formula needs {' and '.join(unit[name] for name in missing)}"
    return reasons


def _control(names: Sequence[str]) -> str | None:
    """Return the one name that is, or else begins with, a word for the control; None where none or several do."""
    for word_of in (columns.normal, lambda name: columns.normal(name).partition("_")[0]):
        found = [name for name in names if word_of(name) in CONTROLS]
        if found:
            return found[0] if len(found) == 1 else None
    return None


def measured_columns(table: Table) -> tuple[str, ...]:
    """Return the columns of losses and accuracies."""
    return (*table.columns[LOSS], *table.columns.get(MEASURED, ()))
