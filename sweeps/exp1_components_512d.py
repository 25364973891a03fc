"""Components at 512 wide: latent attention, a dense MLP, and GLM4's mixture of experts.

Published: every variant with latent attention below 0.02 nats, "6-9x" better. Wrong with it: those saw future tokens;
`moe_8e_2k_512d` used one dense layer out of each of three whole GLM4 language models, 154M of whose parameters never
saw a gradient; what was swapped in kept another initialisation; and the evaluation was three batches. Trained here:
every component as its name says, under one causal mask and one initialisation.

- `attention...`: latent attention (`mla_rope_only`: ranks 128, no position-free dimensions) instead of multi-head
  attention;
- `mlp...`: one dense gated MLP of twice an expert's width, as published (of the experts, too, a token meets two),
  instead of softmax top-k routing over plain experts;
- `moe...`: GLM4's mixture as it really is (sigmoid routing with a correction bias, gated experts, one of them shared).

`attention_512d`, which completes the grid, was not published. At `cpu` the three layers, the eight heads and experts,
top-2 and all ratios to the width stay.
"""

from __future__ import annotations

import sys

from moe_models.size import Size
from sweeps.engine.cli import main
from sweeps.engine.flaws import (
    DEAD_PARAMETERS,
    DEFAULT_INIT,
    DENSE_LAYER,
    FIRST_BATCHES,
    HIDDEN_WIDTH,
    HORIZON,
    NO_CAUSAL_MASK,
    NO_HIDDEN_DROPOUT,
    ONE_SEED,
    OVERLAPPING_WINDOWS,
)
from sweeps.engine.study import Cell, Design, Published, PublishedCell, Study, variant

CELLS = {
    "baseline": ("mha", "moe_softmax_plain"),
    "attention_512d": ("mla_rope_only", "moe_softmax_plain"),
    "mlp_512d": ("mha", "dense_gated_double"),
    "moe_8e_2k_512d": ("mha", "moe_glm4"),
    "attention_mlp_512d": ("mla_rope_only", "dense_gated_double"),
    "attention_moe_8e_2k_512d": ("mla_rope_only", "moe_glm4"),
}
"""Attention and feed-forward layer of each."""
ATTENTION_FLAWS = (NO_CAUSAL_MASK, DEFAULT_INIT)
MLP_FLAWS = (DEFAULT_INIT, NO_HIDDEN_DROPOUT)
GLM4_FLAWS = (DENSE_LAYER, HIDDEN_WIDTH, NO_HIDDEN_DROPOUT, DEAD_PARAMETERS)
"""GLM4 drew its own initial values, N(0, 0.02)."""

STUDY = Study(
    script="exp1_components_512d",
    title="Components at 512 wide: latent attention, dense MLP, GLM4's experts",
    factors=("attention", "feed_forward"),
    slots={"attention": ("model.attention",), "feed_forward": ("model.feed_forward",)},
    designs={
        "default": Design(
            cells=tuple(
                Cell(
                    name=name,
                    factors={"attention": attention, "feed_forward": feed_forward},
                    build=variant(attention=attention, feed_forward=feed_forward),
                )
                for name, (attention, feed_forward) in CELLS.items()
            )
        )
    },
    primary="attention_mlp_512d",
    paper_scale="paper_512d",
    sizes={"cpu": Size(d_model=64, n_layers=3, n_heads=8, d_ff=128, n_experts=8, top_k=2, latent_rank=16)},
    notes=(
        "The latent attention trained is the preset 'mla_rope_only', as published: no-position dimension 0 and one "
        "rotary key for all heads. DeepSeek-V3's own is the preset 'mla'.",
    ),
    published=Published(
        cells=(
            PublishedCell(name="baseline"),
            PublishedCell(name="mlp_512d", flaws=MLP_FLAWS),
            PublishedCell(name="attention_mlp_512d", flaws=(*ATTENTION_FLAWS, *MLP_FLAWS)),
            PublishedCell(name="moe_8e_2k_512d", flaws=GLM4_FLAWS),
            PublishedCell(name="attention_moe_8e_2k_512d", flaws=(*ATTENTION_FLAWS, *GLM4_FLAWS)),
        ),
        flaws=(OVERLAPPING_WINDOWS, HORIZON, FIRST_BATCHES, ONE_SEED),
        evaluation_batches=3,
        warmup_fraction=0.1,
    ),
)

if __name__ == "__main__":
    sys.exit(main(STUDY))
