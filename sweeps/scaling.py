"""Scale: how the loss falls as models grow, and whether what differs at one size still does at the next.

Trained here: four sizes, the ladder of `trainables/scales.py`, over which width, depth, experts and tokens grow
together, and four models at each:

- `baseline`: multi-head attention, eight plain experts (four on the lower rungs), softmax routing;
- `attention`: latent attention, as in exp6_grid;
- `mlp`: one dense gated layer instead of the experts;
- `mlp_moe`: gated experts under DeepSeek's routing.

The report fits a power law to each model's losses against parameters, active parameters, training FLOPs and time, and
says how each difference from the baseline changes from the smallest to the largest size, and where it changes its sign.
`--scale` takes other scales, `--scale ladder_1,ladder_2,ladder_3` say; a law needs three or more.
"""

from __future__ import annotations

import sys

from sweeps.engine.cli import main
from sweeps.engine.study import Cell, Design, Study, variant

CELLS = {
    "baseline": {},
    "attention": {"attention": "mla_rope_only"},
    "mlp": {"feed_forward": "dense_gated"},
    "mlp_moe": {"feed_forward": "moe_deepseek_gated"},
}
"""The presets in which a model differs from the baseline."""

STUDY = Study(
    script="scaling",
    title="Scale: how losses fall as models grow, and whether differences stay",
    factors=("model",),
    slots={"model": ("model.attention", "model.feed_forward")},
    designs={
        "default": Design(
            cells=tuple(
                Cell(name=name, factors={"model": name}, build=variant(**presets)) for name, presets in CELLS.items()
            )
        )
    },
    ladder=("ladder_1", "ladder_2", "ladder_3", "ladder_4"),
    notes=("one learning rate at all sizes: where the best one moves with size, so does what is seen here.",),
)

if __name__ == "__main__":
    sys.exit(main(STUDY))
