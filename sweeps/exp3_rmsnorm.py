"""DeepSeek's RMSNorm before the head, instead of torch's: a negative control.

Published: 2.40 % better. Wrong with it: one seed a variant, each from another random state, five batches of windows
that the training had seen; the two norms compute one function (the published eps, 1.2e-7 against 1e-6, hardly differ).
Trained here: the same two cells from the same seeds, eps 1e-6 in both, so that only rounding is left between them. A
difference beyond it is an alarm about the tool, not a finding about norms.

At `cpu` the three layers, the four heads, the eight experts, top-2 and all ratios to the width stay.
"""

from __future__ import annotations

import sys

from moe_models.size import Size
from sweeps.engine.cli import main
from sweeps.engine.flaws import FIRST_BATCHES, HORIZON, NORM_EPS, ONE_SEED, OVERLAPPING_WINDOWS
from sweeps.engine.study import Cell, Design, NegativeControl, Published, PublishedCell, Study, variant

STUDY = Study(
    script="exp3_rmsnorm",
    title="DeepSeek's RMSNorm before the head: a negative control",
    factors=("rmsnorm",),
    slots={"rmsnorm": ("model.final_norm",)},
    designs={
        "default": Design(
            cells=(
                Cell(name="baseline", factors={"rmsnorm": 0}, build=variant()),
                Cell(name="deepseek_rmsnorm", factors={"rmsnorm": 1}, build=variant(final_norm="deepseek_rmsnorm")),
            )
        )
    },
    negative_control=NegativeControl(factor="rmsnorm", tolerance_nats=0.02),
    sizes={"cpu": Size(d_model=64, n_layers=3, n_heads=4, d_ff=256, n_experts=8, top_k=2, latent_rank=32)},
    published=Published(
        cells=(PublishedCell(name="baseline"), PublishedCell(name="deepseek_rmsnorm")),
        flaws=(OVERLAPPING_WINDOWS, HORIZON, FIRST_BATCHES, ONE_SEED, NORM_EPS),
    ),
)

if __name__ == "__main__":
    sys.exit(main(STUDY))
