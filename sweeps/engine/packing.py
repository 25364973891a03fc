"""How runs are laid over a machine, and how many share a device: decided from figures alone."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MOST_TOGETHER = 100
"""Runs at a time on a GPU: Ray hands out ten-thousandths of one, and `--gpus-per-trial` takes no less than 0.01."""
SHARES = 10_000


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Runs laid over slots."""

    seconds: float
    """From the first start to the last end."""
    busy_seconds: float
    """Of all runs together."""


def schedule(order: Sequence[int], slots: Sequence[Sequence[float]]) -> Schedule:
    """Lay runs over slots as they are trained: in order, each in the slot that is free first.

    Args:
        order: for each run, its kind.
        slots: for each slot, the seconds of a run of each kind there; one or more.
    """
    free = [(0.0, place) for place in range(len(slots))]
    busy = 0.0
    for kind in order:
        start, place = heapq.heappop(free)
        busy += slots[place][kind]
        heapq.heappush(free, (start + slots[place][kind], place))
    return Schedule(seconds=max(end for end, _ in free), busy_seconds=busy)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was measured on one kind of device."""

    count: int
    """Devices of this kind."""
    free_bytes: int | None
    """Of the fullest of them; None where that is not known."""
    run_bytes: int
    """What the largest run takes, margin included."""
    run_seconds: Mapping[int, Sequence[float]]
    """By runs at a time on one device: the seconds of a run of each kind then."""

    @property
    def fitting(self) -> float:
        """Runs that fit on one device at a time."""
        return math.inf if self.free_bytes is None else self.free_bytes // self.run_bytes


@dataclass(frozen=True, kw_only=True)
class Packing:
    """How many runs share each device, and what came of others."""

    together: int
    """Runs at a time on each device."""
    run_bytes: int
    """What the largest run takes, margin included."""
    schedules: Mapping[int, Schedule]
    """By runs at a time on each device, of all that were measured and fit."""

    @property
    def schedule(self) -> Schedule:
        """What is expected."""
        return self.schedules[self.together]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "together": self.together,
            "run_bytes": self.run_bytes,
            "seconds": {str(together): laid.seconds for together, laid in self.schedules.items()},
        }

    @property
    def share(self) -> float:
        """Of a device, rounded down so that all fit."""
        return math.floor(SHARES / self.together) / SHARES


def choose_packing(devices: Sequence[Measured], order: Sequence[int], limit: float = math.inf) -> Packing:
    """Return the packing that ends the study soonest; of equals the one with the fewest runs at a time.

    All devices take as many, so the smallest says how many fit; a fast one trains more of the runs.

    Args:
        devices: by kind. What was measured on one of them alone is no candidate.
        order: for each run, its kind.
        limit: runs at a time on all devices together.

    Raises:
        ValueError: not even one run fits, or nothing was measured.
    """
    fitting = min(device.fitting for device in devices)
    measured = set.intersection(*(set(device.run_seconds) for device in devices))
    schedules = {
        together: schedule(order, _slots(devices, together, limit))
        for together in sorted(measured)
        if together <= fitting
    }
    return Packing(
        together=min(schedules, key=lambda together: (schedules[together].seconds, together)),
        run_bytes=max(device.run_bytes for device in devices),
        schedules=schedules,
    )


def _slots(devices: Sequence[Measured], together: int, limit: float) -> list[Sequence[float]]:
    """Return the slots of all devices, by turns, so that a limit leaves as many on each as it can."""
    each = [device.run_seconds[together] for device in devices for _ in range(device.count)]
    slots = each * together
    return slots[: int(min(limit, len(slots)))]


def levels(most: int) -> list[int]:
    """Return the numbers of runs at a time that are tried: 1, 2, 4 ... and the most."""
    return [*itertools.takewhile(lambda level: level < most, (2**power for power in itertools.count())), most]
