"""Where the spread between runs comes from: the initial values or the order of the data?

Elsewhere a seed draws both, as it should: what varies between two runs of one cell is everything that may vary. Here
they are drawn apart (Bouthillier et al., https://arxiv.org/abs/2103.03098): each of five orders of the training data is
a cell, and each seed of `--seeds` draws initial values (and dropout and router noise, where a model has any). All
combinations are trained, and `python -m analysis variance` splits the variance of the loss.

- `default`: the baseline of the other studies;
- `--design components`: the same for the baseline and for the model with all of exp6's components.

The cells are one model, so no comparison between them is a finding: of five orders of the data, one is always the best.
"""

from __future__ import annotations

import sys

from analysis.schema import DATA_ORDER
from sweeps.engine.study import Cell, Design, Study, variant

ORDERS = 5
MODELS = {
    "baseline": variant(),
    "all_components": variant(attention="mla_rope_only", norm="deepseek_rmsnorm", feed_forward="moe_deepseek_gated"),
}
NOTE = (
    "data_order: cells of one model differ in the order of the training data alone. One of several orders is always "
    "the best: no comparison between them is a finding."
)
BETWEEN_MODELS = (
    "all are compared with 'baseline', which has the first order of the data. 'all_components' has the same order, so "
    "that their difference is of the models alone; 'all_components_1' and on differ from it in their order, too."
)


def cells(*models: str) -> tuple[Cell, ...]:
    """Return a cell for each model and order of the data; the first order has the model's name."""
    return tuple(
        Cell(
            name=f"{model}_{order}" if order else model,
            factors={"model": model, DATA_ORDER: order},
            build=MODELS[model],
            data_seed=order,
        )
        for model in models
        for order in range(ORDERS)
    )


STUDY = Study(
    script="variance",
    title="Where the spread between runs comes from",
    factors=("model", DATA_ORDER),
    slots={
        "model": ("model.attention", "model.block_norm", "model.feed_forward"),
        DATA_ORDER: ("data_seed",),
    },
    designs={
        "default": Design(cells=cells("baseline"), notes=(NOTE,)),
        "components": Design(cells=cells(*MODELS), notes=(NOTE, BETWEEN_MODELS)),
    },
)

if __name__ == "__main__":
    sys.exit(STUDY.main())
