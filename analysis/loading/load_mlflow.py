"""A study out of this project's MLflow store: one parent run a study, one nested run a (cell, seed).

The parent holds `plan.json` as an artifact; a nested run's tags say what it is, its metrics have the names of
`schema.CURVE_COLUMNS` and the optimizer update as their step.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from analysis.errors import AnalysisError
from analysis.schema import (
    CELL,
    CONFIG_HASH,
    ERROR,
    FINISHED,
    FLAWS,
    INVALID,
    PARAMS_DEAD,
    PLAN_FILE,
    RESULT_COLUMNS_AFTER_FACTORS,
    SEED,
    SEVERITIES,
    STATUS,
    STEP,
    STEPS,
    STUDY,
    TOKENS,
    TRAIN_SECONDS,
    VAL_ACCURACY,
    VAL_LOSS,
    VAL_PERPLEXITY,
    Audit,
)
from analysis.study.results import Results, StudyAudit
from analysis.study.runs import (
    DEFAULT_BASELINE,
    audits_table,
    baselines_of,
    baselines_of_plan,
    curves_table,
    parse_plan,
    resolve_plan,
    runs_table,
    unknown,
    was_audited,
    with_metric,
)
from analysis.tracking.names import AUDIT_TAG, PARENT_TAG, PREFIX
from analysis.tracking.store import ask_server, not_installed
from analysis.tracking.stored_runs import MOST_CURVES, Point, StoredRun, stored_curves, stored_runs
from analysis.tracking.uris import public, split_credentials

if TYPE_CHECKING:
    from mlflow import MlflowClient

LABELS = (
    "study", "cell", "scale", "factor", "factors", "seed", "config_hash", "corpus_hash", "status", "error", "protocol",
    "flaws", "audit",
)  # fmt: skip
"""Tags (up to a dot) that say what a run is; all others under PREFIX say where it was made."""
CURVES = (TOKENS, TRAIN_SECONDS, VAL_LOSS)
"""Metrics whose history is read: those that are drawn."""
NO_DOCUMENTS = (
    "MLflow keeps no losses by document: errors over documents, and what they leave of each difference, are in the "
    "report of the study's folder"
)
PATIENCE = 10.0
"""Seconds to wait for a server's first answer."""


def is_tracking_uri(source: str) -> bool:
    """Return whether the text is an MLflow tracking URI rather than a path."""
    return "://" in source


def load_mlflow(uri: str, study: str | None, baseline: str | None, metric: str | None) -> Results:
    """Load a study from an MLflow store; runs that have not ended are left out and counted.

    Raises:
        AnalysisError: the store does not answer, holds no study of this project, or several and none was named.
    """
    client = _client(uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    studies = list(_studies(client, experiments))
    if not studies:
        raise AnalysisError(f"{public(uri)} has no study: no run has the tag {PREFIX}study")
    if study is None and len(studies) > 1:
        raise AnalysisError(f"{public(uri)} has {len(studies)} studies, choose one with --study: {', '.join(studies)}")
    chosen = study or studies[0]
    if chosen not in studies:
        raise unknown("study", chosen, studies)
    children = stored_runs(client, experiments, chosen)
    ended = [run for run in children if PREFIX + "status" in run.tags]
    if not ended:
        raise AnalysisError(f"study '{chosen}' in {public(uri)} has no run that has ended")
    notes = []
    if len(ended) < len(children):
        notes.append(f"runs in MLflow that have not ended, left out: {len(children) - len(ended)}")
    _refuse_copies(ended, chosen, public(uri))
    parents = sorted({run.tags[PARENT_TAG] for run in ended if PARENT_TAG in run.tags})
    plan = _plan(client, parents)
    levels = [json.loads(run.label("factors")) for run in ended]
    factors = tuple(plan["factors"] if plan else levels[0])
    rows = [_row(run, factor) for run, factor in zip(ended, levels, strict=True)]
    runs = runs_table(rows, factors, [cell["name"] for cell in plan.get("cells", ())])
    if plan:
        baselines = baselines_of_plan(plan, baseline)
        plan = resolve_plan(plan, map(_environment, ended), metric)
    else:
        notes.append(f"the study has no {PLAN_FILE} in MLflow: cells are in the order of the store")
        baselines = baselines_of(tuple(dict.fromkeys(runs[CELL])), factors, baseline or DEFAULT_BASELINE)
        plan = with_metric({}, metric) if metric else {}
    audits = audits_table(
        (row[CELL], row[SEED], _audits(run.run_id, run.tags)) for run, row in zip(ended, rows, strict=True)
    )
    audited = sum(was_audited(_environment(run)) for run in ended)
    if audited:
        notes.append(NO_DOCUMENTS)
    dead = {
        (row[CELL], row[SEED]): int(run.metrics[PARAMS_DEAD])
        for run, row in zip(ended, rows, strict=True)
        if PARAMS_DEAD in run.metrics
    }
    study_audits = tuple(
        StudyAudit(found, ()) for parent in parents for found in _audits(parent, client.get_run(parent).data.tags)
    )
    points = stored_curves(client, experiments, chosen, ended, CURVES)
    if points is None:
        notes.append(
            f"no curves: {len(ended)} runs are more than the {MOST_CURVES} whose history a server is asked for"
        )
    curves = curves_table([row for run in ended for row in _curve(run, points.get(run.run_id, ()))] if points else [])
    return Results(
        chosen,
        runs,
        curves,
        factors,
        baselines,
        plan,
        tuple(notes),
        audits,
        audited,
        params_dead=dead,
        study_audits=study_audits,
    )


def _client(uri: str) -> MlflowClient:
    try:
        parts = urlsplit(split_credentials(uri)[1])
    except ValueError as error:
        raise AnalysisError(f"{public(uri)} cannot be read: {error}") from error
    if parts.scheme == "sqlite" and not Path(parts.path.removeprefix("/")).is_file():
        raise AnalysisError(f"there is no MLflow database {parts.path.removeprefix('/')}")
    if parts.scheme in ("http", "https"):
        try:
            ask_server(uri, PATIENCE)
        except (OSError, ValueError) as error:
            raise AnalysisError(f"the MLflow server {public(uri)} does not answer: {error}") from error
    from mlflow import MlflowClient
    from mlflow.environment_variables import MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR
    from mlflow.exceptions import MlflowException

    MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR.set(False)  # one file of a few kilobytes
    logging.getLogger("alembic").setLevel(logging.WARNING)
    try:
        return MlflowClient(tracking_uri=uri)
    except MlflowException as error:
        raise AnalysisError(f"{public(uri)} is no MLflow store: {public(str(error).splitlines()[0])}") from error
    except ImportError as error:
        raise AnalysisError(f"{public(uri)} cannot be read: {not_installed(error)}") from error


def _refuse_copies(runs: Sequence[StoredRun], study: str, store: str) -> None:
    """Refuse a study of which a run is there twice: nothing says which of the two is meant."""
    first: dict[tuple[str, str], str] = {}
    pairs = [(first.setdefault((run.label("cell"), run.label("seed")), run.run_id), run) for run in runs]
    surplus = [(run_id, run) for run_id, run in pairs if run_id != run.run_id]
    if surplus:
        run_id, run = surplus[0]
        raise AnalysisError(
            f"study '{study}' in {store} has {len(surplus)} runs of a (cell, seed) that has another, the first of cell "
            f"'{run.label('cell')}', seed {run.label('seed')}: MLflow runs {run_id} and {run.run_id}. Delete one of "
            "each, in MLflow, or report the study's folder"
        )


def _tag(label: str) -> str:
    return f"tags.`{PREFIX}{label}`"


def _studies(client: MlflowClient, experiments: list[str]) -> Iterator[str]:
    """Yield the names of the studies by one request each, however many runs they have."""
    query = f"{_tag('study')} LIKE '%'"
    while found := client.search_runs(experiments, query, max_results=1):
        name = found[0].data.tags[PREFIX + "study"]
        yield name
        query += f" AND {_tag('study')} != '{name}'"


def _plan(client: MlflowClient, parents: Sequence[str]) -> dict[str, Any]:
    """Return the plan that the parent run keeps; empty where it keeps none."""
    for parent in parents:
        if any(entry.path == PLAN_FILE for entry in client.list_artifacts(parent)):
            with tempfile.TemporaryDirectory() as folder:
                path = client.download_artifacts(parent, PLAN_FILE, folder)
                return parse_plan(Path(path).read_text(), f"{PLAN_FILE} of MLflow run {parent}")
    return {}


def _environment(run: StoredRun) -> dict[str, str]:
    own = {key.removeprefix(PREFIX): value for key, value in run.tags.items() if key.startswith(PREFIX)}
    return {name: value for name, value in own.items() if name.partition(".")[0] not in LABELS}


def _row(run: StoredRun, factors: dict[str, Any]) -> dict[str, Any]:
    """Return the run's row of results, by the rules of `TrialRecord.result_row`."""
    metrics, status = run.metrics, run.label("status")
    row: dict[str, Any] = {STUDY: run.label("study"), CELL: run.label("cell"), **factors}
    row |= {name: metrics.get(name) for name in RESULT_COLUMNS_AFTER_FACTORS}
    if status != FINISHED:
        row |= dict.fromkeys((VAL_LOSS, VAL_ACCURACY, VAL_PERPLEXITY))
    return row | {
        SEED: int(run.label("seed")),
        STATUS: status,
        STEPS: metrics.get(STEP, 0),
        TOKENS: metrics.get(TOKENS, 0),
        CONFIG_HASH: run.label("config_hash"),
        ERROR: run.tags.get(PREFIX + "error"),
        FLAWS: run.tags.get(PREFIX + "flaws"),
        INVALID: " ".join(audit.name for audit in _audits(run.run_id, run.tags) if audit.severity == INVALID),
    }


def _audits(run_id: str, tags: Mapping[str, str]) -> list[Audit]:
    """Return what the audits found, from tags `ablatune.audit.<name>` that hold the severity and the evidence."""
    found = []
    for key, value in sorted(tags.items()):
        if key.startswith(AUDIT_TAG):
            severity, _, evidence = value.partition(" ")
            severity = severity.rstrip(":")
            if severity not in SEVERITIES:
                raise AnalysisError(
                    f"MLflow run {run_id}: tag {key} must begin with one of {', '.join(SEVERITIES)} but is '{value}'"
                )
            found.append(Audit(name=key.removeprefix(AUDIT_TAG), severity=severity, evidence=evidence.strip()))
    return found


def _curve(run: StoredRun, points: Sequence[Point]) -> list[dict[str, Any]]:
    rows: dict[int, dict[str, Any]] = {}
    for name, step, value in points:
        rows.setdefault(step, {})[name] = value
    label = {CELL: run.label("cell"), SEED: int(run.label("seed"))}
    return [label | {STEP: step} | rows[step] for step in sorted(rows)]
