from __future__ import annotations

import http.server
import itertools
import json
import os
import re
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from analysis.__main__ import main as analysis_main
from analysis.errors import AnalysisError
from analysis.schema import (
    CURVE_COLUMNS,
    DIVERGED,
    FAILED,
    FAILURES_FOLDER,
    FINISHED,
    INVALID,
    RECORDS_FOLDER,
    Audit,
    TrialRecord,
)
from analysis.sync import sync_mlflow
from analysis.tracking.searches import TuningTracker
from analysis.tracking.store import NoAnswerError, require_tracking, ui_command
from analysis.tracking.tracker import MlflowTracker
from analysis.tracking.uris import holds_secret, public, tracking_uri
from analysis.tuning_records import TuningRecord
from sweeps.engine.cli import EXIT_BAD_INPUT, EXIT_DEFECT, close, guarded
from sweeps.engine.lease import LEASE_FILE
from sweeps.engine.plan import Plan, PlannedRun
from sweeps.engine.storage import Storage
from tests.fakes_plan import ended
from tests.unit.sweeps.test_race import RACE, loss_of

ENVIRONMENT = {"git_commit": "abc", "versions": "python 3", "hardware": "2 cores"}


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"


@pytest.fixture
def tracked(plan_for: Callable[..., Plan], database: str) -> Iterator[tuple[Plan, Callable[[], MlflowTracker]]]:
    """A plan, and a function that opens a tracker as a driver does; the plan's runs are removed afterwards."""
    plan = plan_for(variants="baseline,mlp")
    plan.write()

    def connect() -> MlflowTracker:
        return MlflowTracker(plan.to_json(), ENVIRONMENT, database, warn=pytest.fail)

    yield plan, connect
    client = MlflowClient(tracking_uri=database)
    for run in all_runs(client):
        client.delete_run(run.info.run_id)


@pytest.fixture
def _no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that failed is not left alone."""
    monkeypatch.setattr("analysis.tracking.tracker.REST_SECONDS", 0.0)


def start(tracker: MlflowTracker, run: PlannedRun) -> None:
    """Open a run as the runner does."""
    labels = {"cell": run.cell.name, "scale": run.cell.scale, "factors": run.cell.factors, "seed": run.seed}
    tracker.start(run.config_hash, {**labels, "flaws": tracker.plan["flaws"]}, run.cell.config.to_dict())


def all_runs(client: MlflowClient) -> list[Run]:
    experiment = client.get_experiment_by_name("exp6_grid")
    return list(client.search_runs([experiment.experiment_id])) if experiment else []


def children(client: MlflowClient) -> dict[str, Run]:
    nested = [run for run in all_runs(client) if "mlflow.parentRunId" in run.data.tags]
    addresses = [run.data.tags["ablatune.config_hash"] for run in nested]
    assert len(set(addresses)) == len(addresses), "a (cell, seed) has two runs"
    return dict(zip(addresses, nested, strict=True))


def row(step: int, **values: Any) -> dict[str, Any]:
    return {**dict.fromkeys(CURVE_COLUMNS, None), "step": step, "train_loss": 5.0 - step / 10, **values}


def record(plan: Plan, run: PlannedRun, status: str = FINISHED, **fields: Any) -> TrialRecord:
    defaults = {"rows": [row(2), row(4, val_loss=3.5)], "environment": ENVIRONMENT}
    return ended(plan, run, status=status, **{**defaults, **fields})


def steps(client: MlflowClient, run: Run, metric: str) -> list[int]:
    return [point.step for point in client.get_metric_history(run.info.run_id, metric)]


def one_run(tracked: Any) -> tuple[Plan, MlflowTracker, PlannedRun]:
    """Track a run of a study from its start to the study's end."""
    plan, connect = tracked
    tracker, run = connect(), plan.runs()[0]
    start(tracker, run)
    tracker.log_rows(run.config_hash, [row(2)])
    tracker.end(record(plan, run))
    tracker.close(plan.folder, complete=True)
    return plan, tracker, run


def test_a_run_has_its_labels_params_and_curve(tracked: Any) -> None:
    plan, tracker, run = one_run(tracked)
    found = children(tracker.client)[run.config_hash]
    tags, params = found.data.tags, found.data.params
    assert tags["mlflow.parentRunId"] == tracker.parent_id
    expected = {
        "study": plan.name, "cell": "baseline", "scale": "cpu", "seed": "0", "config_hash": run.config_hash,
        "status": "finished", "corpus_hash": plan.corpora["cpu"].content_hash, "factor.attention": "0", **ENVIRONMENT,
    }  # fmt: skip
    assert {name: tags[f"ablatune.{name}"] for name in expected} == expected
    assert json.loads(tags["ablatune.factors"]) == dict(run.cell.factors)
    assert params["model.attention.kind"] == "mha"
    assert params["training.updates"] == "4"
    assert params["seed"] == "0"
    assert params["data.content_hash"] == plan.corpora["cpu"].content_hash
    assert steps(tracker.client, found, "train_loss") == [2, 4]
    assert steps(tracker.client, found, "val_loss") == [4]
    assert "load_imbalance" not in found.data.metrics
    assert found.info.status == "FINISHED"
    parent = tracker.client.get_run(tracker.parent_id)
    assert parent.info.status == "FINISHED"
    assert [entry.path for entry in tracker.client.list_artifacts(tracker.parent_id)] == ["plan.json"]


def test_a_flawed_run_says_so_in_its_tags(plan_for: Callable[..., Plan], database: str) -> None:
    plan = plan_for(variants="attention,attention_moe", protocol="published", undo="confound.norm_eps")
    plan.write()
    tracker = MlflowTracker(plan.to_json(), ENVIRONMENT, database, warn=pytest.fail)
    live, copied, *_ = plan.runs()
    flaws = list(plan.protocol.flaws)
    start(tracker, live)
    tracker.end(record(plan, copied, flaws=flaws))
    tracker.close(plan.folder, complete=True)
    runs = [*children(tracker.client).values(), tracker.client.get_run(tracker.parent_id)]
    assert len(runs) == 3
    for run in runs:
        assert run.data.tags["ablatune.protocol"] == "published"
        assert run.data.tags["ablatune.flaws"].split() == flaws
        tracker.client.delete_run(run.info.run_id)


def test_a_sound_run_has_no_flaws(tracked: Any) -> None:
    plan, connect = tracked
    tracker = connect()
    start(tracker, plan.runs()[0])
    (child,) = children(tracker.client).values()
    for run in (child, tracker.client.get_run(tracker.parent_id)):
        assert run.data.tags["ablatune.protocol"] == "sound"
        assert "ablatune.flaws" not in run.data.tags


def test_a_run_has_what_its_audits_found_until_it_is_trained_again(tracked: Any) -> None:
    plan, connect = tracked
    run, tracker = plan.runs()[0], connect()
    start(tracker, run)
    leak = Audit(name="causality", severity=INVALID, evidence="logits moved by 0.2")
    environment = {**ENVIRONMENT, "audits": "causality,targets"}
    tracker.end(record(plan, run, FAILED, audits=[leak], environment=environment))
    tags = children(tracker.client)[run.config_hash].data.tags
    assert tags["ablatune.audit.causality"] == "invalid: logits moved by 0.2"
    assert tags["ablatune.audits"] == "causality,targets"
    again = connect()
    start(again, run)
    again.end(record(plan, run))
    tags = children(again.client)[run.config_hash].data.tags
    assert not [name for name in tags if name.startswith("ablatune.audit")]


def test_the_experiment_opens_as_model_training(tracked: Any) -> None:
    _, connect = tracked
    tracker = connect()
    tags = tracker.client.get_experiment(tracker.experiment_id).tags
    assert tags["mlflow.experimentKind"] == "custom_model_development"


@pytest.mark.parametrize("killed", [True, False])
def test_a_last_row_that_was_trained_again_is_the_record_s(tracked: Any, killed: bool) -> None:
    """A run that died before its record was written goes on from a checkpoint: in another time, on a GPU elsewhere."""
    plan, connect = tracked
    tracker, run = connect(), plan.runs()[0]
    start(tracker, run)
    tracker.log_rows(run.config_hash, [row(2), row(4, val_loss=3.5, train_seconds=9.0)])
    tracker = connect() if killed else tracker
    again = row(4, val_loss=3.4, train_seconds=12.0)
    ended = record(plan, run, rows=[row(2), again])
    tracker.end(ended)
    found = children(tracker.client)[run.config_hash]
    assert found.data.metrics["val_loss"] == 3.4
    assert found.data.metrics["train_seconds"] == 12.0
    for _ in range(2):
        ended.write(plan.folder / RECORDS_FOLDER)
        connect().copy_records(plan.folder)
    assert steps(tracker.client, found, "val_loss") == [4, 4]


def test_nested_runs_of_a_deleted_parent_are_not_copied_again(tracked: Any) -> None:
    plan, tracker, run = one_run(tracked)
    record(plan, run).write(plan.folder / RECORDS_FOLDER)
    tracker.client.delete_run(tracker.parent_id)
    again = tracked[1]()
    again.copy_records(plan.folder)
    (found,) = children(again.client).values()
    assert found.data.tags["mlflow.parentRunId"] == again.parent_id != tracker.parent_id
    assert steps(again.client, found, "val_loss") == [4]


def test_a_failed_run_that_had_been_further_is_copied_once(tracked: Any) -> None:
    plan, connect = tracked
    tracker, run = connect(), plan.runs()[0]
    start(tracker, run)
    tracker.log_rows(run.config_hash, [row(2), row(4, val_loss=3.5)])
    failed = record(plan, run, FAILED, rows=[row(2)], error="it broke")
    failed.write(plan.folder / FAILURES_FOLDER)
    for _ in range(3):
        connect().copy_records(plan.folder)
    found = children(tracker.client)[run.config_hash]
    assert steps(tracker.client, found, "train_loss") == [2, 4]


def test_a_study_stays_in_its_experiment_when_that_is_renamed(tracked: Any) -> None:
    plan, tracker, run = one_run(tracked)
    tracker.client.rename_experiment(tracker.experiment_id, "our grid")
    try:
        again = tracked[1]()
        assert again.experiment_id == tracker.experiment_id
        again.end(record(plan, run))
    finally:
        tracker.client.rename_experiment(tracker.experiment_id, "exp6_grid")
    assert set(children(tracker.client)) == {run.config_hash}


def test_a_second_driver_goes_on_where_the_first_was_killed(tracked: Any) -> None:
    plan, connect = tracked
    run, other = plan.runs()[:2]
    killed = connect()
    start(killed, run)
    killed.log_rows(run.config_hash, [row(1), row(2)])
    record(plan, other).write(plan.folder / RECORDS_FOLDER)  # ended while nobody was there to copy it
    tracker = connect()
    assert tracker.parent_id == killed.parent_id
    tracker.copy_records(plan.folder)
    start(tracker, run)
    tracker.log_rows(run.config_hash, [row(1), row(2), row(3)])
    tracker.end(record(plan, run, rows=[row(1), row(2), row(3), row(4, val_loss=3.0)]))
    tracker.close(plan.folder, complete=True)
    found = children(tracker.client)
    assert set(found) == {run.config_hash, other.config_hash}
    assert steps(tracker.client, found[run.config_hash], "train_loss") == [1, 2, 3, 4]
    assert steps(tracker.client, found[other.config_hash], "train_loss") == [2, 4]
    assert {one.info.status for one in found.values()} == {"FINISHED"}


def test_a_run_that_ended_while_the_driver_was_dead_is_closed(tracked: Any) -> None:
    plan, connect = tracked
    run = plan.runs()[0]
    start(connect(), run)
    record(plan, run).write(plan.folder / RECORDS_FOLDER)
    tracker = connect()
    tracker.copy_records(plan.folder)
    assert children(tracker.client)[run.config_hash].info.status == "FINISHED"


def test_copying_again_changes_nothing(tracked: Any) -> None:
    plan, connect = tracked
    run = plan.runs()[0]
    record(plan, run).write(plan.folder / RECORDS_FOLDER)
    ends = []
    for _ in range(2):
        tracker = connect()
        tracker.copy_records(plan.folder)
        found = children(tracker.client)[run.config_hash]
        assert steps(tracker.client, found, "train_loss") == [2, 4]
        ends.append(found.info.end_time)
    assert ends[0] == ends[1]


def test_a_run_trained_again_replaces_its_copy(tracked: Any) -> None:
    plan, connect = tracked
    run = plan.runs()[0]
    first = connect()
    start(first, run)
    first.end(record(plan, run))
    second = connect()  # the record was deleted
    start(second, run)
    second.end(record(plan, run, rows=[row(1), row(4, val_loss=2.0)]))
    found = children(second.client)[run.config_hash]
    assert steps(second.client, found, "train_loss") == [1, 4]


@pytest.mark.parametrize(("status", "shown"), [(FAILED, "FAILED"), (DIVERGED, "FINISHED")])
def test_how_a_run_ended_is_a_tag(tracked: Any, status: str, shown: str) -> None:
    plan, connect = tracked
    tracker, run = connect(), plan.runs()[0]
    start(tracker, run)
    tracker.end(record(plan, run, status, error="it broke"))
    found = children(tracker.client)[run.config_hash]
    assert (found.data.tags["ablatune.status"], found.data.tags["ablatune.error"]) == (status, "it broke")
    assert found.info.status == shown


def test_a_failed_run_is_continued_when_it_is_tried_again(tracked: Any) -> None:
    plan, connect = tracked
    tracker, run = connect(), plan.runs()[0]
    start(tracker, run)
    tracker.end(record(plan, run, FAILED, rows=[row(1)], error="it broke"))
    again = connect()
    start(again, run)
    assert children(again.client)[run.config_hash].info.status == "RUNNING"
    again.end(record(plan, run))
    found = children(again.client)[run.config_hash]
    assert found.info.status == "FINISHED"
    assert "ablatune.error" not in found.data.tags
    assert steps(again.client, found, "train_loss") == [1, 2, 4]


def test_an_interrupted_study_leaves_nothing_running(tracked: Any) -> None:
    plan, connect = tracked
    tracker = connect()
    start(tracker, plan.runs()[0])
    tracker.close(plan.folder, complete=False)
    assert {run.info.status for run in all_runs(tracker.client)} == {"KILLED"}


def test_a_driver_that_lost_its_study_ends_no_run_of_the_one_that_goes_on(tracked: Any, tmp_path: Path) -> None:
    plan, connect = tracked
    plan = replace(plan, storage=Storage(plan.folder, str(tmp_path / "storage")))
    tracker = connect()
    start(tracker, plan.runs()[0])
    with plan.storage.store.writing(LEASE_FILE) as file:
        file.write(b'{"owner": "a", "host": "there", "pid": 7, "time": 0.0}')
    close(tracker, plan, complete=False)
    assert {run.info.status for run in all_runs(tracker.client)} == {"RUNNING"}
    with plan.storage.store.writing(LEASE_FILE) as file:
        file.write(json.dumps({"owner": "b", "host": socket.gethostname(), "pid": os.getpid(), "time": 0.0}).encode())
    close(tracker, plan, complete=False)
    assert {run.info.status for run in all_runs(tracker.client)} == {"KILLED"}


def test_a_run_that_another_driver_ended_stays_as_it_ended(tracked: Any) -> None:
    """As where a machine slept until another one had taken the study over, with a folder of its own."""
    plan, connect = tracked
    run = plan.runs()[0]
    slept = connect()
    start(slept, run)
    connect().end(record(plan, run))
    slept.close(plan.folder, complete=False)
    assert children(slept.client)[run.config_hash].info.status == "FINISHED"


def test_an_interrupted_run_goes_on(tracked: Any) -> None:
    plan, connect = tracked
    first, run = connect(), plan.runs()[0]
    start(first, run)
    first.log_rows(run.config_hash, [row(2)])
    first.close(plan.folder, complete=False)
    second = connect()
    start(second, run)
    second.end(record(plan, run))
    found = children(second.client)[run.config_hash]
    assert found.info.status == "FINISHED"
    assert steps(second.client, found, "train_loss") == [2, 4]


def test_a_run_id_in_the_environment_is_not_written_to(tracked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, connect = tracked
    foreign = connect().parent_id
    monkeypatch.setenv("MLFLOW_RUN_ID", foreign)
    tracker = connect()
    start(tracker, plan.runs()[0])
    assert foreign not in [run.info.run_id for run in children(tracker.client).values()]
    assert tracker.client.get_run(foreign).data.params == {}


def test_all_lies_where_the_store_is_and_nothing_in_the_current_folder(tracked: Any, database: str) -> None:
    one_run(tracked)
    store = Path(database.removeprefix("sqlite:///")).parent
    in_use = {"mlflow.db-shm", "mlflow.db-wal"}
    assert {path.name for path in store.iterdir()} - in_use == {"mlflow.db", "mlflow.db.lock", "mlruns"}
    assert list(store.rglob("plan.json"))
    assert [path.name for path in Path().iterdir()] == ["results"]


def trial_of(plan: Plan, number: int, status: str = FINISHED) -> TuningRecord:
    cell = plan.cells[0]
    return TuningRecord(
        study=plan.name, cell=cell.name, arm="search", number=number, hyperparameters={}, seed=1000,
        config_hash=f"{number:016x}", config=cell.config.to_dict(), status=status, rows=[row(2, tokens=2048)],
    )  # fmt: skip


def test_trials_of_a_search_are_nested_under_the_study_once(tracked: Any) -> None:
    plan, connect = tracked
    trials = [trial_of(plan, number, status) for number, status in enumerate((FINISHED, FAILED, "running"))]
    for _ in range(2):  # the second driver finds what the first one wrote
        tracker = connect()
        TuningTracker(tracker).copy(trials)
        found = children(tracker.client)
        assert set(found) == {trial.config_hash for trial in trials[:2]}, "one that is being trained is not there yet"
        assert {run.data.tags["mlflow.parentRunId"] for run in found.values()} == {tracker.parent_id}
        assert [found[trial.config_hash].info.status for trial in trials[:2]] == ["FINISHED", "FAILED"]
    TuningTracker(connect()).copy([trial_of(plan, 1)])  # it was trained again while the store was down
    assert children(tracker.client)[trials[1].config_hash].info.status == "FINISHED"


def test_trials_that_a_store_missed_are_written_at_the_end_once(tracked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.exceptions import MlflowException

    plan, connect = tracked
    tracker = connect()
    tracker._warn = lambda line: None
    calls: list[str] = []

    def fail(*_: Any, **__: Any) -> None:
        calls.append("log_batch")
        raise MlflowException("database is locked")

    copies = TuningTracker(tracker)
    copies.ended(trial_of(plan, 0, FAILED))
    monkeypatch.setattr(tracker.client, "log_batch", fail)
    copies.ended(trial_of(plan, 1))  # is left half written
    copies.ended(trial_of(plan, 0))  # was tried again
    copies.ended(trial_of(plan, 2))
    assert calls == ["log_batch"], "a store that failed is left alone"
    monkeypatch.undo()
    copies.copy([trial_of(plan, number) for number in range(3)])
    found = children(tracker.client)
    assert {run.data.tags["ablatune.status"] for run in found.values()} == {FINISHED}
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    assert len(found) == 3


def test_drivers_that_make_one_database_at_once_both_write_to_it(plan_for: Callable[..., Plan], tmp_path: Path) -> None:
    uri, begin = f"sqlite:///{tmp_path / 'new.db'}", tmp_path / "begin"
    plans = [plan_for(variants=cell).to_json() for cell in ("baseline", "mlp")]
    drivers = [
        making({**plan, "study": f"study {place}"}, uri, tmp_path / f"{place}.json", begin)
        for place, plan in enumerate(plans)
    ]
    deadline = time.monotonic() + 120
    while not all((tmp_path / f"{place}.json.ready").exists() for place in range(2)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    begin.touch()
    assert [driver.wait(120) for driver in drivers] == [0, 0]
    runs = all_runs(MlflowClient(tracking_uri=uri))
    assert sorted(run.data.tags["mlflow.runName"] for run in runs) == ["study 0", "study 1"]


DRIVER = """
import json, pathlib, sys, time
import mlflow.store.tracking.sqlalchemy_store
from analysis.tracking.tracker import MlflowTracker

uri, plan, begin = sys.argv[1:]
pathlib.Path(plan + ".ready").touch()
while not pathlib.Path(begin).exists():
    time.sleep(0.01)
MlflowTracker(json.loads(pathlib.Path(plan).read_text()), {}, uri, warn=sys.exit)
"""
"""A process that makes a study's tracker as soon as a file says so."""


def making(plan: dict[str, Any], uri: str, path: Path, begin: Path) -> subprocess.Popen[bytes]:
    """Start such a process for a plan, which is written to a path."""
    path.write_text(json.dumps(plan))
    return subprocess.Popen([sys.executable, "-c", DRIVER, uri, str(path), str(begin)])


@pytest.mark.parametrize("least_bytes", [1, 300_000])
def test_a_driver_killed_while_it_makes_the_database_leaves_none(
    plan_for: Callable[..., Plan], tmp_path: Path, least_bytes: int
) -> None:
    uri, begin, plan = f"sqlite:///{tmp_path / 'new.db'}", tmp_path / "begin", plan_for(variants="baseline").to_json()
    begin.touch()
    driver = making(plan, uri, tmp_path / "plan.json", begin)
    for made in itertools.cycle([tmp_path / "new.db", tmp_path / "new.db.new"]):
        assert driver.poll() is None
        if made.exists() and made.stat().st_size >= least_bytes:
            break
    driver.kill()
    driver.wait()
    assert not (tmp_path / "new.db").exists()
    tracker = MlflowTracker(plan, ENVIRONMENT, uri, warn=lambda line: pytest.fail(line))
    assert len(all_runs(tracker.client)) == 1
    assert list(tmp_path.glob("new.db.new*")) == []


def test_a_program_that_reads_the_database_holds_nobody_up(tracked: Any, database: str) -> None:
    with closing(sqlite3.connect(database.removeprefix("sqlite:///"))) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM runs").fetchone()
        one_run(tracked)


def test_a_database_that_fails_is_one_line_and_no_traceback(
    tracked: Any, database: str, capfd: pytest.CaptureFixture[str]
) -> None:
    plan, _ = tracked
    said: list[str] = []
    tracker, run = MlflowTracker(plan.to_json(), ENVIRONMENT, database, warn=said.append), plan.runs()[0]
    start(tracker, run)
    with closing(sqlite3.connect(database.removeprefix("sqlite:///"))) as other:
        other.execute("ALTER TABLE metrics RENAME TO away")
        tracker.log_rows(run.config_hash, [row(2)])
        other.execute("ALTER TABLE away RENAME TO metrics")
    assert [line.partition(" (")[0] for line in said] == ["MLflow cannot be written"]
    assert capfd.readouterr().err == ""


def test_a_store_that_fails_on_the_way_is_said_once_and_costs_nothing(
    plan_for: Callable[..., Plan],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    new_database: Callable[[Path], str],
) -> None:
    from mlflow.exceptions import MlflowException

    plan, said = plan_for(variants="baseline"), []
    plan.write()
    tracker = MlflowTracker(plan.to_json(), ENVIRONMENT, new_database(tmp_path), warn=said.append)

    def fail(*_: Any, **__: Any) -> None:
        raise MlflowException("API request to http://user:secret@host/api refused\nmore")

    monkeypatch.setattr(tracker.client, "create_run", fail)
    monkeypatch.setattr(tracker.client, "log_batch", fail)
    run = plan.runs()[0]
    start(tracker, run)
    tracker.log_rows(run.config_hash, [row(1)])
    tracker.end(record(plan, run))
    record(plan, run).write(plan.folder / RECORDS_FOLDER)
    monkeypatch.undo()
    tracker.close(plan.folder, complete=True)
    assert steps(tracker.client, children(tracker.client)[run.config_hash], "train_loss") == [2, 4]
    assert len(said) == 1
    assert "copied by the same command" in said[0]
    assert "secret" not in said[0]


def test_rows_that_could_not_be_written_leave_no_gap(tracked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.exceptions import MlflowException

    plan, connect = tracked
    tracker, run = connect(), plan.runs()[0]
    said: list[str] = []
    tracker._warn = said.append
    start(tracker, run)
    written = tracker.client.log_batch

    def fail(*_: Any, **__: Any) -> None:
        raise MlflowException("database is locked")

    monkeypatch.setattr(tracker.client, "log_batch", fail)
    tracker.log_rows(run.config_hash, [row(1)])
    monkeypatch.setattr(tracker.client, "log_batch", written)
    tracker.log_rows(run.config_hash, [row(2)])
    monkeypatch.setattr("analysis.tracking.tracker.REST_SECONDS", 0.0)
    tracker._rests_until = 0.0
    tracker.log_rows(run.config_hash, [row(3)])
    tracker.end(record(plan, run, rows=[row(1), row(2), row(3), row(4, val_loss=3.0)]))
    assert steps(tracker.client, children(tracker.client)[run.config_hash], "train_loss") == [1, 2, 3, 4]
    assert len(said) == 1


def test_a_store_that_fails_is_left_alone_for_a_while(tracked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.exceptions import MlflowException

    plan, connect = tracked
    tracker, (run, other) = connect(), plan.runs()[:2]
    tracker._warn = lambda line: None
    calls: list[str] = []

    def fail(*_: Any, **__: Any) -> None:
        calls.append("create_run")
        raise MlflowException("database is locked")

    monkeypatch.setattr(tracker.client, "create_run", fail)
    for one in (run, other):
        start(tracker, one)
        tracker.log_rows(one.config_hash, [row(2)])
        tracker.end(record(plan, one))
    assert calls == ["create_run"]


def after(call: Callable[..., Any], error: Exception) -> Callable[..., Any]:
    """Return a call that does its work, but whose answer is lost."""

    def lost(*arguments: Any, **named: Any) -> None:
        call(*arguments, **named)
        raise error

    return lost


@pytest.mark.usefixtures("_no_rest")
def test_a_run_whose_making_was_not_answered_is_not_made_twice(tracked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.exceptions import MlflowException

    plan, connect = tracked
    tracker, run = connect(), plan.runs()[0]
    tracker._warn = lambda line: None
    with monkeypatch.context() as patch:
        made = after(tracker.client.create_run, MlflowException("the connection was reset"))
        patch.setattr(tracker.client, "create_run", made)
        start(tracker, run)
    tracker.end(record(plan, run))
    found = children(tracker.client)[run.config_hash]
    assert found.data.tags["ablatune.status"] == FINISHED
    assert found.data.params["training.updates"] == "4"
    assert steps(tracker.client, found, "train_loss") == [2, 4]


@pytest.mark.usefixtures("_no_rest")
def test_of_several_copies_of_a_run_the_furthest_stays(tracked: Any) -> None:
    plan, connect = tracked
    run, other = plan.runs()[:2]
    trackers = [connect() for _ in range(3)]  # as of a client that repeats what was not answered
    for tracker in trackers:
        for one in (run, other):
            start(tracker, one)
    trackers[0].log_rows(run.config_hash, [row(1), row(2), row(3)])
    trackers[1].end(record(plan, run))
    trackers[2].log_rows(other.config_hash, [row(1)])
    connect()
    found = children(trackers[0].client)
    assert found[run.config_hash].info.run_id == trackers[1]._ids[run.config_hash]
    assert found[other.config_hash].info.run_id == trackers[2]._ids[other.config_hash]


def test_a_server_that_makes_all_twice_has_each_once(tracked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow's client repeats a request that was not answered, also where the first one made a run."""
    plan, connect = tracked
    run, make = plan.runs()[0], MlflowClient.create_run
    trial = trial_of(plan, 0)

    def twice(client: MlflowClient, *arguments: Any, **named: Any) -> Run:
        make(client, *arguments, **named)
        return make(client, *arguments, **named)

    monkeypatch.setattr(MlflowClient, "create_run", twice)
    monkeypatch.setattr("analysis.tracking.tracker.is_server", lambda uri: True)
    tracker = connect()
    TuningTracker(tracker).ended(trial)
    start(tracker, run)
    record(plan, run).write(plan.folder / RECORDS_FOLDER)
    tracker.close(plan.folder, complete=True)
    assert set(children(tracker.client)) == {trial.config_hash, run.config_hash}
    runs = all_runs(tracker.client)
    assert [one.info.status for one in runs] == ["FINISHED"] * 3, "the study, its run and its trial"


def test_a_study_that_has_two_parents_has_all_under_one(tracked: Any) -> None:
    plan, connect = tracked
    tracker, (run, other) = connect(), plan.runs()[:2]
    parent = tracker.client.get_run(tracker.parent_id)
    start(tracker, run)
    tracker.parent_id = tracker.client.create_run(parent.info.experiment_id, tags=parent.data.tags).info.run_id
    start(tracker, other)
    kept = connect().parent_id
    found = children(tracker.client)
    assert {one.data.tags["mlflow.parentRunId"] for one in found.values()} == {kept}
    assert set(found) == {run.config_hash, other.config_hash}
    assert len(all_runs(tracker.client)) == 3


def test_a_trial_whose_making_was_not_answered_is_not_there_twice(
    tracked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.exceptions import MlflowException

    plan, connect = tracked
    tracker, trial = connect(), trial_of(plan, 0)
    tracker._warn = lambda line: None
    copies = TuningTracker(tracker)
    with monkeypatch.context() as patch:
        made = after(tracker.client.create_run, MlflowException("the connection was reset"))
        patch.setattr(tracker.client, "create_run", made)
        copies.ended(trial)
    copies.copy([trial])
    assert children(tracker.client)[trial.config_hash].info.status == "FINISHED"


@pytest.mark.usefixtures("_no_rest")
def test_what_could_not_be_copied_at_the_end_is_copied_at_the_next_start(
    tracked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store is locked while records are copied, and free when runs are closed."""
    from mlflow.exceptions import MlflowException

    plan, connect = tracked
    (run, other), tracker = plan.runs()[:2], connect()
    tracker._warn = lambda line: None
    for one in (run, other):
        start(tracker, one)
    tracker.log_rows(run.config_hash, [row(2), row(4, val_loss=3.5)])
    record(plan, run).write(plan.folder / RECORDS_FOLDER)

    def locked(*_: Any, **__: Any) -> None:
        raise MlflowException("database is locked")

    with monkeypatch.context() as patch:
        patch.setattr(tracker.client, "log_batch", locked)
        tracker.close(plan.folder, complete=True)
    found = children(tracker.client)
    assert {address: one.info.status for address, one in found.items()} == {
        run.config_hash: "RUNNING",
        other.config_hash: "KILLED",
    }
    tracker.client.set_terminated(found[run.config_hash].info.run_id, "KILLED")  # as older stores have it
    connect().copy_records(plan.folder)
    found = children(tracker.client)
    assert found[run.config_hash].data.tags["ablatune.status"] == FINISHED
    assert found[run.config_hash].info.status == "FINISHED"


def test_a_record_that_cannot_be_read_is_said_and_ends_nothing(tracked: Any) -> None:
    plan, connect = tracked
    tracker, said = connect(), list[str]()
    tracker._warn = said.append
    start(tracker, plan.runs()[0])
    (plan.folder / RECORDS_FOLDER).mkdir()
    (plan.folder / RECORDS_FOLDER / "bad.json").write_text("no record")
    tracker.close(plan.folder, complete=False)
    assert len(said) == 1
    assert "bad.json is not a trial record" in said[0]
    assert children(tracker.client)[plan.runs()[0].config_hash].info.status == "KILLED"


def test_a_server_that_is_down_from_the_start_gets_all_when_it_answers(
    tracked: Any, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, _ = tracked
    said: list[str] = []

    def down(uri: str) -> None:
        raise NoAnswerError(f"the tracking server {uri} does not answer")

    def connect(**more: Any) -> MlflowTracker:
        return MlflowTracker(plan.to_json(), ENVIRONMENT, database, warn=said.append, **more)

    run, other = plan.runs()[:2]
    record(plan, other).write(plan.folder / RECORDS_FOLDER)
    with monkeypatch.context() as patch:
        patch.setattr("analysis.tracking.tracker.require_tracking", down)
        with pytest.raises(NoAnswerError):
            connect()
        tracker = connect(required=False)
        tracker.copy_records(plan.folder)
        start(tracker, run)
        tracker.log_rows(run.config_hash, [row(2)])
        tracker.end(record(plan, run))
        tracker.close(plan.folder, complete=False)
    assert len(said) == 1
    assert "does not answer" in said[0]
    record(plan, run).write(plan.folder / RECORDS_FOLDER)
    tracker.close(plan.folder, complete=True)
    found = children(tracker.client)
    assert {address: one.data.tags["ablatune.status"] for address, one in found.items()} == {
        run.config_hash: FINISHED,
        other.config_hash: FINISHED,
    }


def test_a_store_is_made_anew_from_the_records(
    tracked: Any, tmp_path: Path, new_database: Callable[[Path], str]
) -> None:
    plan, _ = tracked
    run, other = plan.runs()[:2]
    record(plan, run).write(plan.folder / RECORDS_FOLDER)
    record(plan, other, FAILED, error="it broke").write(plan.folder / FAILURES_FOLDER)
    uri = new_database(tmp_path)
    for _ in range(2):  # the second time there is nothing to do
        lines = sync_mlflow(plan.folder, uri)
        assert " has 2 runs of " in lines[0]
    found = children(MlflowClient(tracking_uri=uri))
    assert {address: one.data.tags["ablatune.status"] for address, one in found.items()} == {
        run.config_hash: FINISHED,
        other.config_hash: FAILED,
    }
    assert steps(MlflowClient(tracking_uri=uri), found[run.config_hash], "train_loss") == [2, 4]


def test_a_decided_race_is_complete_in_its_copy(plan_for: Callable[..., Plan], database: str) -> None:
    plan = plan_for(study=RACE, variants="baseline,mlp", seeds=5)
    plan.write()
    first, *others = [run for run in plan.runs() if run.seed in plan.seeds[:3]]
    for runs, status in ((others, "KILLED"), ([first], "FINISHED")):
        for run in runs:
            record(plan, run, rows=[row(4, val_loss=loss_of(run))]).write(plan.folder / RECORDS_FOLDER)
        sync_mlflow(plan.folder, database)
        client = MlflowClient(tracking_uri=database)
        (parent,) = [run for run in all_runs(client) if "mlflow.parentRunId" not in run.data.tags]
        assert parent.info.status == status
    for run in all_runs(client):
        client.delete_run(run.info.run_id)


def test_a_folder_without_a_study_cannot_be_copied(tmp_path: Path) -> None:
    with pytest.raises(AnalysisError, match="is no study's folder"):
        sync_mlflow(tmp_path, f"sqlite:///{tmp_path / 'new.db'}")
    assert not (tmp_path / "new.db").exists()


def test_the_default_is_a_database_in_the_current_folder(tmp_path: Path) -> None:
    assert tracking_uri() == f"sqlite:///{tmp_path}/mlflow.db"
    require_tracking(tracking_uri())
    assert not (tmp_path / "mlflow.db").exists()


def test_uris_are_shown_without_passwords() -> None:
    assert public("https://me:secret@host:5000/x") == "https://host:5000/x"
    assert public("postgresql+psycopg2://me:s@cret@host/db") == "postgresql+psycopg2://host/db"
    assert (
        public("mysql://host/db?user=me&password=s&charset=utf8")
        == "mysql://host/db?user=...&password=...&charset=utf8"
    )
    assert public("failed at 'http://me:secret@host/x' (again)") == "failed at 'http://host/x' (again)"
    assert public("sqlite:////tmp/mlflow.db") == "sqlite:////tmp/mlflow.db"
    page = "#/experiments/7?workflowType=machine_learning"
    assert ui_command("https://me:secret@host:5000/", "7") == f"open https://host:5000/{page}"
    of_database = ui_command("sqlite:////tmp/mlflow.db", "7")
    assert "--backend-store-uri sqlite:////tmp/mlflow.db" in of_database
    assert f"open http://127.0.0.1:5000/{page}" in of_database
    assert "--backend-store-uri 'sqlite:////tmp/my runs/mlflow.db'\n" in ui_command(
        "sqlite:////tmp/my runs/mlflow.db", "7"
    )


SECRETS = [
    "mysql://host/db?passwd=hunter2",
    "postgresql://host/db?sslpassword=hunter2&sslmode=require",
    "postgresql://host/db?sslmode=require&anything=hunter2",
    "postgresql://me:hun/ter2@host/db",
    "postgresql://me:hun/ter2@host:5432/db",
    "postgresql://me:hun#ter2@host/db",
    "postgresql://me:hun?ter2@host/db",
    "postgresql://me:hun@ter2@host/db",
    "postgresql://me:[hunter2@host/db",
]


@pytest.mark.parametrize("uri", SECRETS)
def test_no_part_of_a_secret_is_shown(uri: str) -> None:
    shown = [public(uri), public(f"cannot connect to '{uri}' (again)"), ui_command(uri, "7")]
    assert not [text for text in shown if "hun" in text or "ter2" in text or "host/db" not in text.replace(":5432", "")]
    assert holds_secret(uri)


@pytest.mark.parametrize(
    "uri", ["sqlite:////tmp/me:a@b/mlflow.db", "https://me@host", "postgresql://host/db?sslmode=require", "mlruns"]
)
def test_what_is_no_secret_is_none(uri: str) -> None:
    assert not holds_secret(uri)
    assert public(uri) == uri.replace("me@", "")


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("http://me:hunter2@[::1", "cannot be read: Invalid IPv6 URL"),
        ("http://me:hun/ter2@host", "its user or password holds a /"),
        ("postgresql://me:hunter2@host:port/db", "cannot be read: Port could not be cast"),
        ("postgresql://me:hun/ter2@127.0.0.1:9/db", "does not answer"),
    ],
)
def test_a_uri_that_cannot_be_used_is_one_line_without_its_secret(uri: str, why: str) -> None:
    with pytest.raises(AnalysisError, match=why) as error:
        require_tracking(uri)
    assert not re.search("hun|ter2|\n", str(error.value))


def test_a_file_that_is_no_database_is_said(plan_for: Callable[..., Plan], tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("these are not the bytes of a database\n" * 100)
    with pytest.raises(AnalysisError, match=r"store sqlite:.*mlflow\.db cannot be used") as error:
        MlflowTracker(plan_for(variants="baseline").to_json(), ENVIRONMENT, tracking_uri(), warn=pytest.fail)
    assert "\n" not in str(error.value)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("scheme", ["http", "postgresql"])
def test_a_server_that_is_not_there(scheme: str) -> None:
    with pytest.raises(AnalysisError, match="does not answer") as error:
        require_tracking(f"{scheme}://me:secret@127.0.0.1:{free_port()}")
    assert "secret" not in str(error.value)


def test_a_server_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analysis.tracking.store.ANSWER_SECONDS", 0.5)
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        with pytest.raises(AnalysisError, match="does not answer"):
            require_tracking(f"http://127.0.0.1:{mute.getsockname()[1]}")


def test_a_server_that_asks_for_a_password_answers() -> None:
    class Guarded(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(401)

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Guarded) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        require_tracking(f"http://127.0.0.1:{server.server_port}")
        thread.join()


@pytest.mark.parametrize(
    ("scheme", "module", "package"),
    [
        ("postgresql", "psycopg", "psycopg[binary]"),
        ("postgresql+psycopg2", "psycopg2", "psycopg2-binary"),
        ("mysql+pymysql", "pymysql", "pymysql"),
    ],
)
def test_a_database_driver_that_is_not_installed_is_one_line(
    scheme: str,
    module: str,
    package: str,
    plan_for: Callable[..., Plan],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    why = f"the Python module {module} is not there: pip install '{package}'"
    with socket.socket() as there:
        there.bind(("127.0.0.1", 0))
        there.listen()
        place = f"127.0.0.1:{there.getsockname()[1]}/db"
        uri = f"{scheme}://me:hunter2@{place}"
        with pytest.raises(AnalysisError) as caught:
            MlflowTracker(plan_for(variants="baseline").to_json(), ENVIRONMENT, uri, warn=pytest.fail)
    assert str(caught.value) == f"MLflow's store {scheme}://{place} cannot be used: {why}"
    assert analysis_main(["report", uri]) == 1
    assert capsys.readouterr().err == f"error: {scheme}://{place} cannot be read: {why}\n"


class Dropping(http.server.BaseHTTPRequestHandler):
    """Says that it is well, and answers nothing else."""

    def do_GET(self) -> None:
        if self.path == "/health":
            self.send_response(200)
            self.end_headers()

    do_POST = do_GET

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def dropping(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URI, with a password, of a server that drops what it is asked; it is asked once."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Dropping) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://me:hunter2@127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def tracks(uri: str, plan: Plan) -> int:
    return guarded(["--debug"], lambda _: bool(MlflowTracker(plan.to_json(), ENVIRONMENT, uri, warn=pytest.fail)))


def reports(uri: str, plan: Plan) -> int:
    return analysis_main(["report", uri, "--debug"])


def has_a_defect(uri: str, plan: Plan) -> int:
    return guarded([], lambda _: bool(MlflowClient(uri).get_experiment_by_name(plan.name)))


@pytest.mark.parametrize(("command", "code"), [(tracks, EXIT_BAD_INPUT), (reports, 1), (has_a_defect, EXIT_DEFECT)])
def test_a_traceback_shows_no_password(
    command: Callable[[str, Plan], int],
    code: int,
    dropping: str,
    plan_for: Callable[..., Plan],
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert command(dropping, plan_for(variants="baseline")) == code
    shown = capfd.readouterr().err
    assert "Traceback (most recent call last):" in shown
    assert f"MlflowException: API request to {public(dropping)}/api/" in shown
    assert "hunter2" not in shown


@pytest.mark.parametrize("uri", ["sqlite:////nowhere/mlflow.db", "ftp://host", "mlruns", "file:///tmp/mlruns"])
def test_a_uri_that_cannot_be_used(uri: str) -> None:
    with pytest.raises(AnalysisError):
        require_tracking(uri)


def test_what_comparing_runs_found_is_tagged_and_what_no_longer_holds_is_not(
    tracked: tuple[Plan, Callable[[], MlflowTracker]], database: str
) -> None:
    plan, connect = tracked
    runs = plan.runs()
    for run in runs:
        record(plan, run).write(plan.folder / RECORDS_FOLDER)
    note = {"name": "confound", "severity": "note", "evidence": "not matched", "cells": ["mlp"]}
    warning = {"name": "confound", "severity": "warning", "evidence": "place is 1", "cells": ["mlp", "moe"]}
    whole = {"name": "replication", "severity": "warning", "evidence": "n = 1", "cells": []}
    twin = {"audit": "same_model", "severity": "invalid", "evidence": "the same", "config_hash": runs[0].config_hash}
    own = {"audit": "budget", "severity": "warning", "evidence": "short", "config_hash": runs[1].config_hash}

    def tags(study: list[dict[str, Any]], found: list[dict[str, Any]]) -> tuple[dict[str, str], dict[str, set[str]]]:
        report = {"study_audits": study, "run_audits": found}
        (plan.folder / "results.json").write_text(json.dumps(report))
        connect().close(plan.folder, complete=True)
        client = MlflowClient(tracking_uri=database)
        beginning = "ablatune.audit."

        def of(run: Run) -> dict[str, str]:
            return {k.removeprefix(beginning): v for k, v in run.data.tags.items() if k.startswith(beginning)}

        (parent,) = (run for run in all_runs(client) if "mlflow.parentRunId" not in run.data.tags)
        return of(parent), {address: set(of(run)) for address, run in children(client).items()}

    on_parent, on_runs = tags([note, warning, whole], [twin, own])
    assert on_parent == {"confound": "warning: mlp, moe: place is 1; mlp: not matched", "replication": "warning: n = 1"}
    assert on_runs[runs[0].config_hash] == {"same_model"}
    assert on_runs[runs[1].config_hash] == set(), "what a run's own audits found comes with its record"
    on_parent, on_runs = tags([note] * 400, [])
    assert on_parent["confound"].startswith("note: mlp: not matched; mlp: not matched")
    assert on_parent["confound"].endswith("more in results.json")
    assert len(on_parent["confound"]) < 5000
    assert not any(on_runs.values())
