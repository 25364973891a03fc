"""Where the spread between runs comes from: the initial values or the order of the data?

Elsewhere a seed draws both, as it should: what varies between two runs of one cell is everything that may vary. Here
they are drawn apart (Bouthillier et al., https://arxiv.org/abs/2103.03098): each of five orders of the training data is
a cell, and each seed of `--seeds` draws initial values (and dropout and router noise, where a model has any). All
combinations are trained, and `python -m analysis variance` splits the variance of the loss.

- `default`: the baseline of the other studies;
- `--design components`: the same for the baseline and for the model with all of exp6's components.

Cells of one model are neither compared nor ranked, since of five orders of the data one is always the best; two models
are compared with each other at each order, so that both have seen the same data in the same order.
"""

from __future__ import annotations

import sys

from analysis.schema import DATA_ORDER
from sweeps.engine.cli import main
from sweeps.engine.study import Cell, Design, Study, variant

ORDERS = 5
MODELS = {
    "baseline": variant(),
    "all_components": variant(attention="mla_rope_only", norm="deepseek_rmsnorm", feed_forward="moe_deepseek_gated"),
}
NOTE = (
    "data_order: cells of one model differ in the order of the training data alone. One of several orders is always "
    "the best: they are not compared with each other."
)


def cells(*models: str) -> tuple[Cell, ...]:
    """Return a cell for each model and order of the data, compared with the first model at this order."""
    return tuple(
        Cell(
            name=_name(model, order),
            factors={"model": model, DATA_ORDER: order},
            build=MODELS[model],
            data_seed=order,
            baseline=_name(models[0], order),
        )
        for model in models
        for order in range(ORDERS)
    )


def _name(model: str, order: int) -> str:
    return f"{model}_{order}" if order else model


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
        "components": Design(cells=cells(*MODELS), notes=(NOTE,)),
    },
)

if __name__ == "__main__":
    sys.exit(main(STUDY))
