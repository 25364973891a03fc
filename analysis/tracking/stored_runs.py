"""The runs of a study as an MLflow store keeps them: from a database by queries, from a server by MLflow's client.

MLflow's own search builds every run with all its params, a minute for 10,000 runs; a report needs only some tags and
metrics. Tables and columns are those that MLflow declares in `mlflow.store.tracking.dbmodels.models`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from analysis.errors import AnalysisError
from analysis.schema import PARAMS_DEAD, RESULT_COLUMNS_AFTER_FACTORS, STEP, TOKENS
from analysis.tracking.names import PARENT_TAG, PREFIX

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from sqlalchemy import Connection, Select

METRICS = (*RESULT_COLUMNS_AFTER_FACTORS, STEP, TOKENS, PARAMS_DEAD)
"""Whose last value a report reads."""
PAGE = 1000
"""Runs a request to a server."""
MOST_CURVES = 1000
"""Runs above which a server is not asked for their curves: a request a run and metric would take many minutes."""
STUDY_TAG, CELL_TAG = f"{PREFIX}study", f"{PREFIX}cell"

Point = tuple[str, int, float]
"""A metric's name, its optimizer update and its value."""


@dataclass(frozen=True)
class StoredRun:
    """One nested run: its id, its tags, and the last value of each of METRICS that it has."""

    run_id: str
    tags: Mapping[str, str]
    metrics: Mapping[str, float]

    def label(self, name: str) -> str:
        """Return the tag of this project with that name.

        Raises:
            AnalysisError: the run has none.
        """
        try:
            return self.tags[PREFIX + name]
        except KeyError as error:
            raise AnalysisError(f"MLflow run {self.run_id} has no tag {PREFIX}{name}") from error


def stored_runs(client: MlflowClient, experiments: Sequence[str], study: str) -> list[StoredRun]:
    """Return all nested runs of a study, in the order in which they were started."""
    if is_database(client.tracking_uri):
        return _from_database(client.tracking_uri, experiments, study)
    return list(_from_client(client, experiments, study))


def stored_curves(
    client: MlflowClient, experiments: Sequence[str], study: str, runs: Sequence[StoredRun], names: Sequence[str]
) -> dict[str, list[Point]] | None:
    """Return the history of the named metrics by run id; None where they are too many to ask a server for."""
    if is_database(client.tracking_uri):
        return _curves_from_database(client.tracking_uri, experiments, study, names)
    if len(runs) > MOST_CURVES:
        return None
    return {
        run.run_id: [
            (name, point.step, point.value) for name in names for point in client.get_metric_history(run.run_id, name)
        ]
        for run in runs
    }


def is_database(uri: str) -> bool:
    """Return whether MLflow reads that URI as a database of its own."""
    from mlflow.store.db.db_types import DATABASE_ENGINES

    return urlsplit(uri).scheme.partition("+")[0] in DATABASE_ENGINES


def _from_client(client: MlflowClient, experiments: Sequence[str], study: str) -> Iterator[StoredRun]:
    query, token = f"tags.`{STUDY_TAG}` = '{study}' AND tags.`{CELL_TAG}` LIKE '%'", None
    while True:
        page = client.search_runs(
            list(experiments), query, max_results=PAGE, order_by=["start_time ASC"], page_token=token
        )
        yield from (StoredRun(run.info.run_id, run.data.tags, run.data.metrics) for run in page)
        token = page.token
        if not token:
            return


def _from_database(uri: str, experiments: Sequence[str], study: str) -> list[StoredRun]:
    from mlflow.store.tracking.dbmodels.models import SqlLatestMetric, SqlRun, SqlTag
    from sqlalchemy import or_, select

    ids = _ids(experiments, study)
    of_runs = select(SqlRun.run_uuid).where(SqlRun.run_uuid.in_(ids)).order_by(SqlRun.start_time, SqlRun.run_uuid)
    of_tags = select(SqlTag.run_uuid, SqlTag.key, SqlTag.value).where(
        SqlTag.run_uuid.in_(ids), or_(SqlTag.key.startswith(PREFIX, autoescape=True), SqlTag.key == PARENT_TAG)
    )
    of_metrics = select(
        SqlLatestMetric.run_uuid, SqlLatestMetric.key, SqlLatestMetric.value, SqlLatestMetric.is_nan
    ).where(SqlLatestMetric.run_uuid.in_(ids), SqlLatestMetric.key.in_(METRICS))
    with _connection(uri) as connection:
        tags: dict[str, dict[str, str]] = {run: {} for (run,) in connection.execute(of_runs)}
        metrics: dict[str, dict[str, float]] = {run: {} for run in tags}
        for run, key, text in connection.execute(of_tags):
            if run in tags:  # a study may be running, and start one between two queries
                tags[run][key] = text
        for run, key, value, is_nan in connection.execute(of_metrics):
            if run in tags:
                metrics[run][key] = math.nan if is_nan else value
    # Some databases compare text without regard to case.
    return [StoredRun(run, of_run, metrics[run]) for run, of_run in tags.items() if of_run.get(STUDY_TAG) == study]


def _curves_from_database(
    uri: str, experiments: Sequence[str], study: str, names: Sequence[str]
) -> dict[str, list[Point]]:
    from mlflow.store.tracking.dbmodels.models import SqlMetric
    from sqlalchemy import select

    of_points = (
        select(SqlMetric.run_uuid, SqlMetric.key, SqlMetric.step, SqlMetric.value, SqlMetric.is_nan)
        .where(SqlMetric.run_uuid.in_(_ids(experiments, study)), SqlMetric.key.in_(names))
        .order_by(SqlMetric.timestamp, SqlMetric.step, SqlMetric.value)
    )
    found: dict[str, list[Point]] = {}
    with _connection(uri) as connection:
        for run, key, step, value, is_nan in connection.execute(of_points):
            found.setdefault(run, []).append((key, step, math.nan if is_nan else value))
    return found


@contextmanager
def _connection(uri: str) -> Iterator[Connection]:
    """Open the database for one reading."""
    from mlflow.store.db.utils import create_sqlalchemy_engine

    engine = create_sqlalchemy_engine(uri)
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def _ids(experiments: Sequence[str], study: str) -> Select[tuple[str]]:
    """Return the query for the ids of a study's nested runs that nobody deleted."""
    from mlflow.entities import LifecycleStage
    from mlflow.store.tracking.dbmodels.models import SqlRun, SqlTag
    from sqlalchemy import select

    of_study = select(SqlTag.run_uuid).where(SqlTag.key == STUDY_TAG, SqlTag.value == study)
    of_cells = select(SqlTag.run_uuid).where(SqlTag.key == CELL_TAG)
    return select(SqlRun.run_uuid).where(
        SqlRun.experiment_id.in_(list(map(int, experiments))),
        SqlRun.lifecycle_stage == LifecycleStage.ACTIVE,
        SqlRun.run_uuid.in_(of_study),
        SqlRun.run_uuid.in_(of_cells),
    )
