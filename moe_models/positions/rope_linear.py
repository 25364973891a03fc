"""Rotary positions, interpolated linearly. Chen et al., https://arxiv.org/abs/2306.15595."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from moe_models.errors import require
from moe_models.positions.base import POSITION
from moe_models.positions.rope import RopeBase
from moe_models.size import Size


@POSITION.register("rope_linear")
@dataclass(frozen=True, kw_only=True)
class RopeLinear(RopeBase):
    """All positions divided by `factor`."""

    factor: float = 1.0
    """How many times longer the context is than the one the frequencies were meant for; 1 changes nothing."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.factor >= 1, f"position.factor must be 1 or more but got {self.factor}")

    def inverse_frequencies(self, dim: int, seq_len: int) -> Tensor:
        """Return the frequencies divided by the factor, shape (dim / 2,)."""
        return super().inverse_frequencies(dim, seq_len) / self.factor


@POSITION.preset("rope_linear")
def rope_linear(size: Size) -> RopeLinear:
    """Return positions at half speed: a context twice as long."""
    del size
    return RopeLinear(factor=2.0)
