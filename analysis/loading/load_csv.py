"""Anyone's table of results, or this project's `results.csv`, into `Results`."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from analysis.comparing import marks
from analysis.csv_file import NULLS, read_csv
from analysis.errors import AnalysisError
from analysis.schema import (
    CELL,
    CONFIG_HASH,
    DIVERGED,
    ERROR,
    FAILED,
    FINISHED,
    SEED,
    STATUS,
    STATUSES,
    STUDY,
    VAL_ACCURACY,
    VAL_LOSS,
    VAL_PERPLEXITY,
    result_columns,
)
from analysis.study.results import METRICS, Results
from analysis.study.runs import (
    DEFAULT_BASELINE,
    MARKS,
    NUMBERS,
    baselines_of,
    curves_table,
    direction_of,
    runs_table,
    unknown,
)
from analysis.table_audit import columns

VARIANT = "variant"
"""What others call a cell."""
SEED_LIMIT = 2**63
"""Seeds are stored in 64 bits, one of them the sign."""


@dataclass(frozen=True)
class _Compared:
    """What cells are compared by."""

    column: str
    """Of the file."""
    name: str
    """Of the table of runs: the column's own, or `val_loss` for a loss that the file has under another name."""
    direction: str
    """`min` where lower is better, `max` where higher is."""


def load_csv(
    path: Path, study: str | None, baseline: str | None, metric: str | None, direction: str | None = None
) -> Results:
    """Load a CSV with a header and one row a (cell, seed).

    Args:
        path: the file. Needed columns: `cell` (or `variant`), `seed` and the metric. Columns between cell and seed that
            have one value a cell are factors; all other columns of `schema.result_columns` are taken where they are
            there and null where not.
        study: the study to take, where the file has several.
        baseline: the cell to compare with; None is "baseline".
        metric: what cells are compared by: one of `METRICS`, or another column of the file; None is `val_loss`. A
            column with a name that the table audit knows as the validation loss becomes `val_loss`, in nats per token;
            of any other nothing is assumed but what its name says (more is better of an accuracy, less of a
            perplexity).
        direction: `min` where lower is better, `max` where higher is; needed where the metric's name does not say it.

    Raises:
        AnalysisError: a needed column is missing, a value is not what its column says (with its line), or nothing says
            which direction of the metric is better.
    """
    header, table = read_csv(path)
    wanted = metric or VAL_LOSS
    cell_column = CELL if CELL in header else VARIANT
    for name in (cell_column, SEED, wanted):
        if name not in header:
            what = "cell (or variant)" if name == VARIANT else name
            how = "; --metric names the column to compare cells by" if name == wanted else ""
            how = "; write one row a (cell, seed)" if name == SEED and columns.by_seed(header) else how
            raise AnalysisError(f"{path}: column '{what}' is missing: it has {', '.join(header)}{how}")
    compared = _compared(path, wanted, direction)
    name, table = _one_study(path, table, study)
    factors, notes = _factors(header, table, cell_column, compared.column)
    own = {cell_column, compared.column, *result_columns(factors)}
    if compared.column != compared.name:
        own.remove(compared.name)
        notes.append(f"{compared.name} is the column '{compared.column}' of {path.name}, taken as nats per token")
    unused = [column for column in header if column not in own]
    if unused:
        notes.append(f"columns of {path.name} that were not used: {', '.join(unused)}")
    rows = [_row(path, line, row, name, cell_column, compared, factors) for line, row in table]
    notes += _settle_statuses(rows, compared.name)
    cells = tuple(dict.fromkeys(row[CELL] for row in rows))
    baselines = baselines_of(cells, factors, baseline or DEFAULT_BASELINE)
    runs = runs_table(rows, factors, cells, compared.name)
    plan = {} if compared.name == VAL_LOSS else {"metric": compared.name, "direction": compared.direction}
    return Results(
        study=name,
        runs=runs,
        curves=curves_table([]),
        factors=factors,
        baselines=baselines,
        plan=plan,
        notes=tuple(notes),
    )


def _compared(path: Path, column: str, direction: str | None) -> _Compared:
    """Return what cells are compared by: what is better is told by the column's name, else by `direction`."""
    if column in METRICS:
        return _Compared(column, column, direction_of(column))
    if column in (CELL, VARIANT, *result_columns(())) and column not in NUMBERS:
        raise AnalysisError(f"{path}: --metric {column}: this column holds no figure that cells can be compared by")
    return _Compared(column, VAL_LOSS if columns.is_loss(column) else column, columns.better(path, column, direction))


def _one_study(
    path: Path, table: list[tuple[int, dict[str, str]]], study: str | None
) -> tuple[str, list[tuple[int, dict[str, str]]]]:
    studies = tuple(dict.fromkeys(row.get(STUDY) or path.stem for _, row in table))
    if study is None and len(studies) > 1:
        raise AnalysisError(f"{path} has {len(studies)} studies, choose one with --study: {', '.join(studies)}")
    chosen = study or studies[0]
    if chosen not in studies:
        raise unknown("study", chosen, studies)
    return chosen, [(line, row) for line, row in table if (row.get(STUDY) or path.stem) == chosen]


def _factors(
    header: list[str], table: list[tuple[int, dict[str, str]]], cell_column: str, metric: str
) -> tuple[tuple[str, ...], list[str]]:
    """Return the columns between cell and seed that are factors, and a note for each that is not.

    The column `metric` is neither.
    """
    between = header[header.index(cell_column) + 1 : header.index(SEED)]
    factors, notes = [], []
    for name in between:
        if name in (*result_columns(()), metric):
            continue
        levels: dict[str, set[str]] = {}
        for _, row in table:
            levels.setdefault(row[cell_column], set()).add(row[name])
        mixed = [cell for cell, values in levels.items() if len(values) > 1]
        if mixed:
            notes.append(f"column '{name}' is no factor: it varies within cell '{mixed[0]}'")
        else:
            factors.append(name)
    return tuple(factors), notes


def _row(
    path: Path,
    line: int,
    raw: dict[str, str],
    study: str,
    cell_column: str,
    compared: _Compared,
    factors: tuple[str, ...],
) -> dict[str, Any]:
    where = f"{path}, line {line}"
    row: dict[str, Any] = {STUDY: study, CELL: raw[cell_column], **{name: raw[name] for name in factors}}
    if not row[CELL]:
        raise AnalysisError(f"{where}: {cell_column} is empty")
    if marks.is_marked(row[CELL]):
        raise AnalysisError(
            f"{where}: {cell_column} '{row[CELL]}' ends in {marks.MARK}, by which a report marks what is no result: "
            "give it another name"
        )
    row[SEED] = _seed(where, raw[SEED])
    for name in dict.fromkeys((*NUMBERS, compared.name)):
        column = compared.column if name == compared.name else name
        row[name] = _number(where, column, raw.get(column, ""))
    status = raw.get(STATUS, "").lower()
    if status and status not in STATUSES:
        raise AnalysisError(f"{where}: status must be one of {', '.join(STATUSES)} but got '{raw[STATUS]}'")
    row |= {name: " ".join(raw.get(name, "").split()) for name in MARKS}
    return row | {STATUS: status or None, CONFIG_HASH: raw.get(CONFIG_HASH) or None, ERROR: raw.get(ERROR) or None}


def _seed(where: str, text: str) -> int:
    """Return a seed with all its digits: as a float one of more than 53 bits would be another."""
    try:
        seed = Decimal(text)
    except InvalidOperation:
        seed = Decimal("nan")
    if not seed.is_finite() or seed != seed.to_integral_value():
        raise AnalysisError(f"{where}: seed must be a whole number but got '{text}'")
    if not -SEED_LIMIT < seed < SEED_LIMIT:
        raise AnalysisError(f"{where}: seed must lie between -2^63 and 2^63 but got '{text}'")
    return int(seed)


def _number(where: str, column: str, text: str) -> float | None:
    """Return a number (which may be NaN or infinite), or None for an empty field."""
    if text.lower() in NULLS:
        return None
    try:
        return float(text)
    except ValueError as error:
        raise AnalysisError(f"{where}: {column} must be a number but got '{text}'") from error


def _settle_statuses(rows: list[dict[str, Any]], metric: str) -> list[str]:
    """Set the status that the metric allows: NaN or infinite is diverged, none at all is failed. Changes `rows`.

    Returns:
        notes with the counts of the rows whose status was changed or made up.
    """
    counts: Counter[str] = Counter()
    for row in rows:
        value = row[metric]
        if row[STATUS] in (FINISHED, None):
            status = FAILED if value is None else FINISHED if math.isfinite(value) else DIVERGED
            counts[status] += status != FINISHED
            row[STATUS] = status
        if row[STATUS] != FINISHED:
            row |= dict.fromkeys((VAL_LOSS, VAL_ACCURACY, VAL_PERPLEXITY))
    reasons = {DIVERGED: f"NaN or infinite {metric}", FAILED: f"no {metric}"}
    return [
        f"rows with {why}, counted as {status}: {counts[status]}" for status, why in reasons.items() if counts[status]
    ]
