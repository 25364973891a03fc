"""The routing rule: what chooses the experts, and what keeps them balanced.

Trained here: plain SiLU experts; the rule alone changes.

- `baseline`: softmax over the k largest noisy logits, with a balance loss (https://arxiv.org/abs/2101.03961);
- `no_noise`: the same without noise on the logits;
- `no_balance_loss`: the same without the balance loss;
- `deepseek`: sigmoid scores and a bias balanced without a loss (https://arxiv.org/abs/2408.15664);
- `deepseek_no_bias`: the same with the bias kept at zero, so that nothing balances;
- `deepseek_grouped`: two groups of experts, of which a token chooses one;
- `deepseek_sequence_loss`: with DeepSeek-V3's sequence-wise balance loss, weight 1e-2.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sweeps.engine.cli import main
from sweeps.engine.study import BASELINE, Cell, Design, Study

if TYPE_CHECKING:
    from moe_models.config import ModelConfig
    from trainables.scales import Scale

CELLS: dict[str, tuple[str, dict[str, Any]]] = {
    "baseline": ("softmax_topk", {}),
    "no_noise": ("softmax_topk", {"noise_std": 0.0}),
    "no_balance_loss": ("softmax_topk", {"balance_weight": 0.0}),
    "deepseek": ("deepseek", {}),
    "deepseek_no_bias": ("deepseek", {"bias_step": 0.0}),
    "deepseek_grouped": ("deepseek", {"n_groups": 2, "top_groups": 1}),
    "deepseek_sequence_loss": ("deepseek", {"sequence_balance_weight": 1e-2}),
}
"""The router's preset, and what is changed in it."""


def routed(preset: str, changes: dict[str, Any]) -> Callable[[Scale], ModelConfig]:
    """Return the function from a scale to the baseline's model under this routing rule."""

    def build(scale: Scale) -> ModelConfig:
        from moe_models.feed_forward.moe import MixtureOfExperts
        from moe_models.routers import ROUTER

        model = scale.model(**BASELINE)
        assert isinstance(model.feed_forward, MixtureOfExperts)
        router: Any = ROUTER.configure(preset, scale.size)
        return replace(model, feed_forward=replace(model.feed_forward, router=replace(router, **changes)))

    return build


STUDY = Study(
    script="routing",
    title="The routing rule: what chooses the experts, and what balances them",
    factors=("routing",),
    slots={"routing": ("model.feed_forward.router",)},
    primary="deepseek",
    designs={
        "default": Design(
            cells=tuple(
                Cell(name=name, factors={"routing": name}, build=routed(preset, changes))
                for name, (preset, changes) in CELLS.items()
            )
        )
    },
)

if __name__ == "__main__":
    sys.exit(main(STUDY))
