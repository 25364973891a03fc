"""What can go wrong while a study runs, done for real: the results are an undisturbed study's, each once."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from analysis.sync import sync_mlflow
from tests.drivers import driver, kill_one, nested_runs, processes_of, records_of, tables, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

STEPS, RUNS = 30, 4


@pytest.fixture(scope="module")
def results(undisturbed: Path) -> dict[str, Any]:
    """What the same command gives when nothing goes wrong."""
    return results_of(undisturbed)


def results_of(place: Path) -> dict[str, Any]:
    (folder,) = (place / "results").iterdir()
    return tables(folder)


def database() -> str:
    return f"sqlite:///{Path('mlflow.db').absolute()}"


def require_each_run_once(uri: str) -> None:
    client, nested = MlflowClient(tracking_uri=uri), nested_runs(uri)
    assert len({run.data.tags["ablatune.config_hash"] for run in nested}) == len(nested) == RUNS
    assert {run.data.tags["ablatune.status"] for run in nested} == {"finished"}
    for run in nested:
        points = client.get_metric_history(run.info.run_id, "train_loss")
        assert [point.step for point in points] == [25, STEPS]


def contents(files: Iterable[Path]) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in files}


def workers_of(process: subprocess.Popen[str]) -> list[str]:
    """Return what still runs of a driver's session, Ray's agents apart."""
    return [line for line in processes_of(process.pid).values() if "Agent" not in line]


def finish(command: list[str], results: dict[str, Any]) -> None:
    """Give the same command again and require an undisturbed study's results."""
    process = driver(command)
    _, errors = process.communicate(timeout=500)
    assert (process.returncode, errors) == (0, "")
    assert results_of(Path.cwd()) == results
    require_each_run_once(database())


def test_a_slow_start_a_killed_worker_and_a_killed_raylet_cost_nothing(
    small_study: list[str], results: dict[str, Any]
) -> None:
    process = driver(small_study)
    wait_for(lambda: kill_one(process, "raylet/raylet", signal.SIGSTOP), process)  # as on a machine with no time for it
    wait_for(lambda: bool(records_of(Path("results"))), process)
    assert kill_one(process, "Trainable")
    wait_for(lambda: len(records_of(Path("results"))) >= 2, process)
    assert kill_one(process, "raylet/raylet")
    output, _ = process.communicate(timeout=500)
    assert process.returncode == 0, output
    assert "is started once more" in output
    assert results_of(Path.cwd()) == results
    require_each_run_once(database())


def test_a_killed_study_and_then_an_interrupted_one_go_on_beside_damaged_checkpoints(
    one_by_one: list[str], results: dict[str, Any]
) -> None:
    process = driver(one_by_one)
    wait_for(lambda: bool(records_of(Path("results"))), process)
    process.kill()
    process.communicate(timeout=60)
    # Ray's own agents notice a killed driver after a minute; nothing else may outlive it.
    deadline = time.monotonic() + 20
    while (left := workers_of(process)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert left == []
    first = contents(records_of(Path("results")))
    assert 1 <= len(first) < RUNS

    process = driver(one_by_one)
    wait_for(lambda: len(records_of(Path("results"))) > len(first), process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal's Ctrl-C: to the whole group
    output, errors = process.communicate(timeout=120)
    assert f"{len(first)} of them done before" in output
    assert process.returncode == 130
    assert len(errors.strip().splitlines()) == 1
    assert "the same command continues the study" in errors
    assert processes_of(process.pid) == {}
    assert not {run.info.status for run in nested_runs(database())} & {"RUNNING"}
    kept = contents(records_of(Path("results")))
    assert len(first) < len(kept) < RUNS
    (folder,) = Path("results").iterdir()
    addresses = [a for cell in json.loads((folder / "plan.json").read_text())["cells"] for a in cell["hashes"].values()]
    left = [address for address in addresses if not (folder / "records" / f"{address}.json").exists()]
    for address in left:
        path = folder / "checkpoints" / f"{address}.pt"
        path.parent.mkdir(exist_ok=True)
        whole = path.read_bytes() if path.exists() else b"no checkpoint"
        path.write_bytes(whole[: len(whole) // 2])
    finish(one_by_one, results)
    assert contents(kept) == kept, "what had ended was trained again"
    assert contents(first) == first
    assert list(Path("results").glob("*/checkpoints/*")) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KB."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)], check=False)
    if made.returncode:
        pytest.skip("file systems can only be mounted by root")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_loses_nothing(one_by_one: list[str], results: dict[str, Any], small_disk: Path) -> None:
    Path("results").symlink_to(small_disk)
    process = driver(one_by_one)
    output, errors = process.communicate(timeout=500)
    assert process.returncode in (1, 2)
    assert "No space left on device" in output + errors
    assert "Traceback" not in output + errors
    subprocess.run(["mount", "-o", "remount,size=100m", str(small_disk)], check=True)
    process = driver([*one_by_one, "--rerun", "failed"])
    _, errors = process.communicate(timeout=500)
    assert (process.returncode, errors) == (0, "")
    assert results_of(Path.cwd()) == results
    require_each_run_once(database())


def test_a_locked_database_costs_no_result(one_by_one: list[str], results: dict[str, Any]) -> None:
    process = driver(one_by_one)
    wait_for(lambda: bool(records_of(Path("results"))), process)
    other = sqlite3.connect("mlflow.db", timeout=60)
    other.execute("BEGIN EXCLUSIVE")
    output, errors = process.communicate(timeout=500)
    other.rollback()
    other.close()
    assert (process.returncode, errors) == (0, ""), output
    assert output.count("MLflow cannot be written") == 1
    assert results_of(Path.cwd()) == results
    (folder,) = Path("results").iterdir()
    sync_mlflow(folder, database())
    require_each_run_once(database())


def answers(port: int) -> bool:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
    except OSError:
        return False
    return True


def server(port: int, database: Path) -> subprocess.Popen[bytes]:
    """Start an MLflow server and wait until it answers."""
    process = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{database}",
         "--artifacts-destination", str(database.parent / "artifacts"), "--port", str(port), "--workers", "1"],
        env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if answers(port):
            return process
        time.sleep(0.3)
    raise AssertionError("the MLflow server does not answer")


def test_a_server_that_goes_down_costs_no_result(
    one_by_one: list[str], results: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    uri = f"http://me:planned-password@127.0.0.1:{port}"
    running = server(port, tmp_path / "server.db")
    try:
        process = driver(one_by_one, MLFLOW_TRACKING_URI=uri)
        wait_for(lambda: bool(records_of(Path("results"))), process)
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
        output, _ = process.communicate(timeout=500)
        assert process.returncode == 0, output
        assert output.count("MLflow cannot be written") == 1
        assert "planned-password" not in output
        assert results_of(Path.cwd()) == results
        output, errors = driver(one_by_one, MLFLOW_TRACKING_URI=uri).communicate(timeout=500)  # it is still down
        assert errors == ""
        assert output.count("MLflow cannot be written") == 1
        assert "python -m analysis sync-mlflow" in output
        running = server(port, tmp_path / "server.db")
        (folder,) = Path("results").iterdir()
        capsys.readouterr()
        sync_mlflow(folder, uri)
        assert capsys.readouterr().out == "", "MLflow's own lines would hold the password"
        require_each_run_once(uri)
    finally:
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)
            running.wait()
