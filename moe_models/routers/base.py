"""The slot for routers: what every variant must offer.

Shapes: B batch, T positions, D model width, E experts, K chosen experts a token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moe_models.registry import Registry
from moe_models.streams import Noise


class RouterConfig(Protocol):
    """Configuration of a routing rule."""

    kind: ClassVar[str]

    def validate(self, n_experts: int, top_k: int) -> None:
        """Raise ConfigError if `top_k` of `n_experts` cannot be chosen by this rule."""
        ...

    def build(self, d_model: int, n_experts: int, top_k: int, *, role: str) -> Router:
        """Return the module. `role` is its dotted name in the model; it names the noise stream."""
        ...


ROUTER: Registry[RouterConfig] = Registry("router")


@dataclass(frozen=True)
class Routing:
    """Where each token goes."""

    experts_BTK: Tensor
    """int64 indices of the chosen experts, distinct for each token."""
    weights_BTK: Tensor
    """fp32 weight of each chosen expert's output."""
    auxiliary_loss: Tensor | None
    """Scalar to add to the loss while training; None where the rule has none."""


class Router(nn.Module):
    """Base of all routers: a linear gate in fp32, and the loads since the last optimizer update."""

    load_E: Tensor

    def __init__(self, d_model: int, n_experts: int, top_k: int, role: str, *, bias: bool = False) -> None:
        super().__init__()
        self.n_experts = n_experts
        self.top_k = top_k
        self.role = role
        self.weight = nn.Parameter(torch.empty(n_experts, d_model))
        self.bias = nn.Parameter(torch.empty(n_experts)) if bias else None
        self.register_buffer("load_E", torch.zeros(n_experts), persistent=False)

    def forward(self, x_BTD: Tensor, noise: Noise | None) -> Routing:
        """Route each token by itself; `noise` is None in evaluation."""
        with torch.autocast(x_BTD.device.type, enabled=False):
            # Routing decisions are discrete: bf16 logits would tie and flip them.
            bias_E = None if self.bias is None else self.bias.float()
            routing = self.route(F.linear(x_BTD.float(), self.weight.float(), bias_E), noise)
        if self.training:
            with torch.no_grad():
                self.load_E += torch.bincount(routing.experts_BTK.flatten(), minlength=self.n_experts)
        return routing

    def route(self, logits_BTE: Tensor, noise: Noise | None) -> Routing:
        """Choose and weigh experts from fp32 logits."""
        raise NotImplementedError

    def after_update(self) -> Tensor:
        """End an optimizer update: return how many tokens each expert got in all its micro-batches, and forget it."""
        load_E = self.load_E.clone()
        self.load_E.zero_()
        return load_E
