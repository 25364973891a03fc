"""Comparisons with the baseline: paired by seed, with a verdict that claims no more than n allows."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from analysis.comparing.comparisons import (
    COMPARISON_COLUMNS,
    CONTRIBUTION_COLUMNS,
    CONTROL_COLUMNS,
    changed_factors,
    compare,
    contributions,
    left_out,
    negative_control,
)
from analysis.errors import AnalysisError
from analysis.statistics.joint import dunnett_cdf, one_model, pooled_residual
from analysis.statistics.significance import sign_flip_max_t, t_interval
from analysis.study.results import Results
from tests.fakes_plan import added, registered
from tests.fakes_results import factorial_losses, make_results

BASE = [5.00, 5.20, 5.10, 5.05, 5.15]
CONTROL = {"negative_control": {"factor": "norm", "tolerance_nats": 1e-3}}
NO_EFFECT_SIZE = ["cohens_d", "hedges_g", "hedges_g_low", "hedges_g_high", "d_z", "d_z_low", "d_z_high"]


def compared(results: Results, order: list[str] | None = None) -> pd.DataFrame:
    control = negative_control(results)
    models = one_model(results.finished(results.metric), control)
    return compare(results, order or list(results.cells.index), control, models)


def comparison(losses: dict[str, list], **options: object) -> pd.DataFrame:
    return compared(make_results(losses, **options)).set_index("cell")  # type: ignore[arg-type]


def norm_pair(*norm: float | str | None) -> Results:
    levels = {"baseline": {"norm": 0, "moe": 0}, "norm": {"norm": 1, "moe": 0}}
    return make_results({"baseline": BASE[: len(norm)], "norm": list(norm)}, levels=levels, plan=CONTROL)


def test_a_row_by_hand() -> None:
    a = [4.9, 5.0, 5.0, 4.85, 5.05]  # differences -.1 -.2 -.1 -.2 -.1: mean -.14, sd sqrt(.003)
    row = comparison({"baseline": BASE, "a": a}).loc["a"]
    half = stats.t.ppf(0.975, 4) * math.sqrt(0.003 / 5)
    assert row["n"] == 5
    assert row["difference"] == pytest.approx(-0.14)
    assert (row["difference_low"], row["difference_high"]) == pytest.approx((-0.14 - half, -0.14 + half), abs=1e-8)
    assert row["percent"] == pytest.approx(100 * (math.exp(-0.14) - 1))
    assert row["percent_high"] == pytest.approx(100 * (math.exp(-0.14 + half) - 1))
    assert row["sd_difference"] == pytest.approx(math.sqrt(0.003))
    assert row["d_z"] == pytest.approx(-0.14 / math.sqrt(0.003))
    assert row["cohens_d"] == pytest.approx(-0.14 / math.sqrt((np.var(a, ddof=1) + np.var(BASE, ddof=1)) / 2))
    assert row["p"] == row["p_holm"] == pytest.approx(stats.ttest_rel(a, BASE).pvalue, abs=1e-8)
    assert (row["p_sign_flip"], row["sign_flip_floor"], row["family"]) == (2 / 32, 2 / 32, 1)
    assert row["verdict"] == "better"


@pytest.mark.parametrize(("direction", "improved"), [("min", 3), ("max", 1)])
def test_improved_seeds_are_counted_and_a_tie_is_none(direction: str, improved: int) -> None:
    losses = {"baseline": BASE, "a": [4.9, 5.3, 5.1, 4.85, 5.05], "same": BASE}  # -.1 +.1 0 -.2 -.1
    table = comparison(losses, plan={"direction": direction})
    row = table.loc["a"]
    expected = stats.binomtest(improved, 5).proportion_ci(0.95, method="exact")
    assert (row["improved"], row["improvement"]) == (improved, improved / 5)
    assert (row["improvement_low"], row["improvement_high"]) == pytest.approx((expected.low, expected.high))
    assert table.loc["same", ["improved", "improvement", "improvement_low", "improvement_high"]].isna().all()


def test_columns_and_rows() -> None:
    table = compared(make_results({"baseline": BASE, "a": BASE, "b": BASE}), ["b", "baseline", "a"])
    assert list(table.columns) == list(COMPARISON_COLUMNS)
    assert table["cell"].tolist() == ["b", "a"]


def test_only_common_seeds_are_paired_and_the_rest_is_counted() -> None:
    results = make_results({"baseline": [5.0, 5.1, None, 5.3, 9.9], "a": [4.0, 4.2, 1.0, 4.4, "failed"]})
    table = compared(results)
    assert table["n"][0] == 3
    assert table["difference"][0] == pytest.approx(np.mean([-1.0, -0.9, -0.9]))
    # Standard deviations of the effect size are over the common seeds too.
    pooled = math.sqrt((np.var([4.0, 4.2, 4.4], ddof=1) + np.var([5.0, 5.1, 5.3], ddof=1)) / 2)
    assert table["cohens_d"][0] == pytest.approx(table["difference"][0] / pooled)
    (line,) = left_out(results, table)
    assert "3 common seeds" in line
    assert "1 finished seed of a and 1 of baseline" in line


@pytest.mark.parametrize(
    ("n", "verdict"), [(1, "n too small (1 of the 3 pairs needed)"), (2, "n too small (2 of the 3 pairs needed)")]
)
def test_below_three_pairs_there_is_no_test_and_no_effect_size(n: int, verdict: str) -> None:
    row = comparison({"baseline": BASE[:n], "a": [4.9, 5.0][:n]}).loc["a"]
    assert row["verdict"] == verdict
    assert row[[*NO_EFFECT_SIZE, "p", "p_holm", "p_sign_flip", "detectable"]].isna().all()
    assert np.isnan(row["difference_low"]) == (n == 1)
    assert row["family"] == 0


def test_no_common_seeds() -> None:
    row = comparison({"baseline": [5.0, 5.1, None], "a": ["failed", "failed", "failed"]}).loc["a"]
    assert row["verdict"] == "no common seeds"
    assert row["n"] == 0
    assert np.isnan(row["difference"])


APART = {
    "baseline": [5.0, 5.1, 5.3, *[None] * 8],
    "a": [*[None] * 3, 4.0, 4.1, 4.3, 4.0, *[None] * 4],
    "b": [*[None] * 7, 5.1, 5.4, 5.0, 5.2],
}


def test_disjoint_seeds_are_compared_unpaired() -> None:
    table = comparison(APART)
    base, a, b = ([x for x in APART[cell] if x is not None] for cell in APART)
    assert table["pairing"].tolist() == ["unpaired"] * 2
    row = table.loc["a"]
    smaller = min(len(a), len(base)) - 1  # degrees of freedom, for the arms are of unequal size
    t = stats.ttest_ind(a, base, equal_var=False).statistic
    p, error = 2 * stats.t.sf(abs(t), smaller), abs((np.mean(a) - np.mean(base)) / t)
    assert row["n"] == 3
    assert row["difference"] == pytest.approx(np.mean(a) - np.mean(base))
    assert row["p"] == pytest.approx(p, abs=1e-8)
    assert row["p_holm"] == pytest.approx(2 * p, abs=1e-8)
    interval = stats.t.interval(0.95, smaller, row["difference"], error)
    assert (row["difference_low"], row["difference_high"]) == pytest.approx(interval, abs=1e-8)
    pooled = math.sqrt((3 * np.var(a, ddof=1) + 2 * np.var(base, ddof=1)) / 5)
    assert row["cohens_d"] == pytest.approx(row["difference"] / pooled)
    assert row["hedges_g_low"] < row["hedges_g"] < row["hedges_g_high"] < 0
    assert row[["d_z", "p_sign_flip", "sign_flip_floor", "improved"]].isna().all()
    simultaneous = stats.t.interval(0.975, smaller, row["difference"], error)
    assert (row["simultaneous_low"], row["simultaneous_high"]) == pytest.approx(simultaneous)
    dunnett = stats.dunnett(a, b, control=base, rng=np.random.default_rng(0))
    assert table["p_joint"].tolist() == pytest.approx(dunnett.pvalue, abs=1e-3)
    assert table["joint_family"].tolist() == [2, 2]
    assert table.loc["a", "verdict"] == "better"
    assert table.loc["b", "verdict"].startswith("not resolved (could detect")
    assert not left_out(make_results(APART), compared(make_results(APART)))


def test_one_common_seed_keeps_the_pairing_and_pairs_and_arms_are_one_family() -> None:
    row = comparison({**APART, "a": [4.0, *[None] * 2, 4.1, 4.3, *[None] * 6]}).loc["a"]
    assert (row["pairing"], row["n"]) == ("paired", 1)
    mixed = comparison({**APART, "c": [4.0, 4.2, 4.3, *[None] * 8]})
    assert mixed.loc["c", "pairing"] == "paired"
    assert mixed["family"].eq(3).all()
    assert mixed["p_joint"].isna().all()
    assert mixed.loc["a", "verdict"] == "better by Welch's t test alone: no joint analysis of unequal seeds"
    few = comparison({**APART, "b": [*[None] * 7, 5.1, 5.4, None, None]})
    assert few.loc["b", "verdict"] == "n too small (2 of the 3 runs needed)"
    assert np.isnan(few.loc["b", "p"])
    flat = comparison({"baseline": [5.0] * 3 + [None] * 3, "a": [None] * 3 + [4.0] * 3}).loc["a"]
    assert flat["verdict"] == "nothing varies over seeds: no t test exists"


def test_equivalence_of_disjoint_arms() -> None:
    rng = np.random.default_rng(0)
    a, base = (list(rng.normal(5, 0.01, 6)) for _ in range(2))
    losses = {"baseline": base + [None] * 6, "a": [None] * 6 + a}
    row = comparison(losses, plan={"equivalence_margin": 0.1}).loc["a"]
    lower = stats.ttest_ind(a, np.array(base) - 0.1, equal_var=False, alternative="greater").pvalue
    upper = stats.ttest_ind(a, np.array(base) + 0.1, equal_var=False, alternative="less").pvalue
    assert row["p_equivalence"] == pytest.approx(max(lower, upper), abs=1e-8)
    assert row["verdict"] == "equivalent within \u00b10.1 nats"


def test_holm_over_all_tested_comparisons() -> None:
    rng = np.random.default_rng(3)
    losses = {"baseline": BASE} | {name: list(BASE + rng.normal(-0.05, 0.03, 5)) for name in "abc"}
    table = comparison({**losses, "same": BASE})
    tested = table.loc[list("abc")]
    smallest = tested["p"].idxmin()
    assert table["family"].tolist() == [3] * 4
    assert tested.loc[smallest, "p_holm"] == pytest.approx(3 * tested.loc[smallest, "p"])
    # Detectable is stated for the level of Holm's first step.
    alone = comparison({"baseline": BASE, "a": losses["a"]}).loc["a", "detectable"]
    assert tested.loc["a", "detectable"] > 1.2 * alone


def test_max_t_is_of_the_tested_comparisons() -> None:
    rng = np.random.default_rng(3)
    base = list(rng.normal(5, 0.1, 8))
    losses = {"baseline": base} | {name: list(base + rng.normal(-0.03, 0.03, 8)) for name in "abc"}
    table = comparison({**losses, "same": base, "gone": [*base[:7], "diverged"]})
    expected = sign_flip_max_t(np.array([np.subtract(losses[name], base) for name in "abc"]))
    assert table.loc[list("abc"), "p_max_t"].tolist() == pytest.approx(expected.tolist())
    assert (table.loc[list("abc"), "p_max_t"] >= table.loc[list("abc"), "p_sign_flip"]).all()
    assert table.loc[["same", "gone"], "p_max_t"].isna().all()


def test_no_difference_can_be_read() -> None:
    row = comparison({"baseline": BASE, "a": [5.02, 5.17, 5.12, 5.02, 5.16]}).loc["a"]
    assert row["verdict"] == f"not resolved (could detect {row['detectable']:.2g} nats)"


def test_identical_is_said_and_not_tested() -> None:
    row = comparison({"baseline": BASE, "a": BASE}).loc["a"]
    assert row["verdict"] == "identical in 5 of 5 seeds"
    assert row["difference"] == 0
    assert row[["p", "p_holm", "p_sign_flip", "sign_flip_floor", "difference_low", *NO_EFFECT_SIZE]].isna().all()
    assert (
        comparison({"baseline": BASE[:1], "a": BASE[:1]}).loc["a", "verdict"] == "n too small (1 of the 3 pairs needed)"
    )


@pytest.mark.parametrize("shift", [0.1, -0.07, 1 / 3])
def test_the_same_difference_in_all_seeds_is_no_proof(shift: float) -> None:
    base = [3.9, 4.2, 7.9, 5.1, 1.7]  # over several powers of two, so that the differences differ by rounding
    a = [x + shift for x in base]
    assert np.std(np.subtract(a, base)) > 0
    row = comparison({"baseline": base, "a": a}).loc["a"]
    assert row["verdict"] == "the same difference in all seeds: no t test exists"
    assert row[["p", "p_holm", "difference_low", *NO_EFFECT_SIZE]].isna().all()
    assert row["difference"] == pytest.approx(shift)


def test_diverged_runs_forbid_a_verdict_from_the_survivors() -> None:
    table = comparison({"baseline": BASE, "a": [1.0, "diverged", 1.1, 1.0, 1.2], "b": [4.0, 4.1, 4.2, 4.0, 4.1]})
    assert table.loc["a", "verdict"] == "diverged in 1 of 5 seeds"
    assert table.loc["a", ["p", "p_holm", *NO_EFFECT_SIZE]].isna().all()
    assert table.loc["b", "family"] == 2  # the sign test of `a` has its share
    broken = comparison({"baseline": [*BASE[:4], "diverged"], "a": [4.0, 4.1, 4.2, 4.0, 4.1]})
    assert broken.loc["a", "verdict"] == "baseline diverged in 1 of 5 seeds"


def test_percent_is_of_perplexity_and_only_from_nats() -> None:
    plan = {"metric": "val_perplexity"}
    row = comparison({"baseline": BASE, "a": [4.9, 5.0, 5.0, 4.85, 5.06]}, plan=plan).loc["a"]
    assert np.isnan(row["percent"])
    assert "nats" not in row["verdict"]
    higher = comparison({"baseline": BASE, "a": [4.9, 5.0, 5.0, 4.85, 5.06]}, plan={**plan, "direction": "max"})
    assert (row["verdict"], higher.loc["a", "verdict"]) == ("better", "worse")


@settings(max_examples=8)
@given(st.lists(st.integers(-50, 50), min_size=3, max_size=6), st.floats(-1, 1), st.randoms(use_true_random=False))
def test_symmetries(differences: list[int], shift: float, random: object) -> None:
    pairs = [(5 + 0.03 * k, 5 + 0.03 * k + d / 100) for k, d in enumerate(differences)]
    order = list(range(len(pairs)))
    random.shuffle(order)  # type: ignore[attr-defined]
    numbers = ["difference", "p", "cohens_d", "hedges_g", "d_z", "p_sign_flip", "detectable"]

    def row(baseline: list[float], a: list[float]) -> pd.Series:
        return comparison({"baseline": baseline, "a": a}).loc["a"]

    base, other = [x for x, _ in pairs], [y for _, y in pairs]
    here = row(base, other)
    if np.std(differences) < 0.5:
        return
    moved = row([x + shift for x in base], [y + shift for y in other])
    shuffled = row([base[i] for i in order], [other[i] for i in order])
    swapped = row(other, base)
    for again in (moved, shuffled):
        assert again[numbers].tolist() == pytest.approx(here[numbers].tolist(), rel=1e-6, abs=1e-9)
    signs = [-1, 1, -1, -1, -1, 1, 1]
    mirrored = [sign * here[name] for sign, name in zip(signs, numbers, strict=True)]
    assert swapped[numbers].tolist() == pytest.approx(mirrored, rel=1e-6, abs=1e-9)


def test_control_identical_within_tolerance_and_alarm() -> None:
    assert negative_control(norm_pair(*BASE)).iloc[0].to_dict() == {
        "scale": "", "cell": "norm", "partner": "baseline", "n": 5, "largest": 0.0, "tolerance": 1e-3,
        "verdict": "identical in 5 of 5 seeds",
    }  # fmt: skip
    near = negative_control(norm_pair(5.0, 5.2, 5.1004, 5.05, 5.15)).iloc[0]
    assert near["largest"] == pytest.approx(4e-4)
    assert near["verdict"] == "within tolerance (0.001 nats): the same model up to rounding"
    far = negative_control(norm_pair(5.0, 5.2, 5.1011, 5.05, 5.15)).iloc[0]
    assert far["verdict"].startswith("ALARM")
    assert "0.0011 nats" in far["verdict"]


def test_control_alarms_when_one_of_a_pair_diverges() -> None:
    table = negative_control(norm_pair(5.0, 5.2, "diverged", 5.05, 5.15))
    assert table["verdict"][0] == "ALARM: only one of the two diverged in 1 of 5 seeds"
    assert negative_control(norm_pair("failed", "failed"))["verdict"][0] == "no common seeds"


def test_the_control_alone_is_not_tested_within_its_tolerance() -> None:
    results = norm_pair(5.0004, 5.2003, 5.1004, 5.0504, 5.1503)
    row = compared(results).iloc[0]
    assert np.isnan(row["p"])
    assert row["verdict"].startswith("within tolerance")
    alarm = norm_pair(*[x + d for x, d in zip(BASE, (0.1, 0.11, 0.1, 0.1, 0.1), strict=True)])
    assert compared(alarm)["verdict"][0] == "worse"


def test_a_control_whose_levels_are_tuned_apart_is_tested_like_any_other() -> None:
    results = norm_pair(5.0004, 5.2003, 5.1004, 5.0504, 5.1503)
    apart = dataclasses.replace(results, plan={"negative_control": {"factor": "norm", "tolerance_nats": None}})
    assert negative_control(apart).empty
    assert compared(apart)["p"].notna().all()


def test_every_cell_with_the_control_on_has_its_own_partner() -> None:
    losses, levels = factorial_losses(("moe", "norm", "mlp"), 2, lambda level, seed: 5 + seed + level["moe"])
    table = negative_control(make_results(losses, levels=levels, plan=CONTROL))
    assert list(table.columns) == list(CONTROL_COLUMNS)
    assert dict(zip(table["cell"], table["partner"], strict=True)) == {
        "norm": "baseline", "norm_mlp": "mlp", "moe_norm": "moe", "moe_norm_mlp": "moe_mlp",
    }  # fmt: skip
    assert negative_control(make_results(losses, levels=levels)).empty
    with pytest.raises(AnalysisError, match="'gain' is no factor"):
        negative_control(
            make_results(losses, levels=levels, plan={"negative_control": {"factor": "gain", "tolerance_nats": 0}})
        )


def test_contributions_are_the_cells_with_one_factor_on() -> None:
    losses, levels = factorial_losses(("a", "b"), 3, lambda level, seed: 5 - 0.1 * level["a"] * (1 + 0.1 * seed))
    results = make_results(losses, levels=levels)
    accuracy = {("a", 0): 0.30, ("a", 1): 0.27, ("a", 2): 0.27}
    for (cell, seed), value in accuracy.items():
        results.runs.loc[(results.runs["cell"] == cell) & (results.runs["seed"] == seed), "val_accuracy"] = value
    table = contributions(results, compared(results))
    assert list(table.columns) == list(CONTRIBUTION_COLUMNS)
    assert table["factor"].tolist() == table["cell"].tolist() == ["b", "a"]
    row = table.set_index("factor").loc["a"]
    assert row["difference"] == pytest.approx(-0.11)
    assert row["accuracy_change"] == pytest.approx(0.03)  # against 0.25
    assert changed_factors(results, "a_b", "baseline") == ["a", "b"]


def test_the_accuracy_of_a_component_is_of_the_seeds_that_its_difference_is_of() -> None:
    losses = {"baseline": [*BASE, 5.1, 5.1], "a": [loss - 0.1 - 0.01 * loss for loss in [*BASE, 5.1, 5.1]]}
    plan = registered(list(losses), primary="a", amendments=[added("seeds", [5, 6], ended=10)])
    results = make_results(losses, plan={**plan, "factors": ["variant"]})
    results.runs.loc[(results.runs["cell"] == "a") & (results.runs["seed"] >= 5), "val_accuracy"] = 1.0
    (row,) = contributions(results, compared(results)).to_dict("records")
    assert (row["n"], row["plan"], row["accuracy_change"]) == (5, "primary", 0.0)


SHIFTS = {"a": 0.1, "b": 0.2, "c": -0.1}
FAMILY = {name: [loss + shift * (1 + i) for i, loss in enumerate(BASE)] for name, shift in SHIFTS.items()}


def test_comparisons_that_are_still_to_come_have_their_share_of_the_error() -> None:
    """What is found while other cells train must not be lost again when they have ended."""
    waiting: dict[str, list] = {"baseline": BASE, "a": FAMILY["a"], "b": FAMILY["b"], "c": [None] * 5}
    begun = {**waiting, "c": FAMILY["c"][:1]}
    whole = {**waiting, "c": FAMILY["c"]}
    failed = {**waiting, "c": ["failed"] * 5}  # to be tried again
    for losses in (waiting, begun, failed, whole):
        table = comparison(losses, plan=registered(list(losses), primary=None))
        assert set(table.loc[["a", "b"], "family"]) == {3}
        p = table.loc[["a", "b"], "p"]
        assert (table.loc[["a", "b"], "p_holm"] >= 3 * p.min()).all()
        a = table.loc["a"]
        ends = t_interval(a["difference"], a["sd_difference"], 5, level=1 - 0.05 / 3)
        assert (a["simultaneous_low"], a["simultaneous_high"]) == pytest.approx(ends)
    alone = comparison(waiting)  # nothing says that anything is to come
    assert set(alone.loc[["a", "b"], "family"]) == {2}


def test_equivalence_too_leaves_room_for_comparisons_that_are_still_to_come() -> None:
    near: dict[str, list] = {
        "baseline": BASE,
        "a": [x + y for x, y in zip(BASE, (1e-3, -1e-3, 2e-3, 0, 0), strict=True)],
    }
    waiting, alone = (
        comparison(losses, plan=registered(list(losses), primary=None, equivalence_margin=0.0045))
        for losses in ({**near, "b": [None] * 5, "c": [None] * 5}, near)
    )
    assert waiting.loc["a", "p_equivalence"] == pytest.approx(3 * alone.loc["a", "p_equivalence"])
    assert waiting.loc["a", "showable_margin"] > alone.loc["a", "showable_margin"]


def test_comparisons_of_diverged_runs_have_their_share_of_the_error() -> None:
    table = comparison({"baseline": BASE, **FAMILY, "c": ["diverged", *FAMILY["c"][1:]]})
    assert set(table.loc[["a", "b"], "family"]) == {3}
    assert table.loc[["a", "b"], "p_holm"].min() == pytest.approx(3 * table["p"].min())
    block = np.array([BASE, FAMILY["a"], FAMILY["b"]])
    variance, df = pooled_residual(block)
    t = abs(block[1] - block[0]).mean() / np.sqrt(2 * variance / 5)
    assert table.loc["a", "p_joint"] == pytest.approx(1 - float(dunnett_cdf(t, 3, df)))
    assert table.loc["a", "joint_family"] == 3


def test_family_wise_error_is_held() -> None:
    """Under no difference at all, 6 comparisons with a common baseline: some rejection in at most 5 % of studies."""
    rng = np.random.default_rng(0)
    cells = ["baseline", *"abcdef"]
    levels = {
        f"{cell}@{study}": {"variant": place, "scale": study}
        for study, (place, cell) in itertools.product(range(200), enumerate(cells))
    }
    losses = {}
    for study in range(200):
        seeds = rng.normal(5, 0.05, 5)
        losses |= {f"{cell}@{study}": list(seeds + rng.normal(0, 0.02, 5)) for cell in cells}
    results = make_results(losses, levels=levels, baseline=lambda cell: f"baseline@{cell.split('@')[1]}")
    table = compared(results)
    rejected = table.groupby("scale")["p"].min() * 6 <= 0.05
    assert rejected.mean() <= 0.095  # 5 % and three standard errors of 200 studies
    assert table["p"].le(0.05).mean() == pytest.approx(0.05, abs=0.02)
    # All 1,200 comparisons of one report are one family.
    assert table["family"].eq(1200).all()
