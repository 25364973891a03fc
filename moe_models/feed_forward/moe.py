"""The mixture-of-experts layer: a router, stacked experts, optionally shared ones. https://arxiv.org/abs/1701.06538."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from moe_models.activations import ACTIVATIONS
from moe_models.dropout import dropout
from moe_models.errors import require
from moe_models.feed_forward.base import FEED_FORWARD, optional_parameter, validate_hidden
from moe_models.feed_forward.dense import Dense
from moe_models.grouped import arrange_by_expert, combine, dispatch, grouped_linear, grouped_mlp, row_multiple
from moe_models.registry import component, published_setting
from moe_models.routers import ROUTER, RouterConfig
from moe_models.routers.deepseek import DeepSeekRouting
from moe_models.routers.softmax_topk import SoftmaxTopK
from moe_models.size import Size
from moe_models.streams import Noise


@FEED_FORWARD.register("moe")
@dataclass(frozen=True, kw_only=True)
class MixtureOfExperts:
    """Each token passes through top_k of n_experts experts, weighted by the router; no token is ever dropped."""

    kind: ClassVar[str]
    n_experts: int
    top_k: int
    d_ff: int
    """Hidden width of one expert."""
    gated: bool = False
    """Expert form: plain down(act(up x)), or gated down(act(gate x) · up x)."""
    activation: str = "silu"
    bias: bool = False
    """Whether each expert's linear maps have biases."""
    n_shared: int = 0
    """Shared experts that every token passes: one dense layer of n_shared · d_ff of the same form."""
    router: RouterConfig = component(ROUTER)
    hidden_dropout: bool = published_setting(True)
    """False rebuilds a published flaw: no dropout on the hidden activations, whatever the model's rate."""

    def validate(self, d_model: int) -> None:
        """Check sizes and the router's fit."""
        del d_model
        validate_hidden(self.d_ff, self.activation, "moe")
        require(self.n_experts >= 1, f"moe.n_experts must be 1 or more but got {self.n_experts}")
        require(self.n_shared >= 0, f"moe.n_shared must be 0 or more but got {self.n_shared}")
        self.router.validate(self.n_experts, self.top_k)

    def build(self, d_model: int, *, dropout: float, role: str) -> nn.Module:
        """Return the module."""
        return MixtureOfExpertsModule(self, d_model, dropout, role)


class MixtureOfExpertsModule(nn.Module):
    """The module of `MixtureOfExperts`."""

    def __init__(self, config: MixtureOfExperts, d_model: int, dropout: float, role: str) -> None:
        super().__init__()
        self.router = config.router.build(d_model, config.n_experts, config.top_k, role=f"{role}.router")
        self.experts = Experts(config, d_model, dropout, f"{role}.experts")
        self.shared: nn.Module | None = None
        if config.n_shared:
            shared = Dense(
                d_ff=config.n_shared * config.d_ff,
                gated=config.gated,
                activation=config.activation,
                bias=config.bias,
                hidden_dropout=config.hidden_dropout,
            )
            self.shared = shared.build(d_model, dropout=dropout, role=f"{role}.shared")

    def forward(self, x_BTD: Tensor, noise: Noise | None) -> tuple[Tensor, Tensor | None]:
        """Map (B, T, D) to (B, T, D) and the router's auxiliary loss."""
        routing = self.router(x_BTD, noise)
        y_ND = self.experts(
            x_BTD.flatten(0, 1), routing.experts_BTK.flatten(0, 1), routing.weights_BTK.flatten(0, 1), noise
        )
        y_BTD = y_ND.view_as(x_BTD)
        if self.shared is not None:
            y_BTD = y_BTD + self.shared(x_BTD, noise)[0]
        return y_BTD, routing.auxiliary_loss


class Experts(nn.Module):
    """Experts with stacked weights: up_EHD, down_EDH and, if gated, gate_EHD; biases (E, outputs) where wanted."""

    def __init__(self, config: MixtureOfExperts, d_model: int, dropout: float, role: str) -> None:
        super().__init__()
        self.n_experts, self.top_k = config.n_experts, config.top_k
        self.activation = ACTIVATIONS[config.activation]
        self.dropout = dropout if config.hidden_dropout else 0.0
        self.role = role
        up_shape = (config.n_experts, config.d_ff, d_model)
        self.up = nn.Parameter(torch.empty(up_shape))
        self.down = nn.Parameter(torch.empty(config.n_experts, d_model, config.d_ff))
        self.gate = optional_parameter(config.gated, *up_shape)
        self.up_bias = optional_parameter(config.bias, config.n_experts, config.d_ff)
        self.down_bias = optional_parameter(config.bias, config.n_experts, d_model)
        self.gate_bias = optional_parameter(config.bias and config.gated, config.n_experts, config.d_ff)

    def forward(self, x_ND: Tensor, experts_NK: Tensor, weights_NK: Tensor, noise: Noise | None) -> Tensor:
        """Return Σ_k weight_k · expert_k(x) for each of N tokens, shape (N, D). The M rows are sorted by expert."""
        rows = arrange_by_expert(experts_NK, self.n_experts, row_multiple(x_ND.device))
        x_MD = dispatch(x_ND, rows)
        if self._fits_grouped_mlp(x_ND, noise):
            y_MD = grouped_mlp(x_MD, self.up, self.gate, self.down, self.activation, rows.counts_E)
            return combine(y_MD, weights_NK, rows)
        hidden_MH = grouped_linear(x_MD, self.up, self.up_bias, rows.counts_E)
        if self.gate is None:
            hidden_MH = self.activation.value(hidden_MH)
        else:
            gated_MH = grouped_linear(x_MD, self.gate, self.gate_bias, rows.counts_E)
            hidden_MH = self.activation.value(gated_MH) * hidden_MH
        hidden_MH = dropout(hidden_MH, self.dropout, noise, f"{self.role}.hidden", rows=rows)
        y_MD = grouped_linear(hidden_MH, self.down, self.down_bias, rows.counts_E)
        return combine(y_MD, weights_NK, rows)

    def _fits_grouped_mlp(self, x_ND: Tensor, noise: Noise | None) -> bool:
        is_plain_fp32 = x_ND.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
        has_dropout = noise is not None and self.dropout > 0
        return is_plain_fp32 and self.up_bias is None and not has_dropout


@FEED_FORWARD.preset("moe_softmax_plain")
def moe_softmax_plain(size: Size) -> MixtureOfExperts:
    """Return the baseline: plain experts, softmax routing."""
    return _moe(size, SoftmaxTopK(), gated=False)


@FEED_FORWARD.preset("moe_softmax_gated")
def moe_softmax_gated(size: Size) -> MixtureOfExperts:
    """Return gated experts under the baseline's routing."""
    return _moe(size, SoftmaxTopK(), gated=True)


@FEED_FORWARD.preset("moe_softmax_plain_relu")
def moe_softmax_plain_relu(size: Size) -> MixtureOfExperts:
    """Return the baseline with ReLU."""
    return _moe(size, SoftmaxTopK(), gated=False, activation="relu")


@FEED_FORWARD.preset("moe_softmax_gated_relu")
def moe_softmax_gated_relu(size: Size) -> MixtureOfExperts:
    """Return experts gated by ReLU (ReGLU) under the baseline's routing."""
    return _moe(size, SoftmaxTopK(), gated=True, activation="relu")


@FEED_FORWARD.preset("moe_softmax_plain_gelu")
def moe_softmax_plain_gelu(size: Size) -> MixtureOfExperts:
    """Return the baseline with GELU."""
    return _moe(size, SoftmaxTopK(), gated=False, activation="gelu")


@FEED_FORWARD.preset("moe_softmax_gated_gelu")
def moe_softmax_gated_gelu(size: Size) -> MixtureOfExperts:
    """Return experts gated by GELU (GeGLU) under the baseline's routing."""
    return _moe(size, SoftmaxTopK(), gated=True, activation="gelu")


@FEED_FORWARD.preset("moe_softmax_biased_relu")
def moe_softmax_biased_relu(size: Size) -> MixtureOfExperts:
    """Return plain ReLU experts and a router, all with biases: one branch of the published exp4's layer."""
    return _moe(size, SoftmaxTopK(bias=True), gated=False, activation="relu", bias=True)


@FEED_FORWARD.preset("moe_deepseek_plain")
def moe_deepseek_plain(size: Size) -> MixtureOfExperts:
    """Return the baseline's experts under DeepSeek routing."""
    return _moe(size, DeepSeekRouting(), gated=False)


@FEED_FORWARD.preset("moe_deepseek_gated")
def moe_deepseek_gated(size: Size) -> MixtureOfExperts:
    """Return gated experts under DeepSeek routing."""
    return _moe(size, DeepSeekRouting(), gated=True)


@FEED_FORWARD.preset("moe_glm4")
def moe_glm4(size: Size) -> MixtureOfExperts:
    """Return GLM-4.5's layer: DeepSeek routing over gated experts, one shared. https://arxiv.org/abs/2508.06471."""
    return _moe(size, DeepSeekRouting(), gated=True, n_shared=1)


def _moe(size: Size, router: RouterConfig, **form: Any) -> MixtureOfExperts:
    return MixtureOfExperts(n_experts=size.n_experts, top_k=size.top_k, d_ff=size.d_ff, router=router, **form)
