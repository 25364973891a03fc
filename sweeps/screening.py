"""Which of six components matter at all? Sixteen of the 64 combinations, chosen so that no main effect hides another.

Factors, each off (0) or on (1), and nothing else changes:

- `attention`: multi-head latent attention as in DeepSeek-V3 instead of multi-head attention;
- `norm`: LayerNorm instead of RMSNorm in the blocks;
- `final_norm`: LayerNorm instead of RMSNorm before the head;
- `placement`: norms after the residual sum instead of before the sublayer (https://arxiv.org/abs/2002.04745);
- `gating`: gated instead of plain experts (https://arxiv.org/abs/2002.05202);
- `routing`: DeepSeek's routing instead of softmax top-k (https://arxiv.org/abs/2408.15664).

What a fraction cannot tell apart, pairs of components that act together, is in the plan and in the report.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from sweeps.engine.cli import main
from sweeps.engine.study import Study, fractional_design

if TYPE_CHECKING:
    from moe_models.config import ModelConfig
    from trainables.scales import Scale

FACTORS = ("attention", "norm", "final_norm", "placement", "gating", "routing")
NORM = ("rmsnorm", "layernorm")
NOTES = (
    "gating: a gated expert has half as many parameters again; 'gating.py --design matched' has equal ones.",
    "norm, final_norm: LayerNorm's eps is torch's, 1e-5, and RMSNorm's 1e-6.",
)


def build(
    scale: Scale, *, attention: int, norm: int, final_norm: int, placement: int, gating: int, routing: int
) -> ModelConfig:
    """Return one cell's model at a scale."""
    router, experts = ("softmax", "deepseek")[routing], ("plain", "gated")[gating]
    return scale.model(
        attention=("mha", "mla")[attention],
        norm=NORM[norm],
        final_norm=NORM[final_norm],
        placement=("pre", "post")[placement],
        feed_forward=f"moe_{router}_{experts}",
    )


STUDY = Study(
    script="screening",
    title="Screening of six components: attention, norms, their place, experts, routing",
    factors=FACTORS,
    slots={
        "attention": ("model.attention",),
        "norm": ("model.block_norm",),
        "final_norm": ("model.final_norm",),
        "placement": ("model.placement",),
        "gating": ("model.feed_forward",),
        "routing": ("model.feed_forward",),
    },
    designs={"default": fractional_design(FACTORS, build, NOTES)},
)

if __name__ == "__main__":
    sys.exit(main(STUDY))
