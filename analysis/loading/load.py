"""Results from wherever they are: a study's folder, anyone's CSV, an MLflow store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from analysis.audits import budget, confound
from analysis.audits.same_model import mark_same_models
from analysis.comparing.final_test import read_openings
from analysis.errors import AnalysisError
from analysis.loading.load_csv import load_csv
from analysis.loading.load_mlflow import is_tracking_uri, load_mlflow
from analysis.schema import CELL, PLAN_FILE, SEED, TrialRecord, read_failures, read_records, read_replays
from analysis.study.results import Results
from analysis.study.runs import (
    audits_table,
    baselines_of_plan,
    curves_table,
    parse_plan,
    refuse_direction,
    resolve_plan,
    runs_table,
    unknown,
    was_audited,
)


def load_results(
    source: str | Path,
    study: str | None = None,
    baseline: str | None = None,
    metric: str | None = None,
    direction: str | None = None,
) -> Results:
    """Load the results of one study.

    Args:
        source: a study's folder (plan.json and records), a CSV with one row a (cell, seed), or an MLflow tracking URI.
        study: which study, where the source has several.
        baseline: the cell to compare with (within each scale); None takes the plan's, or "baseline" where no plan is.
        metric: what to compare cells by, one of `results.METRICS`; None takes the plan's, or `val_loss`. Of a CSV any
            column of figures may be named (see `load_csv`).
        direction: `min` where a lower metric is better, `max` where a higher is: where its name does not say it.

    Raises:
        AnalysisError: there is nothing to load, or it is not what it should be.
    """
    results = _load(source, study, baseline, metric, direction)
    refuse_direction(results.metric, direction, results.direction)
    return results


def _load(
    source: str | Path, study: str | None, baseline: str | None, metric: str | None, direction: str | None
) -> Results:
    if is_tracking_uri(str(source)):
        return load_mlflow(str(source), study, baseline, metric)
    path = Path(source)
    if path.is_dir():
        return load_folder(path, study, baseline, metric)
    if path.is_file():
        return load_csv(path, study, baseline, metric, direction)
    raise AnalysisError(
        f"there is no '{source}': a source is a study's folder, a CSV file, "
        "or an MLflow tracking URI such as sqlite:///mlflow.db"
    )


def load_folder(folder: Path, study: str | None, baseline: str | None, metric: str | None) -> Results:
    """Load a study's folder; every record must be one that the plan asked for."""
    plan = _read_plan(folder / PLAN_FILE)
    if study not in (None, plan["study"]):
        raise unknown("study", str(study), [plan["study"]])
    records = _read_records(folder)
    if not records:
        raise AnalysisError(f"{folder} has no records: nothing of the study has ended yet")
    _check_addresses(folder, plan, records)
    records = mark_same_models(records, plan)
    cells = [cell["name"] for cell in plan["cells"]]
    factors = tuple(plan["factors"])
    runs = runs_table([record.result_row() for record in records], factors, cells)
    curves = curves_table([{CELL: r.cell, SEED: r.seed, **row} for r in records for row in r.rows])
    return Results(
        study=plan["study"],
        runs=runs,
        curves=curves,
        factors=factors,
        baselines=baselines_of_plan(plan, baseline),
        folder=folder,
        test={(record.cell, record.seed): record.test for record in records if record.test},
        test_openings=read_openings(folder),
        plan=resolve_plan(plan, [record.environment for record in records], metric),
        audits=audits_table((record.cell, record.seed, record.audits) for record in records),
        audited=sum(was_audited(record.environment) for record in records),
        study_audits=(*confound.audit(records, plan, read_replays(folder)), *budget.audit(records, plan)),
        params_dead={(r.cell, r.seed): r.params_dead for r in records if r.params_dead is not None},
        scores={(record.cell, record.seed): record.scores for record in records if record.scores is not None},
    )


def _read_plan(path: Path) -> dict[str, Any]:
    try:
        return parse_plan(path.read_text(), str(path))
    except FileNotFoundError as error:
        raise AnalysisError(f"{path.parent} is no study's folder: it has no {path.name}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise AnalysisError(f"{path} cannot be read: {error}") from error


def _read_records(folder: Path) -> list[TrialRecord]:
    """Read the records, and of the runs that have none the failures."""
    try:
        return [*read_records(folder), *read_failures(folder)]
    except (ValueError, OSError) as error:
        raise AnalysisError(str(error)) from error


def _check_addresses(folder: Path, plan: dict[str, Any], records: list[TrialRecord]) -> None:
    """Refuse a record that the plan has no place for: its figures would be of something else."""
    hashes = {cell["name"]: cell["hashes"] for cell in plan["cells"]}
    for record in records:
        if hashes.get(record.cell, {}).get(str(record.seed)) != record.config_hash:
            raise AnalysisError(
                f"{folder}: record {record.config_hash}.json (cell '{record.cell}', seed {record.seed}) "
                f"is not a run of {PLAN_FILE}: move it elsewhere"
            )
