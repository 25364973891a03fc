"""MLflow's copy of a study: one parent run a study, one nested run a (cell, seed). Only the driver writes, in batches.

The study's records are the truth and MLflow a copy of them: a run is found again by its tags, only rows after the last
one logged are added, and records that an interrupted driver left uncopied are copied at the next start. A server that
fails on the way therefore costs no result: it is said once, and the next run of the study copies what is missing.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shlex
import socket
import sqlite3
import sys
import time
import traceback
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from analysis.errors import AnalysisError
from analysis.same_model import NAME as SAME_MODEL
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
from analysis.text import counted

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Run

T = TypeVar("T")


class NoAnswerError(AnalysisError):
    """The tracking server is not there, for now."""


DEFAULT_DATABASE = "mlflow.db"
DEFAULT_ARTIFACTS = "mlruns"
ANSWER_SECONDS = 5.0
"""How long a tracking server may take to answer."""
BATCH = 1000
"""Metrics a call (MLflow's limit)."""
ROWS_A_CALL = BATCH // len(CURVE_COLUMNS)
REST_SECONDS = 30.0
"""How long a store that failed is left alone: a call to a dead or locked one may take that long itself."""
PARAMS_A_CALL = 100
MOST_CHARACTERS = 4000
"""Of a tag's value, below MLflow's limit of 5,000 with room for what is counted."""
PREFIX = "ablatune."
PARENT_TAG = "mlflow.parentRunId"
AUDIT_TAG = f"{PREFIX}audit."
"""Followed by an audit's name: what it found, `severity: evidence`."""
KIND_TAG = f"{PREFIX}kind"
TUNING = "tuning"
"""The kind of a nested run that is a trial of a search and none of the study's own."""
RUN_NAME_TAG = "mlflow.runName"
EXPERIMENT_TAGS = {
    "mlflow.experimentKind": "custom_model_development",  # opens the "Model training" view instead of the GenAI one
    "mlflow.experiment.primaryMetric.name": "val_loss",
    "mlflow.experiment.primaryMetric.greaterIsBetter": "False",
}
MLFLOW_STATUS = {FINISHED: "FINISHED", DIVERGED: "FINISHED", FAILED: "FAILED"}
"""Diverging is an outcome: the run has ended, its tag `ablatune.status` says how."""
REPORT_FILES = (PLAN_FILE, RESULTS_CSV, RESULTS_JSON, REPORT_MD, REPORT_HTML, RANKING_TEX)
DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
DRIVER_PACKAGES = {"psycopg": "psycopg[binary]", "psycopg2": "psycopg2-binary", "MySQLdb": "mysqlclient"}
"""What installs a database driver whose module has another name."""
FILE_KINDS = ("sqlite", "file")
"""Kinds of URI that name a file: they hold no password, and an `@` is part of a name."""
HARMLESS = ("charset", "connect_timeout", "driver", "sslmode", "timeout")
"""Settings of a URI that can be shown. Any other may be a secret: each database driver has names of its own."""


def tracking_uri() -> str:
    """Return where runs go: MLFLOW_TRACKING_URI, or the database `mlflow.db` in the current folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path.cwd() / DEFAULT_DATABASE}"


def split_credentials(uri: str) -> tuple[str, str]:
    """Return the user and password that a URI holds, and the URI without them.

    All up to the last `@` is theirs: a password may hold what would otherwise end a server's name.
    """
    scheme, mark, rest = uri.partition("://")
    if _names_a_file(uri):
        return "", uri
    held, _, place = rest.rpartition("@")
    return held, f"{scheme}{mark}{place}"


def holds_secret(uri: str) -> bool:
    """Return whether a URI has a password, or a setting that may be one."""
    held, place = split_credentials(uri)
    return ":" in held or public(place) != place


def public(text: str) -> str:
    """Return a URI, or a message that holds some, without users, passwords and other secrets: fit to be shown."""
    text = re.sub(r"[A-Za-z][A-Za-z0-9+.-]*://\S*", _without_secrets, text)
    return re.sub(r"(?i)\b(\w*(?:password|passwd|pwd|token|secret)\w*)=[^&\s]*", r"\1=...", text)


def print_traceback(error: Exception) -> None:
    """Print an error's traceback on standard error, as Python does, and none of the secrets of any URI in it."""
    print(public("".join(traceback.format_exception(error))), end="", file=sys.stderr)


def _names_a_file(uri: str) -> bool:
    return uri.startswith(tuple(f"{kind}:///" for kind in FILE_KINDS))


def _without_secrets(uri: re.Match[str]) -> str:
    place = split_credentials(uri[0])[1]
    if _names_a_file(place):
        return place
    return re.sub(rf"([?&;](?!(?:{'|'.join(HARMLESS)})=)[^=&;]+)=[^&;]*", r"\1=...", place)


def _reason(error: Exception) -> str:
    return public((str(error).strip() or type(error).__name__).splitlines()[0])


def not_installed(error: ImportError) -> str:
    """Return what to install for the database driver that a URI asks for, and that cannot be imported."""
    if error.name is None:
        return _reason(error)
    module = error.name.partition(".")[0]
    return f"the Python module {module} is not there: pip install '{DRIVER_PACKAGES.get(module, module)}'"


def require_tracking(uri: str) -> None:
    """Refuse, within seconds, a tracking URI that no study could be written to.

    Raises:
        NoAnswerError: the server does not answer.
        AnalysisError: the folder cannot be written, or the URI cannot be read or is of an unknown kind.
    """
    held, place = split_credentials(uri)
    try:
        parts = urlsplit(place)
        host, port = parts.hostname or "localhost", parts.port
    except ValueError as error:
        raise AnalysisError(f"MLFLOW_TRACKING_URI '{public(uri)}' cannot be read: {error}") from error
    scheme = parts.scheme.partition("+")[0]
    if scheme in ("http", "https"):
        if any(mark in held for mark in "/?#"):
            raise AnalysisError(
                f"MLFLOW_TRACKING_URI '{public(uri)}': its user or password holds a /, ? or #, which are %2F, %3F and "
                "%23 there"
            )
        try:
            ask_server(uri, ANSWER_SECONDS)
        except (OSError, ValueError) as error:
            raise _no_answer(uri, error) from error
    elif scheme == "sqlite":
        folder = _database(uri).parent
        if not folder.is_dir():
            raise AnalysisError(f"the MLflow database {_database(uri)} cannot be made: {folder} is not a folder")
        if not os.access(folder, os.W_OK):
            raise AnalysisError(f"the MLflow database {_database(uri)}: {folder} cannot be written")
    elif scheme in DATABASE_PORTS:
        try:
            socket.create_connection((host, port or DATABASE_PORTS[scheme]), timeout=ANSWER_SECONDS).close()
        except OSError as error:
            raise _no_answer(uri, error) from error
    elif not uri.startswith("databricks"):
        kinds = f"http, https, sqlite, {', '.join(DATABASE_PORTS)} or databricks"
        raise AnalysisError(f"MLFLOW_TRACKING_URI '{public(uri)}' must be one of {kinds}, such as sqlite:///mlflow.db")


def ask_server(uri: str, patience: float) -> None:
    """Ask the MLflow server at an http(s) URI whether it is there, for so many seconds.

    Raises:
        OSError: it does not answer.
        ValueError: the URI is none.
    """
    parts = urlsplit(split_credentials(uri)[1])
    with suppress(urllib.error.HTTPError):  # it answers, if only to ask for a password, which MLflow's client has
        urllib.request.urlopen(f"{parts.scheme}://{parts.netloc}/health", timeout=patience).close()


def _is_server(uri: str) -> bool:
    return uri.partition("://")[0] in ("http", "https")


def _no_answer(uri: str, error: Exception) -> NoAnswerError:
    return NoAnswerError(
        f"the tracking server {public(uri)} does not answer ({_reason(error)}): start it, correct "
        f"MLFLOW_TRACKING_URI, or unset it to use {DEFAULT_DATABASE} in the current folder"
    )


def _database(uri: str) -> Path:
    """Return the file of a SQLite URI: `sqlite:////absolute` or `sqlite:///relative`."""
    return Path(uri.partition("://")[2].removeprefix("/").partition("?")[0])


def _make_database(database: Path) -> None:
    """Make MLflow's SQLite database, whole or not at all; under a lock, since two processes would break it.

    MLflow makes it by some fifty migrations, and cannot go on where it was killed between two. It is one in which who
    reads keeps nobody from writing: its file says so, and beside it lie a `-wal` and a `-shm` while it is in use.
    """
    from mlflow import MlflowClient

    new = database.with_name(f"{database.name}.new")
    for left in (new, *(new.with_name(f"{new.name}-{what}") for what in ("journal", "wal", "shm"))):
        left.unlink(missing_ok=True)
    MlflowClient(tracking_uri=f"sqlite:///{new}").search_experiments(max_results=1)
    with closing(sqlite3.connect(new)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
    os.replace(new, database)


def batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Yield the items in order, at most so many at a time."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def flatten(data: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested configuration as MLflow params: `model.attention.kind`, values as text."""
    flat: dict[str, str] = {}
    for name, value in data.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = str(value)
    return flat


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
            self.client = self._connect()
            self.experiment_id = self._experiment()
            self.parent_id = self._parent()
            self._find_children()
        except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError) as error:
            raise AnalysisError(f"MLflow's store {public(self.uri)} cannot be used: {_reason(error)}") from error
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

    def _connect(self) -> MlflowClient:
        # A dead server must not hold the study up: MLflow would try for minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        # It would print a line a run, with all that its URI holds, a password included.
        os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
        from filelock import FileLock
        from mlflow import MlflowClient

        logging.getLogger("alembic").setLevel(logging.WARNING)
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # whose errors are raised, too
        if not self.uri.startswith("sqlite"):
            return MlflowClient(tracking_uri=self.uri)
        database = _database(self.uri).absolute()
        with FileLock(f"{database}.lock"):
            if not database.exists():
                _make_database(database)
            client = MlflowClient(tracking_uri=self.uri)
            client.search_experiments(max_results=1)
        return client

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
                location = (_database(self.uri).resolve().parent / DEFAULT_ARTIFACTS / name).as_uri()
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
                f"MLflow cannot be written ({_reason(error)}); the study goes on and keeps its records: what is "
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
        if _is_server(self.uri):
            with self.tolerant():
                self._find_children()  # a request that the client repeated may have made a run or a trial twice
        self.copy_records(folder)
        recorded = {path.stem for name in (RECORDS_FOLDER, FAILURES_FOLDER) for path in (folder / name).glob("*.json")}
        with self.tolerant():
            for address in self._open - recorded:
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


def sync_mlflow(folder: Path, uri: str) -> list[str]:
    """Copy what a study's folder holds to MLflow: runs, trials of a search, plan and report, each once.

    Returns:
        Lines that say what is there now.

    Raises:
        AnalysisError: the folder is no study's, or the store cannot be written.
    """
    from analysis.asked import asked_hashes
    from analysis.tuning_records import RUNNING, TUNING_FILE, read_tuning_records
    from analysis.tuning_tracking import TuningTracker

    try:
        searched = (folder / TUNING_FILE).exists() and not (folder / PLAN_FILE).exists()
        plan = _plan(folder / (TUNING_FILE if searched else PLAN_FILE))
        records = [*read_records(folder), *read_failures(folder)]
        trials = [record for record in read_tuning_records(folder) if record.status != RUNNING]
    except (ValueError, OSError) as error:
        raise AnalysisError(str(error)) from error
    if not records and not trials:
        raise AnalysisError(f"{folder} has no records: nothing of the study has ended yet")
    complete = not searched and asked_hashes(folder, plan) <= {record.config_hash for record in records}
    require_tracking(uri)
    warnings: list[str] = []
    tracker = MlflowTracker(plan, (records or trials)[0].environment, uri, warnings.append)
    TuningTracker(tracker).copy(trials)
    tracker.close(folder, complete=complete)
    if warnings:
        raise AnalysisError(warnings[0])
    what = counted(len(trials), "trial") if searched else counted(len(records), "run")
    copied = f"{public(uri)} has {what} of {plan['study']}"
    return [copied, ui_command(uri, tracker.experiment_id)]


def _plan(path: Path) -> dict[str, Any]:
    try:
        plan: dict[str, Any] = json.loads(path.read_text())
        _ = plan["study"], plan["script"], plan["title"], plan["data_hash"], plan["protocol"], plan["flaws"]
        _ = [cell["hashes"].values() for cell in plan["cells"] if path.name == PLAN_FILE]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise AnalysisError(f"{path.parent} is no study's folder: {path.name}: {error!r}") from error
    return plan


def ui_command(uri: str, experiment_id: str) -> str:
    """Return how to look at the runs of an experiment in a browser."""
    page = f"#/experiments/{experiment_id}?workflowType=machine_learning"  # else MLflow shows its view of traces
    if _is_server(uri):
        return f"open {public(uri).rstrip('/')}/{page}"
    python = "mlflow" if sys.prefix == sys.base_prefix else str(Path(sys.prefix) / "bin" / "mlflow")
    command = shlex.join([python, "ui", "--backend-store-uri", public(uri)])
    return f"{command}\n        then open http://127.0.0.1:5000/{page}"
