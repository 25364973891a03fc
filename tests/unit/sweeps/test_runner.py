"""What becomes of a run whose trial ended with an error."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray.cloudpickle
from ray.exceptions import ActorDiedError, RayTaskError
from rich.console import Console

from analysis.schema import FAILURES_FOLDER, TrialRecord
from sweeps.engine.plan import Plan
from sweeps.engine.progress import Progress
from sweeps.engine.race import open_runs
from sweeps.engine.resources import Resources
from sweeps.engine.runner import LOST_WORKERS, _Observer, run_plan, trial_config
from tests.fakes_ray import TrivialTrainable
from trainables.store import Folder

LOST = ActorDiedError()


def raised(error: Exception) -> RayTaskError:
    return RayTaskError("step", f"Traceback\n{error}", error, proctitle="", pid=1, ip="127.0.0.1")


@pytest.fixture
def plan(plan_for: Callable[..., Plan]) -> Plan:
    return plan_for(variants="baseline", seeds=1)


@pytest.fixture
def observer(plan: Plan) -> _Observer:
    """An observer whose tracker writes nowhere."""
    tracker: Any = SimpleNamespace(end=lambda record: None)
    progress = Progress(plan.name, [], open_runs(plan), 1, Console(file=io.StringIO()), "")
    return _Observer(plan, plan.runs(), {}, tracker, progress)


@pytest.fixture
def ends_with(observer: _Observer, plan: Plan, tmp_path: Path) -> Callable[[Exception], bool]:
    """Let the run's trial end with an error; return whether all are to go on from their checkpoints."""

    def end(error: Exception) -> bool:
        kept = tmp_path / "error.pkl"
        kept.write_bytes(ray.cloudpickle.dumps(error))
        trial: Any = SimpleNamespace(config=trial_config(plan, plan.runs()[0], {}), pickled_error_file=str(kept))
        observer.restart = False
        observer.on_trial_error(0, [], trial)
        return observer.restart

    return end


def failure(plan: Plan) -> str | None:
    (path,) = (plan.folder / FAILURES_FOLDER).glob("*.json")
    return TrialRecord.read(path).error


def test_a_run_goes_on_so_often_after_it_lost_its_worker_and_then_fails(
    plan: Plan, ends_with: Callable[[Exception], bool]
) -> None:
    assert [ends_with(LOST) for _ in range(LOST_WORKERS + 1)] == [True] * LOST_WORKERS + [False]
    assert failure(plan) == "ActorDiedError: The actor died unexpectedly before finishing this task."


def test_an_error_of_its_own_fails_a_run_that_had_lost_a_worker(
    plan: Plan, ends_with: Callable[[Exception], bool]
) -> None:
    assert ends_with(LOST)
    assert not ends_with(raised(RuntimeError("planned\nfault")))
    assert failure(plan) == "RuntimeError: planned fault"


def test_a_process_that_could_not_be_set_up_is_no_lost_worker(
    plan: Plan, ends_with: Callable[[Exception], bool]
) -> None:
    assert not ends_with(ActorDiedError(raised(FileNotFoundError("no tokens"))))
    assert failure(plan) == "FileNotFoundError: no tokens"


class CountedFolder(Folder):
    """A folder that counts what it is asked."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.asked: list[str] = []

    def delete(self, name: str) -> None:
        self.asked.append(f"delete {name}")
        super().delete(name)

    def list(self, folder: str) -> list[str]:
        self.asked.append(f"list {folder}")
        return super().list(folder)


def test_failures_are_looked_for_once_however_many_runs_are_open(
    plan_for: Callable[..., Plan], observer: _Observer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_for(variants="baseline,mlp", seeds=3, rerun="failed", storage=str(tmp_path / "shared"))
    plan.storage.store = store = CountedFolder(Path(plan.storage.place))
    name = f"{FAILURES_FOLDER}/{plan.runs()[0].config_hash}"
    for suffix in (".json", ".log"):
        with store.writing(name + suffix) as file:
            file.write(b"{}")
    monkeypatch.setattr("sweeps.engine.runner.run_trials", lambda *_, **__: False)
    run_plan(
        plan,
        Resources(slots=1, gpus=0, gpus_per_trial=0.0, reason=""),
        environment={},
        tracker=observer.tracker,
        progress=observer.progress,
        trainable=TrivialTrainable,
    )
    assert store.asked == [f"list {FAILURES_FOLDER}", f"delete {name}.json", f"delete {name}.log"]
    assert store.list(FAILURES_FOLDER) == []
