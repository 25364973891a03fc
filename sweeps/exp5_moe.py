"""The mixture of experts: DeepSeek's gated experts and DeepSeek's routing, apart and together.

Published: `deepseek_moe` 1.39 against 2.08 nats, "33 %" better. Wrong with it: besides gated experts it had an
attention without causal mask, without positions and with biases, LayerNorm after each sublayer, another balance loss,
and neither the baseline's router noise nor its dropout in experts. Trained here: experts and routing alone change, in
all four combinations.

- `gated_experts`: gated instead of plain experts (the one declared change of the published variant);
- `deepseek_routing`: sigmoid routing with a correction bias instead of softmax top-k routing.

At `cpu` the three layers, the four heads, the eight experts, top-2 and all ratios to the width stay.
"""

from __future__ import annotations

import sys

from moe_models.size import Size
from sweeps.engine.cli import main
from sweeps.engine.flaws import (
    ATTENTION_BIASES,
    BALANCE_LOSS,
    FIRST_BATCHES,
    HORIZON,
    LAYERNORM,
    NO_CAUSAL_MASK,
    NO_HIDDEN_DROPOUT,
    NO_POSITIONS,
    NO_ROUTER_NOISE,
    ONE_SEED,
    OVERLAPPING_WINDOWS,
    POST_NORM,
)
from sweeps.engine.study import Cell, Design, Published, PublishedCell, Study, variant

FACTORS = ("gated_experts", "deepseek_routing")
CELLS = {
    "baseline": (0, 0, "moe_softmax_plain"),
    "gated_experts": (1, 0, "moe_softmax_gated"),
    "deepseek_routing": (0, 1, "moe_deepseek_plain"),
    "gated_experts_deepseek_routing": (1, 1, "moe_deepseek_gated"),
}
"""Levels of the factors, and the feed-forward layer that they make."""

STUDY = Study(
    script="exp5_moe",
    title="The mixture of experts: gated experts, DeepSeek routing",
    factors=FACTORS,
    slots={
        "gated_experts": ("model.feed_forward.gated",),
        "deepseek_routing": ("model.feed_forward.router",),
    },
    designs={
        "default": Design(
            cells=tuple(
                Cell(
                    name=name,
                    factors=dict(zip(FACTORS, levels, strict=True)),
                    build=variant(feed_forward=feed_forward),
                )
                for name, (*levels, feed_forward) in CELLS.items()
            ),
            factorial=True,
        )
    },
    primary="gated_experts",
    sizes={"cpu": Size(d_model=64, n_layers=3, n_heads=4, d_ff=256, n_experts=8, top_k=2, latent_rank=32)},
    published=Published(
        cells=(
            PublishedCell(name="baseline"),
            PublishedCell(
                name="deepseek_moe",
                cell="gated_experts",
                flaws=(
                    NO_CAUSAL_MASK,
                    ATTENTION_BIASES,
                    NO_POSITIONS,
                    LAYERNORM,
                    POST_NORM,
                    NO_HIDDEN_DROPOUT,
                    NO_ROUTER_NOISE,
                    BALANCE_LOSS,
                ),
            ),
        ),
        flaws=(OVERLAPPING_WINDOWS, HORIZON, FIRST_BATCHES, ONE_SEED),
    ),
)

if __name__ == "__main__":
    sys.exit(main(STUDY))
