"""The space of a search: hyperparameters with their ranges, read from the command line and checked before anything."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

from analysis.tuning_records import place_in
from moe_models.errors import require, unknown_name
from sweeps.engine.options import names

LOG = {"muon_learning_rate": True, "adamw_learning_rate": True, "weight_decay": True, "warmup_fraction": False}
"""What can be searched: fields of the training configuration, and whether the logarithm is drawn uniformly."""
DEFAULT_SPACE = "muon_learning_rate=3e-4:0.3,adamw_learning_rate=1e-4:0.3"
RANGE = "a range such as muon_learning_rate=0.001:0.1"


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One hyperparameter's range."""

    name: str
    low: float
    high: float

    def __post_init__(self) -> None:
        if self.name not in LOG:
            raise unknown_name("hyperparameter", self.name, LOG)
        where = f"--space: {self.name}={self.low:g}:{self.high:g}"
        require(math.isfinite(self.low) and math.isfinite(self.high), f"{where} must have finite ends")
        require(self.low < self.high, f"{where} has no range: the lower end must be below the upper one")
        share = self.name.endswith("fraction")
        require(not share or 0 <= self.low < self.high <= 1, f"{where} must be in [0, 1]")
        require(not self.log or self.low > 0, f"{where}: this is searched on a log scale, so the lower end must be > 0")

    @property
    def log(self) -> bool:
        """Whether the logarithm is drawn uniformly."""
        return LOG[self.name]

    def at(self, share: float) -> float:
        """Return the value so far (0 to 1) from the lower to the upper end, on the axis' own scale."""
        if not self.log:
            return self.low + share * (self.high - self.low)
        if share in (0, 1):  # exactly the ends
            return self.high if share else self.low
        return math.exp(math.log(self.low) + share * (math.log(self.high) - math.log(self.low)))

    def share(self, value: float) -> float:
        """Return how far a value is (0 to 1) from the lower to the upper end, on the axis' own scale."""
        return min(max(place_in(self.low, self.high, value, log=self.log), 0.0), 1.0)


Space = tuple[Axis, ...]


def parse_space(text: str) -> Space:
    """Return the space that `--space` describes: `name=low:high`, separated by commas.

    Raises:
        ConfigError: a hyperparameter is unknown, named twice, or has no range.
    """
    axes: list[Axis] = []
    for part in names(text, "--space"):
        name, _, text_of_ends = part.partition("=")
        name = name.strip()
        if name not in LOG:
            raise unknown_name("hyperparameter", name, LOG)
        ends = [_number(end) for end in text_of_ends.split(":")]
        require(len(ends) == 2 and None not in ends, f"--space: '{part}' has no range; give {RANGE}")
        axis = Axis(name=name, low=cast(float, ends[0]), high=cast(float, ends[1]))
        require(all(axis.name != other.name for other in axes), f"--space names '{name}' twice")
        axes.append(axis)
    return tuple(axes)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def space_to_json(space: Space) -> dict[str, dict[str, Any]]:
    """Return the space as plain data, by hyperparameter."""
    return {axis.name: {"low": axis.low, "high": axis.high, "log": axis.log} for axis in space}
