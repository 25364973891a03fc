"""Rotary positions, scaled by YaRN. Peng et al., https://arxiv.org/abs/2309.00071; as DeepSeek-V3 uses it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from moe_models.errors import require
from moe_models.positions.base import POSITION, rope_inverse_frequencies
from moe_models.positions.rope import RopeBase
from moe_models.size import Size


@POSITION.register("rope_yarn")
@dataclass(frozen=True, kw_only=True)
class RopeYarn(RopeBase):
    """Fast dimensions keep their frequency, slow ones are interpolated, those between are blended."""

    original_max_seq_len: int
    """The context the frequencies were meant for, in tokens."""
    factor: float = 1.0
    """How many times longer the new context is."""
    beta_fast: float = 32.0
    """Dimensions that turn at least this often within the original context keep their frequency."""
    beta_slow: float = 1.0
    """Dimensions that turn at most this often are interpolated fully."""
    mscale: float = 1.0
    """Weight of the temperature in the rotated vectors' amplitude."""
    mscale_all_dim: float = 0.0
    """Weight of the temperature in the softmax scale (DeepSeek); 0 leaves the scale as it is."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.factor >= 1, f"position.factor must be 1 or more but got {self.factor}")
        require(
            self.original_max_seq_len >= 1,
            f"position.original_max_seq_len must be 1 or more but got {self.original_max_seq_len}",
        )
        require(
            self.beta_fast > self.beta_slow > 0,
            f"position.beta_fast must be above beta_slow > 0 but got {self.beta_fast} and {self.beta_slow}",
        )

    def inverse_frequencies(self, dim: int, seq_len: int) -> Tensor:
        """Return the blended frequencies, shape (dim / 2,); they do not depend on `seq_len`."""
        del seq_len
        plain_C = rope_inverse_frequencies(dim, self.base)
        low = max(math.floor(self._dimension_turning(self.beta_fast, dim)), 0)
        high = min(math.ceil(self._dimension_turning(self.beta_slow, dim)), dim - 1)
        span = max(high - low, 0.001)
        ramp_C = ((torch.arange(dim // 2, dtype=torch.float64, device="cpu") - low) / span).clamp(0, 1)
        return plain_C / self.factor * ramp_C + plain_C * (1 - ramp_C)

    def _dimension_turning(self, turns: float, dim: int) -> float:
        """Return the (fractional) pair index that makes `turns` turns within the original context."""
        return dim * math.log(self.original_max_seq_len / (turns * 2 * math.pi)) / (2 * math.log(self.base))

    def amplitude(self) -> float:
        """Return the ratio of the two temperatures, by which rotated vectors are multiplied."""
        return _temperature(self.factor, self.mscale) / _temperature(self.factor, self.mscale_all_dim)

    def softmax_factor(self) -> float:
        """Return the square of the temperature that acts on all dimensions."""
        return _temperature(self.factor, self.mscale_all_dim) ** 2 if self.mscale_all_dim else 1.0


def _temperature(factor: float, weight: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0


@POSITION.preset("rope_yarn")
def rope_yarn(size: Size) -> RopeYarn:
    """Return positions meant for 32 tokens, stretched twofold."""
    del size
    return RopeYarn(original_max_seq_len=32, factor=2.0)
