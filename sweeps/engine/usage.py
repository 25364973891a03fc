"""What the trials of a search have really taken since its command was given."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from sweeps.engine.memory import gib
from sweeps.engine.progress import duration
from sweeps.engine.resources import Resources


@dataclass
class Usage:
    """Counts what trials report."""

    resources: Resources
    device_seconds: float = 0.0
    """Of training and evaluation: of GPUs, or of cores."""
    peak_bytes: int | None = None
    """Largest peak memory of a trial; None where none is known."""
    _first_start: float | None = None
    _last_report: float | None = None

    def started(self) -> None:
        """A trial begins to train."""
        self._first_start = self._first_start or time.monotonic()

    def reported(self, busy_seconds: float, share: float, peak_bytes: int | None) -> None:
        """A trial was training or evaluating so long since its last report, with a share of a GPU or a core."""
        self._last_report = time.monotonic()
        self.device_seconds += busy_seconds * share
        self.peak_bytes = max(filter(None, (self.peak_bytes, peak_bytes)), default=None)

    @property
    def seconds(self) -> float | None:
        """From the first start to the last report; None where nothing was trained."""
        if self._first_start is None or self._last_report is None:
            return None
        return self._last_report - self._first_start

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "makespan_seconds": self.seconds,
            "cost": self.device_seconds / 3600,
            "cost_unit": self.resources.cost_unit,
            "peak_memory_bytes": self.peak_bytes,
        }

    def line(self) -> str:
        """Say it in words."""
        if self.seconds is None:
            return "search: nothing was left to train"
        memory = "" if self.peak_bytes is None else f"; the largest trial took {gib(self.peak_bytes)} of memory"
        cost = f"{self.device_seconds / 3600:.2g} {self.resources.cost_unit}"
        return f"search: {duration(self.seconds)} and {cost}{memory}"
