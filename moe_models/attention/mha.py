"""Multi-head attention with rotary positions. Vaswani et al., https://arxiv.org/abs/1706.03762; RoPE, 2104.09864."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from moe_models.attention.base import ATTENTION, causal_attention, split_heads
from moe_models.errors import require
from moe_models.positions import POSITION, PositionConfig, Rotary
from moe_models.positions.none import NoPosition
from moe_models.positions.rope import Rope
from moe_models.registry import component, published_setting
from moe_models.size import Size
from moe_models.streams import Noise


@ATTENTION.register("mha")
@dataclass(frozen=True, kw_only=True)
class MultiHeadAttention:
    """Fused query-key-value projection, rotary queries and keys, causal softmax attention, output projection."""

    kind: ClassVar[str]
    n_heads: int
    """Heads; d_model must be an even multiple of it."""
    bias: bool = False
    """Biases on both projections."""
    position: PositionConfig = component(POSITION, default=Rope())
    causal: bool = published_setting(True)
    """False rebuilds a published flaw: no mask, so that every position sees the whole sequence."""

    def validate(self, d_model: int) -> None:
        """Check that the heads divide the width into even head dimensions."""
        require(self.n_heads >= 1, f"attention.n_heads must be 1 or more but got {self.n_heads}")
        require(
            d_model % (2 * self.n_heads) == 0,
            f"attention.n_heads ({self.n_heads}) must divide d_model ({d_model}) into even head dimensions",
        )

    def build(self, d_model: int, *, dropout: float, role: str) -> nn.Module:
        """Return the module."""
        return MultiHeadAttentionModule(self, d_model, dropout, role)

    def flops_per_token(self, seq_len: int, d_model: int) -> int:
        """Return the forward FLOPs of QKᵀ and of the weighted values for one token."""
        return 4 * seq_len * d_model


class MultiHeadAttentionModule(nn.Module):
    """The module of `MultiHeadAttention`."""

    def __init__(self, config: MultiHeadAttention, d_model: int, dropout: float, role: str) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.causal = config.causal
        self.dropout = dropout
        self.role = role
        head_dim = d_model // config.n_heads
        self.scale = head_dim**-0.5 * config.position.softmax_factor()
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=config.bias)
        self.out = nn.Linear(d_model, d_model, bias=config.bias)
        self.rotary = Rotary(config.position, head_dim)

    def forward(self, x_BTD: Tensor, noise: Noise | None) -> Tensor:
        """Map (B, T, D) to (B, T, D); position t sees positions up to t."""
        heads = self.n_heads
        turned_BTHK, value_BTHK = split_heads(self.qkv(x_BTD), 3 * heads).split((2 * heads, heads), dim=2)
        query_BTHK, key_BTHK = self.rotary(turned_BTHK).chunk(2, dim=2)
        attended_BTD = causal_attention(
            query_BTHK,
            key_BTHK,
            value_BTHK,
            scale=self.scale,
            dropout_rate=self.dropout,
            noise=noise,
            role=self.role,
            causal=self.causal,
        )
        return self.out(attended_BTD)


@ATTENTION.preset("mha")
def mha(size: Size) -> MultiHeadAttention:
    """Return the baseline's attention."""
    return MultiHeadAttention(n_heads=size.n_heads)


@ATTENTION.preset("mha_biased_no_position")
def mha_biased_no_position(size: Size) -> MultiHeadAttention:
    """Return the attention that came with the change of the published exp4 and exp5: biases, no positions."""
    return MultiHeadAttention(n_heads=size.n_heads, bias=True, position=NoPosition())
