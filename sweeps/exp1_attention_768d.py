"""Attention at 768 wide: multi-head attention against two latent attentions without position-free dimensions.

Published: `baseline`, `lora` and `enhanced` within 0.006 nats of one another. Wrong with it: each variant was built to
count its parameters and then the baseline was trained three times from one seed, so the three losses are one model's.
Trained here: three models that differ in their attention alone.

- `baseline`: multi-head attention, 12 heads of 64;
- `lora`: latent attention, query rank 128, key-value rank 256, rotary dimension 64, value dimension 64, no biases;
- `enhanced`: as `lora` with rotary dimension 128, value dimension 192, biases, and positions at half speed.

At `cpu` the ten layers, the eight experts of four times the width and top-2 stay; 12 heads do not divide a width of 64,
so there are 8, and the ranks are the nearest whole numbers to the published shares of the width (1/6 and 1/3).
"""

from __future__ import annotations

import sys

from moe_models.size import Size
from sweeps.engine.cli import main
from sweeps.engine.flaws import FIRST_BATCHES, HORIZON, OVERLAPPING_WINDOWS, TRAINED_INSTEAD
from sweeps.engine.study import Cell, Design, Published, PublishedCell, Study, variant

ATTENTION = {"baseline": "mha", "lora": "mla_lora", "enhanced": "mla_enhanced"}

STUDY = Study(
    script="exp1_attention_768d",
    title="Attention at 768 wide: multi-head against two latent attentions",
    factors=("attention",),
    slots={"attention": ("model.attention",)},
    designs={
        "default": Design(
            cells=tuple(
                Cell(name=name, factors={"attention": preset}, build=variant(attention=preset))
                for name, preset in ATTENTION.items()
            )
        )
    },
    primary="lora",
    paper_scale="paper_768d",
    sizes={"cpu": Size(d_model=64, n_layers=10, n_heads=8, d_ff=256, n_experts=8, top_k=2, latent_rank=11)},
    notes=(
        "Both latent attentions have a no-position dimension of 0, as published: all heads share one rotary key. "
        "DeepSeek-V3's own is the preset 'mla'.",
    ),
    published=Published(
        cells=(
            PublishedCell(name="baseline"),
            PublishedCell(name="lora", trained="baseline"),
            PublishedCell(name="enhanced", trained="baseline"),
        ),
        flaws=(OVERLAPPING_WINDOWS, HORIZON, FIRST_BATCHES, TRAINED_INSTEAD),  # the seed was set before each variant
        first_tokens=2_000_000,
        evaluation_batches=100,
        precision="bf16",  # really fp16, which is not offered
        counts_declared=True,
    ),
)

if __name__ == "__main__":
    sys.exit(main(STUDY))
