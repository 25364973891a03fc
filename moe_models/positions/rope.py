"""Rotary positions, unscaled. Su et al., https://arxiv.org/abs/2104.09864."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from moe_models.errors import require
from moe_models.positions.base import POSITION, rope_inverse_frequencies
from moe_models.size import Size


@dataclass(frozen=True, kw_only=True)
class RopeBase:
    """What all rotary variants share; subclasses change the frequencies."""

    kind: ClassVar[str]
    base: float = 10_000.0
    """Base of the geometric frequencies."""

    def __post_init__(self) -> None:
        require(self.base > 1, f"position.base must be above 1 but got {self.base}")

    def inverse_frequencies(self, dim: int, seq_len: int) -> Tensor:
        """Return base^(-2i/dim), shape (dim / 2,)."""
        del seq_len
        return rope_inverse_frequencies(dim, self.base)

    def amplitude(self) -> float:
        """Rotations keep lengths."""
        return 1.0

    def softmax_factor(self) -> float:
        """The attention's scale stays as it is."""
        return 1.0


@POSITION.register("rope")
@dataclass(frozen=True, kw_only=True)
class Rope(RopeBase):
    """Plain rotary positions."""


@POSITION.preset("rope")
def rope(size: Size) -> Rope:
    """Return rotary positions of base 10,000."""
    del size
    return Rope()
