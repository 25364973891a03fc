"""Equivalence: "no difference" as a finding, within a margin that was declared beforehand."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.weightstats import ttost_paired

from analysis.comparing.equivalence import showable_margin, tost
from analysis.comparing.equivalence import verdict as verdict_of
from analysis.errors import AnalysisError
from analysis.reporting.narrative import verdict
from analysis.reporting.report import results_json
from analysis.statistics.significance import t_interval
from analysis.summary import analyse
from tests.fakes_results import make_results

BASE = [5.00, 5.20, 5.10, 5.05, 5.15, 5.12]
NEAR = [x + d for x, d in zip(BASE, (0.001, -0.001, 0.002, -0.002, 0.001, 0.0), strict=True)]
FAR = [x + d for x, d in zip(BASE, (0.1, -0.1, 0.2, -0.2, 0.1, 0.0), strict=True)]
CLEAR = [x - 0.2 + d for x, d in zip(BASE, (0.01, -0.01, 0.02, -0.02, 0.01, 0.0), strict=True)]
LOSSES = {"baseline": BASE, "near": NEAR, "far": FAR, "clear": CLEAR}


def compared(margin: object = None, losses: dict = LOSSES, **plan: object) -> pd.DataFrame:
    plan = plan if margin is None else {**plan, "equivalence_margin": margin}
    return analyse(make_results(losses, plan=plan)).comparisons.set_index("cell")


def test_agrees_with_statsmodels() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(0.2, 1, (2, 9))
    d = x - y
    for margin in (0.1, 0.8, 3.0):
        expected = ttost_paired(x, y, -margin, margin)[0]
        assert tost(d.mean(), d.std(ddof=1), 9, margin) == pytest.approx(expected, abs=1e-10)


@given(st.floats(-2, 2), st.floats(0.1, 2), st.integers(2, 12), st.floats(0.01, 4))
def test_equivalent_at_5_percent_is_a_90_percent_interval_within_the_margin(
    mean: float, sd: float, n: int, margin: float
) -> None:
    low, high = t_interval(mean, sd, n, level=0.9)
    if min(abs(margin - abs(low)), abs(margin - abs(high))) > 1e-9:
        assert (tost(mean, sd, n, margin) <= 0.05) == (-margin < low and high < margin)


def test_no_difference_becomes_a_finding_within_the_margin() -> None:
    table = compared(0.01)
    assert table.loc["near", "verdict"] == "equivalent within \u00b10.01 nats"
    assert table.loc["far", "verdict"].startswith("not resolved")
    assert "better" in table.loc["clear", "verdict"]
    assert table.loc["near", "p_equivalence"] == pytest.approx(  # Holm: the smallest of three
        3 * tost(table.loc["near", "difference"], table.loc["near", "sd_difference"], 6, 0.01)
    )


@pytest.mark.parametrize(("p", "equivalent"), [(0.049, True), (0.05, True), (0.051, False), (float("nan"), False)])
def test_equivalence_is_claimed_at_5_percent(p: float, equivalent: bool) -> None:
    row = {"verdict": "not resolved (could detect 0.1 nats)", "p_equivalence": p}
    assert verdict_of(row, 0.01).startswith("equivalent") == equivalent


def test_a_clear_difference_is_not_called_equivalent_however_wide_the_margin() -> None:
    assert "better" in compared(10.0).loc["clear", "verdict"]


@pytest.mark.parametrize("plan", [{}, {"margin": 0.01}, {"margin": 0.01, "metric": "val_accuracy"}])
def test_without_a_margin_in_the_metrics_unit_nothing_is_said(plan: dict) -> None:
    table = compared(**plan)
    if "metric" in plan or "margin" not in plan:
        assert table["p_equivalence"].isna().all()
        assert not table["verdict"].str.startswith("equivalent").any()
    else:
        assert table["p_equivalence"].notna().all()


@pytest.mark.parametrize("margin", [0, -0.1, float("inf"), float("nan"), "0.01", True])
def test_a_margin_that_is_none_is_refused_in_one_line(margin: object) -> None:
    with pytest.raises(AnalysisError, match=r"equivalence_margin of the plan is .* positive number of nats"):
        compared(margin)


def test_the_simultaneous_interval_is_bonferronis() -> None:
    row = compared().loc["far"]
    half = stats.t.isf(0.05 / 3 / 2, 5) * row["sd_difference"] / 6**0.5
    ends = row["difference"] - half, row["difference"] + half
    assert (row["simultaneous_low"], row["simultaneous_high"]) == pytest.approx(ends)
    untested = compared(losses={**LOSSES, "same": BASE}).loc["same"]
    assert untested[["simultaneous_low", "simultaneous_high", "p_equivalence"]].isna().all()


def test_it_stands_in_the_words_and_in_the_data() -> None:
    results = make_results(LOSSES, plan={"equivalence_margin": 0.01})
    analysis = analyse(results)
    findings = {finding.kind: dict(finding.cells) for finding in verdict(results, analysis)[""]}
    assert findings["equivalent"]["near"].endswith("equivalent within \u00b10.01 nats")
    assert "interval of all together [" in findings["not resolved"]["far"]
    rows = {row["cell"]: row for row in results_json(results, analysis)["comparisons"]}
    assert rows["near"]["p_equivalence"] <= 0.05
    json.dumps(rows, allow_nan=False)


@pytest.mark.parametrize(("n", "level"), [(3, 0.05), (5, 0.05 / 15), (10, 0.05)])
def test_what_could_be_shown_is_shown_with_that_power(n: int, level: float) -> None:
    margin = float(showable_margin(n, level))
    d = np.random.default_rng(0).normal(0, 1, size=(40_000, n))
    p = tost(d.mean(1), d.std(1, ddof=1), n, margin)
    assert (p <= level).mean() == pytest.approx(0.8, abs=0.0066)  # 99.9 %


def test_many_pairs_need_the_margin_of_normal_theory() -> None:
    expected = (stats.norm.isf(0.05) + stats.norm.isf(0.1)) / 10**3
    assert showable_margin([10**6, 1], 0.05) == pytest.approx([expected, float("nan")], rel=1e-3, nan_ok=True)


def test_too_few_seeds_for_the_margin_are_said_and_are_no_difference() -> None:
    results = make_results(LOSSES, plan={"equivalence_margin": 0.01})
    analysis = analyse(results)
    table = analysis.comparisons.set_index("cell")
    assert table.loc["near", "showable_margin"] < 0.01 < table.loc["far", "showable_margin"]
    expected = table.loc["far", "sd_difference"] * float(showable_margin(6, 0.05 / 3))
    assert table.loc["far", "showable_margin"] == pytest.approx(expected)
    findings = {finding.kind: dict(finding.cells) for finding in verdict(results, analysis)[""]}
    assert findings["not resolved"]["far"].endswith("too few seeds to show none within \u00b10.01")
    (note,) = (note for note in analysis.notes if note.startswith("too few seeds for the margin"))
    assert "in 1 of 1 comparisons" in note
    assert "says nothing about a difference" in note
    wide = make_results(LOSSES, plan={"equivalence_margin": 5.0})
    assert not any("too few seeds" in note for note in analyse(wide).notes)
    assert compared()["showable_margin"].isna().all()


def test_families_of_differences_at_the_margin_are_rarely_called_equivalent() -> None:
    """Three comparisons whose true difference is the margin: any called equivalent in at most 5 % of studies."""
    d = np.random.default_rng(0).normal(0.5, 1, size=(20_000, 3, 8))
    p = tost(d.mean(2), d.std(2, ddof=1), 8, 0.5)
    assert (3 * p.min(axis=1) <= 0.05).mean() <= 0.05 + 0.0047
