"""The slot for attention: what every variant must offer, and the causal core that they share.

Shapes: B batch, T positions, D model width, H heads, K query/key head dimension, V value head dimension.
"""

from __future__ import annotations

from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moe_models.dropout import dropout
from moe_models.registry import Registry
from moe_models.streams import Noise


class AttentionConfig(Protocol):
    """Configuration of a causal self-attention."""

    kind: ClassVar[str]

    @property
    def n_heads(self) -> int:
        """Heads: so many weights each pair of positions has."""
        ...

    def validate(self, d_model: int) -> None:
        """Raise ConfigError if this attention cannot be built at width `d_model`."""
        ...

    def build(self, d_model: int, *, dropout: float, role: str) -> nn.Module:
        """Return the module; it maps (x_BTD, noise) to (B, T, D).

        Args:
            d_model: width of the residual stream.
            dropout: dropout rate of the attention weights.
            role: dotted name of the module in the model; names its noise streams.
        """
        ...

    def flops_per_token(self, seq_len: int, d_model: int) -> int:
        """Return the forward FLOPs of scores and weighted values for one token (projections not counted).

        The causal half that a kernel may skip is counted, as is the custom.
        """
        ...


ATTENTION: Registry[AttentionConfig] = Registry("attention")


def causal_attention(
    query_BTHK: Tensor,
    key_BTHK: Tensor,
    value_BTHV: Tensor,
    *,
    scale: float,
    dropout_rate: float,
    noise: Noise | None,
    role: str,
    causal: bool = True,
) -> Tensor:
    """Return softmax(scale · QKᵀ + causal mask) V, heads joined: (B, T, H·V).

    With dropout the weights are formed explicitly, since the fused kernels draw from torch's global generator. Without
    `causal` there is no mask at all: a published mask of ones, added to all scores alike, was none.
    """
    query_BHTK, key_BHTK, value_BHTV = (x.transpose(1, 2) for x in (query_BTHK, key_BTHK, value_BTHV))
    if noise is None or dropout_rate == 0.0:
        attended_BHTV = _fused(query_BHTK, key_BHTK, value_BHTV, scale, causal)
    else:
        scores_BHTT = (query_BHTK @ key_BHTK.mT) * scale
        if causal:
            length = query_BHTK.shape[-2]
            future_TT = torch.ones(length, length, dtype=torch.bool, device=query_BHTK.device).triu(1)
            scores_BHTT = scores_BHTT.masked_fill(future_TT, float("-inf"))
        weights_BHTT = scores_BHTT.softmax(-1, dtype=torch.float32)
        weights_BHTT = dropout(weights_BHTT, dropout_rate, noise, f"{role}.weights")
        attended_BHTV = weights_BHTT.to(value_BHTV.dtype) @ value_BHTV
    return attended_BHTV.transpose(1, 2).flatten(2)


def _fused(query_BHTK: Tensor, key_BHTK: Tensor, value_BHTV: Tensor, scale: float, causal: bool) -> Tensor:
    device = query_BHTK.device.type
    if device != "cpu" or not torch.is_autocast_enabled(device):
        return F.scaled_dot_product_attention(query_BHTK, key_BHTK, value_BHTV, is_causal=causal, scale=scale)
    # The CPU kernel's backward pass takes ten times as long in bf16 as in fp32.
    query_BHTK, key_BHTK, value_BHTV = query_BHTK.float(), key_BHTK.float(), value_BHTV.float()
    with torch.autocast(device, enabled=False):
        attended_BHTV = F.scaled_dot_product_attention(query_BHTK, key_BHTK, value_BHTV, is_causal=causal, scale=scale)
    return attended_BHTV.to(torch.get_autocast_dtype(device))


def split_heads(x_BTN: Tensor, n_heads: int) -> Tensor:
    """Split the last dimension into heads: (B, T, H·K) to (B, T, H, K)."""
    return x_BTN.unflatten(-1, (n_heads, -1))
