"""The report of 10,000 runs: `python benchmarks/large_store.py [--folder FOLDER]`, from records and from MLflow.

Writes that many records (200 cells x 50 seeds by default, each with a curve of 12 rows), makes an MLflow SQLite store
from them, and prints for each source what `python -m analysis report` takes, in a process of its own: seconds, seconds
of processors (its own, and those of the forks that draw), and the largest resident memory, of all of them together as
if they shared nothing. Exits with 1 where a report takes more than 20 s or 2 GB. MLflow takes minutes to be filled: a
folder that is named is kept, and measured again by the same command.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

from analysis.figures.pictures import MOST
from analysis.help_page import Place
from analysis.schema import FINISHED, PLAN_FILE, RECORDS_FOLDER, TrialRecord
from analysis.sync import sync_mlflow
from benchmarks.command import run

CELLS, SEEDS, ROWS = 200, 50, 12
MOST_SECONDS, MOST_BYTES = 20.0, 2e9


def write_store(folder: Path, cells: int, seeds: int) -> None:
    """Write a plan and its records: losses with a spread of cells, of seeds and of runs."""
    rng = np.random.default_rng(0)
    of_cells, of_seeds = rng.normal(0, 0.05, cells), rng.normal(0, 0.02, seeds)
    names = ["baseline", *(f"cell_{place:04d}" for place in range(1, cells))]
    (folder / RECORDS_FOLDER).mkdir(parents=True)
    entries = []
    for place, name in enumerate(names):
        factors = {"variant": place}
        hashes = {str(seed): f"{place:08x}{seed:08x}" for seed in range(seeds)}
        entries.append({"name": name, "scale": "cpu", "factors": factors, "baseline": "baseline", "hashes": hashes})
        for seed in range(seeds):
            final = 4.5 + of_cells[place] + of_seeds[seed] + rng.normal(0, 0.01)
            record = TrialRecord(
                study=folder.name, cell=name, seed=seed, status=FINISHED, config_hash=hashes[str(seed)],
                config={"model": {"variant": place}, "data": {"corpus": "none", "content_hash": "0"}},
                rows=[_row(place, row, final, float(rng.normal(1, 0.03))) for row in range(1, ROWS + 1)],
                scale="cpu", factors=factors,
            )  # fmt: skip
            path = folder / RECORDS_FOLDER / f"{record.config_hash}.json"
            path.write_bytes(record.to_bytes())
    plan = {
        "schema_version": 1, "study": folder.name, "title": "Large store", "script": "large_store",
        "data_hash": "0", "protocol": "sound", "flaws": [], "factors": ["variant"],
        "seeds": list(range(seeds)), "metric": "val_loss", "direction": "min", "cells": entries,
        "scales": ["cpu"], "choices": {"precision": {"cpu": "fp32"}, "threads": 1},
    }  # fmt: skip
    (folder / PLAN_FILE).write_text(json.dumps(plan))


def _row(place: int, row: int, final: float, pace: float) -> dict[str, float | int | None]:
    loss = final + 2 * math.exp(-0.4 * row)
    return {
        "step": 25 * row, "tokens": 25_600 * row, "train_loss": loss - 0.05, "val_loss": loss, "val_accuracy": 0.3,
        "val_perplexity": math.exp(loss), "learning_rate": 0.01, "tokens_per_second": 30_000 / pace,
        "train_seconds": 0.85 * row * pace, "evaluation_seconds": 0.1 * row, "peak_memory_bytes": 500_000_000,
        "params_total": 600_000 + 1_000 * place, "params_active": 200_000 + 1_000 * place,
        "flops_per_token": 1_500_000 + 6_000 * place, "load_imbalance": 1.2,
    }  # fmt: skip


@dataclass(frozen=True)
class Taken:
    """What a report took: seconds, those of its own processor and of its forks', and bytes."""

    seconds: float
    own: float
    forks: float
    memory: float


def measure(source: str, output: Path) -> Taken:
    """Make a report in a process of its own."""
    code = (
        "import resource, sys\nfrom analysis.__main__ import main\n"
        f"status = main(['report', {source!r}, '--output', {str(output)!r}])\n"
        "for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):\n"
        "    used = resource.getrusage(who)\n"
        "    print(used.ru_utime + used.ru_stime, used.ru_maxrss, file=sys.stderr)\n"
        "sys.exit(status)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    seconds = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(done.stderr)
    own, largest, forks, of_a_fork = map(float, done.stderr.split()[-4:])
    memory = (largest + min(os.cpu_count() or 1, MOST) * of_a_fork) * (1 if sys.platform == "darwin" else 1024)
    return Taken(seconds, own, forks, memory)


def fill(place: Path, cells: int, seeds: int) -> tuple[Path, str]:
    """Write the records and MLflow's copy of them, as far as they are not there; return both places."""
    folder, uri = place / f"large-{cells}-{seeds}", f"sqlite:///{place}/mlflow-{cells}-{seeds}.db"
    if not (folder / PLAN_FILE).exists():
        write_store(folder, cells, seeds)
    os.chdir(place)  # MLflow keeps artifacts in the current folder
    sync_mlflow(folder, uri)
    return folder, uri


def main(cells: int = CELLS, seeds: int = SEEDS, folder: Place = None) -> int:
    """Print the table; return 1 where a report was too slow or too large.

    Args:
        cells: How many.
        seeds: Of each cell.
        folder: Where the store is kept; by default it is made for this once.
    """
    table = Table("source", "runs", "seconds", "processor, own", "processor, forks", "largest memory")
    over = False
    with tempfile.TemporaryDirectory() if folder is None else nullcontext(folder) as place:
        records, uri = fill(Path(place).absolute(), cells, seeds)
        for name, source in (("folder of records", str(records)), ("MLflow, SQLite", uri)):
            taken = measure(source, Path(place).absolute() / "report")
            over |= taken.seconds > MOST_SECONDS or taken.memory > MOST_BYTES
            figures = [f"{figure:.1f}" for figure in (taken.seconds, taken.own, taken.forks)]
            table.add_row(name, f"{cells * seeds:,}", *figures, f"{taken.memory / 1e9:.2f} GB")
            print(f"{name}: {figures[0]} s, {taken.memory / 1e9:.2f} GB", file=sys.stderr)
    Console().print(table)
    return 1 if over else 0


if __name__ == "__main__":
    run(main)
