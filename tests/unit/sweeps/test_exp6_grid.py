from __future__ import annotations

import itertools

import pytest

from moe_models.config import ModelConfig
from sweeps.exp6_grid import FACTORS, STUDY
from trainables.scales import SCALES

PUBLISHED = {
    "baseline", "attention", "rmsnorm", "mlp", "moe", "attention_rmsnorm", "attention_mlp", "attention_moe",
    "rmsnorm_mlp", "rmsnorm_moe", "mlp_moe", "all_components",
}  # fmt: skip
TRIPLES = {"attention_rmsnorm_mlp", "attention_rmsnorm_moe", "attention_mlp_moe", "rmsnorm_mlp_moe"}


def models(design: str) -> dict[str, ModelConfig]:
    return {cell.name: cell.build(SCALES["cpu"]) for cell in STUDY.designs[design].cells}


@pytest.mark.parametrize("design", ["default", "orthogonal"])
def test_cells_are_the_full_factorial_under_the_published_names(design: str) -> None:
    cells = STUDY.designs[design].cells
    assert {cell.name for cell in cells} == PUBLISHED | TRIPLES
    levels = {tuple(cell.factors[factor] for factor in FACTORS) for cell in cells}
    assert levels == set(itertools.product((0, 1), repeat=4))


@pytest.mark.parametrize("design", ["default", "orthogonal"])
def test_no_two_cells_build_one_model(design: str) -> None:
    configs = list(models(design).values())
    assert all(a != b for a, b in itertools.combinations(configs, 2))


@pytest.mark.parametrize("design", ["default", "orthogonal"])
def test_each_factor_changes_its_slot_alone(design: str) -> None:
    slots = {"attention": "attention", "rmsnorm": "block_norm", "mlp": "feed_forward", "moe": "feed_forward"}
    built = {tuple(cell.factors.values()): cell.build(SCALES["cpu"]) for cell in STUDY.designs[design].cells}
    for place, factor in enumerate(FACTORS):
        for levels in built:
            flipped = tuple(1 - x if i == place else x for i, x in enumerate(levels))
            a, b = built[levels].to_dict(), built[flipped].to_dict()
            assert {name for name in a if a[name] != b[name]} == {slots[factor]}


def test_orthogonal_keeps_the_experts_everywhere() -> None:
    for model in models("orthogonal").values():
        assert model.to_dict()["feed_forward"]["kind"] == "moe"


def test_mlp_is_dense_in_the_default_design() -> None:
    kinds = {name: model.to_dict()["feed_forward"]["kind"] for name, model in models("default").items()}
    dense = {"mlp", "attention_mlp", "rmsnorm_mlp", "attention_rmsnorm_mlp"}
    assert {name for name, kind in kinds.items() if kind == "dense"} == dense


def test_the_attention_is_the_published_preset_and_the_notes_say_so() -> None:
    model = models("default")["attention"].to_dict()
    assert model["attention"]["kind"] == "mla"
    assert model["attention"]["nope_dim"] == 0
    assert any("mla_rope_only" in note for note in STUDY.notes)
