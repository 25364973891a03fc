"""The dense feed-forward layer, plain or gated. Gated: Shazeer, https://arxiv.org/abs/2002.05202."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moe_models.activations import ACTIVATIONS
from moe_models.dropout import dropout
from moe_models.feed_forward.base import FEED_FORWARD, optional_parameter, validate_hidden
from moe_models.registry import published_setting
from moe_models.size import Size
from moe_models.streams import Noise


@FEED_FORWARD.register("dense")
@dataclass(frozen=True, kw_only=True)
class Dense:
    """down(act(up x)), or gated: down(act(gate x) · up x)."""

    kind: ClassVar[str]
    d_ff: int
    """Hidden width."""
    gated: bool = True
    activation: str = "silu"
    bias: bool = False
    """Whether each of the linear maps has a bias."""
    hidden_dropout: bool = published_setting(True)
    """False rebuilds a published flaw: no dropout on the hidden activations, whatever the model's rate."""

    def validate(self, d_model: int) -> None:
        """Check width and activation."""
        del d_model
        validate_hidden(self.d_ff, self.activation, "dense")

    def build(self, d_model: int, *, dropout: float, role: str) -> nn.Module:
        """Return the module."""
        return DenseModule(self, d_model, dropout, role)


class DenseModule(nn.Module):
    """The module of `Dense`: linear maps up, down and, if gated, gate."""

    def __init__(self, config: Dense, d_model: int, dropout: float, role: str) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[config.activation].value
        self.dropout = dropout if config.hidden_dropout else 0.0
        self.role = role
        self.up = nn.Parameter(torch.empty(config.d_ff, d_model))
        self.down = nn.Parameter(torch.empty(d_model, config.d_ff))
        self.gate = optional_parameter(config.gated, config.d_ff, d_model)
        self.up_bias = optional_parameter(config.bias, config.d_ff)
        self.down_bias = optional_parameter(config.bias, d_model)
        self.gate_bias = optional_parameter(config.bias and config.gated, config.d_ff)

    def forward(self, x_BTD: Tensor, noise: Noise | None) -> tuple[Tensor, None]:
        """Map (B, T, D) to (B, T, D); there is no auxiliary loss."""
        hidden_BTH = F.linear(x_BTD, self.up, self.up_bias)
        if self.gate is None:
            hidden_BTH = self.activation(hidden_BTH)
        else:
            hidden_BTH = self.activation(F.linear(x_BTD, self.gate, self.gate_bias)) * hidden_BTH
        hidden_BTH = dropout(hidden_BTH, self.dropout, noise, f"{self.role}.hidden")
        return F.linear(hidden_BTH, self.down, self.down_bias), None


@FEED_FORWARD.preset("dense_gated")
def dense_gated(size: Size) -> Dense:
    """Return one gated layer of the width of one expert."""
    return Dense(d_ff=size.d_ff, gated=True)


@FEED_FORWARD.preset("dense_gated_double")
def dense_gated_double(size: Size) -> Dense:
    """Return one gated layer of twice the width of one expert, as the published 512d study had it."""
    return Dense(d_ff=2 * size.d_ff, gated=True)


@FEED_FORWARD.preset("dense_gated_glm4")
def dense_gated_glm4(size: Size) -> Dense:
    """Return GLM4's dense layer in the published 512d study's proportion: 10,944 hidden for 512 wide."""
    return Dense(d_ff=size.d_model * 10_944 // 512, gated=True)


@FEED_FORWARD.preset("dense_plain")
def dense_plain(size: Size) -> Dense:
    """Return one plain layer of the width of one expert."""
    return Dense(d_ff=size.d_ff, gated=False)
