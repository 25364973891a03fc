"""The studies of open component questions: what their cells are."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from moe_models.accounting import count
from moe_models.config import ModelConfig
from moe_models.feed_forward.moe import MixtureOfExperts
from sweeps.engine.plan import Plan
from sweeps.engine.planning import scale_of
from sweeps.engine.study import Study
from trainables.loop import Trainer

STUDIES: dict[str, Study] = {
    name: importlib.import_module(f"sweeps.{name}").STUDY
    for name in ("gating", "latent_attention", "experts", "routing")
}
DESIGNS = [(name, design) for name, study in STUDIES.items() for design in study.designs]
SLOT = {
    "gating": "feed_forward", "latent_attention": "attention", "experts": "feed_forward", "routing": "feed_forward",
}  # fmt: skip
D, FF, EXPERTS, LAYERS = 64, 256, 8, 2


def models(name: str, design: str = "default", scale: str = "cpu") -> dict[str, ModelConfig]:
    study = STUDIES[name]
    return {cell.name: cell.build(scale_of(study, scale)) for cell in study.designs[design].cells}


def totals(name: str, design: str = "default") -> dict[str, int]:
    return {cell: count(model).params_total for cell, model in models(name, design).items()}


@pytest.mark.parametrize(("name", "design"), DESIGNS)
@pytest.mark.parametrize("scale", ["cpu", "paper_256d"])
def test_cells_differ_in_their_slot_alone(name: str, design: str, scale: str) -> None:
    for one, other in itertools.combinations(models(name, design, scale).values(), 2):
        a, b = one.to_dict(), other.to_dict()
        assert {slot for slot in a if a[slot] != b[slot]} == {SLOT[name]}


@pytest.mark.parametrize(("name", "design"), DESIGNS)
def test_cells_differ_in_their_levels(name: str, design: str) -> None:
    levels = [tuple(cell.factors.values()) for cell in STUDIES[name].designs[design].cells]
    assert len(set(levels)) == len(levels)


def test_a_gate_is_a_third_matrix_and_matched_cells_have_equally_many_parameters() -> None:
    default, matched = totals("gating"), totals("gating", "matched")
    assert default["silu"] == default["baseline"]
    assert default["gate"] == default["silu_gate"] == default["baseline"] + LAYERS * EXPERTS * D * FF
    narrow = round(FF * 2 / 3)
    assert matched["gate"] == matched["baseline"] + LAYERS * EXPERTS * D * (3 * narrow - 2 * FF)
    assert abs(matched["gate"] / matched["baseline"] - 1) < 0.002


def test_parts_of_latent_attention_by_formula() -> None:
    heads, width, rank = 4, 16, 32
    full = heads * width

    def attention(q: int, kv: int, rope: int, nope: int, v: int, bias: bool) -> int:
        weights = D * q + q + q * heads * (nope + rope) + D * (kv + rope) + kv + kv * heads * (nope + v) + heads * v * D
        return weights + bias * (q + kv + rope + D)

    expected = {
        "baseline": attention(full, full, width, 0, width, False),
        "low_rank": attention(rank, rank, width, 0, width, False),
        "decoupled": attention(full, full, width // 2, width, width, False),
        "bias": attention(full, full, width, 0, width, True),
        "wide_heads": attention(2 * full, 2 * full, 2 * width, 0, 2 * width, False),
        "all": attention(rank, rank, width, 2 * width, 2 * width, True),
    }
    measured = totals("latent_attention")
    rest = measured["baseline"] - LAYERS * expected["baseline"]
    assert measured == {name: rest + LAYERS * number for name, number in expected.items()}
    assert len(totals("latent_attention", "factorial")) == 16


def test_experts_cost_parameters_and_top_k_costs_active_ones() -> None:
    per_expert = LAYERS * (2 * D * FF + D)  # with the expert's row of the router
    counts = {name: count(model) for name, model in models("experts").items()}
    base = counts["baseline"]
    assert counts["e16_k2"].params_total - base.params_total == 8 * per_expert
    assert counts["e4_k2"].params_total - base.params_total == -4 * per_expert
    assert counts["e8_k4"].params_active - base.params_active == 2 * LAYERS * 2 * D * FF


@pytest.mark.parametrize(("name", "cell"), [
    (name, cell.name) for name, study in STUDIES.items() for cell in study.designs["default"].cells
])  # fmt: skip
def test_each_cell_trains(name: str, cell: str, plan_for: Callable[..., Plan]) -> None:
    plan = plan_for(study=STUDIES[name], variants=cell, steps=2)
    config = plan.cells[0].config
    config = replace(config, training=replace(config.training, row_every=1, evaluate_every=10))
    rows = Trainer(config, 0, plan.corpora["cpu"], torch.device("cpu")).run()
    losses = [row["train_loss"] for row in rows if row is not None]
    assert len(losses) == 2
    assert losses[1] < losses[0] < 8


def test_routing_rules_are_what_they_are_called() -> None:
    routers: dict[str, Any] = {}
    for name, model in models("routing").items():
        assert isinstance(model.feed_forward, MixtureOfExperts)
        routers[name] = model.feed_forward.router
    assert routers["deepseek_no_bias"].bias_step == 0
    assert (routers["deepseek_grouped"].n_groups, routers["deepseek_grouped"].top_groups) == (2, 1)
    assert routers["no_noise"].noise_std == 0
    assert routers["no_balance_loss"].balance_weight == 0
