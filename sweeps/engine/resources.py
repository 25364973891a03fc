"""How many runs at a time, and what each of them gets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from analysis.schema import error_line
from moe_models.errors import ConfigError, require
from sweeps.engine.options import AUTO
from sweeps.engine.packing import Packing
from trainables.environment import cpu_cores
from trainables.memory import tensors_share


@dataclass(frozen=True, kw_only=True)
class Resources:
    """The machine as a study uses it. A run has one CPU core, and its share of a GPU where there is one."""

    slots: int
    """Runs at a time."""
    gpus: int
    """GPUs used: none where runs ask for none."""
    gpus_per_trial: float
    reason: str
    """What was seen, in words."""
    packing: Packing | None = None
    """What was measured, where `auto` chose."""
    cluster: bool = False
    """Whether runs may be on other machines than their driver."""
    hardware: str = ""
    """Of the machines of a cluster, in words; empty for this machine alone."""

    @property
    def device(self) -> torch.device:
        """What runs train on."""
        return torch.device("cuda" if self.gpus_per_trial else "cpu")

    @property
    def cost_unit(self) -> str:
        """What training costs: `GPU-hours`, or `core-hours` where runs have no GPU."""
        return "GPU-hours" if self.gpus else "core-hours"

    def cost(self, busy_seconds: float) -> float:
        """Return what so many seconds of runs cost, each with its share of a GPU or its core."""
        return busy_seconds * (self.gpus_per_trial or 1.0) / 3600


def find_resources(max_concurrent: int | None, gpus_per_trial: Literal["auto"] | float | None) -> Resources:
    """Return what a study may use; for `auto` all that there is, of which `sweeps.engine.measure` chooses.

    Raises:
        ConfigError: more GPU is asked for than there is, or less than a process takes.
    """
    if gpus_per_trial == AUTO:
        return find_resources(None, None)
    available, cores = torch.cuda.device_count(), cpu_cores()
    share = gpus_per_trial if gpus_per_trial is not None else float(available > 0)
    require(
        share <= available,
        f"--gpus-per-trial {share:g} asks for more than this machine has ({_gpus(available)}); "
        "leave it out to train on what is there",
    )
    if share == 0:
        slots = max_concurrent or cores
        seen = "no GPU was seen" if available == 0 else "--gpus-per-trial 0"
        return Resources(slots=slots, gpus=0, gpus_per_trial=0.0, reason=f"{seen}, {cores} CPU cores")
    try:
        kind = torch.cuda.get_device_name(0)
    except RuntimeError as error:  # GPUs are counted without CUDA: its driver may be too old for this torch
        raise ConfigError(
            f"torch {torch.__version__} cannot use the {_gpus(available)} that this machine has: {error_line(error)}. "
            "--gpus-per-trial 0 trains on the CPU"
        ) from error
    for index in range(available if share < 1 else 0):
        tensors_share(share, index)  # refuses one without room, which no run could use
    fit = fitting(available, share)
    if max_concurrent is not None and max_concurrent > fit:
        raise ConfigError(
            f"--max-concurrent {max_concurrent} with --gpus-per-trial {share:g} asks for more than this machine has "
            f"({_gpus(available)}: {fit} at a time)"
        )
    reason = f"{_gpus(available)} seen ({kind})"
    return Resources(slots=max_concurrent or fit, gpus=available, gpus_per_trial=share, reason=reason)


def fitting(gpus: int, share: float) -> int:
    """Return how many runs at a time fit on some GPUs, a share of one each: it lies on one GPU."""
    return int(1 / share + 1e-9) * gpus if share <= 1 else int(gpus / share)


def _gpus(count: int) -> str:
    return {0: "no GPU", 1: "1 GPU"}.get(count, f"{count} GPUs")
