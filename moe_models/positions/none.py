"""No positions: order is known from the causal mask alone. Kazemnejad et al., https://arxiv.org/abs/2305.19466."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from moe_models.positions.base import POSITION
from moe_models.size import Size


@POSITION.register("none")
@dataclass(frozen=True, kw_only=True)
class NoPosition:
    """Nothing turns."""

    kind: ClassVar[str]

    def inverse_frequencies(self, dim: int, seq_len: int) -> Tensor:
        """Return an angle of 0 for each pair, shape (dim / 2,)."""
        del seq_len
        return torch.zeros(dim // 2, dtype=torch.float64, device="cpu")

    def amplitude(self) -> float:
        """Lengths stay as they are."""
        return 1.0

    def softmax_factor(self) -> float:
        """The attention's scale stays as it is."""
        return 1.0


@POSITION.preset("none")
def none(size: Size) -> NoPosition:
    """Return no positions."""
    del size
    return NoPosition()
