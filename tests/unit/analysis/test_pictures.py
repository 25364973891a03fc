"""Figures drawn by several processes are the figures that one draws, and processes with threads are not forked."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
DRAW = """
import resource, sys, threading
from analysis.loading.load import load_results
from analysis.figures.pictures import draw
from analysis.summary import analyse

def children() -> float:
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime

results = load_results(sys.argv[1])
analysis = analyse(results)
alone = draw(results, analysis)
assert list(alone) == ["ranking", "differences", "estimation", "power"]
assert children() == 0
assert draw(results, analysis, processes=2) == alone
forked = children()
assert forked > 0
over = threading.Event()
threading.Thread(target=over.wait).start()
assert draw(results, analysis, processes=2) == alone
over.set()
assert children() == forked
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere one process draws")
def test_several_processes_draw_what_one_draws(tmp_path: Path) -> None:
    """In a process of its own: that of the tests may have threads."""
    path = tmp_path / "mine.csv"
    rows = [f"{cell},{seed},{4 + place + seed * (1 + place) / 9}" for place, cell in enumerate(("baseline", "new"))
            for seed in range(4)]  # fmt: skip
    path.write_text("cell,seed,val_loss\n" + "\n".join(rows))
    subprocess.run([sys.executable, "-c", DRAW, str(path)], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
