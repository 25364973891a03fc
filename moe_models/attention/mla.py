"""Multi-head latent attention of DeepSeek-V3, section 2.1.1 of https://arxiv.org/abs/2412.19437."""

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
from moe_models.positions.rope_linear import RopeLinear
from moe_models.registry import component, published_setting
from moe_models.size import Size
from moe_models.streams import Noise


@ATTENTION.register("mla")
@dataclass(frozen=True, kw_only=True)
class MultiHeadLatentAttention:
    """Queries, keys and values from low-rank latents; positions in dimensions apart, one rotary key for all heads.

    With `nope_dim = 0` no key content comes from the latent: every head sees the same purely rotary key. That is the
    published ablation's variant (preset `mla_rope_only`), and less than DeepSeek-V3's attention.
    """

    kind: ClassVar[str]
    n_heads: int
    q_rank: int
    """Width of the query latent."""
    kv_rank: int
    """Width of the latent that keys and values share."""
    rope_dim: int
    """Rotary dimensions of each query head, and of the one shared key; even."""
    nope_dim: int
    """Position-free dimensions of each query and key head; 0 leaves only the rotary ones."""
    v_dim: int
    """Value dimensions a head."""
    bias: bool = False
    """Biases on both down-projections and on the output."""
    position: PositionConfig = component(POSITION, default=Rope())
    causal: bool = published_setting(True)
    """False rebuilds a published flaw: no mask, so that every position sees the whole sequence."""

    def validate(self, d_model: int) -> None:
        """Check that all dimensions can be built; any width goes."""
        del d_model
        for name in ("n_heads", "q_rank", "kv_rank", "rope_dim", "v_dim"):
            require(getattr(self, name) >= 1, f"attention.{name} must be 1 or more but got {getattr(self, name)}")
        require(self.nope_dim >= 0, f"attention.nope_dim must be 0 or more but got {self.nope_dim}")
        require(self.rope_dim % 2 == 0, f"attention.rope_dim must be even but got {self.rope_dim}")

    def build(self, d_model: int, *, dropout: float, role: str) -> nn.Module:
        """Return the module."""
        return MultiHeadLatentAttentionModule(self, d_model, dropout, role)

    def flops_per_token(self, seq_len: int, d_model: int) -> int:
        """Return the forward FLOPs of QKᵀ and of the weighted values for one token."""
        del d_model
        return 2 * seq_len * self.n_heads * (self.nope_dim + self.rope_dim + self.v_dim)


class MultiHeadLatentAttentionModule(nn.Module):
    """The module of `MultiHeadLatentAttention`. Shapes: Q, C query and key-value ranks, R rotary, N position-free."""

    def __init__(self, config: MultiHeadLatentAttention, d_model: int, dropout: float, role: str) -> None:
        super().__init__()
        self.config = config
        self.dropout = dropout
        self.role = role
        heads, qk_dim = config.n_heads, config.nope_dim + config.rope_dim
        self.scale = qk_dim**-0.5 * config.position.softmax_factor()
        latent_norm = DeepSeekRMSNorm()
        self.q_down = nn.Linear(d_model, config.q_rank, bias=config.bias)
        self.q_norm = latent_norm.build(config.q_rank)
        self.q_up = nn.Linear(config.q_rank, heads * qk_dim, bias=False)
        self.kv_down = nn.Linear(d_model, config.kv_rank + config.rope_dim, bias=config.bias)
        self.kv_norm = latent_norm.build(config.kv_rank)
        self.kv_up = nn.Linear(config.kv_rank, heads * (config.nope_dim + config.v_dim), bias=False)
        self.out = nn.Linear(heads * config.v_dim, d_model, bias=config.bias)
        self.rotary = Rotary(config.position, config.rope_dim)

    def forward(self, x_BTD: Tensor, noise: Noise | None) -> Tensor:
        """Map (B, T, D) to (B, T, D); position t sees positions up to t."""
        c = self.config
        query_BTHK = split_heads(self.q_up(self.q_norm(self.q_down(x_BTD))), c.n_heads)
        query_BTHN, query_BTHR = query_BTHK.split((c.nope_dim, c.rope_dim), dim=-1)

        latent_BTC, key_BTR = self.kv_down(x_BTD).split((c.kv_rank, c.rope_dim), dim=-1)
        key_value_BTHM = split_heads(self.kv_up(self.kv_norm(latent_BTC)), c.n_heads)
        key_BTHN, value_BTHV = key_value_BTHM.split((c.nope_dim, c.v_dim), dim=-1)

        query_BTHR = self.rotary(query_BTHR)
        key_BTHR = self.rotary(key_BTR.unsqueeze(2)).expand_as(query_BTHR)
        attended_BTN = causal_attention(
            torch.cat((query_BTHN, query_BTHR), dim=-1),
            torch.cat((key_BTHN, key_BTHR), dim=-1),
            value_BTHV,
            scale=self.scale,
            dropout_rate=self.dropout,
            noise=noise,
            role=self.role,
            causal=c.causal,
        )
        return self.out(attended_BTN)


@ATTENTION.preset("mla")
def mla(size: Size) -> MultiHeadLatentAttention:
    """Return DeepSeek-V3's proportions: position-free and value dimensions twice the rotary ones; no biases."""
    return MultiHeadLatentAttention(
        n_heads=size.n_heads,
        q_rank=size.latent_rank,
        kv_rank=size.latent_rank,
        rope_dim=size.head_dim // 2,
        nope_dim=size.head_dim,
        v_dim=size.head_dim,
    )


@ATTENTION.preset("mla_rope_only")
def mla_rope_only(size: Size) -> MultiHeadLatentAttention:
    """Return the published ablation's variant: no position-free dimensions, biases."""
    return MultiHeadLatentAttention(
        n_heads=size.n_heads,
        q_rank=size.latent_rank,
        kv_rank=size.latent_rank,
        rope_dim=size.head_dim,
        nope_dim=0,
        v_dim=size.head_dim,
        bias=True,
    )


@ATTENTION.preset("mla_lora")
def mla_lora(size: Size) -> MultiHeadLatentAttention:
    """Return the published 768d study's `lora`: no position-free dimensions, twice the rank for keys and values."""
    return MultiHeadLatentAttention(
        n_heads=size.n_heads,
        q_rank=size.latent_rank,
        kv_rank=2 * size.latent_rank,
        rope_dim=size.head_dim,
        nope_dim=0,
        v_dim=size.head_dim,
    )


@ATTENTION.preset("mla_enhanced")
def mla_enhanced(size: Size) -> MultiHeadLatentAttention:
    """Return the published 768d study's `enhanced`: as `lora`, with wider heads, biases and positions at half speed."""
    return MultiHeadLatentAttention(
        n_heads=size.n_heads,
        q_rank=size.latent_rank,
        kv_rank=2 * size.latent_rank,
        rope_dim=2 * size.head_dim,
        nope_dim=0,
        v_dim=3 * size.head_dim,
        bias=True,
        position=RopeLinear(factor=2.0),
    )
