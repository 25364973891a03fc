"""The feed-forward layer: is it SiLU or the gate? Both levels of each, apart and together.

DeepSeek's and GLM's experts differ from the plain ones in two things at once: `down(SiLU(gate x) · up x)` has another
activation than ReLU, and a gate (Shazeer, https://arxiv.org/abs/2002.05202). Trained here: experts under the same
routing, in all four combinations.

- `baseline`: plain ReLU experts;
- `silu`: plain SiLU experts;
- `gate`: experts gated by ReLU;
- `silu_gate`: experts gated by SiLU, as DeepSeek and GLM have them.

A gate is a third matrix: by default a gated expert keeps the hidden width and has half as many parameters again.
`--design matched` gives it two thirds of the width instead, so that all four cells have the same number up to rounding.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from sweeps.engine.cli import main
from sweeps.engine.study import BASELINE, Cell, Design, Study, variant

if TYPE_CHECKING:
    from moe_models.config import ModelConfig
    from trainables.scales import Scale

FACTORS = ("silu", "gate")
CELLS = {
    "baseline": (0, 0, "moe_softmax_plain_relu"),
    "silu": (1, 0, "moe_softmax_plain"),
    "gate": (0, 1, "moe_softmax_gated_relu"),
    "silu_gate": (1, 1, "moe_softmax_gated"),
}
"""Levels of the factors, and the feed-forward layer that they make."""


def narrower(feed_forward: str) -> Callable[[Scale], ModelConfig]:
    """Return the function from a scale to the model with this layer at two thirds of its hidden width."""

    def build(scale: Scale) -> ModelConfig:
        size = replace(scale.size, d_ff=round(scale.size.d_ff * 2 / 3))
        return replace(scale, size=size).model(**{**BASELINE, "feed_forward": feed_forward})

    return build


def cells(*, matched: bool) -> tuple[Cell, ...]:
    """Return the four cells, those with a gate narrower where parameters are to match."""
    return tuple(
        Cell(
            name=name,
            factors={"silu": silu, "gate": gate},
            build=narrower(feed_forward) if matched and gate else variant(feed_forward=feed_forward),
        )
        for name, (silu, gate, feed_forward) in CELLS.items()
    )


STUDY = Study(
    script="gating",
    title="The experts' form: SiLU against ReLU, with and without a gate",
    factors=FACTORS,
    slots={
        "silu": ("model.feed_forward.activation",),
        "gate": ("model.feed_forward.gated", "model.feed_forward.d_ff"),
    },
    primary="silu_gate",
    designs={
        "default": Design(
            cells=cells(matched=False),
            factorial=True,
            notes=("gate: a gated expert has half as many parameters again; '--design matched' makes them equal.",),
        ),
        "matched": Design(
            cells=cells(matched=True),
            factorial=True,
            notes=("gate: gated experts have two thirds of the hidden width, so that parameters match.",),
        ),
    },
)

if __name__ == "__main__":
    sys.exit(main(STUDY))
