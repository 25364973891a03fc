"""The feed-forward layer: DeepSeek's dense gated MLP, and what gating and the activation are worth.

Published: `deepseek_mlp` 1.54 against 1.99 nats. Wrong with it: it was the mean of a gated MLP and a ReLU mixture of
experts, behind an attention without causal mask, without positions and with biases, under LayerNorm after each
sublayer, and without the baseline's router noise and dropout in experts. Trained here: the feed-forward layer alone
changes.

- `baseline`: softmax top-k routing over plain SiLU experts;
- `relu`, `gated`: the same experts with ReLU, or with a gate;
- `deepseek_mlp`: one dense gated MLP of an expert's width instead of the mixture.

The report said that its baseline had ReLU; it had SiLU. `--design claimed` is the comparison that it described: one
dense gated MLP against a baseline of ReLU experts.

At `cpu` the three layers, the four heads, the eight experts, top-2 and all ratios to the width stay.
"""

from __future__ import annotations

import sys

from moe_models.size import Size
from sweeps.engine.cli import main
from sweeps.engine.flaws import (
    ATTENTION_BIASES,
    BALANCE_LOSS,
    EXPERTS_BESIDE,
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

CELLS = {
    "default": {
        "baseline": "moe_softmax_plain",
        "relu": "moe_softmax_plain_relu",
        "gated": "moe_softmax_gated",
        "deepseek_mlp": "dense_gated",
    },
    "claimed": {"baseline": "moe_softmax_plain_relu", "deepseek_mlp": "dense_gated"},
}
"""By design: the feed-forward layer of each cell."""
NOTES = {
    "default": "mlp: 'relu' and 'gated' keep the mixture of experts; 'deepseek_mlp' is one dense layer instead of it.",
    "claimed": "The baseline's experts have ReLU, as the published report said; its runs had SiLU.",
}

STUDY = Study(
    script="exp4_mlp",
    title="The feed-forward layer: dense or experts, gated or plain, SiLU or ReLU",
    factors=("mlp",),
    slots={"mlp": ("model.feed_forward",)},
    designs={
        design: Design(
            cells=tuple(
                Cell(name=name, factors={"mlp": preset}, build=variant(feed_forward=preset))
                for name, preset in cells.items()
            ),
            notes=(NOTES[design],),
        )
        for design, cells in CELLS.items()
    },
    primary="deepseek_mlp",
    sizes={"cpu": Size(d_model=64, n_layers=3, n_heads=4, d_ff=256, n_experts=8, top_k=2, latent_rank=32)},
    published=Published(
        cells=(
            PublishedCell(name="baseline"),
            PublishedCell(
                name="deepseek_mlp",
                flaws=(
                    NO_CAUSAL_MASK,
                    ATTENTION_BIASES,
                    NO_POSITIONS,
                    LAYERNORM,
                    POST_NORM,
                    EXPERTS_BESIDE,
                    NO_HIDDEN_DROPOUT,
                    NO_ROUTER_NOISE,
                    BALANCE_LOSS,
                ),
            ),
        ),
        flaws=(OVERLAPPING_WINDOWS, HORIZON, FIRST_BATCHES, ONE_SEED),
        balance_weight=0.1,
    ),
)

if __name__ == "__main__":
    sys.exit(main(STUDY))
