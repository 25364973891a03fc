"""RMSNorm as torch computes it. Zhang and Sennrich, https://arxiv.org/abs/1910.07467."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from moe_models.norms.base import NORM
from moe_models.size import Size


@NORM.register("rmsnorm")
@dataclass(frozen=True, kw_only=True)
class RMSNorm:
    """`torch.nn.RMSNorm`: x / sqrt(mean(x²) + eps) · gain."""

    kind: ClassVar[str]
    eps: float = 1e-6
    """Added to the mean square. Fixed here, since torch's default depends on the dtype."""

    def build(self, dim: int) -> nn.Module:
        """Return the module for vectors of length `dim`."""
        return nn.RMSNorm(dim, eps=self.eps)


@NORM.preset("rmsnorm")
def rmsnorm(size: Size) -> RMSNorm:
    """Return the norm with eps 1e-6."""
    del size
    return RMSNorm()
