"""What a command does once it is certain that it alone drives a study."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from analysis.schema import FAILED, FAILURES_FOLDER, RECORDS_FOLDER
from sweeps.engine import cli, lock, measure, planning
from sweeps.engine.cli import main
from sweeps.engine.plan import Plan
from sweeps.exp6_grid import STUDY
from tests.fakes_plan import ended


@pytest.fixture
def arguments(corpus_file: Path) -> list[str]:
    fixed = ["--corpus", str(corpus_file), "--scale", "cpu", "--precision", "fp32", "--steps", "4", "--seeds", "2"]
    return ["--variants", "baseline,attention", *fixed]


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Plan]:
    """The plans that would be trained."""
    plans: list[Plan] = []

    def train(plan: Plan, *_: Any) -> int:
        plans.append(plan)
        return 0

    monkeypatch.setattr(cli, "train", train)
    return plans


def end(plan: Plan) -> None:
    """Leave a record of each run."""
    for run in plan.runs():
        ended(plan, run).write(plan.folder / RECORDS_FOLDER)


def test_what_another_driver_did_while_this_one_planned_is_kept(
    arguments: list[str], trained: list[Plan], plan_for: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    other, held = plan_for(variants="baseline,mlp"), lock.study_lock

    @contextmanager
    def after_another(folder: Path) -> Iterator[None]:
        other.write()
        end(other)
        with held(folder):
            yield

    monkeypatch.setattr(lock, "study_lock", after_another)
    assert main(STUDY, arguments) == 0
    (plan,) = trained
    assert [cell["name"] for cell in plan.to_json()["cells"]] == ["baseline", "attention", "mlp"]
    assert plan.registration["registered_sha256"] == other.registration["registered_sha256"]
    (amendment,) = plan.amendments
    assert (amendment["added"], amendment["ended"]) == (["attention"], 4)


def test_a_study_with_records_goes_on_while_its_tracking_server_is_down(
    arguments: list[str],
    trained: list[Plan],
    plan_for: Callable[..., Plan],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert main(STUDY, arguments) == 2
    assert "the tracking server http://127.0.0.1:9 does not answer" in capsys.readouterr().err
    plan = plan_for(variants="baseline")
    plan.write()
    end(plan)
    assert main(STUDY, arguments) == 0
    assert len(trained) == 1
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://[::1")
    assert main(STUDY, arguments) == 2
    assert "cannot be read" in capsys.readouterr().err


def test_half_written_files_of_killed_processes_are_removed(
    arguments: list[str], trained: list[Plan], plan_for: Callable[..., Plan]
) -> None:
    left = plan_for().folder / "checkpoints" / ".a.pt.here.7.tmp"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    os.utime(left, (0, 0))
    assert main(STUDY, arguments) == 0
    assert len(trained) == 1
    assert not left.exists()


def test_what_another_drives_is_not_measured(
    arguments: list[str],
    plan_for: Callable[..., Plan],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    measured: list[Any] = []
    monkeypatch.setattr(measure, "measure", lambda *asked: measured.append(asked))
    folder = plan_for(variants="baseline,attention").folder
    with lock.study_lock(folder):
        assert main(STUDY, [*arguments, "--gpus-per-trial", "auto"]) == 2
    assert "another process is running this study" in capsys.readouterr().err
    assert measured == []
    assert not folder.parent.exists()  # nothing was written beside the lock


def test_a_lock_leaves_what_is_not_its_own(tmp_path: Path) -> None:
    written, empty = tmp_path / "results" / "written", tmp_path / "results" / "empty"
    with lock.study_lock(written):
        (written / "plan.json").touch()
    with lock.study_lock(empty):
        pass
    assert sorted(path.name for path in written.iterdir()) == [lock.LOCK_FILE, "plan.json"]
    assert not empty.exists()
    empty.mkdir()
    with lock.study_lock(empty):
        pass
    assert [path.name for path in empty.iterdir()] == [lock.LOCK_FILE]


@pytest.mark.parametrize("rerun", ["", "failed"])
def test_a_dry_run_says_what_has_ended_in_the_storage(
    arguments: list[str],
    plan_for: Callable[..., Plan],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    rerun: str,
) -> None:
    plan = plan_for(variants="baseline,attention")
    done, failed, *_ = plan.runs()
    there = tmp_path / "storage" / plan.name
    ended(plan, done).write(there / RECORDS_FOLDER)
    ended(plan, failed, status=FAILED).write(there / FAILURES_FOLDER)
    options = [*arguments, "--dry-run", "--storage", str(tmp_path / "storage"), *(["--rerun", rerun] if rerun else [])]
    assert main(STUDY, options) == 0
    count = 1 if rerun else 2
    assert f"{count} of them have ended in {there}: the start brings what they reached from there" in " ".join(
        capsys.readouterr().out.split()
    )
    assert main(STUDY, [*options, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["runs_left"], said["runs_in_storage"]) == (4, count)
    assert not plan.folder.exists()


def test_a_study_whose_plan_only_the_storage_has_keeps_what_it_chose(
    arguments: list[str],
    plan_for: Callable[..., Plan],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    storage = str(tmp_path / "storage")
    monkeypatch.setattr(planning, "where_runs_train", lambda *_: "bf16")
    plan = plan_for(precision="auto", variants="baseline,attention", storage=storage)
    plan.write()
    shutil.rmtree(plan.folder)
    monkeypatch.setattr(planning, "where_runs_train", lambda *_: "fp32")
    at = arguments.index("--precision")
    auto = [*arguments[:at], *arguments[at + 2 :], "--storage", storage]
    assert main(STUDY, [*auto, "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["choices"]["precision"] == {"cpu": "bf16"}
    assert not plan.folder.exists()


def test_a_dry_run_says_what_is_beyond_a_plan_that_only_the_storage_has(
    arguments: list[str], plan_for: Callable[..., Plan], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = str(tmp_path / "storage")
    plan = plan_for(variants="baseline,attention", storage=storage)
    plan.write()
    for run in plan.runs():
        ended(plan, run).write(Path(plan.storage.place) / RECORDS_FOLDER)
    shutil.rmtree(plan.folder)
    more = [*arguments, "--variants", "baseline,attention,mlp"]
    assert main(STUDY, [*more, "--storage", storage, "--dry-run"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "beyond the registered plan, after 4 runs: 1 more cell; what they change is exploratory" in said
