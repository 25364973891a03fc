"""Kills parts of running studies at random moments: `python benchmarks/chaos.py [--kills 30] [--seed 0]`.

A small study is run once undisturbed. Then again and again, while its driver, a worker, the raylet or Ray's control
store is killed at random moments; the same command continues whatever died, with `--rerun failed` since a run that lost
its worker three times counts as failed. Prints how many results were lost, doubled
or differ from the undisturbed ones, in records, tables and MLflow. Exits with 1 where a count is not 0.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import suppress
from pathlib import Path

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

from analysis.schema import FAILURES_FOLDER, read_records
from analysis.sync import sync_mlflow
from benchmarks.command import run
from tests.drivers import comparable, driver, kill_one, nested_runs, processes_of, results_table, tables
from tests.fakes_text import write_corpus

TARGETS = {"driver": "exp6_grid.py", "worker": "Trainable", "raylet": "raylet/raylet", "control store": "gcs_server"}
WEIGHTS = (3, 4, 2, 1)
LONGEST_WAIT_SECONDS = 20.0
"""Upper end of the time between a start and its kill."""
RUNS = 8


def undisturbed(arguments: list[str], place: Path) -> None:
    """Run the command undisturbed."""
    process = driver(arguments, place)
    output, errors = process.communicate()
    assert process.returncode == 0, f"exit status {process.returncode}\n{output}\n{errors}"


def disturb(
    arguments: list[str], place: Path, calm: Path, kills: int, chance: random.Random
) -> tuple[Counter[str], Counter[str]]:
    """Run studies one after the other, killing something at random moments, and compare each one that is complete.

    Returns:
        What was killed how often, and the counts of `compare` over all studies, with the number of studies and of runs
        that had failed when a driver was started.
    """
    done: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    while done.total() < kills:
        counts["asked again"] += len(list(place.glob(f"results/*/{FAILURES_FOLDER}/*.json")))
        process = driver(arguments, place)
        while done.total() < kills and wait_while_alive(process, chance.uniform(0, LONGEST_WAIT_SECONDS)):
            (name,) = chance.choices(list(TARGETS), WEIGHTS)
            done[name] += kill_one(process, TARGETS[name])
        if done.total() < kills:
            sweep_away(process)
        else:
            process.communicate()
            sweep_away(process)
            undisturbed(arguments, place)
        if len(list(place.glob("results/*/records/*.json"))) == RUNS:
            undisturbed(arguments, place)  # nothing to train: the report and MLflow's copy are brought up to date
            counts.update({"studies": 1, **compare(place, calm)})
            place = place.with_name(f"disturbed-{counts['studies']}")  # MLflow would keep the old file's connections
            place.mkdir()
    return done, counts


def wait_while_alive(process: subprocess.Popen[str], seconds: float) -> bool:
    """Return whether the driver still lives after a while."""
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        return True
    return False


def sweep_away(process: subprocess.Popen[str]) -> None:
    """End what a killed driver's session has left: Ray's own agents notice after a minute only."""
    process.wait()
    for pid in processes_of(process.pid):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def compare(disturbed: Path, calm: Path) -> dict[str, int]:
    """Count lost, doubled and differing results."""
    (folder,), (reference,) = (list((place / "results").iterdir()) for place in (disturbed, calm))
    found = {record.config_hash: comparable(record) for record in read_records(folder)}
    wanted = {record.config_hash: comparable(record) for record in read_records(reference)}
    uri = f"sqlite:///{disturbed / 'mlflow.db'}"
    sync_mlflow(folder, uri)
    copies = Counter(run.data.tags["ablatune.config_hash"] for run in nested_runs(uri))
    rows = Counter(row["config_hash"] for row in results_table(folder))
    return {
        "lost": sum(address not in found or not copies[address] or not rows[address] for address in wanted),
        "doubled": sum(copies[address] > 1 or rows[address] > 1 for address in {*copies, *rows}),
        "differing": sum(found.get(address, curve) != curve for address, curve in wanted.items())
        + (tables(folder) != tables(reference)),
    }


def main(kills: int = 30, seed: int = 0) -> int:
    """Kill, continue, compare; 1 where something was lost, doubled or differs.

    Args:
        kills: How many, over as many studies as they take.
        seed: Of what is killed, and when.
    """
    with tempfile.TemporaryDirectory() as scratch:
        corpus = write_corpus(Path(scratch) / "small.jsonl")
        arguments = ["--variants", "baseline,mlp,moe,attention", "--seeds", "2", "--steps", "120", "--scale", "cpu"]
        arguments += ["--precision", "fp32", "--corpus", str(corpus), "--rerun", "failed"]
        calm, disturbed = (Path(scratch) / name for name in ("calm", "disturbed"))
        for place in (calm, disturbed):
            place.mkdir()
        undisturbed(arguments, calm)
        done, counts = disturb(arguments, disturbed, calm, kills, random.Random(seed))
    table = Table("killed", "times")
    for name, times in done.items():
        table.add_row(name, str(times))
    console = Console()
    console.print(table)
    console.print(
        f"{counts['studies']} studies of {RUNS} runs: "
        + ", ".join(f"{counts[name]} {name}" for name in ("lost", "doubled", "differing"))
        + f"; runs asked for again after three lost workers: {counts['asked again']}"
    )
    return int(any(counts[name] for name in ("lost", "doubled", "differing")))


if __name__ == "__main__":
    run(main)
