"""Whole studies run as a user runs them, in a process of their own, and what is done to them while they run."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run

from analysis.schema import NONDETERMINISTIC_COLUMNS, RECORDS_FOLDER, RESULTS_CSV, RESULTS_JSON, TrialRecord

SCRIPT = Path(__file__).parents[1] / "sweeps" / "exp6_grid.py"
PATIENCE_SECONDS = 300.0
JUDGED = ("verdict", "ranking", "comparisons", "evaluation_noise", "contributions", "divergence", "final_test")
"""Parts of results.json in which there is neither time nor memory."""
LISTEN = "0A"
"""A socket's state in /proc/net/tcp."""


def driver(arguments: list[str], folder: Path | None = None, **environment: str) -> subprocess.Popen[str]:
    """Start the command as a user does, in a session and process group of its own."""
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        cwd=folder,
        env={**os.environ, **environment},
    )


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait until the condition holds, while the process runs."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)


def processes_of(session: int) -> dict[int, str]:
    """Return the command lines of a session's processes (Ray's workers have groups of their own), the dead apart."""
    return _processes(lambda parent, its_session: its_session == session)


def children_of(process: int) -> dict[int, str]:
    """Return the command lines of what a process started itself, the dead apart."""
    return _processes(lambda parent, its_session: parent == process)


def _processes(wanted: Callable[[int, int], bool]) -> dict[int, str]:
    """Return the command lines of living processes, asked for by parent and session."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, parent, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            if wanted(int(parent), int(session)) and state != "Z":
                found[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ")
    return found


def kill_one(process: subprocess.Popen[str], what: str, how: signal.Signals = signal.SIGKILL) -> bool:
    """Signal one process of a session whose command, its options apart, holds a text; False where none does."""
    for pid, line in sorted(processes_of(process.pid).items(), reverse=True):
        if what in line.partition(" -")[0]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, how)
                return True
    return False


def listening(pids: Iterable[int]) -> dict[str, int]:
    """Return the addresses (as /proc/net writes them) on which processes listen for TCP, with the pid of each."""
    sockets = {}
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            local, _, state, *_, inode = line.split()[1:10]
            if state == LISTEN:
                sockets[f"socket:[{inode}]"] = local
    found = {}
    for pid in pids:
        for entry in Path(f"/proc/{pid}/fd").glob("*"):
            with contextlib.suppress(OSError):
                if (target := os.readlink(entry)) in sockets:
                    found[sockets[target]] = pid
    return found


def comparable(record: TrialRecord) -> dict[str, Any]:
    """Return a record without what may differ from run to run: where it was made, and times and memory in its curve."""
    rows = [{k: v for k, v in row.items() if k not in NONDETERMINISTIC_COLUMNS} for row in record.rows]
    return {**dataclasses.asdict(record), "rows": rows, "environment": None}


def results_table(folder: Path) -> list[Mapping[str, str]]:
    """Return the rows of a study's results.csv as text, without what may differ from run to run."""
    with (folder / RESULTS_CSV).open() as file:
        return [{k: v for k, v in row.items() if k not in NONDETERMINISTIC_COLUMNS} for row in csv.DictReader(file)]


def tables(folder: Path) -> dict[str, Any]:
    """Return a study's results, and what its report makes of them, without what may differ from run to run."""
    found = json.loads((folder / RESULTS_JSON).read_text())
    return {"runs": results_table(folder), **{name: found[name] for name in JUDGED}}


def records_of(results: Path) -> list[Path]:
    """Return the files of all records under a results folder."""
    return sorted(results.glob(f"*/{RECORDS_FOLDER}/*.json"))


def nested_runs(uri: str) -> list[Run]:
    """Return MLflow's runs of all (cell, seed) of the study."""
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name(SCRIPT.stem)
    assert experiment is not None
    return [run for run in client.search_runs([experiment.experiment_id]) if "mlflow.parentRunId" in run.data.tags]
