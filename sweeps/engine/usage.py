"""What runs, or the trials of a search, have really taken since their command was given."""

from __future__ import annotations

import time
from typing import Any

from analysis.text import duration
from sweeps.engine.memory import gib


class Usage:
    """Counts what runs report."""

    def __init__(self) -> None:
        self.device_seconds = 0.0
        """Of training and evaluation: of GPUs, or of cores."""
        self.peak_bytes: int | None = None
        """Largest peak memory of a run; None where none is known."""
        self._first_start: float | None = None
        self._last_report: float | None = None

    def started(self) -> None:
        """A run begins to train."""
        if self._first_start is None:
            self._first_start = time.monotonic()

    def reported(self, busy_seconds: float, share: float, peak_bytes: int | None) -> None:
        """A run was training or evaluating so long since its last report, with a share of a GPU or a core."""
        self._last_report = time.monotonic()
        self.device_seconds += busy_seconds * share
        self.peak_bytes = max(filter(None, (self.peak_bytes, peak_bytes)), default=None)

    @property
    def seconds(self) -> float | None:
        """From the first start to the last report; None where nothing was trained."""
        if self._first_start is None or self._last_report is None:
            return None
        return self._last_report - self._first_start

    @property
    def seconds_so_far(self) -> float | None:
        """From the first start to now; None before it."""
        return None if self._first_start is None else time.monotonic() - self._first_start

    def to_json(self, cost_unit: str) -> dict[str, Any]:
        """Return it as plain data, the cost in a unit of `Resources`."""
        return {
            "makespan_seconds": self.seconds,
            "cost": self.device_seconds / 3600,
            "cost_unit": cost_unit,
            "peak_memory_bytes": self.peak_bytes,
        }

    def line(self, cost_unit: str, one: str) -> str:
        """Say it in words. `one`: what a run is called."""
        if self.seconds is None:
            return "nothing was left to train"
        memory = "" if self.peak_bytes is None else f"; the largest {one} took {gib(self.peak_bytes)} of memory"
        return f"{duration(self.seconds)} and {self.device_seconds / 3600:.2g} {cost_unit}{memory}"
