"""Dropout from this project's own streams (torch's takes no generator)."""

from __future__ import annotations

import torch
from torch import Tensor

from moe_models.grouped import ExpertRows
from moe_models.streams import Noise


def dropout(x: Tensor, rate: float, noise: Noise | None, role: str, rows: ExpertRows | None = None) -> Tensor:
    """Zero each element with probability `rate` and scale the rest by 1 / (1 - rate).

    Args:
        x: any shape.
        rate: probability of zeroing, in [0, 1).
        noise: source of the draw; None (evaluation) returns `x` unchanged.
        role: place in the model; each role has a stream of its own.
        rows: for an `x` whose rows are sorted by expert. The mask is drawn in the tokens' order, so that what happens
            to a token does not depend on where the others were routed.
    """
    if noise is None or rate == 0.0:
        return x
    shape = x.shape if rows is None else (len(rows.places_A), *x.shape[1:])
    keep = torch.empty(shape, dtype=torch.float32, device=x.device)
    keep.bernoulli_(1.0 - rate, generator=noise.generator("dropout", role, x.device))
    if rows is not None:
        keep = keep.index_select(0, rows.sources_M)
    # In fp32: a factor that is rounded to bf16 itself makes all outputs of a rate of 0.1 too small, by 0.16 %.
    return (x * (keep / (1.0 - rate))).to(x.dtype)
