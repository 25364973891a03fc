"""Where a large study's driver saturates: `python benchmarks/scale.py [RECORDS]`, each part by itself, on one machine.

Prints how many a second, and what each takes of the driver's processor: reports of running trials (real Ray and Tune,
with and without MLflow), runs and rows into MLflow's SQLite, and RECORDS record files read and brought from a storage.
docs/scale.md says what follows for 10,000 trials and 1,000 GPUs.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import ray.cloudpickle
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

from analysis.schema import TrialRecord, read_records
from analysis.tracking.tracker import MlflowTracker
from benchmarks.command import Number, run
from benchmarks.large_store import write_store
from sweeps.engine.options import Options
from sweeps.engine.plan import Plan
from sweeps.engine.planning import make_plan
from sweeps.engine.progress import Progress
from sweeps.engine.race import open_runs
from sweeps.engine.ray_session import ray_session
from sweeps.engine.resources import find_resources
from sweeps.engine.runner import run_plan
from sweeps.engine.storage import Storage
from sweeps.exp6_grid import STUDY
from tests import fakes_ray
from trainables.environment import describe_environment

ray.cloudpickle.register_pickle_by_value(fakes_ray)  # workers cannot import the tests

RECORDS, SEEDS = 10_000, 50
TRIALS = 4
"""Trials that report as fast as they can, fakes_ray.ChattyTrainable.REPORTS times each."""
RUNS, ROWS = 100, 20
"""Runs, and rows of each, that are logged to MLflow."""


def measure(work: Callable[[], object], items: int) -> tuple[float, float]:
    """Return items a second, and what each takes of this process's processor, ms, whatever else the machine does."""
    started, processor = time.monotonic(), time.process_time()
    work()
    return items / (time.monotonic() - started), 1000 * (time.process_time() - processor) / items


def study(folder: Path, trials: int) -> Plan:
    options = Options(variants="baseline,mlp", seeds=trials // 2, output=folder, precision="fp32", scale="cpu")
    plan = make_plan(STUDY, options, find_resources(None, None))
    plan = replace(plan, folder=plan.folder.with_name(f"{plan.name}-{trials}-{folder.name}"))
    plan.write()
    return plan


def tracker_of(plan: Plan, folder: Path) -> MlflowTracker:
    return MlflowTracker(plan.to_json(), describe_environment(), f"sqlite:///{folder / 'mlflow.db'}", warn=print)


def reports(folder: Path, with_mlflow: bool) -> tuple[float, float]:
    """Measure the reports of running trials, each with one row."""
    folder.mkdir()
    plan, resources = study(folder, TRIALS), find_resources(None, None)
    tracker = tracker_of(plan, folder)
    progress = Progress(plan.name, [], open_runs(plan), resources.slots, Console(quiet=True))
    unlogged = nullcontext() if with_mlflow else patch.object(MlflowTracker, "log_rows")
    with ray_session(resources), unlogged:
        rates = measure(
            lambda: run_plan(
                plan,
                resources,
                environment=describe_environment(),
                tracker=tracker,
                progress=progress,
                trainable=fakes_ray.ChattyTrainable,
            ),
            TRIALS * fakes_ray.ChattyTrainable.REPORTS,
        )
    assert not open_runs(plan)
    return rates


def mlflow_rates(folder: Path, records: list[TrialRecord]) -> list[tuple[float, float]]:
    """Measure runs that are opened and ended, and rows of their curves."""
    folder.mkdir()
    plan = study(folder, 2)
    tracker = tracker_of(plan, folder)
    some = records[:RUNS]
    labels = [{"cell": it.cell, "scale": it.scale, "factors": it.factors, "seed": it.seed, "flaws": []} for it in some]

    def start_and_end() -> None:
        for record, label in zip(some, labels, strict=True):
            tracker.start(record.config_hash, label, record.config)
            tracker.end(replace(record, rows=[]))

    def log() -> None:
        for record in some[: RUNS // 4]:
            curve = [{**record.rows[0], "step": step} for step in range(1, ROWS + 1)]
            for row in curve:
                tracker.log_rows(record.config_hash, [row])

    return [measure(start_and_end, len(some)), measure(log, RUNS // 4 * ROWS)]


def main(records: Number = RECORDS) -> int:
    """Measure everything and print the table.

    Args:
        records: Record files that are read and brought.
    """
    table = Table("what", "a second", "driver's processor, ms each")

    def add(what: str, rates: tuple[float, float]) -> None:
        table.add_row(what, f"{rates[0]:,.0f}", f"{rates[1]:.2f}")

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for with_mlflow in (False, True):
            rates = reports(folder / f"reports-{with_mlflow}", with_mlflow)
            add(f"reports{', with MLflow' if with_mlflow else ''}", rates)
        large, root = folder / "large", (folder / "storage").as_uri()
        write_store(large, records // SEEDS, SEEDS)
        add("records read", measure(lambda: read_records(large), records))
        runs, rows = mlflow_rates(folder / "mlflow", read_records(large))
        add("MLflow runs, opened and ended", runs)
        add("MLflow rows, one a call", rows)
        add("records put into a file:// storage", measure(Storage(large, root).exchange, records))
        shutil.rmtree(large)
        add("records brought from there", measure(Storage(large, root).exchange, records))
    Console().print(table)
    return 0


if __name__ == "__main__":
    run(main)
