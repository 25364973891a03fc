"""Do the tests hold their promises on losses of real training? `python benchmarks/real_training.py [STUDIES]`

Simulations draw normal losses; here every loss is that of a model that was trained. A study is two arms of five runs,
no two runs of all studies have a seed in common, and it is analysed as anyone's CSV is.

- *A/A*: both arms are one model. How many of 200 studies find a difference? At 5 % the number has to lie inside the
  binomial 99 % interval.
- *Handicap*: one arm trains at 0.95 times the learning rate. How many of 200 studies find it? That is predicted first,
  from runs that no such study has: as many with the handicap, and the other A/A arm. From their means and sds the power
  of Welch's test follows for normal losses; the number found has to lie inside the binomial 99 % interval of it.

Exits with 1 where one does not hold. Trains 20 runs a study: 4,000, each of less than a second.
"""

from __future__ import annotations

import csv
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from scipy import stats

sys.path.insert(0, str(Path(__file__).parents[1]))

from analysis.comparing.unpaired import UnpairedMoments, welch_test
from analysis.loading.load import load_results
from analysis.schema import CELL, SEED, VAL_LOSS
from analysis.statistics.significance import ALPHA
from analysis.summary import analyse
from benchmarks.command import Number, run
from benchmarks.in_process import CPU, part_of
from sweeps.engine.study import BASELINE
from trainables.config import DataConfig, TrialConfig
from trainables.data import TokenizedCorpus, prepare_corpus
from trainables.environment import cpu_cores
from trainables.loop import Trainer
from trainables.scales import SCALES

RUNS = 5
"""In each arm of a study."""
HANDICAP = 0.95
"""Of the learning rates."""
LEVEL = 0.99
UPDATES, VOCABULARY, LENGTH = 40, 260, 32
SIMULATED = 20_000

Arms = tuple[np.ndarray, np.ndarray]
"""Losses of the baseline and of the other arm, each (studies, runs)."""


@cache
def corpus() -> TokenizedCorpus:
    """A part of `web` in hardly more than bytes: small enough for a run to take a fraction of a second."""
    return part_of(prepare_corpus("web", vocab_size=VOCABULARY, seq_len=LENGTH), 200, 2)


def config(rate: float) -> TrialConfig:
    """Return a tiny model's run, with dropout and a router's noise, at a multiple of the learning rates."""
    scale = replace(SCALES["ladder_1"], vocab_size=VOCABULARY, dropout=0.1)
    size = replace(scale.size, d_model=16, n_heads=2, d_ff=32, n_experts=4, latent_rank=8)
    base = scale.training
    training = replace(
        base,
        updates=UPDATES, seq_len=LENGTH, row_every=UPDATES, evaluate_every=UPDATES,
        muon_learning_rate=rate * base.muon_learning_rate, adamw_learning_rate=rate * base.adamw_learning_rate,
    )  # fmt: skip
    model = replace(scale, size=size, training=training).model(**BASELINE)
    data = DataConfig(corpus=corpus().name, content_hash=corpus().content_hash)
    return TrialConfig(model=model, training=training, data=data)


def loss(run: tuple[float, int]) -> float:
    """Train one (rate, seed) and return its final validation loss."""
    torch.set_num_threads(1)
    trainer = Trainer(config(run[0]), run[1], corpus(), CPU)
    for _ in trainer.run():
        pass
    return float(trainer.rows[-1][VAL_LOSS])


def p_of_study(baseline: Sequence[float], other: Sequence[float], folder: Path) -> tuple[float, str]:
    """Analyse two arms as a CSV of anyone's; return the test's p and the verdict."""
    path = folder / "study.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([CELL, SEED, VAL_LOSS])
        writer.writerows(["baseline", seed, value] for seed, value in enumerate(baseline))
        writer.writerows(["other", RUNS + seed, value] for seed, value in enumerate(other))
    (row,) = analyse(load_results(path)).comparisons.to_dict("records")
    return row["p"], row["verdict"]


def power(baseline: np.ndarray, other: np.ndarray) -> float:
    """Return the power of Welch's test for normal losses of these two arms' means and sds, by simulation."""
    draw = np.random.default_rng(0)
    x, y = (draw.normal(arm.mean(), arm.std(ddof=1), (SIMULATED, RUNS)) for arm in (other, baseline))
    return float((welch_test(UnpairedMoments.of(x, y)) <= ALPHA).mean())


def predicted(baseline: np.ndarray, handicapped: np.ndarray, studies: int) -> float:
    """Print and return the share of studies that will find the handicap, by separate runs of both arms."""
    expected = power(baseline, handicapped)
    low, high = interval(studies, expected)
    size = handicapped.mean() - baseline.mean()
    print(
        f"predicted by {baseline.size + handicapped.size:,} other runs: the handicap is {size:+.4f} nats, so "
        f"{expected:.1%} of studies find it, {low} to {high} of {studies}\n",
        flush=True,
    )
    return expected


def interval(studies: int, expected: float) -> tuple[int, int]:
    """Return between how many of the studies 99 % of counts lie."""
    low, high = stats.binom.interval(LEVEL, studies, expected)
    return int(low), int(high)


def judge(name: str, arms: Arms, expected: float) -> bool:
    """Analyse the studies of two arms, print how many find a difference, and return whether it is what was expected."""
    with tempfile.TemporaryDirectory() as folder:
        analysed = [p_of_study(x, y, Path(folder)) for x, y in zip(*arms, strict=True)]
    studies = len(analysed)
    found = sum(p <= ALPHA for p, _ in analysed)
    plain = sum(verdict in ("better", "worse") for _, verdict in analysed)
    low, high = interval(studies, expected)
    difference = arms[1].mean() - arms[0].mean()
    sd = np.sqrt((arms[0].var(ddof=1) + arms[1].var(ddof=1)) / 2)
    held = low <= found <= high
    print(
        f"| {name} | {studies} | {difference:+.4f} | {sd:.4f} | {expected:.1%} | {low} to {high} | {found} | {plain} | "
        f"{'yes' if held else '**NO**'} |",
        flush=True,
    )
    return held


def main(studies: Number = 200) -> int:
    """Predict what will be found, train what is tested, print both lines; 1 where one does not hold.

    Args:
        studies: How many of each kind.
    """
    count = studies * RUNS
    with ProcessPoolExecutor(cpu_cores(), get_context("spawn")) as pool:

        def arm(place: int, rate: float) -> np.ndarray:
            """Train all runs of an arm, on seeds of its own; return losses (studies, runs)."""
            runs = [(rate, place * count + seed) for seed in range(count)]
            return np.array(list(pool.map(loss, runs, chunksize=RUNS))).reshape(studies, RUNS)

        second = arm(1, 1.0)
        expected = predicted(second, arm(3, HANDICAP), studies)
        first, handicapped = arm(0, 1.0), arm(2, HANDICAP)
    columns = (
        "studies",
        "studies",
        "difference, nats",
        "sd of a run",
        "expected",
        "99 % of studies",
        "found",
        "verdicts",
        "held",
    )
    print(f"| {' | '.join(columns)} |\n|:-- |{' --: |' * (len(columns) - 1)}")
    held = judge("A/A", (first, second), ALPHA)
    held &= judge("handicap", (first, handicapped), expected)
    return int(not held)


if __name__ == "__main__":
    run(main)
