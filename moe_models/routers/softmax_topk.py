"""Noisy top-k routing with a load-balancing loss.

Top-k of noisy logits: Shazeer et al., https://arxiv.org/abs/1701.06538. Balance loss: Fedus et al., equation 4 of
https://arxiv.org/abs/2101.03961.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from moe_models.errors import require
from moe_models.registry import published_setting
from moe_models.routers.base import ROUTER, Router, Routing
from moe_models.size import Size
from moe_models.streams import Noise

BALANCES = ("load", "variance")


@ROUTER.register("softmax_topk")
@dataclass(frozen=True, kw_only=True)
class SoftmaxTopK:
    """The k largest logits win; weights are the softmax over those k."""

    kind: ClassVar[str]
    noise_std: float = 0.1
    """Standard deviation of the Gaussian noise on the logits while training."""
    balance_weight: float = 0.01
    """Weight of E · Σ_e (share of assignments to e) · (mean probability of e)."""
    bias: bool = False
    """Whether the logits have a learned bias."""
    balance: str = published_setting("load")
    """What the balance loss punishes. `load`: as `balance_weight` says; `variance`, of the published exp4 and exp5:
    balance_weight times the variance of the experts' mean probabilities, whatever load they carry."""

    def validate(self, n_experts: int, top_k: int) -> None:
        """Check that k experts can be chosen."""
        require(
            1 <= top_k <= n_experts,
            f"moe.top_k must be between 1 and n_experts ({n_experts}) but got {top_k}",
        )
        require(self.noise_std >= 0, f"router.noise_std must be 0 or more but got {self.noise_std}")
        require(
            self.balance in BALANCES, f"router.balance must be one of {', '.join(BALANCES)} but got '{self.balance}'"
        )
        require(self.balance_weight >= 0, f"router.balance_weight must be 0 or more but got {self.balance_weight}")

    def build(self, d_model: int, n_experts: int, top_k: int, *, role: str) -> Router:
        """Return the module."""
        return SoftmaxTopKRouter(self, d_model, n_experts, top_k, role)


class SoftmaxTopKRouter(Router):
    """The module of `SoftmaxTopK`."""

    def __init__(self, config: SoftmaxTopK, d_model: int, n_experts: int, top_k: int, role: str) -> None:
        super().__init__(d_model, n_experts, top_k, role, bias=config.bias)
        self.config = config

    def route(self, logits_BTE: Tensor, noise: Noise | None) -> Routing:
        """Choose by noisy logits; the balance loss reads the probabilities without noise."""
        choice_BTE = logits_BTE
        if noise is not None and self.config.noise_std > 0:
            source = noise.generator("router_noise", self.role, logits_BTE.device)
            jitter_BTE = torch.empty_like(logits_BTE).normal_(0.0, self.config.noise_std, generator=source)
            choice_BTE = logits_BTE + jitter_BTE
        top_BTK, experts_BTK = choice_BTE.topk(self.top_k, dim=-1)
        return Routing(experts_BTK, top_BTK.softmax(-1), self._balance_loss(logits_BTE, experts_BTK))

    def _balance_loss(self, logits_BTE: Tensor, experts_BTK: Tensor) -> Tensor | None:
        if self.config.balance_weight == 0:
            return None
        probability_E = logits_BTE.softmax(-1).mean(dim=(0, 1))
        if self.config.balance == "variance":
            return self.config.balance_weight * probability_E.var()
        share_E = torch.bincount(experts_BTK.flatten(), minlength=self.n_experts) / experts_BTK.numel()
        return self.config.balance_weight * self.n_experts * (share_E * probability_E).sum()


@ROUTER.preset("softmax_topk")
def softmax_topk(size: Size) -> SoftmaxTopK:
    """Return the baseline's routing: noise 0.1, balance weight 0.01."""
    del size
    return SoftmaxTopK()
