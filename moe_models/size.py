"""How big the parts of a model are: what a preset turns into a component's configuration."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Size:
    """The dimensions that all parts of a model at one scale share."""

    d_model: int
    """Width of the residual stream."""
    n_layers: int
    n_heads: int
    d_ff: int
    """Hidden width of a feed-forward layer, and of one expert."""
    n_experts: int
    top_k: int
    latent_rank: int
    """Query rank of latent attention, of which presets derive the key-value rank."""

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.d_model // self.n_heads
