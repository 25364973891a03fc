"""Scales: what they build, and how long they train."""

from __future__ import annotations

import pytest

from moe_models.norms.deepseek_rmsnorm import DeepSeekRMSNorm
from moe_models.norms.layernorm import LayerNorm
from moe_models.norms.rmsnorm import RMSNorm
from trainables.scales import SCALES


def test_norms_are_chosen_in_blocks_and_at_the_end_apart() -> None:
    presets = {"attention": "mha", "feed_forward": "dense_gated", "norm": "layernorm"}
    usual = SCALES["cpu"].model(**presets)
    assert (usual.block_norm, usual.final_norm, usual.placement) == (LayerNorm(), RMSNorm(), "pre")
    other = SCALES["cpu"].model(**presets, final_norm="deepseek_rmsnorm", placement="post")
    assert (other.block_norm, other.final_norm, other.placement) == (LayerNorm(), DeepSeekRMSNorm(), "post")


@pytest.mark.parametrize(
    ("name", "micro_steps", "tokens"),
    [("paper_256d", 1_000, 16 * 256), ("paper_512d", 1_500, 16 * 256), ("paper_768d", 100, 16 * 512)],
)
def test_paper_scales_train_the_published_tokens(name: str, micro_steps: int, tokens: int) -> None:
    training = SCALES[name].training
    assert training.updates * training.tokens_per_update == micro_steps * tokens
    assert training.updates * training.accumulation == micro_steps
