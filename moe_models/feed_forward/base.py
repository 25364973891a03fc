"""The slot for feed-forward layers: what every variant must offer.

Shapes: B batch, T positions, D model width, H hidden width, E experts.
"""

from __future__ import annotations

from typing import ClassVar, Protocol

import torch
from torch import nn

from moe_models.activations import ACTIVATIONS
from moe_models.errors import require, unknown_name
from moe_models.registry import Registry


class FeedForwardConfig(Protocol):
    """Configuration of a feed-forward layer."""

    kind: ClassVar[str]

    def validate(self, d_model: int) -> None:
        """Raise ConfigError if this layer cannot be built at width `d_model`."""
        ...

    def build(self, d_model: int, *, dropout: float, role: str) -> nn.Module:
        """Return the module; it maps (x_BTD, noise) to (y_BTD, scalar auxiliary loss or None).

        Args:
            d_model: width of the residual stream.
            dropout: dropout rate on the hidden activations.
            role: dotted name of the module in the model; names its noise streams.
        """
        ...


FEED_FORWARD: Registry[FeedForwardConfig] = Registry("feed_forward")


def validate_hidden(d_ff: int, activation: str, where: str) -> None:
    """Check a hidden width and the name of an activation."""
    require(d_ff >= 1, f"{where}.d_ff must be 1 or more but got {d_ff}")
    if activation not in ACTIVATIONS:
        raise unknown_name(f"{where}.activation", activation, ACTIVATIONS)


def optional_parameter(wanted: bool, *shape: int) -> nn.Parameter | None:
    """Return an uninitialised parameter, or None where it is not wanted."""
    return nn.Parameter(torch.empty(shape)) if wanted else None
