"""LayerNorm, with a bias. Ba et al., https://arxiv.org/abs/1607.06450."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from moe_models.norms.base import NORM
from moe_models.size import Size


@NORM.register("layernorm")
@dataclass(frozen=True, kw_only=True)
class LayerNorm:
    """`torch.nn.LayerNorm`: (x - mean) / sqrt(variance + eps) · gain + bias."""

    kind: ClassVar[str]
    eps: float = 1e-5
    """Added to the variance."""

    def build(self, dim: int) -> nn.Module:
        """Return the module for vectors of length `dim`."""
        return nn.LayerNorm(dim, eps=self.eps)


@NORM.preset("layernorm")
def layernorm(size: Size) -> LayerNorm:
    """Return the norm with eps 1e-5."""
    del size
    return LayerNorm()
