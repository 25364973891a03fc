"""Whether MLflow's store can be used: a server that answers, a database that can be made, and what to say if not."""

from __future__ import annotations

import logging
import os
import shlex
import socket
import sqlite3
import sys
import urllib.error
import urllib.request
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from analysis.errors import AnalysisError
from analysis.tracking.uris import DEFAULT_DATABASE, database_file, is_server, public, split_credentials

if TYPE_CHECKING:
    from mlflow import MlflowClient

ANSWER_SECONDS = 5.0
"""How long a tracking server may take to answer."""
DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
DRIVER_PACKAGES = {"psycopg": "psycopg[binary]", "psycopg2": "psycopg2-binary", "MySQLdb": "mysqlclient"}
"""What installs a database driver whose module has another name."""


class NoAnswerError(AnalysisError):
    """The tracking server is not there, for now."""


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
        folder = database_file(uri).parent
        if not folder.is_dir():
            raise AnalysisError(f"the MLflow database {database_file(uri)} cannot be made: {folder} is not a folder")
        if not os.access(folder, os.W_OK):
            raise AnalysisError(f"the MLflow database {database_file(uri)}: {folder} cannot be written")
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


def _no_answer(uri: str, error: Exception) -> NoAnswerError:
    return NoAnswerError(
        f"the tracking server {public(uri)} does not answer ({reason(error)}): start it, correct "
        f"MLFLOW_TRACKING_URI, or unset it to use {DEFAULT_DATABASE} in the current folder"
    )


def reason(error: Exception) -> str:
    """Return the first line of what an error says, without secrets."""
    return public((str(error).strip() or type(error).__name__).splitlines()[0])


def not_installed(error: ImportError) -> str:
    """Return what to install for the database driver that a URI asks for, and that cannot be imported."""
    if error.name is None:
        return reason(error)
    module = error.name.partition(".")[0]
    return f"the Python module {module} is not there: pip install '{DRIVER_PACKAGES.get(module, module)}'"


def connect(uri: str) -> MlflowClient:
    """Return MLflow's client of a store; a SQLite database that is not there is made."""
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
    if not uri.startswith("sqlite"):
        return MlflowClient(tracking_uri=uri)
    database = database_file(uri).absolute()
    with FileLock(f"{database}.lock"):
        if not database.exists():
            make_database(database)
        client = MlflowClient(tracking_uri=uri)
        client.search_experiments(max_results=1)
    return client


def make_database(database: Path) -> None:
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


def ui_command(uri: str, experiment_id: str) -> str:
    """Return how to look at the runs of an experiment in a browser."""
    page = f"#/experiments/{experiment_id}?workflowType=machine_learning"  # else MLflow shows its view of traces
    if is_server(uri):
        return f"open {public(uri).rstrip('/')}/{page}"
    python = "mlflow" if sys.prefix == sys.base_prefix else str(Path(sys.prefix) / "bin" / "mlflow")
    command = shlex.join([python, "ui", "--backend-store-uri", public(uri)])
    return f"{command}\n        then open http://127.0.0.1:5000/{page}"
