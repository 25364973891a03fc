"""RMSNorm as DeepSeek-V3 computes it: statistics in fp32 whatever the input's dtype. https://arxiv.org/abs/2412.19437."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from moe_models.norms.base import NORM
from moe_models.size import Size


@NORM.register("deepseek_rmsnorm")
@dataclass(frozen=True, kw_only=True)
class DeepSeekRMSNorm:
    """gain · (x in fp32 / sqrt(mean(x²) + eps), cast back to x's dtype)."""

    kind: ClassVar[str]
    eps: float = 1e-6
    """Added to the mean square."""

    def build(self, dim: int) -> nn.Module:
        """Return the module for vectors of length `dim`."""
        return DeepSeekRMSNormModule(dim, self.eps)


class DeepSeekRMSNormModule(nn.Module):
    """The module of `DeepSeekRMSNorm`; its one parameter is the gain, of shape (dim,)."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (..., dim) to (..., dim)."""
        x_fp32 = x.float()
        inverse_rms = torch.rsqrt(x_fp32.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * (x_fp32 * inverse_rms).to(x.dtype)


@NORM.preset("deepseek_rmsnorm")
def deepseek_rmsnorm(size: Size) -> DeepSeekRMSNorm:
    """Return the norm with eps 1e-6."""
    del size
    return DeepSeekRMSNorm()
