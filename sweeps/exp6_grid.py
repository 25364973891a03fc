"""The DeepSeek component grid: all sixteen combinations of attention, norm and feed-forward, really trained.

Factors, each off (0) or on (1):

- `attention`: latent attention (`mla_rope_only`: multi-head latent attention with the published no-position dimension
  of 0) instead of multi-head attention;
- `rmsnorm`: DeepSeek's RMSNorm instead of torch's in the blocks. The two agree up to rounding: the negative control;
- `mlp` and `moe`: the feed-forward part. Off and off: softmax top-k routing over plain experts. By default `mlp` is one
  dense gated MLP, `moe` is DeepSeek routing over plain experts, and both are DeepSeek routing over gated experts.
  Under `--design orthogonal`, `mlp` gates the experts and `moe` changes the routing, and nothing else changes.

The published grid had twelve of these names and built seven models; its `all_components` is here
`attention_rmsnorm_moe`, and `all_components` is all four factors.
"""

from __future__ import annotations

import itertools
import sys
from functools import partial
from typing import TYPE_CHECKING

from sweeps.engine.cli import main
from sweeps.engine.flaws import (
    DEFAULT_INIT,
    FIRST_BATCHES,
    HORIZON,
    NO_CAUSAL_MASK,
    NO_HIDDEN_DROPOUT,
    NORM_EPS,
    ONE_SEED,
    OVERLAPPING_WINDOWS,
    TRAINED_INSTEAD,
)
from sweeps.engine.study import Cell, Design, NegativeControl, Published, PublishedCell, Study

if TYPE_CHECKING:
    from moe_models.config import ModelConfig
    from trainables.scales import Scale

FACTORS = ("attention", "rmsnorm", "mlp", "moe")
ATTENTION = ("mha", "mla_rope_only")
NORM = ("rmsnorm", "deepseek_rmsnorm")
FEED_FORWARD = {
    "default": ("moe_softmax_plain", "moe_deepseek_plain", "dense_gated", "moe_deepseek_gated"),
    "orthogonal": ("moe_softmax_plain", "moe_deepseek_plain", "moe_softmax_gated", "moe_deepseek_gated"),
}
"""By design; in each at place 2 * mlp + moe."""


def build(scale: Scale, *, attention: int, norm: int, feed_forward: str) -> ModelConfig:
    """Return one cell's model at a scale."""
    return scale.model(attention=ATTENTION[attention], norm=NORM[norm], feed_forward=feed_forward)


def cell_name(levels: tuple[int, ...]) -> str:
    """Return a cell's name: the published one where there was one."""
    named = [factor for factor, level in zip(FACTORS, levels, strict=True) if level]
    return "_".join(named) if 0 < len(named) < len(FACTORS) else ("all_components" if named else "baseline")


def grid(design: str) -> tuple[Cell, ...]:
    """Return the sixteen cells, those with fewer factors first."""
    return tuple(
        Cell(
            name=cell_name(levels),
            factors=dict(zip(FACTORS, levels, strict=True)),
            build=partial(
                build,
                attention=levels[0],
                norm=levels[1],
                feed_forward=FEED_FORWARD[design][2 * levels[2] + levels[3]],
            ),
        )
        for levels in sorted(
            itertools.product((0, 1), repeat=4), key=lambda levels: (sum(levels), [-x for x in levels])
        )
    )


PUBLISHED_ORDER = (
    "baseline", "rmsnorm", "mlp", "moe", "attention", "rmsnorm_mlp", "rmsnorm_moe", "mlp_moe", "attention_rmsnorm",
    "attention_mlp", "attention_moe", "all_components",
)  # fmt: skip
TRAINED = {
    "moe": "baseline",
    "mlp_moe": "baseline",
    "rmsnorm_moe": "rmsnorm",
    "attention_moe": "attention",
    "all_components": "attention_rmsnorm",
}
"""By published name: the model that was trained instead. Every `moe` kept the baseline's experts."""


def published_flaws(name: str) -> tuple[str, ...]:
    """Return the flaws of what was swapped in under a published name: the latent attention, the dense MLP."""
    attention = (NO_CAUSAL_MASK, DEFAULT_INIT) if "attention" in name or name == "all_components" else ()
    return (*attention, *((DEFAULT_INIT, NO_HIDDEN_DROPOUT) if name.endswith("mlp") else ()))


STUDY = Study(
    script="exp6_grid",
    title="DeepSeek component grid: attention, norm, feed-forward",
    factors=FACTORS,
    slots={
        "attention": ("model.attention",),
        "rmsnorm": ("model.block_norm",),
        "mlp": ("model.feed_forward",),
        "moe": ("model.feed_forward",),
    },
    designs={
        "default": Design(
            cells=grid("default"),
            feed_forward_levels=("mlp", "moe"),
            notes=(
                "Feed-forward: neither mlp nor moe is softmax top-k routing over plain experts; mlp alone is one dense "
                "gated MLP; moe alone is DeepSeek routing over plain experts; both are DeepSeek routing over gated "
                "experts. The two are therefore one factor of four levels.",
            ),
        ),
        "orthogonal": Design(
            cells=grid("orthogonal"),
            factorial=True,
            notes=(
                "Feed-forward: mlp gates the experts, moe replaces softmax routing by DeepSeek's; all sixteen cells "
                "keep their experts, and nothing but the named factors changes.",
            ),
        ),
    },
    primary="attention",
    negative_control=NegativeControl(factor="rmsnorm", tolerance_nats=0.02),
    notes=(
        "The latent attention trained is the preset 'mla_rope_only', as published: no-position dimension 0 and one "
        "rotary key for all heads. DeepSeek-V3's own is the preset 'mla'.",
    ),
    published=Published(
        cells=tuple(
            PublishedCell(
                name=name,
                cell="attention_rmsnorm_moe" if name == "all_components" else None,
                flaws=published_flaws(name),
                trained=TRAINED.get(name),
            )
            for name in PUBLISHED_ORDER
        ),
        flaws=(OVERLAPPING_WINDOWS, HORIZON, FIRST_BATCHES, ONE_SEED, NORM_EPS, TRAINED_INSTEAD),
    ),
)

if __name__ == "__main__":
    sys.exit(main(STUDY))
