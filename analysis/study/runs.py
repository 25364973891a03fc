"""The table of runs that every source is turned into: one row a (cell, seed), columns as in `schema.result_columns`."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.errors import AnalysisError
from analysis.schema import (
    AUDITS_RUN,
    CELL,
    CONFIG_HASH,
    CURVE_COLUMNS,
    ERROR,
    FLAWS,
    INVALID,
    RESULT_COLUMNS_AFTER_FACTORS,
    SCALE,
    SEED,
    STATUS,
    STUDY,
    VAL_ACCURACY,
    VAL_LOSS,
    Audit,
    require_version,
    result_columns,
)
from analysis.study.results import AUDITS, METRICS

MARKS = (FLAWS, INVALID)
"""Result columns that hold names by spaces: empty text where there are none."""
NUMBERS = tuple(name for name in RESULT_COLUMNS_AFTER_FACTORS if name not in (SEED, STATUS, CONFIG_HASH, ERROR, *MARKS))
"""Result columns that hold measured numbers: float64 in memory, so that null is NaN everywhere."""
WHOLE, DECIMAL = r"[+-]?\d+", r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?"
DEFAULT_BASELINE = "baseline"


def runs_table(
    rows: Sequence[Mapping[str, Any]], factors: tuple[str, ...], order: Iterable[str], metric: str = VAL_LOSS
) -> pd.DataFrame:
    """Build the table of runs in canonical order: cells as in `order`, then by seed.

    Args:
        rows: mappings of `schema.result_columns(factors)`; columns that are not there become null.
        factors: names of the factors.
        order: cell names; cells that it lacks come after, in the order of the rows.
        metric: what cells are compared by; a column of its own, the last, where it is no result column.

    Returns:
        seed int64, measured numbers float64 with NaN for null, texts `object` with None for null, MARKS never null.

    Raises:
        AnalysisError: two rows are of one (cell, seed).
    """
    columns = list(dict.fromkeys((*result_columns(factors), metric)))
    runs = pd.DataFrame(list(rows), columns=columns, dtype=object)
    twice = runs[runs.duplicated([CELL, SEED])]
    if len(twice):
        first = twice.iloc[0]
        raise AnalysisError(
            f"{len(twice)} rows repeat a (cell, seed), the first is cell '{first[CELL]}', seed {first[SEED]}: "
            "keep one row a (cell, seed), or give each run a seed of its own"
        )
    runs[SEED] = runs[SEED].astype("int64")
    for name in dict.fromkeys((*NUMBERS, metric)):
        runs[name] = pd.to_numeric(runs[name]).astype("float64")
    for name in (STUDY, CELL, STATUS, CONFIG_HASH, ERROR):
        runs[name] = runs[name].astype(object).where(runs[name].notna(), None)
    for name in MARKS:
        runs[name] = runs[name].where(runs[name].notna(), "")
    for name in factors:
        runs[name] = _levels(runs[name])
    places: dict[str, int] = {}
    for cell in (*order, *runs[CELL]):
        places.setdefault(cell, len(places))
    return runs.sort_values([CELL, SEED], key=lambda s: s.map(places) if s.name == CELL else s, ignore_index=True)


def _levels(column: pd.Series) -> pd.Series:
    """Return factor levels as whole numbers, else as numbers, else as text: the same from JSON and from CSV."""
    texts = column.map(str)
    if texts.str.fullmatch(WHOLE).all():
        return texts.astype("int64")
    if texts.str.fullmatch(DECIMAL).all():
        return texts.astype("float64")
    return texts.astype(object)


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a table as mappings."""
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def curves_table(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Build the table of curves: cell, seed and `schema.CURVE_COLUMNS` (float64, NaN for null)."""
    curves = pd.DataFrame(list(rows), columns=[CELL, SEED, *CURVE_COLUMNS], dtype=object)
    curves[SEED] = curves[SEED].astype("int64")
    for name in CURVE_COLUMNS:
        curves[name] = pd.to_numeric(curves[name]).astype("float64")
    return curves


def audits_table(runs: Iterable[tuple[str, int, Iterable[Audit]]]) -> pd.DataFrame:
    """Build the table of what audits found (columns `results.AUDITS`) from (cell, seed, audits) of each run."""
    rows = [(cell, seed, audit.name, audit.severity, audit.evidence) for cell, seed, found in runs for audit in found]
    return pd.DataFrame(rows, columns=list(AUDITS))


def was_audited(environment: Mapping[str, str]) -> bool:
    """Return whether what a run recorded of its making names the audits that ran."""
    return bool(environment.get(AUDITS_RUN))


def with_metric(plan: Mapping[str, Any], metric: str) -> dict[str, Any]:
    """Return the plan with another metric to compare cells by.

    Raises:
        AnalysisError: a study's cells cannot be compared by it.
    """
    if metric not in METRICS:
        raise unknown("metric", metric, METRICS)
    return {**plan, "metric": metric, "direction": direction_of(metric)}


def direction_of(metric: str) -> str:
    """Return which direction of one of METRICS is better: more for accuracy alone."""
    return "max" if metric == VAL_ACCURACY else "min"


def refuse_direction(metric: str, wanted: str | None, direction: str) -> None:
    """Refuse a wanted direction that is not the metric's.

    Raises:
        AnalysisError: it is another.
    """
    if wanted not in (None, direction):
        better = "lower" if direction == "min" else "higher"
        raise AnalysisError(f"--direction {wanted}: of {metric} {better} is better: leave it out")


def baselines_of(cells: Sequence[str], factors: tuple[str, ...], baseline: str) -> dict[str, str]:
    """Return for each cell the one it is compared with: `baseline`, within the cell's scale where scale is a factor.

    Raises:
        AnalysisError: there is no such cell.
    """
    chosen = {}
    for cell in cells:
        scaled = f"{baseline}@{cell.rpartition('@')[2]}" if SCALE in factors and "@" in cell else baseline
        if scaled not in cells:
            raise AnalysisError(f"{unknown('baseline', scaled, cells)}; --baseline names the cell to compare with")
        chosen[cell] = scaled
    return chosen


def baselines_of_plan(plan: Mapping[str, Any], baseline: str | None) -> dict[str, str]:
    """Return the cell that each planned cell is compared with: the plan's, unless another is wanted."""
    if baseline is None:
        return {cell["name"]: cell["baseline"] for cell in plan["cells"]}
    return baselines_of([cell["name"] for cell in plan["cells"]], tuple(plan["factors"]), baseline)


def parse_plan(text: str, where: str) -> dict[str, Any]:
    """Return the plan in a `plan.json`.

    Raises:
        AnalysisError: it is not one.
    """
    try:
        plan = json.loads(text)
    except json.JSONDecodeError as error:
        raise AnalysisError(f"{where} is not JSON: {error}") from error
    missing = [key for key in ("study", "factors", "cells", "seeds") if not isinstance(plan, dict) or key not in plan]
    if missing:
        raise AnalysisError(f"{where} is not a study's plan: it has no {', '.join(missing)}")
    try:
        require_version(plan)
    except ValueError as error:
        raise AnalysisError(f"{where}: {error}") from error
    keys = ("name", "factors", "baseline", "hashes")
    missing = [key for key in keys if any(key not in cell for cell in plan["cells"])]
    if missing:
        raise AnalysisError(f"{where} is not a study's plan: a cell of it has no {', '.join(missing)}")
    return plan


def resolve_plan(
    plan: Mapping[str, Any], environments: Iterable[Mapping[str, str]], metric: str | None
) -> dict[str, Any]:
    """Return the plan as the report needs it: with the metric that is wanted and where the runs were made.

    The entry `environment` maps what the runs recorded of their machine (versions, hardware, commit) to its value;
    where runs differ the values stand side by side.
    """
    values: dict[str, dict[str, None]] = {}
    for environment in environments:
        for name, value in environment.items():
            values.setdefault(name, {})[value] = None
    merged = {name: "; ".join(seen) for name, seen in sorted(values.items())}
    return {**(with_metric(plan, metric) if metric else plan), "environment": merged}


def unknown(what: str, name: str, known: Iterable[str]) -> AnalysisError:
    """Return the error for a name that is not there: the nearest that is, and all that are."""
    choices = list(dict.fromkeys(known))
    near = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'? " if near else ""
    return AnalysisError(f"unknown {what} '{name}': {hint}there are: {', '.join(choices) or 'none'}")
