"""Runs a plan on Ray Tune: one Tuner over the (cell, seed) pairs that have no record, actors reused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.search import Searcher

from analysis.schema import FAILED, FAILURES_FOLDER, RECORDS_FOLDER, TrialRecord
from analysis.tracking.tracker import MlflowTracker
from analysis.tuning_records import RUNNING
from sweeps.engine.plan import Plan, PlannedRun
from sweeps.engine.progress import Progress
from sweeps.engine.race import asked_runs, news, open_runs, standing
from sweeps.engine.resources import Resources
from sweeps.engine.suggestions import Queue, Suggestions
from sweeps.engine.trials import TrialObserver, error_of, lost_its_worker, run_trials
from trainables.ray_trainable import OUT_OF_MEMORY, REFUSED

LOST_WORKERS = 2
"""How often a run goes on from its checkpoint after its worker died, before it counts as failed."""


@dataclass(frozen=True)
class Outcome:
    """How running a plan ended."""

    interrupted: bool
    """Stopped by a signal: the same command goes on from here."""
    failures: tuple[TrialRecord, ...]
    """Runs that an error ended."""


class _RaceQueue(Suggestions):
    """Hands Tune the runs up to a race's next look, waits until all have ended, looks, and goes on with what is open.

    What comes next is read off the records, so nothing is lost with it.
    """

    def __init__(self, plan: Plan, progress: Progress, environment: Mapping[str, str], ended: Collection[str]) -> None:
        super().__init__()
        self._plan = plan
        self._progress = progress
        self._environment = environment
        self._queue: list[PlannedRun] = []
        self._pending: set[str] = set()
        """Ids of trials that have not ended."""
        self._ended = ended
        """Hashes of runs that have ended before."""
        self._handed: set[str] = set()
        """Hashes of runs that were suggested: as of those that ended, one without a record has failed."""
        self._race = standing(plan)

    def suggest(self, trial_id: str) -> Any:
        if not self._queue:
            if self._pending:
                return None
            self._look()
            if not self._queue:
                return Searcher.FINISHED
        run = self._queue.pop(0)
        self._pending.add(trial_id)
        self._handed.add(run.config_hash)
        return trial_config(self._plan, run, self._environment)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """A run has ended, however."""
        self._pending.discard(trial_id)

    def _look(self) -> None:
        """Make the looks that the records allow, and line up the runs of the next one; none where the race is over."""
        before, self._race = self._race, standing(self._plan)
        for line in news(before, self._race):
            self._progress.say(line)
        self._progress.limit_to(open_runs(self._plan))
        waited = asked_runs(self._plan, self._race)
        over = {*self._handed, *self._ended}
        self._queue = [run for run in waited if self._plan.is_open(run) and run.config_hash not in over]
        if waited and not self._queue:
            self._progress.say(f"the look at {self._race.next_look} seeds waits for runs that failed: {len(waited)}")


class _Observer(TrialObserver):
    """Turns Tune's events into MLflow runs, progress and, where a run failed, its record."""

    def __init__(
        self,
        plan: Plan,
        runs: Sequence[PlannedRun],
        environment: Mapping[str, str],
        tracker: MlflowTracker,
        progress: Progress,
    ) -> None:
        self.plan = plan
        self.environment = environment
        self.tracker = tracker
        self.progress = progress
        self.failures: list[TrialRecord] = []
        self._runs = {(run.cell.name, run.seed): run for run in runs}
        self._rows: dict[str, list[dict[str, Any]]] = {run.config_hash: [] for run in runs}
        self.ended: set[str] = set()
        self._lost: Counter[str] = Counter()
        """How often a run's worker died."""

    def _runs_of(self, trial: Trial) -> list[PlannedRun]:
        return [self._runs[trial.config["labels"]["cell"], seed] for seed in trial.config["seeds"]]

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        for run in self._runs_of(trial):
            labels = {**labels_of(self.plan, run), "seed": run.seed}
            self.tracker.start(run.config_hash, labels, run.cell.config.to_dict())
            self.progress.started(run)

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        busy, status = result.get("seconds_busy", 0.0), result.get("status")
        for run in self._runs_of(trial):
            for remark in result.get("remarks", ()):
                self.progress.say(f"{run.cell.name}, seed {run.seed}: {remark}")
            if run.config_hash in self.ended:
                continue  # its worker died after the record was written, and Tune tried it again
            rows = [row for row in result.get("rows", ()) if row["seed"] == run.seed]
            if rows:
                known = self._rows[run.config_hash]
                known += [row for row in rows if not known or row["step"] > known[-1]["step"]]
                self.tracker.log_rows(run.config_hash, rows)
            self.progress.reported(run, rows, busy, trial.config["gpus"] or 1.0)
            busy = 0.0
            if status in (OUT_OF_MEMORY, REFUSED):
                self.progress.waits(run)
            elif status != RUNNING and not self._end_if_recorded(run) and status == FAILED:
                self._fail(run, result["error"], result["traceback"])

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        if trial.last_result.get("status") in (OUT_OF_MEMORY, REFUSED):
            return  # it is tried again, or left open
        for run in self._runs_of(trial):
            if run.config_hash not in self.ended and not self._end_if_recorded(run):
                self._fail(run, "the trial ended without writing its record")

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        error, lost = error_of(trial), lost_its_worker(trial)
        for run in self._runs_of(trial):
            if run.config_hash in self.ended or self._end_if_recorded(run):
                continue
            self._lost[run.config_hash] += lost
            if lost and self._lost[run.config_hash] <= LOST_WORKERS:
                self.progress.say(f"{run.cell.name}, seed {run.seed}: its worker died; it goes on from its checkpoint")
                self.restart = True
            else:
                self._fail(run, error)

    def _end_if_recorded(self, run: PlannedRun) -> bool:
        if run.config_hash in self.ended:
            return False
        record = self.plan.storage.record(f"{RECORDS_FOLDER}/{run.config_hash}.json")
        if record is not None:
            self._end(run, record)
        return record is not None

    def _end(self, run: PlannedRun, record: TrialRecord) -> None:
        self.ended.add(run.config_hash)
        self._rows.pop(run.config_hash)
        self.tracker.end(record)
        self.progress.ended(run, record)

    def _fail(self, run: PlannedRun, error: str, traceback: str = "") -> None:
        record = TrialRecord(
            **labels_of(self.plan, run),
            seed=run.seed,
            config_hash=run.config_hash,
            status=FAILED,
            error=error,
            rows=[
                {name: value for name, value in row.items() if name != "seed"} for row in self._rows[run.config_hash]
            ],
            config=run.cell.config.to_dict(),
            environment=dict(self.environment),
        )
        try:
            path = record.write(self.plan.folder / FAILURES_FOLDER)
            if traceback:
                path.with_suffix(".log").write_text(traceback)
            for kept in (path, path.with_suffix(".log")):
                self.plan.storage.keep(f"{FAILURES_FOLDER}/{kept.name}")
        except OSError as problem:  # a full disk: the run is left open, and the next start trains it
            self.progress.say(f"the failure of {run.cell.name}, seed {run.seed} cannot be kept: {problem}")
        self.failures.append(record)
        self._end(run, record)


def labels_of(plan: Plan, run: PlannedRun) -> dict[str, Any]:
    """Return what names a run in its record: study, cell, scale, factors, and the flaws of the whole study."""
    cell = run.cell
    return {
        "study": plan.name,
        "cell": cell.name,
        "scale": cell.scale,
        "factors": dict(cell.factors),
        "flaws": list(plan.protocol.flaws),
    }


def trial_config(plan: Plan, run: PlannedRun, environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the configuration of a run's Tune trial: plain data that names everything the worker needs."""
    return {
        "config": run.cell.config.to_dict(),
        "seeds": [run.seed],
        "labels": labels_of(plan, run),
        "corpus_directory": str(plan.corpora[run.cell.scale].directory),
        "study_directory": plan.storage.place,
        "environment": dict(environment),
        "threads": plan.choices["threads"],
        "divergence_limit": plan.divergence_limit(run.cell.scale),
        "final_test": plan.final_test,
    }


def run_plan(
    plan: Plan,
    resources: Resources,
    *,
    environment: Mapping[str, str],
    tracker: MlflowTracker,
    progress: Progress,
    trainable: type[tune.Trainable],
) -> Outcome:
    """Train every run of the plan that has no record yet, in the Ray of a `ray_session`; a race as far as it goes.

    A run that fails is kept apart in `failures/` and the others go on; a look waits for it. SIGINT or SIGTERM stops
    the study in order, a second one at once.
    """
    runs = open_runs(plan)
    if not runs:
        return Outcome(interrupted=False, failures=())
    tried = {run.config_hash for run in runs}
    for name in plan.storage.names(FAILURES_FOLDER):
        if Path(name).stem in tried:
            plan.storage.forget(name)
    observer = _Observer(plan, runs, environment, tracker, progress)

    def suggestions() -> Suggestions:
        if plan.is_race:
            return _RaceQueue(plan, progress, environment, observer.ended)
        return Queue([trial_config(plan, run, environment) for run in runs if run.config_hash not in observer.ended])

    interrupted = run_trials(
        with_tokens(trainable, plan, resources),
        resources,
        plan.folder,
        suggestions,
        most=len(runs),
        observer=observer,
        say=progress.say,
    )
    return Outcome(interrupted=interrupted, failures=tuple(observer.failures))


def with_tokens(trainable: type[tune.Trainable], plan: Plan, resources: Resources) -> type[tune.Trainable]:
    """Return a trainable that has the plan's tokens where the nodes of a cluster need not see the driver's cache.

    Ray copies them once to each node, where all trials read one copy in place.
    """
    if not resources.cluster:
        return trainable
    return tune.with_parameters(trainable, corpora={str(it.directory): it for it in plan.corpora.values()})
