"""Trials on Ray Tune, of a study or of a search: run as suggested, watched, stopped in order, started anew with Ray.

Tune is used for what it does well: actors, resources, failures. Its files are scratch and are deleted: resuming needs
only the records and the checkpoints, which lie in the study's folder under each run's hash.
"""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import ray
import ray.cloudpickle
from ray import tune
from ray.exceptions import RayActorError, RayTaskError
from ray.tune.execution import class_cache
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from analysis.schema import error_line
from analysis.terminal import UnreadError
from moe_models.errors import ConfigError
from sweeps.engine.lock import STOP
from sweeps.engine.ray_session import quiet, restart_ray
from sweeps.engine.resources import Resources
from sweeps.engine.suggestions import OnGpus, Suggestions
from trainables.ray_trainable import REFUSED

# Tune sends the driver's AWS keys to its workers, and Ray logs what is sent. Workers have those of their own machine.
class_cache.ENV_VARS_TO_PROPAGATE.difference_update(
    {name for name in class_cache.ENV_VARS_TO_PROPAGATE if name.startswith("AWS_")}
)

SCRATCH_FOLDER = ".tune"
LOST_CLUSTERS = 3
"""How often Ray is started anew after it died."""
LOOK_SECONDS = 2.0
"""Time between two looks at whether Ray is alive."""


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
    with _signals(stop, say), quiet():
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
            if stop.lost and not restart_ray(resources, say, lost_clusters):
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
def _scratch(folder: Path) -> Iterator[Path]:
    """Tune's folder, emptied before (a killed driver leaves it) and after."""
    scratch = folder / SCRATCH_FOLDER
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def _signals(stop: _Stop, say: Callable[[str], None]) -> Iterator[None]:
    """Make the first SIGINT, SIGTERM or STOP stop the study in order, a SIGINT or SIGTERM then at once.

    What a study still has to do once its trials have stopped, no STOP interrupts.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        if not stop.asked:
            stop.asked = True
            with suppress(UnreadError):  # Ctrl-C ends what the output is piped into, too
                say("stopping; once more to stop at once")
        elif number != STOP:
            raise KeyboardInterrupt

    numbers = (signal.SIGINT, signal.SIGTERM, STOP)
    before = [signal.signal(number, handle) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, signal.SIG_IGN if stop.asked and number == STOP else handler)


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
