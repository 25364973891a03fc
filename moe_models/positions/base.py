"""The slot for positions, and the rotation they share.

Shapes: B batch, H heads, T positions, R rotary dimensions (even).
"""

from __future__ import annotations

from typing import ClassVar, Protocol

import torch
from torch import Tensor

from moe_models.registry import Registry


class PositionConfig(Protocol):
    """Configuration of rotary positions: which angle each pair of dimensions turns by per position."""

    kind: ClassVar[str]

    def inverse_frequencies(self, dim: int, seq_len: int) -> Tensor:
        """Return the angle per position of each pair, shape (dim / 2,), fp64, for a sequence of `seq_len` tokens."""
        ...

    def amplitude(self) -> float:
        """Return what the rotated vectors are multiplied with (1 but for YaRN)."""
        ...

    def softmax_factor(self) -> float:
        """Return what the attention's 1/sqrt(dim) is multiplied with (1 but for YaRN)."""
        ...


POSITION: Registry[PositionConfig] = Registry("position")


class Rotary:
    """Turns interleaved pairs (x_2i, x_2i+1) by position times inverse frequency. https://arxiv.org/abs/2104.09864.

    Holds no state but a cache of its tables, so that a model on the meta device needs nothing from it.
    """

    def __init__(self, config: PositionConfig, dim: int) -> None:
        self.config = config
        self.dim = dim
        self._tables: dict[tuple[int, torch.device], Tensor] = {}

    def __call__(self, x_BTHR: Tensor) -> Tensor:
        """Rotate (B, T, H, R); the rotation is computed in fp32 and returned in x's dtype."""
        turns_T1C = self._table(x_BTHR.shape[1], x_BTHR.device)
        pairs_BTHC = torch.view_as_complex(x_BTHR.float().contiguous().unflatten(-1, (-1, 2)))
        return torch.view_as_real(pairs_BTHC * turns_T1C).flatten(-2).to(x_BTHR.dtype)

    def _table(self, seq_len: int, device: torch.device) -> Tensor:
        key = (seq_len, device)
        if key in self._tables:
            return self._tables[key]
        with torch.inference_mode(False):  # the table outlives this call, which may be in inference mode
            # fp64 on the CPU: the angles of late positions keep their digits, equal on every device.
            inverse_C = self.config.inverse_frequencies(self.dim, seq_len)
            angles_TC = torch.outer(torch.arange(seq_len, dtype=torch.float64, device="cpu"), inverse_C)
            amplitude_TC = torch.full_like(angles_TC, self.config.amplitude())
            table_TC = torch.polar(amplitude_TC, angles_TC)
            self._tables[key] = table_TC.to(torch.complex64).to(device).unsqueeze(1)
        return self._tables[key]


def rope_inverse_frequencies(dim: int, base: float) -> Tensor:
    """Return base^(-2i/dim) for i = 0 .. dim/2 - 1, fp64."""
    exponents = torch.arange(0, dim, 2, dtype=torch.float64, device="cpu") / dim
    return base**-exponents
