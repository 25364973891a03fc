"""What was registered against what is done: the primary comparison, families, and what is exploratory."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from analysis.errors import AnalysisError
from analysis.loading.load import load_results
from analysis.reporting import narrative
from analysis.study import plan_check
from analysis.study.registered import HASH, INVALID_LEFT_OUT, INVALID_TAKEN_IN, REGISTERED, registration
from analysis.study.results import Results
from analysis.summary import Analysis, analyse
from tests.fakes import make_study
from tests.fakes_plan import added, registered
from tests.fakes_results import make_results

CELLS = ("baseline", "attention", "mlp", "moe")
LOSSES = {
    "baseline": [4.300, 4.320, 4.290, 4.310, 4.330],
    "attention": [4.281, 4.299, 4.268, 4.296, 4.311],
    "mlp": [4.330, 4.345, 4.325, 4.335, 4.368],
    "moe": [4.302, 4.311, 4.296, 4.312, 4.325],
}
LATER = {cell: [*losses, losses[0] + 0.001, losses[1] - 0.001] for cell, losses in LOSSES.items()}


def analysed(losses: Any = LOSSES, **changes: Any) -> tuple[Results, Analysis]:
    results = make_results(losses, plan=registered(CELLS, **changes))
    return results, analyse(results)


def row(analysis: Analysis, cell: str) -> Any:
    return analysis.comparisons.set_index("cell").loc[cell]


def checked(analysis: Analysis) -> dict[str, tuple[str, str]]:
    table = analysis.plan_check
    return {
        item: (done, agrees) for item, done, agrees in zip(table["item"], table["done"], table["agrees"], strict=True)
    }


def claims(results: Results, analysis: Analysis) -> list[str]:
    return [finding.claim for finding in narrative.verdict(results, analysis)[""]]


def paired_p(cell: str) -> float:
    return float(stats.ttest_rel(LOSSES[cell], LOSSES["baseline"]).pvalue)


def test_the_primary_comparison_is_tested_alone_and_the_others_without_it() -> None:
    results, analysis = analysed()
    primary = row(analysis, "attention")
    assert (primary["plan"], primary["family"]) == ("primary", 1)
    assert primary["p_holm"] == primary["p"] == pytest.approx(paired_p("attention"), rel=1e-10)
    others = [row(analysis, cell) for cell in ("mlp", "moe")]
    assert [(other["plan"], other["family"]) for other in others] == [("planned", 2)] * 2
    holm = multipletests([paired_p("mlp"), paired_p("moe")], method="holm")[1]
    assert [other["p_holm"] for other in others] == pytest.approx(list(holm), rel=1e-10)
    first = narrative.verdict(results, analysis)[""][0]
    assert first.claim == "Primary comparison, attention against baseline, tested alone at 5 %, at one learning rate"
    assert [cell for cell, _ in first.cells] == ["attention"]
    assert first.cells[0][1].startswith("better: ")
    for finding in narrative.verdict(results, analysis)[""][1:]:
        assert "attention" not in [cell for cell, _ in finding.cells if finding.kind not in ("best",)]


@pytest.mark.parametrize(("noise", "said"), [(1e-6, ", p < 0.0001, n = 5"), (0.1, ", p = 0.")])
def test_the_words_of_a_p_read_as_a_sentence(noise: float, said: str) -> None:
    losses = {
        "baseline": [4.0, 4.1, 4.2, 4.3, 4.4],
        "attention": [3.9 + 0.1 * seed + noise * (-1) ** seed for seed in range(5)],
    }
    results = make_results(losses, plan=registered(list(losses)))
    primary = narrative.verdict(results, analyse(results))[""][0]
    assert said in primary.cells[0][1]


def test_the_joint_analysis_is_of_the_same_family_as_holms_and_of_the_primary_comparison_alone() -> None:
    _, analysis = analysed()
    primary = row(analysis, "attention")
    values = np.array(list(LOSSES.values()))
    residual = values - values.mean(axis=1, keepdims=True) - values.mean(axis=0) + values.mean()
    error = np.sqrt(2 / 5 * (residual**2).sum() / 12)
    assert primary["p_joint"] == pytest.approx(2 * stats.t.sf(abs(primary["difference"]) / error, 12), rel=1e-9)
    assert primary["joint_family"] == 1
    half = stats.t.isf(0.025, 12) * error
    ends = primary["joint_low"], primary["joint_high"]
    assert ends == pytest.approx((primary["difference"] - half, primary["difference"] + half))
    without = {cell: losses for cell, losses in LOSSES.items() if cell != "attention"}
    family = analyse(make_results(without)).comparisons.set_index("cell")
    for cell in ("mlp", "moe"):
        assert row(analysis, cell)["p_joint"] == pytest.approx(family.loc[cell, "p_joint"], rel=1e-12)
        assert row(analysis, cell)["joint_family"] == 2


NEAR = {**LOSSES, "attention": [4.297, 4.318, 4.280, 4.309, 4.321]}


def test_the_primary_comparison_may_depend_on_equal_variances_too() -> None:
    losses = {**NEAR, "attention": [4.285, 4.318, 4.264, 4.310, 4.318], "mlp": [x + 0.001 for x in LOSSES["baseline"]]}
    losses["mlp"][0] += 0.001
    primary = row(analysed(losses)[1], "attention")
    assert primary["p"] > 0.05 >= primary["p_joint"]
    assert (primary["plan"], primary["verdict"]) == (
        "primary", "depends on equal variances: better by the joint analysis alone",
    )  # fmt: skip


def test_a_run_missing_under_another_name_takes_nothing_from_the_primary_comparison() -> None:
    names = {cell: cell for cell in CELLS} | {"mlp_norm": "mlp"}
    losses = {name: LOSSES[cell] for name, cell in names.items()}
    plan = registered(list(names)) | {"negative_control": {"factor": "norm", "tolerance_nats": 1e-3}}
    levels = {name: {"variant": CELLS.index(cell), "norm": int(name != cell)} for name, cell in names.items()}
    for entry in plan["cells"]:
        entry["factors"] = levels[entry["name"]]
    whole, gap = (
        row(analyse(make_results({**losses, "mlp_norm": found}, levels=levels, plan=plan)), "attention")
        for found in (losses["mlp"], [*losses["mlp"][:4], "failed"])
    )
    assert gap["verdict"] == "better"
    assert gap["p_joint"] == whole["p_joint"] < 0.05


@pytest.mark.parametrize(("lost", "alone"), [("mlp", True), (None, False)])
def test_a_missing_run_takes_the_joint_analysis_from_the_primary_comparison(lost: str | None, alone: bool) -> None:
    losses = {cell: [*values[:4], None] if cell == lost else values for cell, values in LOSSES.items()}
    results, analysis = analysed(losses)
    words = " by the paired t test alone: no joint analysis of unequal seeds" if alone else ""
    assert row(analysis, "attention")["verdict"] == f"better{words}"
    (found,) = [finding for finding in narrative.verdict(results, analysis)[""] if finding.kind == "primary"]
    assert found.cells[0][1].startswith(f"better{words}: ")


@pytest.mark.parametrize("attention", [LOSSES["attention"], NEAR["attention"]], ids=["better", "open"])
def test_the_primary_comparisons_model_under_another_name_has_its_verdict_and_no_test(attention: list[float]) -> None:
    losses = {**LOSSES, "attention": attention, "attention_rmsnorm": attention}
    results = make_results(losses, plan=registered(list(losses)))
    analysis = analyse(results)
    primary, twin = row(analysis, "attention"), row(analysis, "attention_rmsnorm")
    assert twin["verdict"] == f"the same model as the primary 'attention': {primary['verdict']}"
    assert np.isnan(twin[["p", "p_holm", "p_joint"]].astype(float)).all()
    assert twin["hedges_g"] == primary["hedges_g"]
    assert set(analysis.comparisons.set_index("cell").loc[["mlp", "moe"], "family"]) == {2}
    assert checked(analysis)["family: against the baseline"] == (
        "2 tests, 1 not made for the reason in the table", "yes",
    )  # fmt: skip
    first, *others = narrative.verdict(results, analysis)[""]
    assert first.cells[1] == ("attention_rmsnorm", twin["verdict"])
    assert not any("attention_rmsnorm" in dict(finding.cells) for finding in others if finding.kind != "best")


def test_all_agrees_where_the_study_is_as_planned() -> None:
    _, analysis = analysed()
    assert set(analysis.plan_check["agrees"]) == {"yes"}
    assert set(checked(analysis)) >= {
        "registered plan", "metric", "primary comparison", "family: against the baseline", "anything else", "cells",
        "seeds a cell", "looks", "equivalence margin", "divergence limit", "exclusions", "learning rates",
    }  # fmt: skip
    assert checked(analysis)["primary comparison"][0] == "alone, n = 5"


@pytest.mark.parametrize(
    ("registered_as", "flaws", "on_request", "plan", "done", "agrees"),
    [
        (INVALID_TAKEN_IN, ["leak"], False, "planned", "runs found invalid are included", "yes"),
        (INVALID_LEFT_OUT, [], False, "planned", "5 runs left out as invalid", "yes"),
        (
            INVALID_LEFT_OUT, [], True, "exploratory: runs that an audit found invalid are included",
            "runs found invalid are included", "no",
        ),
    ],
)  # fmt: skip
def test_invalid_runs_are_in_the_numbers_as_the_plan_says(
    registered_as: str, flaws: list[str], on_request: bool, plan: str, done: str, agrees: str
) -> None:
    results = make_results(LOSSES, plan={**registered(CELLS, exclusions=(registered_as,)), "flaws": flaws})
    results.runs.loc[results.runs["cell"] == "mlp", "invalid"] = "causality"
    analysis = analyse(results.as_reported(on_request))
    assert row(analysis, "mlp")["plan"] == plan
    assert row(analysis, "mlp")["n"] == (0 if done.startswith("5") else 5)
    assert checked(analysis)["exclusions"] == (done, agrees)


def test_without_registration_all_is_as_it_was() -> None:
    plain = make_results(LOSSES)
    analysis = analyse(plain)
    assert set(analysis.comparisons["plan"]) == {""}
    assert set(analysis.comparisons["family"]) == {3}
    assert analysis.plan_check.empty
    assert [note for note in analysis.notes if "plan" in note] == [plan_check.NO_PLAN]  # a table of anybody's
    plan = {"cells": registered(CELLS)["cells"]}
    own = analyse(make_results(LOSSES, plan=plan))
    assert own.comparisons.equals(analysis.comparisons)
    assert any(note.startswith("no plan was registered") for note in own.notes)
    assert plan_check.NO_PLAN not in own.notes
    assert any(note.startswith("one learning rate for all cells") for note in own.notes)


def test_seeds_added_after_results_make_all_but_the_primary_comparison_exploratory() -> None:
    results, analysis = analysed(LATER, amendments=[added("seeds", [5, 6], ended=20)])
    primary = row(analysis, "attention")
    assert (primary["plan"], primary["n"]) == ("primary", 5)
    assert primary["p"] == pytest.approx(paired_p("attention"), rel=1e-10)  # as if nothing had been added
    for cell in ("mlp", "moe"):
        found = row(analysis, cell)
        assert (found["plan"], found["n"]) == ("exploratory: seeds were added after the plan", 7)
        assert found["difference"] == pytest.approx(np.mean(LATER[cell]) - np.mean(LATER["baseline"]))
        assert found["difference_high"] > found["difference_low"]
        assert found[["p", "p_holm", "p_joint", "p_sign_flip", "p_max_t"]].isna().all()
        assert found["verdict"] == (
            "not tested: 2 seeds were added after results were known, 3 are needed for a test of their own"
        )
    assert "Exploratory: seeds were added after the plan" in claims(results, analysis)
    assert "Clearly worse than baseline" not in claims(results, analysis)
    assert checked(analysis)["looks"] == ("1 undeclared: seeds were added", "no")
    assert checked(analysis)["seeds a cell"] == ("5, and 2 added after results were known", "no")
    assert any(
        "2 seeds were added to the plan on 2026-01-02, after 20 runs had ended" in note for note in analysis.notes
    )
    assert not any("left out are" in note for note in analysis.notes)
    (words,) = (finding.cells for finding in narrative.verdict(results, analysis)[""] if finding.kind == "exploratory")
    assert dict(words)["mlp"].startswith("+0.0297 [+0.0249, ")  # estimates are of all seeds
    assert " nats over all 7 seeds; not tested: 2 seeds were added" in dict(words)["mlp"]


def test_a_seed_added_to_some_cells_makes_no_test_of_the_others_easier() -> None:
    """What was found to be little could be taken out of the family by a seed more, and Holm's steps would be larger."""
    planned = row(analysed()[1], "mlp")
    losses = {**LOSSES, **{cell: LATER[cell][:6] for cell in ("baseline", "moe")}}
    _, analysis = analysed(losses, amendments=[added("seeds", [5], ended=20)], equivalence_margin=0.02)
    assert row(analysis, "moe")["verdict"].startswith("not tested: 1 seed was added")
    later = row(analysis, "mlp")
    assert (later["plan"], later["family"], planned["family"]) == ("planned", 2, 2)
    assert (later["p"], later["p_holm"]) == (planned["p"], planned["p_holm"]) == (planned["p"], 2 * planned["p"])
    assert later["detectable"] == planned["detectable"]
    _, before = analysed(equivalence_margin=0.02)
    names = ["simultaneous_low", "simultaneous_high", "p_equivalence", "showable_margin"]
    assert list(later[names[:2]]) == pytest.approx(list(row(before, "mlp")[names[:2]]))
    smallest = min(row(before, cell)["p_equivalence"] for cell in ("mlp", "moe"))
    assert later["p_equivalence"] >= row(before, "mlp")["p_equivalence"] >= smallest


def test_too_few_added_seeds_promise_no_test_of_a_flawed_comparison() -> None:
    results, _ = analysed(LATER, amendments=[added("seeds", [5, 6], ended=20)])
    flaws = results.runs["cell"].map(lambda cell: "leak.no_causal_mask" if cell == "mlp" else "")
    results = dataclasses.replace(results, runs=results.runs.assign(flaws=flaws))
    analysis = analyse(results)
    assert row(analysis, "mlp")["verdict"] == "flawed: no finding"
    assert row(analysis, "moe")["verdict"].startswith("not tested: 2 seeds were added")
    (words,) = (finding.cells for finding in narrative.verdict(results, analysis)[""] if finding.kind == "flawed")
    assert dict(words) == {"mlp \u2020": "+0.0297 [+0.0249, +0.0345] nats"}


def test_seeds_added_after_results_are_tested_by_themselves() -> None:
    fresh = {
        "baseline": [4.301, 4.322, 4.308], "attention": [4.280, 4.300, 4.290], "mlp": [4.280, 4.303, 4.285],
        "moe": [4.303, 4.320, 4.309],
    }  # fmt: skip
    losses = {cell: [*LOSSES[cell], *fresh[cell]] for cell in CELLS}
    results, analysis = analysed(losses, amendments=[added("seeds", [5, 6, 7], ended=20)], equivalence_margin=0.02)
    alone = analyse(make_results({cell: fresh[cell] for cell in ("baseline", "mlp", "moe")})).comparisons
    alone = alone.set_index("cell")
    for cell in ("mlp", "moe"):
        found = row(analysis, cell)
        assert (found["n"], found["n_tested"]) == (8, 3)
        for name in ("p", "p_holm", "p_sign_flip", "p_max_t", "p_joint", "detectable"):
            assert found[name] == pytest.approx(alone.loc[cell, name]), name
        every = np.array(losses[cell]) - np.array(losses["baseline"])
        interval = stats.ttest_1samp(every, 0).confidence_interval(0.95)
        assert (found["difference_low"], found["difference_high"]) == pytest.approx((interval.low, interval.high))
    pairs = analysis.all_pairs
    assert set(zip(pairs["n"], pairs["n_tested"], strict=True)) == {(8, 3)}
    against = pairs[pairs[["cell", "partner"]].isin(["mlp", "moe"]).all(axis=1)]
    assert against["p"].item() == pytest.approx(stats.ttest_rel(fresh["mlp"], fresh["moe"]).pvalue)
    better = row(analysis, "mlp")  # worse in the planned seeds, and by the mean of all
    assert better["difference"] > 0
    assert better["verdict"] == alone.loc["mlp", "verdict"] == "better"
    words = next(finding for finding in narrative.verdict(results, analysis)[""] if finding.kind == "exploratory")
    assert "by the 3 added seeds alone, n = 8" in dict(words.cells)["mlp"]


def test_of_several_additions_the_last_alone_is_tested() -> None:
    """Each was made after what had been seen by then: a test of all added seeds would not hold its level either."""
    draw = np.random.default_rng(3)
    shared = draw.normal(0, 0.02, 11)
    losses = {cell: list(4.0 + shared + draw.normal(0, 0.004, 11)) for cell in CELLS}
    del losses["moe"][8:]  # of the last addition it has no run
    amendments = [added("seeds", [5, 6, 7], ended=20), added("seeds", [8, 9, 10], ended=32)]
    _, analysis = analysed(losses, amendments=amendments)
    for cell, seeds in (("mlp", slice(8, 11)), ("moe", slice(5, 8))):
        found = row(analysis, cell)
        expected = stats.ttest_rel(losses[cell][seeds], losses["baseline"][seeds]).pvalue
        assert (found["n_tested"], found["p"]) == (3, pytest.approx(expected))
    assert (row(analysis, "mlp")["n"], row(analysis, "moe")["n"]) == (11, 8)
    assert (row(analysis, "attention")["plan"], row(analysis, "attention")["n"]) == ("primary", 5)
    earlier, later = (note for note in analysis.notes if "seeds were added to the plan" in note)
    assert earlier.endswith(
        "a look that was not declared; tests rest on seeds that were added later, of cells with any"
    )
    assert later.endswith(
        "of cells with 3 or more of them tests rest on these alone; estimates and intervals are of all"
    )
    assert checked(analysis)["looks"] == ("2 undeclared: seeds were added", "no")


def test_effects_of_whole_factors_are_tested_on_added_seeds_alone(tmp_path: Path) -> None:
    results = load_results(make_study(tmp_path / "grid", seeds=6, design="orthogonal"))
    plan = registered(list(results.cells.index), n=3, effects=10, amendments=[added("seeds", [3, 4, 5], ended=48)])
    named = {part: plan[part] for part in (REGISTERED, HASH, "amendments")}
    found = analyse(dataclasses.replace(results, plan={**results.plan, **named})).main_effects
    runs = results.runs[results.runs["seed"] >= 3]
    fresh = analyse(dataclasses.replace(results, runs=runs)).main_effects
    assert set(zip(found["n"], found["n_tested"], strict=True)) == {(6, 3)}
    assert found["p"].tolist() == pytest.approx(fresh["p"].tolist(), nan_ok=True)
    assert found["pooled_low"].notna().any()


@pytest.mark.parametrize("first_seed", [0, 1000])
def test_seeds_count_from_where_the_plan_says(first_seed: int) -> None:
    plan = registered(CELLS, first_seed=first_seed)
    analysis = analyse(make_results(LOSSES, plan=plan, first_seed=first_seed))
    assert [row(analysis, cell)["plan"] for cell in CELLS[1:]] == ["primary", "planned", "planned"]
    assert set(analysis.plan_check["agrees"]) == {"yes"}
    plan = registered(CELLS, first_seed=first_seed, amendments=[added("seeds", [first_seed + 5], ended=20)])
    later = analyse(make_results(LATER, plan=plan, first_seed=first_seed))
    assert (row(later, "attention")["plan"], row(later, "attention")["n"]) == ("primary", 5)
    assert row(later, "mlp")["plan"] == "exploratory: seeds were added after the plan"


def test_a_plan_from_before_first_seeds_were_registered_keeps_its_hash() -> None:
    old = registered(CELLS)
    assert "first_seed" not in old["registered"]
    found = registration(old)
    assert found is not None
    assert found.intact
    assert found.registered.seeds == range(5)


def test_a_plan_that_registers_no_first_seed_begins_at_its_lowest() -> None:
    """As those of `significance` were made before the first seed was registered."""
    plan = {**registered(CELLS), "seeds": [1000, 1001, 1002, 1003, 1004]}
    analysis = analyse(make_results(LOSSES, plan=plan, first_seed=1000))
    assert [row(analysis, cell)["plan"] for cell in CELLS[1:]] == ["primary", "planned", "planned"]
    assert set(analysis.plan_check["agrees"]) == {"yes"}
    plan = {**registered(CELLS, amendments=[added("seeds", [1005], ended=20)]), "seeds": [*range(1000, 1006)]}
    later = analyse(make_results(LATER, plan=plan, first_seed=1000))
    assert (row(later, "attention")["plan"], row(later, "attention")["n"]) == ("primary", 5)
    assert row(later, "mlp")["plan"] == "exploratory: seeds were added after the plan"


def test_a_race_s_plan_may_have_begun_with_fewer_seeds_than_it_registers() -> None:
    found = registration({**registered(CELLS, looks=(3, 5)), "seeds": [1000, 1001, 1002]})
    assert found is not None
    assert found.registered.seeds == range(1000, 1005)


def test_seeds_that_tell_no_first_one_are_refused() -> None:
    plan = {**registered(CELLS), "seeds": [*range(1000, 1006)]}
    with pytest.raises(AnalysisError, match=r"registers 5 seeds, and not which: its seeds 1000, .* 1005 are more"):
        make_results(LOSSES, plan=plan, first_seed=1000).looks  # noqa: B018


def test_seeds_added_before_any_result_are_planned() -> None:
    _, analysis = analysed(LATER, amendments=[added("seeds", [5, 6], ended=0)])
    assert [row(analysis, cell)["plan"] for cell in CELLS[1:]] == ["primary", "planned", "planned"]
    assert row(analysis, "attention")["n"] == 7
    assert set(analysis.plan_check["agrees"]) == {"yes"}


def test_seeds_that_no_amendment_names_are_exploratory_too() -> None:
    _, analysis = analysed(LATER)
    assert row(analysis, "mlp")["plan"] == "exploratory: seeds were added after the plan"


def test_before_the_planned_look_nothing_is_confirmed() -> None:
    early = {cell: losses[:4] for cell, losses in LOSSES.items()}
    results, analysis = analysed(early)
    assert set(analysis.comparisons["plan"]) == {"exploratory: tested after 4 of the 5 seeds planned"}
    assert checked(analysis)["primary comparison"] == ("exploratory: tested after 4 of the 5 seeds planned", "no")
    assert not any(claim.startswith(("Primary", "Clearly")) for claim in claims(results, analysis))


def test_a_failed_run_does_not_hide_the_look() -> None:
    _, analysis = analysed({**LOSSES, "mlp": [*LOSSES["mlp"][:4], "failed"]})
    assert (row(analysis, "mlp")["plan"], row(analysis, "mlp")["n"]) == ("planned", 4)


def test_another_baseline_and_cells_added_later_are_exploratory() -> None:
    results = make_results(LOSSES, baseline="mlp", plan=registered(CELLS))
    assert set(analyse(results).comparisons["plan"]) == {"exploratory: not in the plan"}
    plan = registered(CELLS[:3], amendments=[added("cells", ["moe"], ended=15)])
    plan["cells"] = registered(CELLS)["cells"]
    analysis = analyse(make_results(LOSSES, plan=plan))
    assert row(analysis, "moe")["plan"] == "exploratory: not in the plan"
    assert row(analysis, "mlp")["plan"] == "planned"
    assert checked(analysis)["cells"] == ("1 added after results were known: moe", "no")
    plan["amendments"] = [added("cells", ["moe"], ended=0)]
    assert row(analyse(make_results(LOSSES, plan=plan)), "moe")["plan"] == "planned"


def test_another_metric_is_exploratory() -> None:
    plan = registered(CELLS) | {"metric": "train_loss", "direction": "min"}
    analysis = analyse(make_results(LOSSES, plan=plan))
    assert set(analysis.comparisons["plan"]) == {"exploratory: another metric than the plan's"}
    assert checked(analysis)["metric"] == ("train_loss, lower is better", "no")


@pytest.mark.parametrize("how", ["section", "hash", "run"])
def test_a_changed_plan_is_an_alarm(how: str) -> None:
    plan = registered(CELLS)
    if how == "section":
        plan["registered"]["primary"]["cell"] = "mlp"
    elif how == "hash":
        plan["registered_sha256"] = "0" * 64
    else:  # rewritten with its hash: the runs still know the one that they were trained under
        plan["environment"] = {"registered_sha256": registered(CELLS, n=6)["registered_sha256"]}
    results = make_results(LOSSES, plan=plan)
    analysis = analyse(results)
    first = narrative.verdict(results, analysis)[""][0]
    assert (first.kind, first.claim) == ("alarm", "ALARM, the registered plan was changed")
    assert set(analysis.comparisons["plan"]) == {"exploratory: the registered plan was changed"}
    assert checked(analysis)["registered plan"] == ("CHANGED", "no")


def test_only_tuned_comparisons_are_claims_about_components() -> None:
    results, analysis = analysed(tuned=True)
    assert claims(results, analysis)[0].endswith("tested alone at 5 %, learning rates tuned")
    assert not any("one learning rate" in note for note in analysis.notes)
    assert any("not claims about components" in note for note in analysed()[1].notes)


def test_the_registered_margin_is_the_one_that_counts() -> None:
    _, analysis = analysed(equivalence_margin=0.02)
    assert row(analysis, "moe")["verdict"] == "equivalent within \u00b10.02 nats"
    plan = registered(CELLS) | {"equivalence_margin": 0.02}
    late = analyse(make_results(LOSSES, plan=plan))
    assert row(late, "moe")["verdict"].startswith("not resolved")
    assert checked(late)["equivalence margin"] == ("the plan's file says 0.02 nats: not used", "no")


def test_tables_that_no_plan_names_say_so(tmp_path: Path) -> None:
    results = load_results(make_study(tmp_path / "grid", seeds=3, design="orthogonal"))
    named = registered(list(results.cells.index), n=3)
    planned = {**results.plan, **{part: named[part] for part in (REGISTERED, HASH)}}
    without = {name: value for name, value in planned.items() if name not in (REGISTERED, HASH)}
    for plan, said in ((planned, "exploratory: not in the plan"), (without, "")):
        analysis = analyse(dataclasses.replace(results, plan=plan))
        for table in (analysis.interactions, analysis.shapley):
            assert not table.empty
            assert set(table["plan"]) == {said}
