from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from analysis.errors import AnalysisError
from analysis.schema import PLAN_FILE, RECORDS_FOLDER
from analysis.study.registered import INVALID_LEFT_OUT, INVALID_TAKEN_IN, SCALE_CHANGES, Comparison, registration
from moe_models.errors import ConfigError
from sweeps import (
    exp1_attention_768d,
    exp1_components_512d,
    exp3_rmsnorm,
    exp4_mlp,
    exp5_moe,
    exp6_grid,
    experts,
    gating,
    latent_attention,
    routing,
    scaling,
)
from sweeps.engine.plan import Plan
from sweeps.engine.registration import lines
from tests.fakes_plan import ended


def written(plan: Plan) -> dict[str, Any]:
    plan.write()
    data: dict[str, Any] = json.loads((plan.folder / PLAN_FILE).read_text())
    return data


def end(plan: Plan, count: int) -> None:
    """Let the first runs of a plan end."""
    for run in plan.runs()[:count]:
        ended(plan, run).write(plan.folder / RECORDS_FOLDER)


def test_a_ladder_registers_how_differences_change_with_scale(plan_for: Callable[..., Plan]) -> None:
    def families(scale: str) -> dict[str, int]:
        plan = plan_for(study=scaling.STUDY, scale=scale, variants="baseline,mlp,attention", seeds=3)
        return {family["name"]: family["size"] for family in plan.registration["registered"]["families"]}

    against = families("auto")
    assert against.pop(SCALE_CHANGES) == 2
    assert sum(against.values()) == 2 * 4
    assert SCALE_CHANGES not in families("ladder_1,ladder_2"), "two points fit any law"
    assert SCALE_CHANGES not in families("ladder_1")


def test_the_first_plan_registers_what_will_be_tested(plan_for: Callable[..., Plan]) -> None:
    data = written(plan_for(seeds=5))
    section = data["registered"]
    assert (section["metric"], section["direction"]) == ("val_loss", "min")
    assert section["primary"] == {"cell": "attention", "baseline": "baseline"}
    against, whole = section["families"]
    cells = [cell["name"] for cell in data["cells"]]
    assert [pair["cell"] for pair in against["comparisons"]] == [c for c in cells if c not in ("baseline", "attention")]
    assert {pair["baseline"] for pair in against["comparisons"]} == {"baseline"}
    assert (against["size"], against["metric"]) == (14, "val_loss")
    assert whole["size"] == 5  # attention, rmsnorm, and the three other levels of the feed-forward part
    assert section["cells"] == cells
    assert (section["n"], section["looks"], section["tuned"], section["final_test"]) == (5, [5], False, True)
    assert "first_seed" not in section  # 0
    assert section["equivalence_margin"] == 0.01
    assert section["divergence_limit"] == {"cpu": pytest.approx(math.log(1024) + 1, abs=1e-4)}
    assert data["amendments"] == []
    canonical = json.dumps(section, sort_keys=True, separators=(",", ":"))
    assert data["registered_sha256"] == hashlib.sha256(canonical.encode()).hexdigest()


def test_what_is_read_back_is_what_was_registered(plan_for: Callable[..., Plan]) -> None:
    data = written(plan_for())
    found = registration(data)
    assert found is not None
    assert found.intact
    assert found.registered.to_json() == data["registered"]
    assert found.registered.primary == Comparison(cell="attention", baseline="baseline")


def test_the_orthogonal_grid_registers_main_effects_and_interactions(plan_for: Callable[..., Plan]) -> None:
    families = {family["name"]: family for family in plan_for(design="orthogonal").to_json()["registered"]["families"]}
    assert families["effects of whole factors"]["size"] == 4 + 6


def test_a_part_of_the_cells_registers_what_they_allow(plan_for: Callable[..., Plan]) -> None:
    section = plan_for(variants="baseline,moe").to_json()["registered"]
    assert section["primary"] is None  # attention was not asked for
    assert [(family["name"], family["size"]) for family in section["families"]] == [("against the baseline", 1)]
    assert plan_for(variants="mlp,moe").to_json()["registered"]["families"] == []
    both = plan_for(variants="baseline,attention", scale="cpu,paper_256d").to_json()["registered"]
    assert both["primary"] == {"cell": "attention@cpu", "baseline": "baseline@cpu"}
    assert both["families"][0]["comparisons"] == [{"cell": "attention@paper_256d", "baseline": "baseline@paper_256d"}]
    assert set(both["divergence_limit"]) == {"cpu", "paper_256d"}


def test_it_is_never_changed_and_what_comes_later_is_amended(plan_for: Callable[..., Plan]) -> None:
    first_plan = plan_for(variants="baseline,attention")
    first = written(first_plan)
    end(first_plan, 3)
    later = plan_for(variants="baseline,mlp", seeds=4)
    second = written(later)
    for key in ("registered", "registered_sha256"):
        assert second[key] == first[key]
    cells, seeds = second["amendments"]
    assert (cells["what"], cells["added"], cells["count"], cells["ended"]) == ("cells", ["mlp"], 1, 3)
    assert (seeds["what"], seeds["added"], seeds["count"], seeds["ended"]) == ("seeds", [2, 3], 2, 3)
    assert cells["when"].endswith("+00:00")
    assert "after 3 runs: 2 more seeds;" in "\n".join(lines(later))
    assert "after 3 runs: 1 more cell;" in "\n".join(lines(later))
    assert written(plan_for(variants="baseline,mlp", seeds=4)) == second
    third = written(plan_for(variants="all", seeds=1))
    assert third["amendments"][:2] == second["amendments"]
    assert third["amendments"][2]["count"] == 13


def test_declared_looks_are_no_amendments(plan_for: Callable[..., Plan]) -> None:
    study = replace(exp6_grid.STUDY, looks=(2, 4))
    data = written(plan_for(study=study, seeds=2))
    assert (data["registered"]["n"], data["registered"]["looks"], data["seeds"]) == (4, [2, 4], [0, 1])
    assert written(plan_for(study=study, seeds=4))["amendments"] == []
    assert written(plan_for(study=study, seeds=5))["amendments"][0]["added"] == [4]
    several = plan_for(study=replace(study, looks=(2, 4, 6)), seeds=2, steps=5)
    assert any(line.endswith("tests at 2, 4 and 6 seeds") for line in lines(several))
    assert any(line.endswith("tests at 1 seed") for line in lines(plan_for(seeds=1, steps=6)))


def test_a_study_registers_where_its_seeds_begin(plan_for: Callable[..., Plan]) -> None:
    study = replace(exp6_grid.STUDY, first_seed=1000)
    data = written(plan_for(study=study, seeds=3))
    assert (data["registered"]["first_seed"], data["seeds"]) == (1000, [1000, 1001, 1002])
    assert written(plan_for(study=study, seeds=3))["amendments"] == []
    assert written(plan_for(study=study, seeds=4))["amendments"][0]["added"] == [1003]


def test_seeds_beyond_the_last_look_are_refused_at_first(plan_for: Callable[..., Plan]) -> None:
    with pytest.raises(ConfigError, match="--seeds must be 4 or less at first"):
        plan_for(study=replace(exp6_grid.STUDY, looks=(2, 4)), seeds=5)


def test_a_plan_begun_without_registration_stays_without(plan_for: Callable[..., Plan]) -> None:
    plan = plan_for(variants="baseline")
    old = plan.to_json()
    for key in ("registered", "registered_sha256", "amendments"):
        del old[key]
    plan.folder.mkdir(parents=True)
    (plan.folder / PLAN_FILE).write_text(json.dumps(old))
    later = plan_for(variants="baseline,mlp")
    assert written(later).keys() == old.keys()
    assert registration(later.to_json()) is None
    assert (later.evidence, later.divergence_limit("cpu"), later.final_test) == ({}, None, False)
    assert lines(later) == ["no plan was registered when this study began: its tests are exploratory"]


def test_a_margin_is_registered_and_then_stays(plan_for: Callable[..., Plan]) -> None:
    first_plan = plan_for(equivalence_margin=0.02)
    first = written(first_plan)
    assert first["registered"]["equivalence_margin"] == 0.02
    assert "equivalence margin: 0.02 nats" in lines(first_plan)
    again = plan_for()  # as without the option: the registered one stays
    assert written(again)["registered"] == first["registered"]
    assert "equivalence margin: 0.02 nats" in lines(again)
    assert written(plan_for(equivalence_margin=0.02)) == first
    with pytest.raises(ConfigError, match=r"began with the margin 0.02, and 0.01 cannot be chosen now: keep that"):
        plan_for(equivalence_margin=0.01)


def test_a_study_begun_without_a_margin_goes_on_without(plan_for: Callable[..., Plan]) -> None:
    old = written(plan_for(study=replace(exp6_grid.STUDY, equivalence_margin=None)))
    later = plan_for()
    assert written(later) == old
    assert "equivalence margin: none, so that 'no difference' is no finding" in lines(later)
    with pytest.raises(
        ConfigError, match=r"began with no equivalence margin, and 0\.01 cannot be chosen now: leave it"
    ):
        plan_for(equivalence_margin=0.01)


def test_the_published_protocol_opens_no_test_and_has_no_primary_comparison(plan_for: Callable[..., Plan]) -> None:
    plan = plan_for(protocol="published")
    section = plan.to_json()["registered"]
    assert (section["primary"], section["divergence_limit"], section["final_test"]) == (None, None, False)
    assert section["equivalence_margin"] is None


def test_invalid_runs_of_a_study_that_trains_under_flaws_are_registered_to_be_in_its_numbers(
    plan_for: Callable[..., Plan],
) -> None:
    for words, options in (
        (INVALID_LEFT_OUT, {}),
        (INVALID_TAKEN_IN, {"protocol": "published"}),
        (INVALID_TAKEN_IN, {"protocol": "published", "undo": "leak.no_causal_mask"}),
        (INVALID_LEFT_OUT, {"protocol": "published", "undo": "all"}),
    ):
        plan = plan_for(**options)
        found = registration(plan.to_json())
        assert found is not None
        assert [line for line in found.registered.exclusions if "an audit finds invalid" in line] == [words]
        assert found.registered.takes_invalid == bool(plan.protocol.flaws)


def test_a_changed_section_is_seen(plan_for: Callable[..., Plan]) -> None:
    data = plan_for().to_json()
    changed = copy.deepcopy(data)
    changed["registered"]["primary"]["cell"] = "mlp"
    found = registration(changed)
    assert found is not None
    assert not found.intact
    del changed["registered"]["looks"]
    with pytest.raises(AnalysisError, match="'registered' section cannot be read"):
        registration(changed)


@pytest.mark.parametrize(
    ("study", "primary"),
    [
        (exp1_attention_768d.STUDY, "lora"),
        (exp1_components_512d.STUDY, "attention_mlp_512d"),
        (exp3_rmsnorm.STUDY, None),  # its one comparison is a negative control
        (exp4_mlp.STUDY, "deepseek_mlp"),
        (exp5_moe.STUDY, "gated_experts"),
        (exp6_grid.STUDY, "attention"),
        (experts.STUDY, "e16_k2"),
        (gating.STUDY, "silu_gate"),
        (latent_attention.STUDY, "low_rank"),
        (routing.STUDY, "deepseek"),
    ],
    ids=lambda value: getattr(value, "script", str(value)),
)
def test_every_study_declares_its_primary_comparison(study: Any, primary: str | None) -> None:
    assert study.primary == primary


def test_every_run_records_the_plan_it_was_trained_under(plan_for: Callable[..., Plan]) -> None:
    plan = plan_for()
    assert plan.evidence == {"registered_sha256": plan.to_json()["registered_sha256"]}
