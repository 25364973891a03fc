"""A dense layer that brings a whole unused language model with it, as the published 512d study had it.

Its `moe_8e_2k_512d` built a one-layer GLM4-MoE model (https://arxiv.org/abs/2508.06471) for each block and called its
first layer's feed-forward part. In these models that layer is dense; embedding, attention, norms and head never run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from moe_models.attention.glm4 import Glm4Attention
from moe_models.errors import require
from moe_models.feed_forward.base import FEED_FORWARD, FeedForwardConfig
from moe_models.feed_forward.dense import dense_gated_glm4
from moe_models.norms.deepseek_rmsnorm import DeepSeekRMSNorm
from moe_models.parameters import Unused
from moe_models.registry import component
from moe_models.size import Size
from moe_models.streams import Noise


@FEED_FORWARD.register("unused_glm4")
@dataclass(frozen=True, kw_only=True)
class UnusedGlm4:
    """The layer `used`, and the rest of a one-layer GLM4 language model, which is dead."""

    kind: ClassVar[str]
    vocab_size: int
    """Rows of the dead embedding, and of the dead head."""
    n_heads: int
    """Heads of the dead attention, without grouping."""
    used: FeedForwardConfig = component(FEED_FORWARD)
    """The layer that computes."""

    def validate(self, d_model: int) -> None:
        """Check the layer that computes and the sizes of the rest."""
        require(self.vocab_size >= 1, f"unused_glm4.vocab_size must be 1 or more but got {self.vocab_size}")
        require(self.n_heads >= 1, f"unused_glm4.n_heads must be 1 or more but got {self.n_heads}")
        self.used.validate(d_model)
        self.attention(d_model).validate(d_model)

    def attention(self, d_model: int) -> Glm4Attention:
        """Return the dead attention's configuration."""
        head_dim = d_model // self.n_heads
        return Glm4Attention(n_heads=self.n_heads, n_kv_heads=self.n_heads, head_dim=head_dim, rope_dim=head_dim // 2)

    def build(self, d_model: int, *, dropout: float, role: str) -> nn.Module:
        """Return the module."""
        return UnusedGlm4Module(self, d_model, dropout, role)


class UnusedGlm4Module(nn.Module):
    """The module of `UnusedGlm4`."""

    def __init__(self, config: UnusedGlm4, d_model: int, dropout: float, role: str) -> None:
        super().__init__()
        self.used = config.used.build(d_model, dropout=dropout, role=f"{role}.used")
        self.unused = UnusedParts(config, d_model, role=f"{role}.unused")

    def forward(self, x_BTD: Tensor, noise: Noise | None) -> tuple[Tensor, Tensor | None]:
        """Map (B, T, D) to (B, T, D) by the used layer alone."""
        return self.used(x_BTD, noise)


class UnusedParts(Unused):
    """Embedding, attention with its norm, the norm before the used layer, final norm and untied head."""

    def __init__(self, config: UnusedGlm4, d_model: int, role: str) -> None:
        super().__init__()
        norm = DeepSeekRMSNorm(eps=1e-5)
        self.embedding = nn.Parameter(torch.empty(config.vocab_size, d_model))
        self.attention_norm = norm.build(d_model)
        self.attention = config.attention(d_model).build(d_model, dropout=0.0, role=f"{role}.attention")
        self.feed_forward_norm = norm.build(d_model)
        self.final_norm = norm.build(d_model)
        self.head = nn.Parameter(torch.empty(config.vocab_size, d_model))


@FEED_FORWARD.preset("unused_glm4")
def unused_glm4(size: Size) -> UnusedGlm4:
    """Return the published proportions: at 512 wide a hidden width of 10,944 and a dead vocabulary of 49,152."""
    return UnusedGlm4(vocab_size=96 * size.d_model, n_heads=size.n_heads, used=dense_gated_glm4(size))
