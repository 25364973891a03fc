"""The configuration of a model: frozen, nested, one tagged child per slot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from moe_models.attention import ATTENTION, AttentionConfig
from moe_models.errors import require, unknown_name
from moe_models.feed_forward import FEED_FORWARD, FeedForwardConfig
from moe_models.norms import NORM, NormConfig
from moe_models.registry import component, dataclass_from_dict, published_setting, to_dict

PLACEMENTS = ("pre", "post")
INITIALISED_SLOTS = ("attention", "feed_forward")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A decoder-only transformer: blocks of attention and feed-forward, a final norm, a tied head."""

    vocab_size: int
    """Entries of the token embedding, which is also the head."""
    d_model: int
    """Width of the residual stream."""
    n_layers: int
    """Number of blocks."""
    max_seq_len: int
    """Longest sequence, in tokens."""
    dropout: float = 0.0
    """Dropout rate after the embedding, after each sublayer, inside experts, in attention and before the head."""
    init_std: float = 0.02
    """Standard deviation of the initial weights, N(0, init_std); gains start at 1, biases at 0."""
    attention: AttentionConfig = component(ATTENTION)
    feed_forward: FeedForwardConfig = component(FEED_FORWARD)
    block_norm: NormConfig = component(NORM)
    """The norms of each sublayer."""
    placement: str = "pre"
    """Where the block norms stand: `pre`, x + f(norm(x)), or `post`, norm(x + f(x)). https://arxiv.org/abs/2002.04745."""
    final_norm: NormConfig = component(NORM)
    """The norm before the head."""
    default_init: tuple[str, ...] = published_setting(())
    """Slots (`attention`, `feed_forward`) whose matrices and biases start as torch's `nn.Linear` draws them, uniform in
    ±1/sqrt(inputs). Rebuilds a published flaw: what was swapped in after the initialisation kept torch's own."""

    def __post_init__(self) -> None:
        for name in ("vocab_size", "d_model", "n_layers", "max_seq_len"):
            require(getattr(self, name) >= 1, f"{name} must be 1 or more but got {getattr(self, name)}")
        require(0.0 <= self.dropout < 1.0, f"dropout must be in [0, 1) but got {self.dropout}")
        require(self.init_std > 0.0, f"init_std must be positive but got {self.init_std}")
        require(
            self.placement in PLACEMENTS,
            f"placement must be one of {', '.join(PLACEMENTS)} but got '{self.placement}'",
        )
        for slot in self.default_init:
            if slot not in INITIALISED_SLOTS:
                raise unknown_name("slot of default_init", slot, INITIALISED_SLOTS)
        self.attention.validate(self.d_model)
        self.feed_forward.validate(self.d_model)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data from which `from_dict` rebuilds this configuration."""
        return to_dict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ModelConfig:
        """Rebuild a configuration; unknown names raise ConfigError with the nearest known one."""
        return dataclass_from_dict(cls, data, "model")
