"""The activations of feed-forward layers, each with its gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Activation:
    """A function of each element by itself."""

    name: str
    value: Callable[[Tensor], Tensor]
    gradient: Callable[[Tensor, Tensor], Tensor]
    """From the gradient of the output and the input to the gradient of the input."""

    def __str__(self) -> str:
        return self.name


ACTIVATIONS = {
    activation.name: activation
    for activation in (
        Activation("silu", F.silu, torch.ops.aten.silu_backward),
        Activation("gelu", F.gelu, torch.ops.aten.gelu_backward),
        Activation("relu", F.relu, lambda grad, x: torch.ops.aten.threshold_backward(grad, x, 0)),
    )
}
"""By name."""
