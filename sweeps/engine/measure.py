"""`--gpus-per-trial auto`: what runs take and how fast they are together, measured before a study.

For a moment, processes train throw-away models as trials do: a process a trial, several at a time. What they took says
how many fit; how fast they were says how many end the study soonest (`packing.py`).
"""

from __future__ import annotations

import importlib
import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from multiprocessing.synchronize import Barrier
from pathlib import Path

import torch

from moe_models.errors import ConfigError, require
from sweeps.engine.apart import CONTEXT, NoMemoryError, in_processes
from sweeps.engine.memory import free_bytes, free_on_gpus, gib, run_bytes
from sweeps.engine.packing import MOST_TOGETHER, Measured, choose_packing, levels
from sweeps.engine.plan import THREADS_PER_TRIAL, Plan, PlannedCell, PlannedRun, by_cell
from sweeps.engine.probe import PROBE_SEED, updates_in_all
from sweeps.engine.resources import Resources
from trainables.audits import Auditor, targets
from trainables.config import TrialConfig, stable_hash
from trainables.data import open_corpus
from trainables.environment import cpu_cores
from trainables.loop import Trainer
from trainables.memory import CONTEXT_BYTES, settle_process

MARGIN = 1.2
"""A run is taken to need so many times what was measured: a probe is short, and sees no whole evaluation."""
MEASURED_SECONDS = 0.4
"""Least time over which a model's updates are timed."""
SHAPE = ("batch_size", "seq_len", "accumulation", "optimizer", "precision", "evaluation_batch_size")
"""What memory and the time of an update depend on in a training configuration."""

Model = tuple[TrialConfig, Path]
"""A configuration, and the folder of its corpus."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Of one model, which several processes trained at the same time."""

    update_seconds: float
    """Of a process's update, the mean of all."""
    peak_bytes: int
    """The most that a process took."""


def packed(
    plan: Plan, runs: Sequence[PlannedRun], resources: Resources, limit: int | None, say: Callable[[str], None]
) -> Resources:
    """Return the resources with as many runs at a time as end the study soonest, by measurement.

    Each kind of GPU is measured on one of them, and each model once, however many cells train it. More at a time are
    tried as long as that ends the study sooner, and as they fit. On a CPU a run has one core, whatever is chosen.

    Args:
        plan: of the study.
        runs: those to be trained; where there are none, nothing is measured.
        resources: all that there is.
        limit: the most runs at a time that were asked for.
        say: where to say that it takes a moment, and what did not fit.

    Raises:
        ConfigError: what was asked for does not fit, or could not be measured.
    """
    if not runs:
        return resources
    gpus = max(1, resources.gpus)
    most = min(limit or max(cpu_cores(), gpus), len(runs), MOST_TOGETHER * gpus)
    cells, order = by_cell(runs)
    probes = [_Probe(*kind, plan, cells) for kind in _kinds(resources)]
    say(f"measuring {len(probes[0].models)} models, up to {-(-most // gpus)} at a time on a device")
    try:
        for probe in probes:
            probe.measure(1)
    except NoMemoryError as error:
        raise ConfigError(
            f"not one run fits ({error}): take a smaller --scale, such as cpu, or end what else takes memory there"
        ) from error
    fitting = min(probe.measured().fitting for probe in probes)
    _require_fitting(probes, fitting, most, limit, gpus)
    packing = choose_packing([probe.measured() for probe in probes], order, most)
    for fewer, together in itertools.pairwise(levels(int(min(-(-most // gpus), fitting)))):
        try:
            for probe in probes:
                probe.measure(together)
        except NoMemoryError as error:
            say(f"{together} at a time do not fit ({error}), {fewer} do")
            break
        packing = choose_packing([probe.measured() for probe in probes], order, most)
        if packing.together < together:
            break
    share = packing.share if resources.gpus else 0.0
    return replace(resources, slots=min(most, packing.together * gpus), gpus_per_trial=share, packing=packing)


class _Probe:
    """Measures the cells of a plan on one kind of device."""

    def __init__(
        self, device: torch.device, count: int, free: int | None, plan: Plan, cells: Sequence[PlannedCell]
    ) -> None:
        self.device = device
        self.count = count
        self.free_bytes = free
        self.run_bytes = 0
        self.run_seconds: dict[int, list[float]] = {}
        self._shapes = [_shape(cell.config) for cell in cells]
        self._updates = [updates_in_all(cell.config, plan.corpora[cell.scale]) for cell in cells]
        self.models = {
            shape: (cell.config, plan.corpora[cell.scale].directory)
            for shape, cell in zip(self._shapes, cells, strict=True)
        }

    def measure(self, together: int) -> None:
        """Measure so many runs at a time, unless they have been measured."""
        if together in self.run_seconds:
            return
        found = dict(zip(self.models, measure(list(self.models.values()), self.device, together), strict=True))
        largest = max(measurement.peak_bytes for measurement in found.values())
        self.run_bytes = max(self.run_bytes, math.ceil(MARGIN * largest))
        self.run_seconds[together] = [
            found[shape].update_seconds * updates for shape, updates in zip(self._shapes, self._updates, strict=True)
        ]

    def measured(self) -> Measured:
        """Return what was measured so far."""
        return Measured(
            count=self.count, free_bytes=self.free_bytes, run_bytes=self.run_bytes, run_seconds=self.run_seconds
        )


def _kinds(resources: Resources) -> list[tuple[torch.device, int, int | None]]:
    """Return for each kind of device one of them, their number, and the memory that is free on the fullest, bytes."""
    if not resources.gpus:
        return [(resources.device, 1, free_bytes(resources.device))]
    free = free_on_gpus()
    kinds: dict[tuple[str, int], list[int]] = {}
    for index in range(resources.gpus):
        properties = torch.cuda.get_device_properties(index)
        kinds.setdefault((properties.name, properties.total_memory), []).append(index)
    return [(torch.device("cuda", same[0]), len(same), min(free[index] for index in same)) for same in kinds.values()]


def _require_fitting(probes: Sequence[_Probe], fitting: float, most: int, limit: int | None, gpus: int) -> None:
    tight = min(probes, key=lambda probe: probe.measured().fitting)
    if tight.free_bytes is None:
        return
    need = f"a run takes {gib(tight.run_bytes)}, measured and with a margin, and {gib(tight.free_bytes)} are free"
    where = "on a GPU" if tight.device.type == "cuda" else "in memory"
    require(fitting >= 1, f"{need} {where}: take a smaller --scale, such as cpu")
    require(
        limit is None or most <= fitting * gpus,
        f"--max-concurrent {limit} with --gpus-per-trial auto is more than fits: {need} {where}, so take "
        f"--max-concurrent {int(fitting) * gpus} or leave it out",
    )


def _shape(config: TrialConfig) -> str:
    """Return what is equal for configurations that take the same memory and time an update."""
    training = {name: getattr(config.training, name) for name in SHAPE}
    return stable_hash({"model": config.model.to_dict(), **training})


def measure(models: Sequence[Model], device: torch.device, together: int) -> list[Measurement]:
    """Train each model for a moment in so many processes at a time, one model after the other.

    Raises:
        NoMemoryError: they do not fit.
        ConfigError: a process failed or died.
    """
    barrier = CONTEXT.Barrier(together)
    found = in_processes(f"measuring {together} at a time", together, _train_models, models, device, barrier)
    return [
        Measurement(
            update_seconds=sum(each.update_seconds for each in of_model) / together,
            peak_bytes=max(each.peak_bytes for each in of_model),
        )
        for of_model in zip(*found, strict=True)
    ]


def _train_models(models: Sequence[Model], device: torch.device, barrier: Barrier) -> list[Measurement]:
    """Do what one process of a measurement does."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
    torch.set_num_threads(THREADS_PER_TRIAL)
    settle_process()
    importlib.import_module("trainables.ray_trainable")  # Ray is a quarter of what a small trial's process takes
    return [_train(config, folder, device, barrier) for config, folder in models]


def _train(config: TrialConfig, folder: Path, device: torch.device, barrier: Barrier) -> Measurement:
    """Audit, evaluate and train one model a little; timed while all processes train it."""
    endless = replace(config.training, updates=1_000_000, row_every=1_000_000, evaluate_every=1_000_000)
    short = replace(config, training=replace(endless, evaluation_batches=1))
    corpus = open_corpus(folder)
    trainer = Trainer(short, PROBE_SEED, corpus, device)
    auditor = Auditor(trainer, corpus)
    auditor.before_update()
    progress = trainer.run()
    next(progress)  # from now on the optimizers have their state
    trainer.evaluate()
    targets.audit(trainer.model, auditor.batches_read())  # of the end's audits, what may take more than training does
    barrier.wait()
    started, updates = time.perf_counter(), 0
    while updates == 0 or time.perf_counter() - started < MEASURED_SECONDS:
        next(progress)
        updates += 1
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    update_seconds = (time.perf_counter() - started) / updates
    barrier.wait()  # the next model's start must not disturb another process's updates
    if device.type == "cuda":
        peak = torch.cuda.max_memory_reserved(device) + CONTEXT_BYTES
    else:
        peak = trainer.memory.read() or run_bytes(config, device)  # estimated where the system does not tell
    return Measurement(update_seconds=update_seconds, peak_bytes=peak)
