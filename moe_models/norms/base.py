"""The slot for norms: what every variant must offer."""

from __future__ import annotations

from typing import ClassVar, Protocol

from torch import nn

from moe_models.registry import Registry


class NormConfig(Protocol):
    """Configuration of a norm over the last dimension."""

    kind: ClassVar[str]

    def build(self, dim: int) -> nn.Module:
        """Return the module; it maps (..., dim) to (..., dim)."""
        ...


NORM: Registry[NormConfig] = Registry("norm")
