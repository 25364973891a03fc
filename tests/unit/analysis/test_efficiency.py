"""Efficiency scores follow the formulas that are printed with them."""

from __future__ import annotations

import dataclasses
import math

import pytest

from analysis.comparing.efficiency import EFFICIENCY_COLUMNS, efficiency
from tests.fakes_results import make_results


def test_scores_by_hand() -> None:
    results = make_results({"baseline": [4.0, 5.0]}, train_seconds=120.0, params_total=2e6, peak_memory_bytes=4e9)
    row = efficiency(results, ["baseline"]).iloc[0]
    assert row["score"] == pytest.approx((1 / (2 * 4 * 2) + 1 / (2 * 5 * 2)) / 2)
    assert row["loss_per_million_parameters"] == pytest.approx((4 / 2 + 5 / 2) / 2)
    assert row["loss_per_minute"] == pytest.approx((4 / 2 + 5 / 2) / 2)
    assert row["loss_per_gb"] == pytest.approx((4 / 4 + 5 / 4) / 2)
    assert EFFICIENCY_COLUMNS["score"] == "1 / (minutes x loss x million live parameters)"


def test_the_published_row_follows_its_formula() -> None:
    # The published attention_mlp: 0.65 minutes, loss 0.0364; its table printed 0.056.
    results = make_results({"baseline": [0.0364]}, train_seconds=39.0, params_total=15_585_472)
    assert efficiency(results, ["baseline"])["score"][0] == pytest.approx(2.71, abs=0.005)


@pytest.mark.parametrize("unknown", [math.nan, 0.0])
def test_null_where_a_figure_is_unknown(unknown: float) -> None:
    results = make_results({"baseline": [4.0, 5.0]})
    results.runs.loc[1, "peak_memory_bytes"] = 1e9
    results.runs.loc[0, "train_seconds"] = unknown
    row = efficiency(results, ["baseline"]).iloc[0]
    assert math.isnan(row["loss_per_gb"])
    assert math.isnan(row["score"])
    assert math.isnan(row["loss_per_minute"])
    assert row["loss_per_million_parameters"] == pytest.approx(4.5)


@pytest.mark.parametrize("loss", [0.0, -0.5])
def test_a_loss_that_is_not_positive_has_no_score(loss: float) -> None:
    """Scores of -2 and 2 would average to nothing, and one of 0 is infinite."""
    results = make_results({"baseline": [4.0, 5.0], "a": [4.0, loss]}, peak_memory_bytes=1e9)
    table = efficiency(results, ["baseline", "a"])
    scores = ["score", "loss_per_million_parameters", "loss_per_minute", "loss_per_gb"]
    assert table[scores].notna().all(axis=1).tolist() == [True, False]
    assert table[scores].isna().all(axis=1).tolist() == [False, True]


def test_only_finished_runs_count() -> None:
    table = efficiency(make_results({"baseline": [4.0, "diverged"], "a": ["failed", "failed"]}), ["a", "baseline"])
    assert table["n"].tolist() == [0, 1]
    assert math.isnan(table["score"][0])
    assert table["score"][1] == pytest.approx(0.25)
    assert table["survivors"].tolist() == ["", "diverged in 1 of 2 seeds"]


def test_scores_are_of_live_parameters() -> None:
    results = make_results({"baseline": [4.0, 5.0], "a": [4.0, 5.0]}, train_seconds=120.0, params_total=3e6)
    whole = efficiency(results, ["baseline", "a"])
    none = {(cell, seed): 0 for cell in ("baseline", "a") for seed in (0, 1)}
    assert efficiency(dataclasses.replace(results, params_dead=none), ["baseline", "a"]).equals(whole)
    dead = {**none, ("a", 0): 2_000_000, ("a", 1): 1_000_000}
    row = efficiency(dataclasses.replace(results, params_dead=dead), ["baseline", "a"]).iloc[1]
    # What one seed left unreached by chance was reached in the other: it is as large as there.
    assert row["score"] == pytest.approx((1 / (2 * 4 * 2) + 1 / (2 * 5 * 2)) / 2)
    assert row["loss_per_million_parameters"] == pytest.approx((4 / 2 + 5 / 2) / 2)
    assert row["loss_per_minute"] == whole["loss_per_minute"][1]
