"""The results of a study as every part of the analysis sees them: checked once, when they are made."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis import schema
from analysis.errors import AnalysisError
from analysis.statistics.looks import check_looks
from analysis.study.registered import registration

METRICS = (schema.VAL_LOSS, schema.VAL_ACCURACY, schema.VAL_PERPLEXITY, schema.TRAIN_LOSS)
"""Columns that a study's cells can be compared by. A table may bring another: a further column of its runs."""
NATS = (schema.VAL_LOSS, schema.TRAIN_LOSS)
"""Metrics in nats per token: their differences are also a percentage of perplexity."""
DIRECTIONS = ("min", "max")
LARGEST = 1e25
"""Of the metric, in size: squares of 1e154 overflow, and a figure has no room for the digits of more than this."""
AUDITS = (schema.CELL, schema.SEED, "audit", "severity", "evidence")
"""Columns of the table of what audits found, one row a finding; fields of `schema.Audit`."""
AUDIT_MARK = "audit."
"""Begins a mark that says which audit found a run invalid; the other marks are flaws."""


@dataclass(frozen=True)
class StudyAudit:
    """What an audit found by comparing the runs of a study."""

    audit: schema.Audit
    cells: tuple[str, ...]
    """Those that it is about; none where it is about the study as a whole."""


@dataclass(frozen=True)
class Results:
    """The runs of one study; constructing it refuses what cannot be analysed (AnalysisError, one line)."""

    study: str
    runs: pd.DataFrame
    """Columns `schema.result_columns(factors)` and a metric that is none of them; one row a (cell, seed)."""
    curves: pd.DataFrame
    """Columns cell, seed and `schema.CURVE_COLUMNS`; may be empty."""
    factors: tuple[str, ...]
    baselines: dict[str, str]
    """Cell -> the cell it is compared with (itself for a baseline)."""
    plan: dict[str, Any] = dataclasses.field(default_factory=dict)
    """The study's `plan.json`; empty where there is none."""
    notes: tuple[str, ...] = ()
    """What was left out in loading, counted, in words."""
    audits: pd.DataFrame = dataclasses.field(default_factory=lambda: pd.DataFrame(columns=list(AUDITS)))
    """What the audits found: columns AUDITS; empty where they found nothing or the source does not say."""
    audited: int = 0
    """Runs whose audits are known to have run."""
    study_audits: tuple[StudyAudit, ...] = ()
    """What audits found by comparing runs, beside what they found in single ones."""
    params_dead: Mapping[tuple[str, int], int] = dataclasses.field(default_factory=dict)
    """(cell, seed) -> parameters that training never reached; runs of which nothing is known are not there."""
    scores: Mapping[tuple[str, int], schema.DocumentScores] = dataclasses.field(default_factory=dict)
    """(cell, seed) -> its last evaluation by document; empty where the source does not say."""
    folder: Path | None = None
    """The study's folder, where the results are from one."""
    test: Mapping[tuple[str, int], Mapping[str, float | None]] = dataclasses.field(default_factory=dict)
    """(cell, seed) -> TEST_LOSS and TEST_ACCURACY: sealed; `final_test` alone reads it."""
    test_openings: tuple[Mapping[str, Any], ...] = ()
    """When the test split was opened (`when`), and with which runs (`runs`: their addresses)."""
    include_invalid: bool = False
    """Whether runs that an audit found invalid are in the numbers all the same (and carry a mark)."""

    def __post_init__(self) -> None:
        _check_rows(self)
        _check_values(self)
        _check_cells(self)

    @property
    def metric(self) -> str:
        """Column that cells are ranked and compared by."""
        return str(self.plan.get("metric", schema.VAL_LOSS))

    @property
    def direction(self) -> str:
        """`min` where lower is better, `max` where higher is."""
        return str(self.plan.get("direction", "min"))

    @cached_property
    def looks(self) -> tuple[int, ...]:
        """Seeds at which the plan lets comparisons be tested, where it does so more than once; else empty."""
        plan = registration(self.plan)
        looks = plan.registered.looks if plan else ()
        return check_looks(looks) if len(looks) > 1 else ()

    @cached_property
    def cells(self) -> pd.DataFrame:
        """Level of each factor (columns) of each cell (index), in the plan's order; with cells that have no run."""
        planned = {cell["name"]: cell for cell in self.plan.get("cells", ())}
        rows = {name: [cell["factors"].get(f, cell.get(f)) for f in self.factors] for name, cell in planned.items()}
        for row in self.runs.drop_duplicates(schema.CELL).to_dict("records"):
            rows.setdefault(row[schema.CELL], [row[f] for f in self.factors])
        frame = pd.DataFrame.from_dict(rows, orient="index", columns=list(self.factors), dtype=object)
        return frame.rename_axis(schema.CELL)

    @cached_property
    def scales(self) -> pd.Series:
        """Scale of each cell; empty text where scale is no factor."""
        if schema.SCALE in self.factors:
            return self.cells[schema.SCALE].astype(str)
        return pd.Series("", index=self.cells.index, name=schema.SCALE, dtype=object)

    def as_reported(self, include_invalid: bool = False) -> Results:
        """Return these results as a report takes them.

        Runs that an audit found invalid are in the numbers where that is asked for, or where the plan says that the
        study was trained under flaws: what audits find there is what it is to show.
        """
        return dataclasses.replace(self, include_invalid=include_invalid or bool(self.plan.get("flaws")))

    @cached_property
    def left_out(self) -> pd.Series:
        """For each run whether it is in no number because an audit found it invalid."""
        return (self.runs[schema.INVALID] != "") & (not self.include_invalid)

    @cached_property
    def counted(self) -> pd.DataFrame:
        """The runs that numbers are made of: finished, and not left out."""
        return self.runs[(self.runs[schema.STATUS] == schema.FINISHED) & ~self.left_out]

    @cached_property
    def statuses(self) -> pd.DataFrame:
        """How each run ended, `invalid` where it is left out: cells (all, in order) x seeds; null where no run is."""
        statuses = self.runs[schema.STATUS].mask(self.left_out, schema.INVALID)
        return self._by_seed(self.runs.assign(**{schema.STATUS: statuses}), schema.STATUS, object)

    @cached_property
    def marks(self) -> dict[str, frozenset[str]]:
        """Cell -> why its numbers are no results, for the cells that have such a mark.

        A mark is the name of a flaw that a run was trained under, or AUDIT_MARK with the name of an audit that found a
        run invalid which is in the numbers all the same.
        """
        found: dict[str, set[str]] = {}
        columns = self.runs[[schema.CELL, schema.FLAWS, schema.INVALID]].drop_duplicates()
        for cell, flaws, invalid in columns.itertuples(index=False):
            names = {*flaws.split(), *(AUDIT_MARK + name for name in invalid.split() if self.include_invalid)}
            if names:
                found.setdefault(cell, set()).update(names)
        return {cell: frozenset(names) for cell, names in found.items()}

    def marks_of(self, cells: Iterable[str]) -> str:
        """Return the marks of numbers that are made of these cells: names by spaces, empty for a result."""
        return " ".join(sorted(set().union(*(self.marks.get(cell, ()) for cell in cells))))

    @property
    def has_one_factor(self) -> bool:
        """Whether cells of a scale differ in one factor alone: each difference is then one of that factor's levels."""
        return len(set(self.factors) - {schema.SCALE}) == 1

    def off_level(self, factor: str, scale: str) -> Any:
        """Return the level that means "without": 0 where the factor has it, else that of the scale's baseline."""
        levels = self.cells.loc[self.scales == scale, factor]
        if (levels == 0).any():
            return 0
        return next((levels[self.baselines[cell]] for cell in levels.index if cell in self.baselines), levels.iloc[0])

    def finished(self, column: str) -> pd.DataFrame:
        """Return a column of the counted runs: cells (all, in order) x seeds (rising), float, NaN elsewhere."""
        return self._by_seed(self.counted, column, float)

    def live_parameters(self) -> pd.DataFrame:
        """Return the parameters that training reached, as `finished` does; all, where no audit counted the others.

        Of a cell's runs the one with the fewest unreached counts: single rows that a short run leaves out by chance, in
        one seed and not in another, make no model smaller.
        """
        total = self.finished(schema.PARAMS_TOTAL)
        if not self.params_dead:
            return total
        dead = pd.Series(dict(self.params_dead), dtype=float).unstack().min(axis=1)
        return total.sub(dead.reindex(total.index).fillna(0.0), axis=0)

    def test_losses(self) -> pd.DataFrame:
        """Return the test losses of the counted runs, as `finished` does. For `final_test` alone."""
        found = zip(self.counted[schema.CELL], self.counted[schema.SEED], strict=True)
        losses = pd.Series([(self.test.get(run) or {}).get(schema.TEST_LOSS) for run in found], dtype=float)
        losses.index = self.counted.index
        return self._by_seed(self.counted.assign(**{schema.TEST_LOSS: losses}), schema.TEST_LOSS, float)

    def count(self, status: str) -> pd.Series:
        """Return how many runs of each cell ended with a status, or are left out (`schema.INVALID`)."""
        return (self.statuses == status).sum(axis=1)

    def _by_seed(self, runs: pd.DataFrame, column: str, dtype: type) -> pd.DataFrame:
        seeds = pd.Index(sorted(self.runs[schema.SEED].unique()), name=schema.SEED)
        table: np.ndarray = np.full((len(self.cells), len(seeds)), np.nan, dtype=dtype)
        places = (
            self.cells.index.get_indexer(pd.Index(runs[schema.CELL])),
            seeds.get_indexer(pd.Index(runs[schema.SEED])),
        )
        table[places] = runs[column].to_numpy(dtype=dtype)
        return pd.DataFrame(table, index=self.cells.index, columns=seeds, dtype=dtype)


def _check_rows(results: Results) -> None:
    """Refuse missing columns, no rows, nulls in what identifies a run, and a (cell, seed) that is there twice."""
    runs = results.runs
    missing = [name for name in schema.result_columns(results.factors) if name not in runs.columns]
    _require(not missing, f"study '{results.study}': the runs lack {_names(missing)}")
    _require(len(runs) > 0, f"study '{results.study}' has no runs to analyse")
    for column in (schema.CELL, schema.SEED, schema.STATUS):
        bad = int(runs[column].isna().sum())
        _require(bad == 0, f"study '{results.study}': {bad} runs have no {column}")
    twice = runs[runs.duplicated([schema.CELL, schema.SEED])]
    if len(twice):
        cell, seed = twice.iloc[0][schema.CELL], twice.iloc[0][schema.SEED]
        others = f" (and {len(twice) - 1} more)" if len(twice) > 1 else ""
        raise AnalysisError(f"cell '{cell}' has more than one run with seed {seed}{others}: keep one a (cell, seed)")
    unknown = set(runs[schema.STATUS]) - set(schema.STATUSES)
    _require(not unknown, f"unknown status {_names(unknown)}: known: {', '.join(schema.STATUSES)}")


def _check_values(results: Results) -> None:
    """Refuse an unknown metric or direction, and finished runs without a finite metric or with infinite figures."""
    metric, direction = results.metric, results.direction
    _require(metric in results.runs, f"unknown metric '{metric}': known: {', '.join(METRICS)}")
    _require(direction in DIRECTIONS, f"unknown direction '{direction}': known: {', '.join(DIRECTIONS)}")
    runs = results.runs[results.runs[schema.STATUS] == schema.FINISHED]
    for column in dict.fromkeys((metric, *METRICS, schema.TRAIN_SECONDS, schema.PEAK_MEMORY_BYTES)):
        try:
            values = runs[column].astype(float)
        except (TypeError, ValueError) as error:
            raise AnalysisError(f"{column} of a finished run is not a number: {error}") from error
        bad = ~np.isfinite(values) if column == metric else np.isinf(values)
        if bad.any():
            first = runs[bad].iloc[0]
            others = f" (and {int(bad.sum()) - 1} more)" if bad.sum() > 1 else ""
            raise AnalysisError(
                f"cell '{first[schema.CELL]}', seed {first[schema.SEED]}{others} finished with {column} = "
                f"{values[bad].iloc[0]}: a finished run needs finite figures (status '{schema.DIVERGED}' is for others)"
            )
    absurd = runs[runs[metric].astype(float).abs() > LARGEST]
    if len(absurd):
        first = absurd.iloc[0]
        others = f" (and {len(absurd) - 1} more)" if len(absurd) > 1 else ""
        raise AnalysisError(
            f"cell '{first[schema.CELL]}', seed {first[schema.SEED]}{others} finished with {metric} = "
            f"{first[metric]:g}: beyond {LARGEST:g} nothing can be computed; if the run diverged, say so by nan "
            f"or inf, or by the status '{schema.DIVERGED}'"
        )


def _check_cells(results: Results) -> None:
    """Refuse a cell whose runs differ in their factors, or whose baseline is missing or of another scale."""
    factors = list(results.factors)
    distinct = results.runs[[schema.CELL, *factors]].drop_duplicates()
    mixed = distinct[distinct.duplicated(schema.CELL)]
    if len(mixed):
        raise AnalysisError(f"cell '{mixed.iloc[0][schema.CELL]}' has runs with different levels of {_names(factors)}")
    cells = set(results.runs[schema.CELL])
    for cell in (name for name in results.cells.index if name in cells):
        _require(cell in results.baselines, f"cell '{cell}' has no baseline to be compared with")
        baseline = results.baselines[cell]
        _require(
            baseline in cells, f"baseline '{baseline}' of cell '{cell}' has no run: cells: {', '.join(sorted(cells))}"
        )
        _require(
            results.scales[cell] == results.scales[baseline],
            f"cell '{cell}' ({results.scales[cell]}) and its baseline '{baseline}' ({results.scales[baseline]}) "
            "are of different scales",
        )


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise AnalysisError(message)


def _names(names: Any) -> str:
    return ", ".join(f"'{name}'" for name in names)
