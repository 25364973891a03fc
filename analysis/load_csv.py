"""Anyone's table of results, or this project's `results.csv`, into `Results`."""

from __future__ import annotations

import csv
import math
from collections import Counter
from pathlib import Path
from typing import Any

from analysis.errors import AnalysisError
from analysis.results import METRICS, Results
from analysis.runs import (
    DEFAULT_BASELINE,
    MARKS,
    NUMBERS,
    baselines_of,
    curves_table,
    runs_table,
    unknown,
    with_metric,
)
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

VARIANT = "variant"
"""What others call a cell."""
NULLS = ("", "na", "none", "null")


def load_csv(path: Path, study: str | None, baseline: str | None, metric: str | None) -> Results:
    """Load a CSV with a header and one row a (cell, seed).

    Args:
        path: the file. Needed columns: `cell` (or `variant`), `seed` and the metric. Columns between cell and seed that
            have one value a cell are factors; all other columns of `schema.result_columns` are taken where they are
            there and null where not.
        study: the study to take, where the file has several.
        baseline: the cell to compare with; None is "baseline".
        metric: what cells are compared by: one of `METRICS`, or another column of the file, which is then taken as the
            validation loss in nats per token and becomes `val_loss`; None is `val_loss`.

    Raises:
        AnalysisError: a needed column is missing, or a value is not what its column says (with its line).
    """
    header, table = read_csv(path)
    metric = metric or VAL_LOSS
    loss = VAL_LOSS if metric in METRICS else metric
    cell_column = CELL if CELL in header else VARIANT
    for name in (cell_column, SEED, metric):
        if name not in header:
            what = "cell (or variant)" if name == VARIANT else name
            how = "; --metric names the column that holds the validation loss" if name == metric else ""
            raise AnalysisError(f"{path}: column '{what}' is missing: it has {', '.join(header)}{how}")
    name, table = _one_study(path, table, study)
    factors, notes = _factors(header, table, cell_column, loss)
    own = {*result_columns(factors), cell_column, loss}
    unused = [column for column in header if column not in own]
    if unused:
        notes.append(f"columns of {path.name} that were not used: {', '.join(unused)}")
    if loss != VAL_LOSS:
        notes.append(f"val_loss is the column '{loss}' of {path.name}, taken as nats per token")
    rows = [_row(path, line, row, name, cell_column, loss, factors) for line, row in table]
    metric = metric if metric in METRICS else VAL_LOSS
    notes += _settle_statuses(rows, metric)
    cells = tuple(dict.fromkeys(row[CELL] for row in rows))
    baselines = baselines_of(cells, factors, baseline or DEFAULT_BASELINE)
    runs = runs_table(rows, factors, cells)
    plan = {} if metric == VAL_LOSS else with_metric({}, metric)
    return Results(
        study=name,
        runs=runs,
        curves=curves_table([]),
        factors=factors,
        baselines=baselines,
        plan=plan,
        notes=tuple(notes),
    )


def read_csv(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Return the header and (line number, row) pairs; fields are stripped.

    Raises:
        AnalysisError: it cannot be read, has no rows, a column twice, or a line of another length.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip() for name in next(reader, [])]
            rows = [(reader.line_num, values) for values in reader if values]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise AnalysisError(f"{path} cannot be read as CSV: {error}") from error
    twice = [name for name, count in Counter(header).items() if count > 1]
    if twice:
        raise AnalysisError(f"{path}: column '{twice[0]}' is there twice")
    for line, values in rows:
        if len(values) != len(header):
            raise AnalysisError(f"{path}, line {line}: {len(values)} values for {len(header)} columns")
    if not rows:
        raise AnalysisError(f"{path} has no rows")
    return header, [(line, dict(zip(header, map(str.strip, values), strict=True))) for line, values in rows]


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
    header: list[str], table: list[tuple[int, dict[str, str]]], cell_column: str, loss: str
) -> tuple[tuple[str, ...], list[str]]:
    """Return the columns between cell and seed that are factors, and a note for each that is not."""
    between = header[header.index(cell_column) + 1 : header.index(SEED)]
    factors, notes = [], []
    for name in between:
        if name in (*result_columns(()), loss):
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
    path: Path, line: int, raw: dict[str, str], study: str, cell_column: str, loss: str, factors: tuple[str, ...]
) -> dict[str, Any]:
    where = f"{path}, line {line}"
    row: dict[str, Any] = {STUDY: study, CELL: raw[cell_column], **{name: raw[name] for name in factors}}
    if not row[CELL]:
        raise AnalysisError(f"{where}: {cell_column} is empty")
    seed = _number(where, SEED, raw[SEED])
    if seed is None or not seed.is_integer():
        raise AnalysisError(f"{where}: seed must be a whole number but got '{raw[SEED]}'")
    row[SEED] = int(seed)
    for name in NUMBERS:
        column = loss if name == VAL_LOSS else name
        row[name] = _number(where, column, raw.get(column, ""))
    status = raw.get(STATUS, "").lower()
    if status and status not in STATUSES:
        raise AnalysisError(f"{where}: status must be one of {', '.join(STATUSES)} but got '{raw[STATUS]}'")
    row |= {name: " ".join(raw.get(name, "").split()) for name in MARKS}
    return row | {STATUS: status or None, CONFIG_HASH: raw.get(CONFIG_HASH) or None, ERROR: raw.get(ERROR) or None}


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
