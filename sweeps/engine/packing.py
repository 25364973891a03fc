"""How runs are laid over a machine: when the last of them ends. Pure: no clock, no device."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass


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
