"""Whether what a study would train at a time fits into memory: estimated before anything trains.

The estimate is meant to be within a factor of two or three, and rather too high: it is there to refuse what would be
killed half-way, not to pack a machine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from moe_models.accounting import active_by_name
from moe_models.errors import require
from moe_models.loss import CHUNK_ELEMENTS
from moe_models.model import MoETransformer
from moe_models.parameters import is_matrix
from sweeps.engine.apart import in_processes
from sweeps.engine.plan import PlannedRun
from sweeps.engine.resources import Resources
from trainables.config import TrialConfig
from trainables.memory import CONTEXT_BYTES

FLOAT_BYTES = 4
PROCESS_BYTES = {"cpu": 400 * 2**20, "cuda": CONTEXT_BYTES}
"""A worker with its libraries; on a GPU its context there."""
ELEMENTWISE = 2
"""Norms, activations, dropout and routing keep about as much as matrix products do."""
WEIGHTS_KEPT = 4
"""Copies of the attention weights in training with dropout: scores, softmax, mask and product."""
MEMORY_INFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")


def run_bytes(config: TrialConfig, device: torch.device) -> int:
    """Estimate the memory of one run: process, parameters, gradients, optimizer state, activations.

    A matrix product keeps its input and its output for the backward pass, at each token that it serves; what stands
    between the products keeps about as much again. Evaluation keeps nothing, so one layer counts.
    """
    with torch.device("meta"):
        model = MoETransformer(config.model)
    states, served = 0, 0.0
    active = active_by_name(model)
    for name, parameter in model.named_parameters():
        in_block = name.startswith("layers.") and is_matrix(name, parameter)
        # Weight, gradient, then momentum and the update (Muon), or both moments (AdamW).
        states += 4 * parameter.numel()
        if in_block:
            share = active[name] / parameter.numel() * (parameter.shape[0] if parameter.ndim == 3 else 1)
            served += share * sum(parameter.shape[-2:])
    states += 2 * model.embedding.numel()  # the head's gradient and its copy in the products' dtype
    training, layers = config.training, config.model.n_layers
    tokens = training.batch_size * training.seq_len
    kept = ELEMENTWISE * served
    if config.model.dropout > 0:
        kept += WEIGHTS_KEPT * layers * config.model.attention.n_heads * training.seq_len
    evaluated = training.evaluation_batch_size * training.seq_len * ELEMENTWISE * served / layers
    logits = 2 * CHUNK_ELEMENTS[device.type]
    floats = states + max(tokens * kept, evaluated) + logits
    return PROCESS_BYTES[device.type] + int(FLOAT_BYTES * floats)


def free_bytes(device: torch.device) -> int | None:
    """Return the memory that is free: the GPU's (of several the fullest), or the machine's; None where not known."""
    if device.type == "cuda":
        return min(free_on_gpus())
    try:
        free = _field(MEMORY_INFO, "MemAvailable:") * 1024
    except (OSError, StopIteration):
        return None
    try:  # a container may have less than its machine
        limit, used = (int((CGROUP / name).read_text()) for name in ("memory.max", "memory.current"))
        cached = _field(CGROUP / "memory.stat", "inactive_file")  # files that make room when asked to
    except (OSError, ValueError, StopIteration):
        return free
    return min(free, limit - used + cached)


def free_on_gpus() -> list[int]:
    """Return the memory that is free on each GPU, bytes: asked for in a process that ends, since asking takes some."""
    (free,) = in_processes("asking for the memory that is free on the GPUs", 1, _free_on_gpus)
    return free


def _free_on_gpus() -> list[int]:
    return [torch.cuda.mem_get_info(index)[0] for index in range(torch.cuda.device_count())]


def _field(path: Path, name: str) -> int:
    return next(int(line.split()[1]) for line in path.read_text().splitlines() if line.split()[0] == name)


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """What the runs that train at a time take on each GPU, or in the machine's memory, were all like the largest."""

    cell: str
    """The largest."""
    run_bytes: int
    together: int

    @property
    def bytes(self) -> int:
        """Of all that run at a time."""
        return self.together * self.run_bytes


def footprint(runs: Sequence[PlannedRun], resources: Resources) -> Footprint:
    """Estimate the memory of the runs (there are some) that train at a time; where `auto` measured, it is by that."""
    needs = {run.cell.name: run_bytes(run.cell.config, resources.device) for run in runs}
    largest = max(needs, key=lambda name: needs[name])
    together = -(-min(resources.slots, len(runs)) // max(1, resources.gpus))
    packing = resources.packing
    return Footprint(cell=largest, run_bytes=packing.run_bytes if packing else needs[largest], together=together)


def require_memory(runs: Sequence[PlannedRun], resources: Resources) -> None:
    """Refuse runs of which the largest does not fit into its share, or as many as run at a time into what is free.

    Raises:
        ConfigError: they do not; the line says what would.
    """
    free = free_bytes(resources.device)
    if not runs or free is None or resources.packing is not None:
        return  # what was measured was made to fit
    need = footprint(runs, resources)
    if resources.gpus_per_trial < 1 and resources.gpus:
        _require_share(need, resources.gpus_per_trial)
    fewer = f"--max-concurrent {free // need.run_bytes * max(1, resources.gpus)}"
    require_room(need, free, "on each GPU" if resources.gpus else "in memory", fewer)


def _require_share(need: Footprint, share: float) -> None:
    total = min(torch.cuda.get_device_properties(index).total_memory for index in range(torch.cuda.device_count()))
    enough = math.ceil(100 * need.run_bytes / total) / 100
    require(
        need.run_bytes <= share * total,
        f"{gib(need.run_bytes)} a run ('{need.cell}' needs most), and --gpus-per-trial {share:g} is "
        f"{gib(int(share * total))} of a GPU of {gib(total)}: take "
        + (f"--gpus-per-trial {enough:g}, or a smaller --scale" if enough <= 1 else "a smaller --scale, such as cpu"),
    )


def require_room(need: Footprint, free: int, where: str, fewer: str) -> None:
    """Require that runs fit into so many free bytes.

    Args:
        need: of the runs.
        free: bytes.
        where: they are, in words.
        fewer: how to have as many at a time as would fit.

    Raises:
        ConfigError: they do not; the line says what would.
    """
    require(
        need.bytes <= free,
        f"{gib(need.run_bytes)} a run ('{need.cell}' needs most) times {need.together} at a time are "
        f"{gib(need.bytes)}, and {gib(free)} are free {where}: take "
        + (f"{fewer}, or a smaller --scale" if need.run_bytes <= free else "a smaller --scale, such as cpu"),
    )


def gib(size: int) -> str:
    """Return a size in words."""
    return f"{size / 2**30:.1f} GiB"
