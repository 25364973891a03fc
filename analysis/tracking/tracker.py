"""MLflow's copy of a study: one parent run a study, one nested run a (cell, seed). Only the driver writes, in batches.

The study's records are the truth and MLflow a copy of them: a run is found again by its tags, only rows after the last
one logged are added, and records that an interrupted driver left uncopied are copied at the next start. A server that
fails on the way therefore costs no result: it is said once, and the next run of the study copies what is missing.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.audits.same_model import NAME as SAME_MODEL
from analysis.errors import AnalysisError
from analysis.schema import (
    AUDITS_RUN,
    CURVE_COLUMNS,
    DIVERGED,
    FAILED,
    FAILURES_FOLDER,
    FINISHED,
    PARAMS_DEAD,
    PLAN_FILE,
    RANKING_TEX,
    RECORDS_FOLDER,
    REPORT_HTML,
    REPORT_MD,
    RESULTS_CSV,
    RESULTS_JSON,
    RUN_AUDITS,
    SEVERITIES,
    STEP,
    STUDY_AUDITS,
    TrialRecord,
    read_failures,
    read_records,
)
from analysis.tracking.names import (
    AUDIT_TAG,
    BATCH,
    KIND_TAG,
    PARAMS_A_CALL,
    PARENT_TAG,
    PREFIX,
    TUNING,
    batches,
    flatten,
)
from analysis.tracking.store import NoAnswerError, connect, not_installed, reason, require_tracking
from analysis.tracking.uris import database_file, is_server, public

if TYPE_CHECKING:
    from mlflow.entities import Experiment, Run

DEFAULT_ARTIFACTS = "mlruns"
ROWS_A_CALL = BATCH // len(CURVE_COLUMNS)
REST_SECONDS = 30.0
"""How long a store that failed is left alone: a call to a dead or locked one may take that long itself."""
MOST_CHARACTERS = 4000
"""Of a tag's value, below MLflow's limit of 5,000 with room for what is counted."""
EXPERIMENT_TAGS = {
    "mlflow.experimentKind": "custom_model_development",  # opens the "Model training" view instead of the GenAI one
    "mlflow.experiment.primaryMetric.name": "val_loss",
    "mlflow.experiment.primaryMetric.greaterIsBetter": "False",
}
MLFLOW_STATUS = {FINISHED: "FINISHED", DIVERGED: "FINISHED", FAILED: "FAILED"}
"""Diverging is an outcome: the run has ended, its tag `ablatune.status` says how."""
REPORT_FILES = (PLAN_FILE, RESULTS_CSV, RESULTS_JSON, REPORT_MD, REPORT_HTML, RANKING_TEX)


class MlflowTracker:
    """Writes one study's runs. Make it before any worker starts: it creates the database.

    Args:
        plan: what `plan.json` holds.
        environment: the driver's.
        uri: of the store.
        warn: where to say that the store fails.
        required: whether a server must answer from the start; if not, it is as one that fails on the way.

    Raises:
        AnalysisError: the store cannot be used.
    """

    def __init__(
        self,
        plan: Mapping[str, Any],
        environment: Mapping[str, str],
        uri: str,
        warn: Callable[[str], None],
        *,
        required: bool = True,
    ) -> None:
        self.plan = plan
        self.study = str(plan["study"])
        self.environment = environment
        self.uri = uri
        self._warn = warn
        self._failing = False
        self._rests_until = 0.0
        self._ids: dict[str, str] = {}
        """MLflow run of each configuration's hash."""
        self._last_step: dict[str, int] = {}
        """Last update that was logged, by hash."""
        self._last_row: dict[str, Mapping[str, float]] = {}
        """Figures of that update, by hash; those of a run that was found are the last of each."""
        self._statuses: dict[str, str] = {}
        """How a run has ended, by hash, of those copied as a whole: the tag is the last that a copy writes."""
        self._open: set[str] = set()
        """Hashes whose MLflow run is not ended."""
        self._described: set[str] = set()
        """Hashes whose MLflow run has its params."""
        self._unanswered: set[str] = set()
        """Hashes whose MLflow run was asked for, and no answer came: the store may have made it."""
        self._behind: set[str] = set()
        """Hashes of which some rows could not be logged: they wait for the record, so that no curve has a gap."""
        self.experiment_id = ""
        self._known = False
        """Whether the store has answered, and what it has of the study is known."""
        try:
            self._look()
        except NoAnswerError as error:
            if required:
                raise
            self._fails(error)

    def _look(self) -> None:
        """Find the store, and in it what there is of the study."""
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        require_tracking(self.uri)
        try:
            self.client = connect(self.uri)
            self.experiment_id = self._experiment()
            self.parent_id = self._parent()
            self._find_children()
        except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError) as error:
            raise AnalysisError(f"MLflow's store {public(self.uri)} cannot be used: {reason(error)}") from error
        except ImportError as error:
            raise AnalysisError(f"MLflow's store {public(self.uri)} cannot be used: {not_installed(error)}") from error
        self._known = True

    def is_there(self, *, again: bool = False) -> bool:
        """Return whether there is a store to write to; one that never answered is looked for again.

        Args:
            again: whether one that has just failed is tried, too.
        """
        if again:
            self._rests_until = 0.0
        if not self._known and not self.resting:
            with self.tolerant():
                self._look()
        return self._known and not self.resting

    def _experiment(self) -> str:
        """Have the study's experiment: the one with its parent run, whatever it is called by now, or the script's."""
        name = str(self.plan["script"])
        there = [experiment.experiment_id for experiment in self.client.search_experiments()]
        begun = self.client.search_runs(there, self._tag_filter(study=self.study, kind="study"), max_results=1)
        found: Experiment | None = (
            self.client.get_experiment(begun[0].info.experiment_id)
            if begun
            else self.client.get_experiment_by_name(name)
        )
        if found is None:
            location = None
            if self.uri.startswith("sqlite"):
                location = (database_file(self.uri).resolve().parent / DEFAULT_ARTIFACTS / name).as_uri()
            return self.client.create_experiment(name, artifact_location=location, tags=EXPERIMENT_TAGS)
        if found.lifecycle_stage != "active":
            raise AnalysisError(
                f"MLflow experiment '{name}' in {public(self.uri)} is deleted: restore it (mlflow experiments restore "
                f"--experiment-id {found.experiment_id}) or use another store"
            )
        for key, value in EXPERIMENT_TAGS.items():
            if key not in found.tags:
                self.client.set_experiment_tag(found.experiment_id, key, value)
        return found.experiment_id

    def _tag_filter(self, **tags: str) -> str:
        return " AND ".join(f"tags.`{PREFIX}{name}` = '{value}'" for name, value in tags.items())

    def _parent(self) -> str:
        """Have the study's parent run, and all nested runs under it.

        Of several, which lost answers leave, one stays; of one that somebody deleted the nested runs may be left.
        """
        tags = {"study": self.study, "kind": "study"}
        if not self._found(self._tag_filter(**tags)):
            self.client.create_run(
                self.experiment_id,
                run_name=self.study,
                tags={PREFIX + name: value for name, value in tags.items()}
                | {
                    f"{PREFIX}corpus_hash": self.plan["data_hash"],
                    **self._protocol_tags(self.plan["flaws"]),
                    "mlflow.note.content": self.plan["title"],
                    **{PREFIX + name: value for name, value in self.environment.items()},
                },
            )
        parent, *surplus = sorted(run.info.run_id for run in self._found(self._tag_filter(**tags)))
        for run in self._found(f"{self._tag_filter(study=self.study)} AND tags.`{PARENT_TAG}` != '{parent}'"):
            self.client.set_tag(run.info.run_id, PARENT_TAG, parent)
        for run_id in surplus:
            self.client.delete_run(run_id)
        self.client.update_run(parent, status="RUNNING")
        return parent

    def _protocol_tags(self, flaws: Iterable[str]) -> dict[str, str]:
        """Return the tags by which no flawed number can be mistaken for a sound one, which has no flaws' tag."""
        named = " ".join(flaws)
        return {f"{PREFIX}protocol": self.plan["protocol"], **({f"{PREFIX}flaws": named} if named else {})}

    def _find_children(self, query: str = "") -> None:
        """Know the runs that are there.

        Of several of one (cell, seed), or of one trial of a search, which lost answers leave, one stays.
        """
        found: dict[tuple[str | None, str], list[Run]] = {}
        for run in self.children(query):
            tags = run.data.tags
            found.setdefault((tags.get(f"{PREFIX}arm"), tags[f"{PREFIX}config_hash"]), []).append(run)
        for runs in found.values():
            furthest, *surplus = sorted(runs, key=_progress, reverse=True)
            for run in surplus:
                self.client.delete_run(run.info.run_id)
            if furthest.data.tags.get(KIND_TAG) != TUNING:
                self._remember(furthest)

    def children(self, query: str = "") -> list[Run]:
        """Return all nested runs of the study; `query` asks for more in MLflow's words."""
        return self._found(f"tags.`{PARENT_TAG}` = '{self.parent_id}'{query}")

    def _found(self, query: str) -> list[Run]:
        """Return the experiment's runs that a query in MLflow's words asks for."""
        found: list[Run] = []
        token: str | None = ""
        while token is not None:
            page = self.client.search_runs([self.experiment_id], query, max_results=1000, page_token=token or None)
            found += page
            token = page.token or None
        return found

    def _remember(self, run: Run) -> None:
        address = run.data.tags[f"{PREFIX}config_hash"]
        self._ids[address] = run.info.run_id
        self._last_step[address] = int(run.data.metrics.get(STEP, 0))
        self._last_row[address] = run.data.metrics
        if f"{PREFIX}status" in run.data.tags:
            self._statuses[address] = run.data.tags[f"{PREFIX}status"]
        if run.data.params:
            self._described.add(address)
        (self._open.add if run.info.status == "RUNNING" else self._open.discard)(address)

    @contextmanager
    def tolerant(self) -> Iterator[None]:
        """Say once that MLflow fails, and leave it alone for a while; the records lack nothing."""
        from mlflow.exceptions import MlflowException

        try:
            yield
        except (MlflowException, OSError, AnalysisError) as error:
            self._fails(error)

    def _fails(self, error: Exception) -> None:
        if not self._failing:
            self._warn(
                f"MLflow cannot be written ({reason(error)}); the study goes on and keeps its records: what is "
                "still missing at its end is copied by the same command, or by python -m analysis sync-mlflow"
            )
        self._failing = True
        self._rests_until = time.monotonic() + REST_SECONDS

    @property
    def resting(self) -> bool:
        """Whether the store has just failed and is left alone for a while."""
        return time.monotonic() < self._rests_until

    def copy_records(self, folder: Path) -> None:
        """Bring MLflow up to date with what a study's folder holds: what a killed driver could not write.

        Records, and the failures of runs that have no record.
        """
        if not self._known:
            return
        try:
            records = [*read_failures(folder), *read_records(folder)]
        except (ValueError, OSError) as error:
            self._warn(f"nothing is copied to MLflow: {error}")
            return
        with self.tolerant():
            for record in records:
                address = record.config_hash
                complete = address not in self._open and address not in self._behind
                complete = complete and self._statuses.get(address) == record.status and self._ends_alike(record)
                if not complete or self._last_step[address] < record.result_row()["steps"]:
                    self._copy(record)
            if (folder / PLAN_FILE).exists():
                self.client.log_artifact(self.parent_id, str(folder / PLAN_FILE))

    def start(self, address: str, labels: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        """Open the run of a (cell, seed) that begins to train.

        Args:
            address: hash of its configuration.
            labels: `cell`, `scale`, `factors`, `seed` and `flaws`.
            config: the resolved configuration.
        """
        if not self.is_there():
            return
        with self.tolerant():
            if address not in self._open and self._statuses.get(address) in (FINISHED, DIVERGED):
                # It is trained again because its record is gone: the copy must not outlive it.
                self.client.delete_run(self._ids.pop(address))
                self._statuses.pop(address)
                self._described.discard(address)
            self._ensure(address, labels, config, self.environment)

    def log_rows(self, address: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add rows of a run's curve, those after the last one logged."""
        if address not in self._ids or address in self._behind:
            return  # `end` writes it as a whole
        self._behind.add(address)
        if self.resting:
            return
        with self.tolerant():
            self._log(address, rows)
            self._behind.discard(address)

    def end(self, record: TrialRecord) -> None:
        """Close a run that has ended, whatever of its rows was missing included."""
        if not self.is_there():
            return  # `close` copies it
        with self.tolerant():
            self._copy(record)

    def close(self, folder: Path, *, complete: bool) -> None:
        """Copy what could not be written on the way, attach the report, and end all runs.

        One that has ended and still could not be copied stays open.
        """
        if not self.is_there(again=True):
            return
        if is_server(self.uri):
            with self.tolerant():
                self._find_children()  # a request that the client repeated may have made a run or a trial twice
        self.copy_records(folder)
        recorded = {path.stem for name in (RECORDS_FOLDER, FAILURES_FOLDER) for path in (folder / name).glob("*.json")}
        with self.tolerant():
            for address in self._open - recorded:
                # A driver that took the study over may have ended it meanwhile.
                if f"{PREFIX}status" not in self.client.get_run(self._ids[address]).data.tags:
                    self.client.set_terminated(self._ids[address], status="KILLED")
                self._open.discard(address)
            for path in sorted([*(folder / name for name in REPORT_FILES), *folder.glob("*.png")]):
                if path.exists():
                    self.client.log_artifact(self.parent_id, str(path))
            self._tag_findings(folder / RESULTS_JSON)
            self.client.set_terminated(self.parent_id, status="FINISHED" if complete else "KILLED")

    def _tag_findings(self, path: Path) -> None:
        """Tag the parent with what audits found by comparing runs, and each run that `same_model` says is another's.

        Both are found anew by each report: tags of an earlier one that no longer hold go.
        """
        report = json.loads(path.read_text()) if path.exists() else {}
        study: dict[str, list[dict[str, Any]]] = {}
        for item in report.get(STUDY_AUDITS, ()):
            study.setdefault(item["name"], []).append(item)
        tags = {name: _tag_value(found) for name, found in study.items()}
        self._set_findings(self.client.get_run(self.parent_id), tags, lambda name: True)
        twins = [item for item in report.get(RUN_AUDITS, ()) if item["audit"] == SAME_MODEL]
        now = {self._ids[item["config_hash"]]: _tag_value([item]) for item in twins if item["config_hash"] in self._ids}
        tag = f"tags.`{AUDIT_TAG}{SAME_MODEL}` LIKE '%'"
        before = self.client.search_runs(
            [self.experiment_id], f"tags.`{PARENT_TAG}` = '{self.parent_id}' AND {tag}", max_results=1000
        )
        for run_id in {*now, *(run.info.run_id for run in before)}:
            found = {SAME_MODEL: now[run_id]} if run_id in now else {}
            self._set_findings(self.client.get_run(run_id), found, lambda name: name == SAME_MODEL)

    def _set_findings(self, run: Run, tags: Mapping[str, str], ours: Callable[[str], bool]) -> None:
        for key in run.data.tags:
            name = key.removeprefix(AUDIT_TAG)
            if key.startswith(AUDIT_TAG) and ours(name) and name not in tags:
                self.client.delete_tag(run.info.run_id, key)
        for name, value in tags.items():
            self.client.set_tag(run.info.run_id, f"{AUDIT_TAG}{name}", value)

    def _ensure(
        self, address: str, labels: Mapping[str, Any], config: Mapping[str, Any], environment: Mapping[str, str]
    ) -> None:
        """Have an open MLflow run for a hash, with its params: the one found, or a new one."""
        from mlflow.entities import Param

        if address in self._unanswered:
            self._find_children(f" AND tags.`{PREFIX}config_hash` = '{address}'")
            self._unanswered.discard(address)
        if address not in self._ids:
            self._create(address, labels, config, environment)
        elif address not in self._open:
            self._reopen(address)
        if address not in self._described:
            params = [Param(key, value) for key, value in flatten({**config, "seed": labels["seed"]}).items()]
            for batch in batches(params, PARAMS_A_CALL):
                self.client.log_batch(self._ids[address], params=list(batch))
            self._described.add(address)

    def _create(
        self, address: str, labels: Mapping[str, Any], config: Mapping[str, Any], environment: Mapping[str, str]
    ) -> None:
        factors = {f"{PREFIX}factor.{name}": str(level) for name, level in labels["factors"].items()}
        tags = {
            PARENT_TAG: self.parent_id,
            f"{PREFIX}study": self.study,
            f"{PREFIX}cell": labels["cell"],
            f"{PREFIX}scale": labels["scale"],
            f"{PREFIX}factors": json.dumps(labels["factors"]),
            f"{PREFIX}seed": str(labels["seed"]),
            f"{PREFIX}config_hash": address,
            f"{PREFIX}corpus_hash": config["data"]["content_hash"],
            **self._protocol_tags(labels["flaws"]),
            **factors,
            **{PREFIX + name: value for name, value in environment.items()},
        }
        name = f"{labels['cell']}, seed {labels['seed']}"
        self._unanswered.add(address)
        self._ids[address] = self.client.create_run(self.experiment_id, tags=tags, run_name=name).info.run_id
        self._unanswered.discard(address)
        self._last_step[address] = 0
        self._open.add(address)

    def _reopen(self, address: str) -> None:
        """Go on with a run that had failed or been interrupted."""
        run_id = self._ids[address]
        self._statuses.pop(address, None)
        for tag in self.client.get_run(run_id).data.tags:
            if tag in (f"{PREFIX}status", f"{PREFIX}error", f"{PREFIX}{AUDITS_RUN}") or tag.startswith(AUDIT_TAG):
                self.client.delete_tag(run_id, tag)
        self.client.update_run(run_id, status="RUNNING")
        self._open.add(address)

    def _log(self, address: str, rows: Iterable[Mapping[str, Any]]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        new = [(row[STEP], _figures(row)) for row in rows if row[STEP] > self._last_step[address]]
        for batch in batches(new, ROWS_A_CALL):
            metrics = [Metric(name, value, now, step) for step, row in batch for name, value in row.items()]
            self.client.log_batch(self._ids[address], metrics=metrics)
            self._last_step[address], self._last_row[address] = batch[-1]

    def _ends_alike(self, record: TrialRecord) -> bool:
        """Whether a record's last row, where it is the last that was logged, is as it was logged."""
        address, last = record.config_hash, record.rows[-1] if record.rows else {}
        if last.get(STEP) != self._last_step.get(address):
            return True
        return _figures(last).items() <= self._last_row.get(address, {}).items()

    def _copy(self, record: TrialRecord) -> None:
        from mlflow.entities import RunTag

        labels = {
            "cell": record.cell, "scale": record.scale, "factors": record.factors, "seed": record.seed,
            "flaws": record.flaws,
        }  # fmt: skip
        address = record.config_hash
        self._ensure(address, labels, record.config, record.environment)
        self._log(address, record.rows)
        if not self._ends_alike(record):  # it was trained again from a checkpoint before that row
            self._last_step[address] = record.rows[-1][STEP] - 1
            self._log(address, record.rows[-1:])
        run_id = self._ids[address]
        tags = {f"{PREFIX}status": record.status}
        tags |= {f"{AUDIT_TAG}{audit.name}": f"{audit.severity}: {audit.evidence}" for audit in record.audits}
        if record.params_dead is not None:
            self.client.log_metric(run_id, PARAMS_DEAD, record.params_dead)
        tags |= {PREFIX + name: value for name, value in record.environment.items()}  # it was opened with the driver's
        if record.error:
            tags[f"{PREFIX}error"] = record.error
        self.client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])
        self.client.set_terminated(run_id, status=MLFLOW_STATUS[record.status])
        self._statuses[address] = record.status
        self._open.discard(address)
        self._behind.discard(address)


def _figures(row: Mapping[str, Any]) -> dict[str, float]:
    """Return the figures of a curve's row."""
    return {name: float(row[name]) for name in CURVE_COLUMNS if row.get(name) is not None}


def _progress(run: Run) -> tuple[bool, float, bool]:
    """Return how far the copy of a run is: its status copied, the last update of its curve, and whether it is ended."""
    return f"{PREFIX}status" in run.data.tags, run.data.metrics.get(STEP, 0.0), run.info.status != "RUNNING"


def _tag_value(found: Sequence[Mapping[str, Any]]) -> str:
    """Return `severity: evidence` of findings of one audit, the severest first; what does not fit is counted."""
    ordered = sorted(found, key=lambda item: SEVERITIES.index(item["severity"]))
    value = f"{ordered[0]['severity']}: {_about(ordered[0])}"
    for place, item in enumerate(ordered[1:], start=1):
        longer = f"{value}; {_about(item)}"
        if len(longer) > MOST_CHARACTERS:
            return f"{value}; and {len(ordered) - place} more in {RESULTS_JSON}"
        value = longer
    return value


def _about(item: Mapping[str, Any]) -> str:
    cells = ", ".join(item.get("cells", ()))
    return f"{cells}: {item['evidence']}" if cells else str(item["evidence"])
