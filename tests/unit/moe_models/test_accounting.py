"""Parameter counts to the last digit; FLOPs against torch's own counter."""

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

PUBLISHED = {
    "baseline": 25_960_192,
    "rmsnorm": 25_960_192,
    "attention": 25_815_232,
    "attention_rmsnorm": 25_815_232,
    "mlp": 15_730_432,
    "rmsnorm_mlp": 15_730_432,
    "attention_mlp": 15_585_472,
}


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
        if design == "default" and cell.name in PUBLISHED:
            assert counts.params_total == PUBLISHED[cell.name], cell.name


@pytest.mark.parametrize("attention", ATTENTION.presets())
@pytest.mark.parametrize("feed_forward", FEED_FORWARD.presets())
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
