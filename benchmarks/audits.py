"""What the audits and the final test cost a run: `python benchmarks/audits.py [SCALE]`.

One thread, as a trial has on a CPU. Trains one run of exp6's `baseline` and of its largest cell and prints what the
audits took at its start, in its loop and at its end, and their share of its time; beside it what one scoring of the
test split takes. What the first passes of a process take is no audit's; a short run goes before. Exits with 1 where a
share of the audits is above 2 %.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.command import Word, run
from sweeps.exp6_grid import STUDY
from trainables.audits import Auditor
from trainables.config import DataConfig, TrialConfig
from trainables.data import prepare_corpus
from trainables.loop import Trainer
from trainables.scales import scale_named

CELLS = ("baseline", "attention_mlp_moe")
LARGEST_SHARE = 0.02


class Stopwatch:
    """Adds up the time that a function takes, by call or by wrapping a method."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, timed."""

        def timed(*arguments: Any) -> Any:
            started = time.perf_counter()
            result = function(*arguments)
            self.seconds += time.perf_counter() - started
            return result

        return timed


def measure(trainer: Trainer, auditor: Auditor) -> tuple[float, list[float]]:
    """Train a run; return its seconds without audits, and those of the audits at the start, in the loop, at the end."""
    start, loop, end = Stopwatch(), Stopwatch(), Stopwatch()
    for name in ("batch", "begins", "gradients", "row_made", "update_made", "evaluation_begins", "scored"):
        setattr(trainer.witness, name, loop(getattr(trainer.witness, name)))
    start(auditor.before_update)()
    for _ in trainer.run():
        loop(auditor.before_update)()
    end(auditor.end)()
    training = trainer.train_seconds + trainer.evaluation_seconds - loop.seconds
    return training, [start.seconds, loop.seconds, end.seconds]


def main(scale: Word = "cpu") -> int:
    """Time both cells and print the table; 1 where the audits take more than they may.

    Args:
        scale: Size of the models.
    """
    torch.set_num_threads(1)
    size = scale_named(scale)
    corpus = prepare_corpus("web", vocab_size=size.vocab_size, seq_len=size.training.seq_len)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    table = Table("cell", "run s", "start s", "loop s", "end s", "share", "test split s", "its share")
    shares = []
    for cell in STUDY.designs["default"].cells:
        if cell.name in CELLS:
            data = DataConfig(corpus=corpus.name, content_hash=corpus.content_hash)
            config = TrialConfig(model=cell.build(size), training=size.training, data=data)
            short = size.with_training(updates=size.training.row_every)
            for _ in Trainer(replace(config, training=short), 0, corpus, device).run():
                pass
            trainer = Trainer(config, 0, corpus, device)
            run, audits = measure(trainer, Auditor(trainer, corpus))
            shares.append(sum(audits) / run)
            test = Stopwatch()
            test(trainer.evaluate_test)()
            figures = [*(f"{seconds:.3f}" for seconds in audits), f"{shares[-1]:.2%}"]
            table.add_row(cell.name, f"{run:.1f}", *figures, f"{test.seconds:.3f}", f"{test.seconds / run:.2%}")
    Console().print(table)
    return int(max(shares) > LARGEST_SHARE)


if __name__ == "__main__":
    run(main)
