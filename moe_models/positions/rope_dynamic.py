"""Rotary positions, NTK-scaled by the sequence's own length.

The base grows once a sequence is longer than the original context ("dynamic NTK", used by DeepSeek's code; described
in the YaRN paper, section 3.3, https://arxiv.org/abs/2309.00071).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from moe_models.errors import require
from moe_models.positions.base import POSITION, rope_inverse_frequencies
from moe_models.positions.rope import RopeBase
from moe_models.size import Size


@POSITION.register("rope_dynamic")
@dataclass(frozen=True, kw_only=True)
class RopeDynamic(RopeBase):
    """base · (factor · T / T₀ - (factor - 1))^(dim / (dim - 2)) for sequences of T > T₀ tokens."""

    original_max_seq_len: int
    """T₀: sequences up to here are not scaled."""
    factor: float = 1.0
    """Scaling factor; 1 scales by T / T₀ alone."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.factor >= 1, f"position.factor must be 1 or more but got {self.factor}")
        require(
            self.original_max_seq_len >= 1,
            f"position.original_max_seq_len must be 1 or more but got {self.original_max_seq_len}",
        )

    def inverse_frequencies(self, dim: int, seq_len: int) -> Tensor:
        """Return the frequencies for a sequence of `seq_len` tokens, shape (dim / 2,)."""
        require(dim > 2, f"rope_dynamic needs more than 2 rotary dimensions but got {dim}")
        length = max(seq_len, self.original_max_seq_len)
        growth = self.factor * length / self.original_max_seq_len - (self.factor - 1)
        return rope_inverse_frequencies(dim, self.base * growth ** (dim / (dim - 2)))


@POSITION.preset("rope_dynamic")
def rope_dynamic(size: Size) -> RopeDynamic:
    """Return positions meant for 32 tokens, stretched twofold as sequences grow longer."""
    del size
    return RopeDynamic(original_max_seq_len=32, factor=2.0)
