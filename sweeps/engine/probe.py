"""What is measured before a study: how long one update takes, and which precision is faster.

Each probe trains throw-away models for a few updates with one thread, as a trial does; where one update would take too
long, its time comes from FLOPs and a measured rate of matrix products instead.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

from moe_models.accounting import count
from trainables.batches import evaluation_batches
from trainables.config import TrialConfig
from trainables.data import TokenizedCorpus
from trainables.loop import Trainer

LONGEST_UPDATE_SECONDS = 0.5
"""Above this, by its FLOPs, an update is not tried."""
PROBE_SECONDS = 5.0
"""Time for all probes of an estimate."""
CLEARLY_FASTER = 0.75
"""bf16 is taken where its update takes less than this share of fp32's.

The precision is part of the result, so near equality, where the load of the machine would decide, must stay fp32."""
EFFICIENCY = 0.25
"""Share of the bare matrix products' rate that training reaches; only for times that cannot be measured."""
PROBE_SEED = 0


@dataclass(frozen=True)
class Estimate:
    """How long runs will take."""

    run_seconds: tuple[float, ...]
    """Of one run of each cell."""
    method: str
    """How it was found, in words."""


def faster_precision(config: TrialConfig, corpus: TokenizedCorpus, device: torch.device) -> str:
    """Return `bf16` where autocast makes an update clearly faster, else `fp32`.

    Where an update takes too long to try, a GPU takes bf16 and a CPU fp32.
    """
    with _one_thread():
        if _flops(config) / matmul_rate(device) > LONGEST_UPDATE_SECONDS:
            return "bf16" if device.type == "cuda" else "fp32"
        fp32, bf16 = update_seconds(
            [replace(config, training=replace(config.training, precision=name)) for name in ("fp32", "bf16")],
            corpus,
            device,
            repeats=8,
        )
    return "bf16" if bf16 < CLEARLY_FASTER * fp32 else "fp32"


def estimate_runs(cells: Sequence[tuple[TrialConfig, TokenizedCorpus]], device: torch.device) -> Estimate:
    """Estimate the time of a run of each cell, start-up apart, as if it ran alone.

    Args:
        cells: each one's configuration and corpus.
        device: what they train on.
    """
    started = time.monotonic()
    run_seconds, measured = [], 0
    with _one_thread():
        rate = matmul_rate(device) * EFFICIENCY
        known: list[float] = []  # seconds per FLOP of the updates that were measured
        for config, corpus in cells:
            flops = _flops(config)
            fits = flops / rate < LONGEST_UPDATE_SECONDS and time.monotonic() - started < PROBE_SECONDS
            if fits:
                (update,) = update_seconds([config], corpus, device, repeats=2)
                known.append(update / flops)
                measured += 1
            else:
                update = flops * (sum(known) / len(known) if known else 1 / rate)
            run_seconds.append(update * updates_in_all(config, corpus))
    method = "from FLOPs and the measured rate of matrix products"
    if measured:
        method = f"from measured updates of {measured} of {len(cells)} cells"
    return Estimate(tuple(run_seconds), method)


def updates_in_all(config: TrialConfig, corpus: TokenizedCorpus) -> float:
    """Return the updates that would take as long as a run's training and evaluation do together."""
    training = config.training
    evaluations = -(-training.updates // training.evaluate_every) + 1  # and the test split, as large
    # A forward pass is a third of the training FLOPs.
    tokens = evaluation_batches(config, corpus).scored_tokens / training.tokens_per_update / 3
    return training.updates + evaluations * tokens


def update_seconds(
    configs: Sequence[TrialConfig], corpus: TokenizedCorpus, device: torch.device, repeats: int
) -> list[float]:
    """Return the time of one update of each: the least of some, after one to warm up.

    They take turns, so that a load on the machine meets them all.
    """
    trainers = []
    for config in configs:
        endless = replace(config.training, updates=10_000, row_every=1, evaluate_every=10_000)
        trainers.append(Trainer(replace(config, training=endless), PROBE_SEED, corpus, device))
    runs = [trainer.run() for trainer in trainers]
    times: list[list[float]] = [[] for _ in configs]
    for _ in range(repeats + 1):
        for trainer, run, own in zip(trainers, runs, times, strict=True):
            before = trainer.train_seconds
            next(run)
            own.append(trainer.train_seconds - before)
    return [min(own[1:]) for own in times]


def matmul_rate(device: torch.device, size: int = 1024) -> float:
    """Return fp32 matrix products' FLOPs a second, with one thread on a CPU."""
    a = torch.ones(size, size, device=device)
    best = float("inf")
    for _ in range(4):
        started = time.perf_counter()
        a @ a
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def _flops(config: TrialConfig) -> float:
    return float(count(config.model).flops_per_token * config.training.tokens_per_update)


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
