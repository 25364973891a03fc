"""Parameter counts by formula, FLOPs against torch's own counter. Printed counts: unit/sweeps/test_protocol.py."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from moe_models.accounting import count
from moe_models.attention import ATTENTION
from moe_models.feed_forward import FEED_FORWARD
from moe_models.model import build_model
from sweeps.exp6_grid import STUDY
from trainables.scales import SCALES

VOCAB, D, FF, LAYERS, HEADS, EXPERTS, RANK, HEAD_DIM = 49_152, 256, 1_024, 3, 4, 8, 128, 64


def by_formula(factors: dict[str, int], *, orthogonal: bool) -> tuple[int, int]:
    """Return total and active parameters of an exp6 cell at `paper_256d`, from the layers' shapes alone."""
    mha = 4 * D * D
    mla = (
        (D * RANK + RANK)  # query down, bias
        + RANK  # its norm
        + RANK * HEADS * HEAD_DIM  # query up, rotary only
        + (D * (RANK + HEAD_DIM) + RANK + HEAD_DIM)  # key-value down with the shared rotary key, bias
        + RANK  # its norm
        + RANK * HEADS * HEAD_DIM  # values up; no key content
        + (HEADS * HEAD_DIM * D + D)  # out, bias
    )
    router = D * EXPERTS
    mlp, moe = factors["mlp"], factors["moe"]
    if mlp and not moe and not orthogonal:
        total = active = 3 * D * FF
    else:
        expert = (3 if mlp else 2) * D * FF
        total, active = EXPERTS * expert + router, 2 * expert + router
    rest = VOCAB * D + D + LAYERS * (2 * D + (mla if factors["attention"] else mha))
    return rest + LAYERS * total, rest + LAYERS * active


@pytest.mark.parametrize("design", ["default", "orthogonal"])
def test_exp6_counts(design: str) -> None:
    cells = STUDY.designs[design].cells
    assert len(cells) == 16
    for cell in cells:
        counts = count(cell.build(SCALES["paper_256d"]))
        expected = by_formula(dict(cell.factors), orthogonal=design == "orthogonal")
        assert (counts.params_total, counts.params_active) == expected, cell.name


MHA, PLAIN = "mha", "moe_softmax_plain"

ATTENTION_SIZES = {  # at width D with H heads of K, latent rank R
    "mha_biased_no_position": lambda D, H, K, R: 4 * (D * D + D),
    "mla": lambda D, H, K, R: 2 * D * R + 2 * R + D * K // 2 + R * H * K // 2 * 3 + R * H * 2 * K + H * K * D,
    "glm4": lambda D, H, K, R: 2 * D * H * K + H * K + 2 * (D + 1) * K * H // 4,
    "glm4_qk_norm": lambda D, H, K, R: 2 * D * H * K + H * K + 2 * (D + 1) * K * H // 4 + 2 * K,
}
FEED_FORWARD_SIZES = {  # at width D with E experts of F, of which each token meets k
    "dense_plain": lambda D, F, E, k: 2 * D * F,
    "moe_softmax_gated_gelu": lambda D, F, E, k: D * E + k * 3 * D * F,
    "moe_softmax_plain_relu": lambda D, F, E, k: D * E + k * 2 * D * F,
    "moe_softmax_biased_relu": lambda D, F, E, k: (D + 1) * E + k * (2 * D * F + F + D),
    "moe_glm4": lambda D, F, E, k: D * E + (k + 1) * 3 * D * F,
}


@pytest.mark.parametrize("preset", ATTENTION_SIZES)
def test_attention_counts(preset: str) -> None:
    scale = SCALES["paper_512d"]
    size = scale.size
    block = ATTENTION_SIZES[preset](size.d_model, size.n_heads, size.head_dim, size.latent_rank)
    rest = 49_152 * 512 + 512 + 3 * (2 * 512 + 3 * 512 * 1_024)
    model = scale.model(attention=preset, norm="rmsnorm", feed_forward="dense_gated")
    assert count(model).params_total == count(model).params_active == rest + 3 * block


@pytest.mark.parametrize("preset", FEED_FORWARD_SIZES)
def test_feed_forward_counts(preset: str) -> None:
    scale = SCALES["paper_512d"]
    rest = 49_152 * 512 + 512 + 3 * (2 * 512 + 4 * 512 * 512)
    counts = count(scale.model(attention=MHA, norm="rmsnorm", feed_forward=preset))
    assert counts.params_total == rest + 3 * FEED_FORWARD_SIZES[preset](512, 1_024, 8, 8)
    assert counts.params_active == rest + 3 * FEED_FORWARD_SIZES[preset](512, 1_024, 8, 2)


def test_what_nothing_uses_is_counted_but_not_active() -> None:
    config = SCALES["paper_512d"].model(attention=MHA, norm="rmsnorm", feed_forward="unused_glm4")
    without = SCALES["paper_512d"].model(attention=MHA, norm="rmsnorm", feed_forward="dense_gated_glm4")
    assert count(config).params_total - count(without).params_total == 3 * 51_383_296
    assert count(config).params_active == count(without).params_active == count(without).params_total
    assert count(config).flops_per_token == count(without).flops_per_token


@pytest.mark.parametrize(
    ("attention", "feed_forward"),
    [*((attention, PLAIN) for attention in ATTENTION.presets()), *((MHA, layer) for layer in FEED_FORWARD.presets())],
)
def test_flops_are_what_torch_counts(attention: str, feed_forward: str) -> None:
    scale = SCALES["cpu"]
    config = scale.model(attention=attention, norm="rmsnorm", feed_forward=feed_forward)
    model = build_model(config, seed=0)
    tokens_BT = torch.zeros(2, scale.training.seq_len, dtype=torch.int64)
    # The counter knows the plain kernel alone.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        output = model(tokens_BT)
        model.logits(output.hidden_BTD)
    forward = counter.get_total_flops()
    # torch counts the full scores matrix too, so the two agree exactly.
    assert forward == count(config).flops_per_token / 3 * tokens_BT.numel()
