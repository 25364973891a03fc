from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from analysis.audits.confound import NAME, audit, differences, unexplained
from analysis.loading.load import load_results
from analysis.schema import FAILED, NOTE, WARNING, TrialRecord, read_records
from tests.fakes import make_study

MOE = {"kind": "moe", "n": 8, "router": {"kind": "softmax", "noise": 0.1}}
DENSE = {"kind": "dense", "d_ff": 4}
ATTENTION = {"kind": "mha", "bias": False}
SLOTS = {"mlp": ["model.feed_forward"], "attention": ["model.attention"]}


def config(feed_forward: Any = MOE, attention: Any = ATTENTION, **other: Any) -> dict[str, Any]:
    data = {"content_hash": other.pop("content_hash", "0")}
    rate = other.pop("rate", 0.01)
    model = {"attention": attention, "feed_forward": feed_forward, **other.pop("model", {})}
    return {"model": model, "training": {"updates": 4, "rate": rate}, "data": data, **other}


def study(
    trained: dict[str, dict[str, Any]],
    declared: dict[str, Any] | None = None,
    sizes: dict[str, int] | None = None,
    **plan: Any,
) -> tuple[list[TrialRecord], dict[str, Any]]:
    """A baseline and `mlp`, whose feed-forward layer is to be dense; two seeds of each."""
    meant = {"baseline": MOE, "mlp": DENSE, **(declared or {})}
    cells = [
        {"name": name, "factors": {"mlp": int(name == "mlp"), "attention": 0}, "baseline": "baseline",
         "declared": {"model.feed_forward": meant[name], "model.attention": ATTENTION}}
        for name in trained
    ]  # fmt: skip
    records = [
        TrialRecord(
            study="s", cell=name, scale="cpu", factors={}, seed=seed, config_hash=f"{name}{seed}", status="finished",
            rows=[{"step": 4, "val_loss": 3.0, "params_total": (sizes or {}).get(name, 100), "flops_per_token": 600}],
            config=setting,
        )
        for name, setting in trained.items() for seed in (0, 1)
    ]  # fmt: skip
    return records, {"cells": cells, "slots": SLOTS, **plan}


def evidence(*arguments: Any, **options: Any) -> list[tuple[str, str]]:
    return [(f.audit.severity, f.audit.evidence) for f in audit(*study(*arguments, **options))]


def test_what_the_declared_factor_explains_is_nothing() -> None:
    assert evidence({"baseline": config(), "mlp": config(DENSE)}) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": {"default_init": ["feed_forward"]}}, 'model.default_init is ["feed_forward"], there left at its'),
        ({"attention": {**ATTENTION, "bias": True}}, "model.attention.bias is true, there false"),
        ({"attention": {"kind": "mla", "rank": 4}}, "model.attention is mla, there mha"),
        ({"content_hash": "1"}, 'data.content_hash is "1", there "0"'),
        ({"place": 3}, "place is 3, there left at its default"),
        ({"rate": 0.02}, "training.rate is 0.02, there 0.01"),
        ({"feed_forward": {**DENSE, "dropout": False}}, "model.feed_forward.dropout is false, declared left at its"),
        ({"feed_forward": {**DENSE, "d_ff": 9}}, "model.feed_forward.d_ff is 9, declared 4"),
        ({"feed_forward": {"kind": "parallel"}}, "model.feed_forward is parallel, declared dense"),
    ],
)
def test_anything_else_is_a_warning(change: dict[str, Any], said: str) -> None:
    ((severity, words),) = evidence({"baseline": config(), "mlp": config(**{"feed_forward": DENSE, **change})})
    assert severity == WARNING
    assert words.startswith(f"beyond mlp it differs from 'baseline' in 1: {said}")


def test_what_was_done_to_both_is_no_difference_between_them() -> None:
    everywhere = {"content_hash": "1", "model": {"placement": "post"}}
    assert evidence({"baseline": config(**everywhere), "mlp": config(DENSE, **everywhere)}) == []
    undropped = {**MOE, "dropout": False}, {**DENSE, "dropout": False}
    assert evidence({"baseline": config(undropped[0]), "mlp": config(undropped[1])}) == []


def test_what_was_done_to_the_baseline_alone_confounds_all_that_the_slot_is_compared_in() -> None:
    ((severity, words),) = evidence({"baseline": config({**MOE, "n": 4}), "mlp": config(DENSE)})
    assert (severity, words.partition(": ")[2]) == (
        WARNING, "model.feed_forward.n is 4 in the baseline, declared 8",
    )  # fmt: skip


def test_equal_cells_make_one_finding_and_seeds_none_of_their_own() -> None:
    records, plan = study(
        {"baseline": config(), "mlp": config(DENSE, place=1), "other": config(place=1)}, {"other": MOE}
    )
    found = audit(records, plan)
    assert [(f.cells, f.audit.evidence.partition(" it differs")[0]) for f in found] == [
        (("mlp",), "beyond mlp"), (("other",), "beyond its name"),
    ]  # fmt: skip
    plan["cells"][2]["factors"] = plan["cells"][1]["factors"]
    plan["cells"][2]["declared"] = plan["cells"][0]["declared"]
    assert [f.cells for f in audit(records, plan)] == [("mlp", "other")]


def test_counts_that_follow_from_the_factor_are_a_note() -> None:
    trained = {"baseline": config(), "mlp": config(DENSE)}
    assert evidence(trained, sizes={"mlp": 61}) == [(NOTE, "not matched with 'baseline': parameters -39%")]
    assert evidence(trained, sizes={"baseline": 1000, "mlp": 991}) == []
    ((severity, words),) = evidence({"baseline": config(), "other": config()}, {"other": MOE}, sizes={"other": 150})
    assert severity == WARNING
    assert words == "not matched with 'baseline': parameters +50%, though it differs in nothing else"


def test_what_was_tuned_for_each_cell_may_differ() -> None:
    trained = {"baseline": config(), "mlp": config(DENSE, rate=0.03)}
    tuning = {name: {"space": {"rate": {"low": 0.001, "high": 0.1}}} for name in trained}
    assert evidence(trained, tuning=tuning) == []
    assert len(evidence(trained)) == 1


def test_without_a_declaration_it_is_said_that_nothing_is_checked() -> None:
    records, plan = study({"baseline": config(), "mlp": config(DENSE, place=1)})
    (only,) = audit(records, {**plan, "slots": {}})
    assert (only.audit.severity, only.cells) == (NOTE, ("mlp",))
    assert only.audit.evidence.startswith("not checked: the study does not declare")
    records[2].rows[-1]["params_total"] *= 2
    assert [item.audit.severity for item in audit(records, {**plan, "slots": {}})] == [NOTE, NOTE]
    for cell in plan["cells"]:
        del cell["declared"]  # planned before cells said what they are meant to be
    assert audit(records, plan) == []


def test_kinds_that_differ_are_one_difference() -> None:
    assert list(differences({"a": MOE, "b": 1}, {"a": DENSE, "b": 1})) == [("a", MOE, DENSE)]
    assert list(differences({"a": MOE}, {"a": {**MOE, "router": {"kind": "softmax", "noise": 0}}})) == [
        ("a.router.noise", 0.1, 0)
    ]
    assert list(unexplained({"a": {"kind": "x", "y": 1}}, {"a": {"kind": "z"}}, {}, {}, {"a.y"})) == ["a is x, there z"]


def test_a_loaded_study_is_audited(tmp_path: Path) -> None:
    declared = {"model.feed_forward": DENSE}
    folder = make_study(tmp_path / "s", cells=("baseline", "mlp"), seeds=2)
    plan = json.loads((folder / "plan.json").read_text())
    for cell in plan["cells"]:
        cell["declared"] = declared
    (folder / "plan.json").write_text(json.dumps({**plan, "slots": {"mlp": ["model.feed_forward"]}}))
    for record in read_records(folder):
        made = config(DENSE, place=1) if record.cell == "mlp" else config(DENSE)
        dataclasses.replace(record, config=made).write(folder / "records")
    found = load_results(folder).study_audits
    assert [(f.audit.name, f.audit.severity, f.cells) for f in found] == [
        (NAME, WARNING, ("mlp",)), (NAME, NOTE, ("mlp",)),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("key", "severity", "said"),
    [
        ("code", WARNING, "by other code"),
        ("versions", WARNING, "with other packages"),
        ("hardware", NOTE, "on other hardware"),
    ],
)
def test_a_cell_made_elsewhere_than_its_baseline_is_named(key: str, severity: str, said: str) -> None:
    records, plan = study({"baseline": config(), "mlp": config(DENSE)})
    for record in records:
        record.environment.update(code="a", versions="b", hardware="c")
    assert audit(records, plan) == []
    new = next(record for record in records if (record.cell, record.seed) == ("mlp", 1))
    new.environment[key] = "new"
    (found,) = audit(records, plan)
    assert (found.audit.severity, found.cells) == (severity, ("mlp",))
    assert found.audit.evidence.startswith(f"made {said} than 'baseline' in 1 of 2 seeds: ")
    failed = [dataclasses.replace(record, status=FAILED) if record is new else record for record in records]
    assert audit(failed, plan) == [], "where a failed run was is not known"
    for record in records:
        record.environment[key] = str(record.seed)
    assert audit(records, plan) == [], "what one seed's runs share is compared with itself"
    for record in records:
        record.environment.clear()
    new.environment[key] = "new"
    assert audit(records, plan) == [], "a record from before it was kept says nothing"


def test_a_run_that_was_had_again_by_the_other_code_clears_it() -> None:
    records, plan = study({"baseline": config(), "mlp": config(DENSE)})
    for record in records:
        record.environment.update(code=record.cell, versions="b", hardware="c")
    (found,) = audit(records, plan)
    assert "made by other code than 'baseline' in 2 of 2 seeds" in found.audit.evidence
    new = {"code": "mlp", "versions": "b"}
    assert audit(records, plan, {"baseline0": [{**new, "hardware": "d"}]}) == []
    assert audit(records, plan, {"mlp1": [{**new, "code": "baseline"}]}) == []
    for other in ({**new, "code": "third"}, {**new, "versions": "c"}):
        assert audit(records, plan, {"baseline0": [other]}) == [found]
