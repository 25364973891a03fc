"""A dense layer and a mixture of experts side by side, averaged.

The published exp4's layer; the form, there with a sum, is the residual MoE of https://arxiv.org/abs/2201.05596.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from moe_models.errors import require
from moe_models.feed_forward.base import FEED_FORWARD, FeedForwardConfig
from moe_models.feed_forward.dense import Dense
from moe_models.feed_forward.moe import MixtureOfExperts, moe_softmax_biased_relu
from moe_models.registry import component
from moe_models.size import Size
from moe_models.streams import Noise


@FEED_FORWARD.register("parallel")
@dataclass(frozen=True, kw_only=True)
class Parallel:
    """(dense(x) + moe(x)) / 2."""

    kind: ClassVar[str]
    dense: FeedForwardConfig = component(FEED_FORWARD)
    """The dense branch."""
    moe: FeedForwardConfig = component(FEED_FORWARD)
    """The branch of experts; the auxiliary loss is its own."""

    def validate(self, d_model: int) -> None:
        """Check both branches."""
        require(isinstance(self.dense, Dense), f"parallel.dense must be a dense layer but got '{self.dense.kind}'")
        require(isinstance(self.moe, MixtureOfExperts), f"parallel.moe must be a moe layer but got '{self.moe.kind}'")
        self.dense.validate(d_model)
        self.moe.validate(d_model)

    def build(self, d_model: int, *, dropout: float, role: str) -> nn.Module:
        """Return the module."""
        return ParallelModule(self, d_model, dropout, role)


class ParallelModule(nn.Module):
    """The module of `Parallel`."""

    def __init__(self, config: Parallel, d_model: int, dropout: float, role: str) -> None:
        super().__init__()
        self.dense = config.dense.build(d_model, dropout=dropout, role=f"{role}.dense")
        self.moe = config.moe.build(d_model, dropout=dropout, role=f"{role}.moe")

    def forward(self, x_BTD: Tensor, noise: Noise | None) -> tuple[Tensor, Tensor | None]:
        """Map (B, T, D) to (B, T, D) and the router's auxiliary loss."""
        dense_BTD, _ = self.dense(x_BTD, noise)
        moe_BTD, auxiliary_loss = self.moe(x_BTD, noise)
        return (dense_BTD + moe_BTD) / 2, auxiliary_loss


@FEED_FORWARD.preset("parallel_dense_moe")
def parallel_dense_moe(size: Size) -> Parallel:
    """Return the published exp4's branches: a gated dense layer, and ReLU experts and a router with biases."""
    return Parallel(dense=Dense(d_ff=size.d_ff), moe=moe_softmax_biased_relu(size))
