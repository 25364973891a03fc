"""DeepSeek-V3's routing: sigmoid scores, limited groups, and a bias that balances the load without a loss.

Section 2.1.2 of https://arxiv.org/abs/2412.19437; the bias rule is Algorithm 1 of https://arxiv.org/abs/2408.15664.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from moe_models.errors import require
from moe_models.routers.base import ROUTER, Router, Routing
from moe_models.size import Size
from moe_models.streams import Noise


@ROUTER.register("deepseek")
@dataclass(frozen=True, kw_only=True)
class DeepSeekRouting:
    """Sigmoid scores; the bias decides who is chosen, the unbiased scores how much it weighs."""

    kind: ClassVar[str]
    n_groups: int = 1
    """Groups of experts; each needs at least two."""
    top_groups: int = 1
    """Groups a token may choose from: those with the largest sum of their two best biased scores."""
    normalise: bool = True
    """Whether the weights of the chosen experts are made to sum to 1 (before scaling)."""
    scaling: float = 1.0
    """Factor on the weights (2.5 in DeepSeek-V3)."""
    bias_step: float = 1e-3
    """How much an expert's bias moves an update, towards balance; 0 keeps it at zero."""
    sequence_balance_weight: float = 0.0
    """Weight of the sequence-wise balance loss; 0 leaves it out."""

    def validate(self, n_experts: int, top_k: int) -> None:
        """Check groups and k."""
        require(
            1 <= top_k <= n_experts,
            f"moe.top_k must be between 1 and n_experts ({n_experts}) but got {top_k}",
        )
        require(
            self.n_groups >= 1 and n_experts % self.n_groups == 0 and n_experts // self.n_groups >= 2,
            f"router.n_groups must divide n_experts ({n_experts}) into groups of two or more but got {self.n_groups}",
        )
        require(
            1 <= self.top_groups <= self.n_groups,
            f"router.top_groups must be between 1 and n_groups ({self.n_groups}) but got {self.top_groups}",
        )
        available = n_experts // self.n_groups * self.top_groups
        require(top_k <= available, f"moe.top_k must be <= the {available} experts of top_groups but got {top_k}")
        require(self.scaling > 0, f"router.scaling must be positive but got {self.scaling}")
        require(self.bias_step >= 0, f"router.bias_step must be 0 or more but got {self.bias_step}")
        require(
            self.sequence_balance_weight >= 0,
            f"router.sequence_balance_weight must be 0 or more but got {self.sequence_balance_weight}",
        )

    def build(self, d_model: int, n_experts: int, top_k: int, *, role: str) -> Router:
        """Return the module."""
        return DeepSeekRouter(self, d_model, n_experts, top_k, role)


class DeepSeekRouter(Router):
    """The module of `DeepSeekRouting`. The bias is a buffer: checkpointed, but no gradient and no optimizer see it."""

    bias_E: Tensor

    def __init__(self, config: DeepSeekRouting, d_model: int, n_experts: int, top_k: int, role: str) -> None:
        super().__init__(d_model, n_experts, top_k, role)
        self.config = config
        self.register_buffer("bias_E", torch.zeros(n_experts))

    def route(self, logits_BTE: Tensor, noise: Noise | None) -> Routing:
        """Choose by biased scores within the best groups; weigh by unbiased scores."""
        del noise  # this rule is deterministic
        scores_BTE = logits_BTE.sigmoid()
        with torch.no_grad():
            experts_BTK = self._within_top_groups(scores_BTE + self.bias_E).topk(self.top_k, dim=-1).indices
        weights_BTK = scores_BTE.gather(-1, experts_BTK)
        if self.config.normalise:
            weights_BTK = weights_BTK / (weights_BTK.sum(-1, keepdim=True) + 1e-20)
        return Routing(experts_BTK, weights_BTK * self.config.scaling, self._balance_loss(scores_BTE, experts_BTK))

    def _within_top_groups(self, choice_BTE: Tensor) -> Tensor:
        """Set the scores of experts outside the chosen groups to -inf."""
        groups, kept = self.config.n_groups, self.config.top_groups
        if groups == kept:
            return choice_BTE
        choice_BTGM = choice_BTE.unflatten(-1, (groups, -1))
        group_BTG = choice_BTGM.topk(2, dim=-1).values.sum(-1)
        chosen_BTG = torch.zeros_like(group_BTG, dtype=torch.bool)
        chosen_BTG.scatter_(-1, group_BTG.topk(kept, dim=-1).indices, True)
        return choice_BTGM.masked_fill(~chosen_BTG.unsqueeze(-1), float("-inf")).flatten(-2)

    def _balance_loss(self, scores_BTE: Tensor, experts_BTK: Tensor) -> Tensor | None:
        """Return DeepSeek-V3's equations 17 to 20 averaged over sequences; the load is that of the experts chosen."""
        if self.config.sequence_balance_weight == 0:
            return None
        chosen_BTE = F.one_hot(experts_BTK, self.n_experts).sum(dim=2).float()
        load_BE = chosen_BTE.mean(dim=1) * (self.n_experts / self.top_k)
        probability_BE = (scores_BTE / scores_BTE.sum(-1, keepdim=True)).mean(dim=1)
        return self.config.sequence_balance_weight * (load_BE * probability_BE).sum(-1).mean()

    def after_update(self) -> Tensor:
        """Move each expert's bias by one step against its load: up where below the mean, down where above."""
        load_E = super().after_update()
        with torch.no_grad():
            self.bias_E += self.config.bias_step * torch.sign(load_E.mean() - load_E)
        return load_E


@ROUTER.preset("deepseek")
def deepseek(size: Size) -> DeepSeekRouting:
    """Return the routing with one group, weights that sum to 1 and bias step 1e-3."""
    del size
    return DeepSeekRouting()
