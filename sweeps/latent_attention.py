"""Inside latent attention: what its parts are worth, one at a time and together.

DeepSeek-V3's attention (https://arxiv.org/abs/2412.19437) differs from multi-head attention in several things at
once. Trained here: one module, its parts switched.

- `baseline`: queries, keys and values through projections of full rank; every query and key dimension rotary, one
  rotary key for all heads; no biases; heads of the usual width;
- `low_rank`: latents of the scale's rank instead of full rank;
- `decoupled`: position-free dimensions beside half as many rotary ones, so that each head has keys of its own;
- `bias`: biases on the down-projections and the output;
- `wide_heads`: twice the dimensions in every head, of queries, keys and values;
- `all`: all four.

`--design factorial` trains all sixteen combinations.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from sweeps.engine.cli import main
from sweeps.engine.study import BASELINE, Cell, Design, Study

if TYPE_CHECKING:
    from moe_models.config import ModelConfig
    from trainables.scales import Scale

FACTORS = ("low_rank", "decoupled", "bias", "wide_heads")
RANKS = ("model.attention.q_rank", "model.attention.kv_rank")
QUERIES_AND_KEYS = ("model.attention.rope_dim", "model.attention.nope_dim")
SLOTS = {
    "low_rank": RANKS,
    "decoupled": QUERIES_AND_KEYS,
    "bias": ("model.attention.bias",),
    "wide_heads": (*QUERIES_AND_KEYS, "model.attention.v_dim", *RANKS),
}
"""Full rank is that of all heads together: wider heads have more of it."""


def attention(low_rank: int, decoupled: int, bias: int, wide_heads: int) -> Callable[[Scale], ModelConfig]:
    """Return the function from a scale to the model with these parts."""

    def build(scale: Scale) -> ModelConfig:
        from moe_models.attention.mla import MultiHeadLatentAttention

        size = scale.size
        width = size.head_dim * (2 if wide_heads else 1)
        rank = size.latent_rank if low_rank else size.n_heads * width
        part = MultiHeadLatentAttention(
            n_heads=size.n_heads,
            q_rank=rank,
            kv_rank=rank,
            rope_dim=width // 2 if decoupled else width,
            nope_dim=width if decoupled else 0,
            v_dim=width,
            bias=bool(bias),
        )
        return replace(scale.model(**BASELINE), attention=part)

    return build


def cells(levels: Sequence[tuple[int, ...]]) -> tuple[Cell, ...]:
    """Return a cell for each combination of levels, named after the factors that are on."""
    named = []
    for combination in levels:
        on = [factor for factor, level in zip(FACTORS, combination, strict=True) if level]
        name = "all" if len(on) == len(FACTORS) else "_".join(on) or "baseline"
        named.append(
            Cell(name=name, factors=dict(zip(FACTORS, combination, strict=True)), build=attention(*combination))
        )
    return tuple(named)


ONE_AT_A_TIME = [tuple(int(i == on) for i in range(len(FACTORS))) for on in range(len(FACTORS))]

STUDY = Study(
    script="latent_attention",
    title="Inside latent attention: low rank, decoupled positions, biases, wider heads",
    factors=FACTORS,
    slots=SLOTS,
    designs={
        "default": Design(cells=cells([(0, 0, 0, 0), *ONE_AT_A_TIME, (1, 1, 1, 1)])),
        "factorial": Design(cells=cells(list(itertools.product((0, 1), repeat=len(FACTORS)))), factorial=True),
    },
    primary="low_rank",
    notes=(
        "The baseline is latent attention at full rank with one rotary key for all heads, not multi-head attention.",
    ),
)

if __name__ == "__main__":
    sys.exit(main(STUDY))
