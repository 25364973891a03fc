"""Searches on Ray Tune: one Tuner over the trials of all cells' arms, each cell with rungs of its own.

A scheduler stops trials where their own cell's rungs say so: one bracket a cell, since in a shared one a component that
starts slowly would lose to others before it had its budget. Decisions are made on the evaluation at exactly the rung's
update (a trial pauses there), never on whatever a trial happened to report last, so no token is trained after them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from analysis.schema import DIVERGED, FAILED, FINISHED, PEAK_MEMORY_BYTES, VAL_LOSS, Audit
from analysis.tuning_records import RUNNING, SEARCH, STOPPED, TuningRecord
from sweeps.engine.plan import Plan
from sweeps.engine.resources import Resources
from sweeps.engine.runner import LOST_WORKERS, with_tokens
from sweeps.engine.search import Arm
from sweeps.engine.suggestions import Suggestions
from sweeps.engine.trials import TrialObserver, error_of, lost_its_worker, run_trials
from sweeps.engine.usage import Usage

Place = tuple[Arm, int]
"""A trial: its arm and its number there."""


class _Arms(Suggestions):
    """Asks the arms in turn, so that all cells' searches advance together.

    Args:
        arms: of all cells.
        configure: from a trial's arm and record to the configuration of its Tune trial.
    """

    def __init__(self, arms: Sequence[Arm], configure: Callable[[Arm, TuningRecord], dict[str, Any]]) -> None:
        super().__init__()
        self.arms = list(arms)
        self._configure = configure
        self._turn = 0

    def suggest(self, trial_id: str) -> Any:
        for _ in self.arms:
            arm = self.arms[self._turn]
            self._turn = (self._turn + 1) % len(self.arms)
            record = arm.ask()
            if record is not None:
                return self._configure(arm, record)
        return Searcher.FINISHED if all(arm.complete for arm in self.arms) else None

    def place(self, trial: Trial) -> Place:
        """Return which trial of which arm a Tune trial is."""
        labels = trial.config["labels"]
        (arm,) = (arm for arm in self.arms if (arm.cell.name, arm.arm) == (labels["cell"], labels["arm"]))
        return arm, labels["number"]


class _Rungs(FIFOScheduler):
    """Stops a trial at a rung of its own cell's search."""

    def __init__(self, arms: _Arms) -> None:
        super().__init__()
        self._arms = arms

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its scheduler into snapshots, which nobody reads here."""
        return {}

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        arm, number = self._arms.place(trial)
        going = result["status"] != RUNNING or arm.reached(number, result["curve"])
        return str(TrialScheduler.CONTINUE if going else TrialScheduler.STOP)


class _Observer(TrialObserver):
    """Turns Tune's events into records.

    Args:
        arms: whose trials these are.
        usage: counts what they take.
        ended: is called with every record that has ended.
        say: where to say that a worker died.
    """

    def __init__(
        self,
        arms: _Arms,
        usage: Usage,
        ended: Callable[[Arm, TuningRecord], None],
        say: Callable[[str], None],
    ) -> None:
        self._arms = arms
        self._usage = usage
        self._ended = ended
        self._say = say
        self._lost: Counter[str] = Counter()
        """By hash: how often a trial's worker died."""
        self._curves: dict[tuple[str, str, int], list[dict[str, Any]]] = {}

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._usage.started()

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        peak = result["curve"][-1].get(PEAK_MEMORY_BYTES) if result["curve"] else None
        self._usage.reported(result.get("seconds_busy", 0.0), trial.config["gpus"] or 1.0, peak)
        arm, number = self._arms.place(trial)
        for remark in result.get("remarks", ()):
            self._say(f"{name_of(arm.records[number])}: {remark}")
        key = arm.cell.name, arm.arm, number
        self._curves[key] = result["curve"]
        if result["status"] in (FINISHED, DIVERGED, FAILED):
            findings = [Audit(**finding) for finding in result["findings"]]
            arm.end(number, result["status"], result["curve"], result["error"], findings)
        if arm.records[number].status != RUNNING:
            self._curves.pop(key)
            self._ended(arm, arm.records[number])

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        arm, number = self._arms.place(trial)
        record, lost = arm.records[number], lost_its_worker(trial)
        if record.status != RUNNING:
            return
        self._lost[record.config_hash] += lost
        if lost and self._lost[record.config_hash] <= LOST_WORKERS:
            self._say(f"{name_of(record)}: its worker died; it goes on from its checkpoint")
            self.restart = True
        else:
            rows = self._curves.pop((arm.cell.name, arm.arm, number), [])
            arm.end(number, FAILED, rows, error_of(trial))
            self._ended(arm, arm.records[number])


def run_arms(
    plan: Plan,
    arms: Sequence[Arm],
    resources: Resources,
    *,
    environment: Mapping[str, str],
    trainable: type[tune.Trainable],
    usage: Usage,
    ended: Callable[[Arm, TuningRecord], None],
    say: Callable[[str], None],
) -> bool:
    """Train all trials that the arms have left; return whether a signal stopped that.

    Args:
        plan: of the study whose cells are searched.
        arms: all of which are asked in turn.
        resources: what there is, and a trial's share of it.
        environment: for the trials.
        trainable: TuningTrainable, or one that reports as it does.
        usage: counts what trials take.
        ended: is called with every record that has ended.
        say: where to say that a signal came, or that a worker died.
    """

    def configure(arm: Arm, record: TuningRecord) -> dict[str, Any]:
        return {
            "config": record.config,
            "seeds": [record.seed],
            "labels": {"cell": arm.cell.name, "arm": arm.arm, "number": record.number},
            "corpus_directory": str(plan.corpora[arm.cell.scale].directory),
            "study_directory": plan.storage.place,
            "environment": dict(environment),
            "threads": plan.choices["threads"],
            "pauses": list(arm.milestones),
        }

    most = sum(arm.left for arm in arms)
    if most == 0:
        return False
    asked = _Arms([arm for arm in arms if not arm.complete], configure)

    def suggestions() -> Suggestions:
        for arm in asked.arms:
            arm.resume()
        return asked

    return run_trials(
        with_tokens(trainable, plan, resources),
        resources,
        plan.folder,
        suggestions,
        most=sum(arm.trials for arm in asked.arms),
        observer=_Observer(asked, usage, ended, say),
        say=say,
        scheduler=_Rungs(asked),
    )


def name_of(record: TuningRecord) -> str:
    """Return what a trial is called."""
    what = "trial" if record.arm == SEARCH else record.arm
    return f"{record.cell}, {what} {record.number}"


def line_of(record: TuningRecord) -> str:
    """Return in one line how a trial ended."""
    values = ", ".join(f"{name} {value:.3g}" for name, value in record.hyperparameters.items())
    if record.status == FINISHED:
        outcome = f"val_loss {record.loss:.4f}"
    elif record.status == STOPPED:
        outcome = f"stopped at update {record.updates} (val_loss {record.rows[-1][VAL_LOSS]:.4f} there)"
    else:
        outcome = f"{record.status}: {record.error}"
    return f"{name_of(record)}: {outcome}; {values}"
