"""The mixture's size: how many experts, and how many of them a token.

Trained here: plain SiLU experts of one width under softmax routing, from one expert a token among two to four among
sixteen. More experts cost parameters, more a token cost time: the report ranks by loss, and its efficiency table and
figures say at what price.

- `baseline`: eight experts, two a token, as in the published studies;
- `e<experts>_k<top-k>`: the others.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from sweeps.engine.cli import main
from sweeps.engine.study import BASELINE, Cell, Design, Study

if TYPE_CHECKING:
    from moe_models.config import ModelConfig
    from trainables.scales import Scale

CELLS = {
    "baseline": (8, 2),
    "e2_k1": (2, 1),
    "e4_k1": (4, 1),
    "e4_k2": (4, 2),
    "e8_k1": (8, 1),
    "e8_k4": (8, 4),
    "e16_k1": (16, 1),
    "e16_k2": (16, 2),
    "e16_k4": (16, 4),
}
"""Number of experts, and of those that a token passes."""


def mixture(n_experts: int, top_k: int) -> Callable[[Scale], ModelConfig]:
    """Return the function from a scale to the baseline's model with so many experts."""

    def build(scale: Scale) -> ModelConfig:
        size = replace(scale.size, n_experts=n_experts, top_k=top_k)
        return replace(scale, size=size).model(**BASELINE)

    return build


STUDY = Study(
    script="experts",
    title="The mixture's size: number of experts, and experts a token",
    factors=("n_experts", "top_k"),
    slots={"n_experts": ("model.feed_forward.n_experts",), "top_k": ("model.feed_forward.top_k",)},
    designs={
        "default": Design(
            cells=tuple(
                Cell(name=name, factors={"n_experts": str(number), "top_k": str(top_k)}, build=mixture(number, top_k))
                for name, (number, top_k) in CELLS.items()
            )
        )
    },
    primary="e16_k2",
    notes=(
        "top_k: the weights are a softmax over the chosen experts. With one expert a token it is always 1, and the "
        "router learns from the balance loss alone.",
    ),
)

if __name__ == "__main__":
    sys.exit(main(STUDY))
