"""What a sweep costs beside its training: `python benchmarks/sweep_overhead.py [TRIALS ...]`.

Runs studies of 10, 100, 500 and 2,000 trivial trials through the real plan, Ray, MLflow and records, and prints the
time to the first trial, and what a further trial takes between each size and the next: seconds, and seconds of the
driver's processor, which a machine that does other things besides lets be.
"""

from __future__ import annotations

import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import ray.cloudpickle
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

from analysis.tracking.tracker import MlflowTracker
from benchmarks.command import Numbers, run
from sweeps.engine.options import Options
from sweeps.engine.plan import PlannedRun
from sweeps.engine.planning import make_plan
from sweeps.engine.progress import Progress
from sweeps.engine.race import open_runs
from sweeps.engine.ray_session import ray_session
from sweeps.engine.resources import find_resources
from sweeps.engine.runner import run_plan
from sweeps.exp6_grid import STUDY
from tests import fakes_ray
from trainables.environment import describe_environment

ray.cloudpickle.register_pickle_by_value(fakes_ray)  # workers cannot import the tests

SIZES = (10, 100, 500, 2000)
CELLS = 2
LONGEST_START_SECONDS = 15.0
LONGEST_TRIAL_SECONDS = 0.2


class TimedProgress(Progress):
    """Notes when the first trial begins and the last ends."""

    begun = ended_at = processor = 0.0

    def started(self, run: PlannedRun) -> None:
        """A trial begins."""
        self.begun = self.begun or time.monotonic()
        self.processor = self.processor or time.process_time()
        super().started(run)

    def say(self, line: str) -> None:
        """A trial has ended: its line is not shown."""
        self.ended_at = time.monotonic()


def sweep(trials: int, folder: Path) -> tuple[float, float, float]:
    """Run a study of so many trials.

    Returns:
        The seconds to its first trial, from there to its last record, and from there those of the driver's processor.
    """
    started = time.monotonic()
    resources = find_resources(None, None)
    options = Options(variants="baseline,mlp", seeds=trials // CELLS, output=folder, precision="fp32", scale="cpu")
    plan = make_plan(STUDY, options, resources)
    plan = replace(plan, folder=plan.folder.with_name(f"{plan.name}-{trials}"))
    plan.write()
    environment = describe_environment()
    progress = TimedProgress(
        plan.name, [], open_runs(plan), resources.slots, Console(stderr=True, force_terminal=False)
    )
    with ThreadPoolExecutor(1) as background:
        opening = background.submit(
            MlflowTracker, plan.to_json(), environment, f"sqlite:///{folder / 'mlflow.db'}", warn=print
        )
        with ray_session(resources):
            tracker = opening.result()
            outcome = run_plan(
                plan,
                resources,
                environment=environment,
                tracker=tracker,
                progress=progress,
                trainable=fakes_ray.TrivialTrainable,
            )
    assert not outcome.failures, outcome.failures[0].error
    assert not open_runs(plan)
    tracker.close(plan.folder, complete=True)
    return progress.begun - started, progress.ended_at - progress.begun, time.process_time() - progress.processor


def main(trials: Numbers = SIZES) -> int:
    """Time all sizes and print the table; 1 where a limit is exceeded.

    Args:
        trials: Sizes of the studies, rising.
    """
    with tempfile.TemporaryDirectory() as folder:
        times = {size: sweep(size, Path(folder)) for size in trials}
    table = Table("trials", "start-up s", "trials s", "s a further trial", "driver's processor s")
    slopes = []
    start, spent, _ = times[trials[0]]
    table.add_row(str(trials[0]), f"{start:.1f}", f"{spent:.1f}")
    for before, size in pairwise(trials):
        start, spent, _ = times[size]
        slope, busy = ((times[size][kind] - times[before][kind]) / (size - before) for kind in (1, 2))
        slopes.append(slope)
        table.add_row(str(size), f"{start:.1f}", f"{spent:.1f}", f"{slope:.3f}", f"{busy:.3f}")
    Console().print(table)
    slow = max(start for start, _, _ in times.values()) > LONGEST_START_SECONDS
    return int(slow or any(slope > LONGEST_TRIAL_SECONDS for slope in slopes))


if __name__ == "__main__":
    run(main)
