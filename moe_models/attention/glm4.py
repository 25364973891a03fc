"""GLM-4.5's attention: grouped queries, positions in part of each head. https://arxiv.org/abs/2508.06471.

Grouped queries: Ainslie et al., https://arxiv.org/abs/2305.13245.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from moe_models.attention.base import ATTENTION, causal_attention, split_heads
from moe_models.errors import require
from moe_models.norms.deepseek_rmsnorm import DeepSeekRMSNorm
from moe_models.positions import POSITION, PositionConfig, Rotary
from moe_models.positions.rope import Rope
from moe_models.registry import component
from moe_models.size import Size
from moe_models.streams import Noise


@ATTENTION.register("glm4")
@dataclass(frozen=True, kw_only=True)
class Glm4Attention:
    """Several query heads share a key-value head; the first `rope_dim` dimensions of each head carry the position.

    Rotary pairs are neighbours (2i, 2i+1), as everywhere here. GLM's checkpoints pair (i, i + rope_dim/2): the same
    function with the rows of the query and key projections in another order.
    """

    kind: ClassVar[str]
    n_heads: int
    """Query heads."""
    n_kv_heads: int
    """Key-value heads; must divide n_heads."""
    head_dim: int
    """Dimensions of each head; n_heads · head_dim need not be d_model."""
    rope_dim: int
    """Rotary dimensions of each head; even, at most head_dim."""
    bias: bool = True
    """Biases on queries, keys and values; the output never has one."""
    qk_norm: bool = False
    """RMSNorm on each query and key head before the rotation."""
    position: PositionConfig = component(POSITION, default=Rope())

    def validate(self, d_model: int) -> None:
        """Check heads and dimensions; any width goes."""
        del d_model
        for name in ("n_heads", "n_kv_heads", "head_dim"):
            require(getattr(self, name) >= 1, f"attention.{name} must be 1 or more but got {getattr(self, name)}")
        require(
            self.n_heads % self.n_kv_heads == 0,
            f"attention.n_kv_heads must divide n_heads ({self.n_heads}) but got {self.n_kv_heads}",
        )
        require(
            self.rope_dim % 2 == 0 and 2 <= self.rope_dim <= self.head_dim,
            f"attention.rope_dim must be even and from 2 to head_dim ({self.head_dim}) but got {self.rope_dim}",
        )

    def build(self, d_model: int, *, dropout: float, role: str) -> nn.Module:
        """Return the module."""
        return Glm4AttentionModule(self, d_model, dropout, role)

    def flops_per_token(self, seq_len: int, d_model: int) -> int:
        """Return the forward FLOPs of QKᵀ and of the weighted values for one token."""
        del d_model
        return 4 * seq_len * self.n_heads * self.head_dim


class Glm4AttentionModule(nn.Module):
    """The module of `Glm4Attention`. Shapes: G key-value heads, R rotary dimensions, P the others of a head."""

    def __init__(self, config: Glm4Attention, d_model: int, dropout: float, role: str) -> None:
        super().__init__()
        self.config = config
        self.dropout = dropout
        self.role = role
        self.scale = config.head_dim**-0.5 * config.position.softmax_factor()
        query_width, key_width = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
        self.query = nn.Linear(d_model, query_width, bias=config.bias)
        self.key = nn.Linear(d_model, key_width, bias=config.bias)
        self.value = nn.Linear(d_model, key_width, bias=config.bias)
        self.out = nn.Linear(query_width, d_model, bias=False)
        head_norm = DeepSeekRMSNorm(eps=1e-5)
        self.query_norm = head_norm.build(config.head_dim) if config.qk_norm else nn.Identity()
        self.key_norm = head_norm.build(config.head_dim) if config.qk_norm else nn.Identity()
        self.rotary = Rotary(config.position, config.rope_dim)

    def forward(self, x_BTD: Tensor, noise: Noise | None) -> Tensor:
        """Map (B, T, D) to (B, T, D); position t sees positions up to t."""
        c = self.config
        query_BTHK = self._rotate(self.query_norm(split_heads(self.query(x_BTD), c.n_heads)))
        key_BTGK = self._rotate(self.key_norm(split_heads(self.key(x_BTD), c.n_kv_heads)))
        value_BTGK = split_heads(self.value(x_BTD), c.n_kv_heads)
        attended_BTN = causal_attention(
            query_BTHK,
            key_BTGK.repeat_interleave(c.n_heads // c.n_kv_heads, dim=2),
            value_BTGK.repeat_interleave(c.n_heads // c.n_kv_heads, dim=2),
            scale=self.scale,
            dropout_rate=self.dropout,
            noise=noise,
            role=self.role,
        )
        return self.out(attended_BTN)

    def _rotate(self, x_BTHK: Tensor) -> Tensor:
        """Turn the first `rope_dim` dimensions of each head and pass the others on."""
        x_BTHR, x_BTHP = x_BTHK.tensor_split((self.config.rope_dim,), dim=-1)
        return torch.cat((self.rotary(x_BTHR), x_BTHP), dim=-1)


@ATTENTION.preset("glm4")
def glm4(size: Size) -> Glm4Attention:
    """Return GLM-4.5-Air's form: half of each head rotary, biases; here a key-value head for four query heads."""
    return _glm4(size, qk_norm=False)


@ATTENTION.preset("glm4_qk_norm")
def glm4_qk_norm(size: Size) -> Glm4Attention:
    """Return GLM-4.5's form: as `glm4`, with queries and keys normalised."""
    return _glm4(size, qk_norm=True)


def _glm4(size: Size, *, qk_norm: bool) -> Glm4Attention:
    return Glm4Attention(
        n_heads=size.n_heads,
        n_kv_heads=max(1, size.n_heads // 4),
        head_dim=size.head_dim,
        rope_dim=size.head_dim // 2,
        qk_norm=qk_norm,
    )
