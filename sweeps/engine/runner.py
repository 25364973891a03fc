"""Runs a plan on Ray Tune: one Tuner over the (cell, seed) pairs that have no record, actors reused.

Tune is used for what it does well: actors, resources, failures. Its files are scratch and are deleted: resuming needs
only the records and the checkpoints, which lie in the study's folder under each run's hash.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import time
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS", "0")
# Else a Ray of our own listens to the whole network. Read where Ray is imported; no hindrance to joining a cluster.
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")

import ray
import ray.cloudpickle
from ray import tune
from ray.exceptions import RayActorError, RayTaskError
from ray.tune.execution import class_cache
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from analysis.schema import FAILED, FAILURES_FOLDER, RECORDS_FOLDER, TrialRecord, error_line
from analysis.tracking.tracker import MlflowTracker
from analysis.tuning_records import RUNNING
from moe_models.errors import ConfigError
from sweeps.engine.plan import Plan, PlannedRun
from sweeps.engine.progress import Progress
from sweeps.engine.race import asked_runs, news, standing
from sweeps.engine.resources import Resources
from sweeps.engine.suggestions import OnGpus, Queue, Suggestions
from trainables.ray_trainable import OUT_OF_MEMORY, REFUSED

SCRATCH_FOLDER = ".tune"
LOST_WORKERS = 2
"""How often a run goes on from its checkpoint after its worker died, before it counts as failed."""
LOST_CLUSTERS = 3
"""How often Ray is started anew after it died."""
RAY_STARTS = 3
"""How often Ray is started where it is not up in time."""
LOOK_SECONDS = 2.0
"""Time between two looks at whether Ray is alive."""
TUNE_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # nobody reads Tune's files
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # ours stops the study and says how to go on
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # Tuner.restore is not used
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # errors are recorded and shown once
    "TUNE_WARN_THRESHOLD_S": "60",
    "RAY_AIR_NEW_OUTPUT": "0",
}
# Tune sends the driver's AWS keys to its workers, and Ray logs what is sent. Workers have those of their own machine.
class_cache.ENV_VARS_TO_PROPAGATE.difference_update(
    {name for name in class_cache.ENV_VARS_TO_PROPAGATE if name.startswith("AWS_")}
)


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
        self._progress.limit_to(self._plan.open_runs())
        waited = asked_runs(self._plan, self._race)
        over = {*self._handed, *self._ended}
        self._queue = [run for run in waited if self._plan.is_open(run) and run.config_hash not in over]
        if waited and not self._queue:
            self._progress.say(f"the look at {self._race.next_look} seeds waits for runs that failed: {len(waited)}")


class TrialObserver(tune.Callback):
    """Hears of everything that happens to trials."""

    restart = False
    """Whether a worker was lost: all trials are to stop and to go on from their checkpoints. Tune's own way of trying a
    trial again gives up where it hears of one death twice."""

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its callbacks into snapshots, which nobody reads here."""
        return {}


class _OwnErrors:
    """Keeps the first error of this project's own in what Tune calls, as of a full disk, and then calls nothing more.

    Tune would make a traceback of it, or one trial's failure. Here it stops the study in order, as a signal does, and
    is raised when Tune has ended.
    """

    def __init__(self) -> None:
        self.first: Exception | None = None

    def keep(self, owner: object, **instead: Any) -> None:
        """Keep the errors of an object's methods, which return `instead` then."""
        for name, value in instead.items():
            setattr(owner, name, self._keeping(getattr(owner, name), value))

    def _keeping(self, method: Callable[..., Any], instead: Any) -> Callable[..., Any]:
        def called(*arguments: Any, **named: Any) -> Any:
            if self.first is None:
                try:
                    return method(*arguments, **named)
                except Exception as error:
                    self.first = error
            return instead

        return called


class _Stop(tune.Stopper):
    """Stops the whole experiment: after a signal or an error of our own, for a restart, where Ray has no node left for
    Tune to wait for, or where a process has other code than the driver, or lacks its GPU: it would take one trial after
    the other and train none."""

    def __init__(self, observer: TrialObserver, errors: _OwnErrors) -> None:
        self._observer = observer
        self._errors = errors
        self.asked = False
        self.lost = False
        self.refused = ""
        """Why a process must not train what it was given."""
        self._looked = time.monotonic()

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        if result.get("status") == REFUSED:
            self.refused = result["error"]
        return False

    def stop_all(self) -> bool:
        if time.monotonic() - self._looked > LOOK_SECONDS:
            self._looked = time.monotonic()
            self.lost = not any(node["Alive"] for node in ray.nodes())
        return bool(self.asked or self.lost or self.refused or self._errors.first) or self._observer.restart

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its stopper into snapshots, which nobody reads here."""
        return {}


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
    runs = plan.open_runs()
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


def run_trials(
    trainable: type[tune.Trainable],
    resources: Resources,
    folder: Path,
    suggestions: Callable[[], Suggestions],
    *,
    most: int,
    observer: TrialObserver,
    say: Callable[[str], None],
    scheduler: TrialScheduler | None = None,
) -> bool:
    """Run what is suggested, as many trials at a time as there are slots, in the Ray of a `ray_session`.

    A trial that runs out of memory on its share of a GPU is tried once more, with a whole one.

    Args:
        trainable: what a trial runs.
        resources: what there is, and a trial's share of it.
        folder: the study's, for Tune's scratch.
        suggestions: makes what says which trials; made anew, from what has ended by then, where Ray had to be.
        most: upper limit of their number.
        observer: hears of everything that happens.
        say: where to say that a signal came: the first stops in order, the second at once.
        scheduler: may stop trials early.

    Returns:
        Whether a signal, or a Ray that is not started anew, stopped it.

    Raises:
        ConfigError: a process has other code or packages than this one, or lacks the GPU that it was given.
        Exception: whatever the observer, the suggestions or the scheduler raised first.
    """
    lost_clusters = LOST_CLUSTERS
    errors = _OwnErrors()
    errors.keep(observer, on_trial_start=None, on_trial_result=None, on_trial_complete=None, on_trial_error=None)
    if scheduler is not None:
        errors.keep(scheduler, on_trial_result=TrialScheduler.NOOP)
    stop = _Stop(observer, errors)
    with _signals(stop, say), _quiet():
        while not stop.asked:
            with _scratch(folder) as scratch:
                trials = OnGpus(suggestions(), resources.gpus_per_trial, say)
                errors.keep(trials, suggest=None, on_trial_complete=None)
                _fit(trainable, resources, scratch, trials, most, observer, scheduler, stop)
            if errors.first is not None:
                raise errors.first
            if stop.refused:
                raise ConfigError(f"{stop.refused}; then the same command continues the study")
            if stop.asked or not (stop.lost or observer.restart):
                break
            if stop.lost and not _restart_ray(resources, say, lost_clusters):
                return True
            lost_clusters -= stop.lost
            stop.lost = observer.restart = False
    return stop.asked


def _fit(
    trainable: type[tune.Trainable],
    resources: Resources,
    scratch: Path,
    suggestions: Suggestions,
    most: int,
    observer: TrialObserver,
    scheduler: TrialScheduler | None,
    stop: _Stop,
) -> None:
    tune.Tuner(
        tune.with_resources(trainable, _resources_of),
        tune_config=tune.TuneConfig(
            search_alg=suggestions,
            scheduler=scheduler,
            num_samples=2 * most,  # each may be tried once more
            max_concurrent_trials=_most_at_a_time(resources),
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="run",
            storage_path=str(scratch),
            stop=stop,
            callbacks=[observer],
            verbose=0,
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            failure_config=tune.FailureConfig(max_failures=0),
        ),
    ).fit()


def _most_at_a_time(resources: Resources) -> int:
    """Return how many trials Tune may hold at a time, those included that wait for room.

    In a Ray of our own, which has a core a slot, twice as many: what is to follow waits, staged, when a trial ends. A
    cluster may have more cores than slots, and only this number keeps what waits from training there.
    """
    return resources.slots if resources.cluster else 2 * resources.slots


def _resources_of(config: Mapping[str, Any]) -> tune.PlacementGroupFactory:
    """Return what Ray is to give a trial: one core, and the GPUs that its configuration says."""
    return tune.PlacementGroupFactory([{"CPU": 1.0, **({"GPU": config["gpus"]} if config["gpus"] else {})}])


@contextmanager
def ray_cluster(address: str) -> Iterator[None]:
    """The Ray of a cluster that is there already, and stays when the block ends."""
    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def ray_session(resources: Resources, say: Callable[[str], None] = print) -> Iterator[None]:
    """A Ray of our own, on this machine alone, ended with the block; or the one that is there already."""
    if ray.is_initialized():
        yield
        return
    global _ours
    try:
        with _quiet():
            start_ray(resources.slots, resources.gpus, say)
        _ours = True
        yield
    finally:
        _ours = False
        ray.shutdown()


_ours = False
"""Whether the Ray of this process was started by `ray_session`."""


def start_ray(slots: int, gpus: int = 0, say: Callable[[str], None] = print, starts: int = RAY_STARTS) -> None:
    """Start a Ray of our own on this machine, with room for runs on its cores and GPUs.

    Ray's patience, 30 s that no setting changes, is too short for a machine with much else to do: it is started again.

    Raises:
        ConfigError: it cannot be started.
    """
    try:
        ray.init(
            address="local",  # never join a cluster that happens to run
            num_cpus=slots,
            num_gpus=gpus,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except Exception as error:  # of many kinds, none of which is the study's
        if starts == 1 or "timed out" not in str(error):
            raise ConfigError(f"Ray cannot be started: {error_line(error)}") from error
        say("Ray was not up in time and is started once more")
        ray.shutdown()
        start_ray(slots, gpus, say, starts - 1)


def _restart_ray(resources: Resources, say: Callable[[str], None], left: int) -> bool:
    """Start the Ray of a `ray_session` anew; False where it is another's, or has died too often."""
    if not _ours or left == 0:
        say("Ray died: the study stops here")
        return False
    say("Ray died and is started anew; runs go on from their checkpoints")
    ray.shutdown()
    start_ray(resources.slots, resources.gpus, say)
    return True


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """Tune's folder, emptied before (a killed driver leaves it) and after."""
    scratch = folder / SCRATCH_FOLDER
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Tune from talking: what matters is in the records and on the display."""
    before = {name: os.environ.get(name) for name in TUNE_ENVIRONMENT}
    os.environ.update(TUNE_ENVIRONMENT)
    loggers = [logging.getLogger(name) for name in ("ray", "ray.tune", "ray.train")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)


@contextmanager
def _signals(stop: _Stop, say: Callable[[str], None]) -> Iterator[None]:
    """Make the first SIGINT or SIGTERM stop the study in order, the second at once."""

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.asked:
            raise KeyboardInterrupt
        stop.asked = True
        say("stopping; once more to stop at once")

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, handle) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def lost_its_worker(trial: Trial) -> bool:
    """Return whether a trial failed because its process died, and not by an error of its own."""
    return isinstance(_exception_of(trial), RayActorError)


def error_of(trial: Trial) -> str:
    """Return in one line why a trial failed, without the layers that Ray wraps it in."""
    error = _exception_of(trial)
    if error is None:
        return "the trial failed without an error that Ray could keep"
    if isinstance(error, RayTaskError):
        return error_line(error.cause)
    return f"{type(error).__name__}: {str(error).splitlines()[0]}"  # a dead worker: the rest is addresses


def _exception_of(trial: Trial) -> Exception | None:
    """Return the exception that Ray kept of a failed trial; of a process that could not be set up the error in it."""
    if trial.pickled_error_file is None:
        return None
    error: Exception = ray.cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
    if isinstance(error, RayActorError) and error.actor_init_failed:
        cause: Exception = error.args[0]
        return cause
    return error
