"""Effects of whole factors: one contrast a seed, and none where the grid has a hole."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from scipy import stats

from analysis.factorial import MAIN_EFFECT_COLUMNS, main_effects
from tests.fakes_results import factorial_losses, make_results

FACTORS = ("attention", "norm", "mlp", "moe")
FACTORIAL = {"factorial": True}
LEVELS = {"feed_forward_levels": {"factors": ["mlp", "moe"]}, "factorial": False}


def truth(level: dict[str, int], seed: int) -> float:
    """An additive seed, effects of attention, mlp and moe, and an interaction of the last two."""
    noise = np.random.default_rng([seed, *level.values()]).normal(0, 0.01)
    both = level["mlp"] * level["moe"]
    return 5 + 0.1 * seed - 0.2 * level["attention"] + 0.06 * level["mlp"] + 0.04 * level["moe"] + 0.08 * both + noise


def effects(plan: dict[str, Any], losses: dict | None = None, **options: Any) -> tuple[pd.DataFrame, tuple[str, ...]]:
    full, levels = factorial_losses(FACTORS, 4, truth)
    losses = full if losses is None else losses
    chosen = {cell: levels[cell] for cell in losses}
    table, notes = main_effects(make_results(losses, levels=chosen, plan=plan, **options))
    assert list(table.columns) == list(MAIN_EFFECT_COLUMNS)
    return table.set_index("effect"), notes


def test_effects_of_the_two_by_two_by_hand() -> None:
    losses = {"baseline": [5.0, 6.0, 7.0], "a": [4.0, 5.2, 6.1], "b": [5.5, 6.4, 7.6], "a_b": [4.1, 5.3, 6.2]}
    levels = {"baseline": {"a": 0, "b": 0}, "a": {"a": 1, "b": 0}, "b": {"a": 0, "b": 1}, "a_b": {"a": 1, "b": 1}}
    table, notes = main_effects(make_results(losses, levels=levels, plan=FACTORIAL))
    table = table.set_index("effect")
    a = [(4.0 + 4.1 - 5.0 - 5.5) / 2, (5.2 + 5.3 - 6.0 - 6.4) / 2, (6.1 + 6.2 - 7.0 - 7.6) / 2]
    interaction = [(4.1 - 5.5) - (4.0 - 5.0), (5.3 - 6.4) - (5.2 - 6.0), (6.2 - 7.6) - (6.1 - 7.0)]
    for effect, contrast in (("a", a), ("a x b", interaction)):
        test = stats.ttest_1samp(contrast, 0)
        interval = test.confidence_interval()
        row = table.loc[effect]
        assert row["difference"] == pytest.approx(np.mean(contrast))
        assert row["p"] == pytest.approx(test.pvalue, abs=1e-8)
        assert (row["difference_low"], row["difference_high"]) == pytest.approx((interval.low, interval.high), abs=1e-8)
    assert table.index.tolist() == ["a", "b", "a x b"]
    assert table["kind"].tolist() == ["main effect", "main effect", "interaction"]
    assert not notes


def test_full_grid_agrees_with_effect_coded_regression() -> None:
    table, _ = effects(FACTORIAL)
    losses, levels = factorial_losses(FACTORS, 4, truth)
    rows = [{**levels[cell], "y": y} for cell, values in losses.items() for y in values]
    coded = pd.DataFrame(rows)
    coded[list(FACTORS)] = 2 * coded[list(FACTORS)] - 1
    fit = smf.ols(f"y ~ ({' + '.join(FACTORS)}) ** 4", coded).fit()
    assert len(table) == 4 + 6
    for factor in FACTORS:
        assert table.loc[factor, "difference"] == pytest.approx(2 * fit.params[factor], abs=1e-8)
    # Effect coding halves twice: the difference of differences is four times the coefficient.
    assert table.loc["mlp x moe", "difference"] == pytest.approx(4 * fit.params["mlp:moe"], abs=1e-8)
    assert table.loc["mlp x moe", "verdict"] == "worse together than the sum"
    assert table.loc["attention", "verdict"] == "better"
    assert table["family"].eq(10).all()


def test_default_design_takes_the_feed_forward_pair_as_one_factor() -> None:
    table, notes = effects(LEVELS)
    assert table.index.tolist() == [
        "attention", "norm", "feed_forward: moe vs neither", "feed_forward: mlp vs neither",
        "feed_forward: both vs neither",
    ]  # fmt: skip
    assert table["kind"].tolist() == ["main effect"] * 2 + ["level"] * 3
    losses, levels = factorial_losses(FACTORS, 4, truth)

    def mean(mlp: int, moe: int) -> np.ndarray:
        return np.mean([v for c, v in losses.items() if (levels[c]["mlp"], levels[c]["moe"]) == (mlp, moe)], axis=0)

    both = mean(1, 1) - mean(0, 0)
    row = table.loc["feed_forward: both vs neither"]
    assert row["difference"] == pytest.approx(both.mean())
    assert row["p"] == pytest.approx(stats.ttest_1samp(both, 0).pvalue, abs=1e-8)
    assert row["difference"] == pytest.approx(0.18, abs=0.02)
    assert not notes


def test_none_without_a_design_that_gives_them_a_meaning() -> None:
    table, notes = effects({"factorial": False, "feed_forward_levels": None})
    assert table.empty
    assert not notes


@pytest.mark.parametrize("plan", [FACTORIAL, LEVELS])
def test_a_missing_cell_is_named_and_there_are_no_effects(plan: dict[str, Any]) -> None:
    losses, _ = factorial_losses(FACTORS, 4, truth)
    losses.pop("attention_mlp")
    table, (note,) = effects(plan, losses)
    assert table.empty
    assert "complete grid" in note
    assert "1 of its cells" in note
    assert "attention on" in note
    assert "norm off" in note
    assert "mlp on" in note or "feed_forward mlp" in note


def test_a_level_of_the_pair_that_no_cell_has() -> None:
    losses, levels = factorial_losses(FACTORS, 4, truth)
    table, (note,) = effects(LEVELS, {c: v for c, v in losses.items() if not (levels[c]["mlp"] and levels[c]["moe"])})
    assert table.empty
    assert "4 of its cells are missing" in note
    assert "feed_forward both" in note


def test_diverged_and_unfinished_cells() -> None:
    losses, _ = factorial_losses(FACTORS, 4, truth)
    table, (note,) = effects(FACTORIAL, {**losses, "mlp": [5.0, "diverged", 5.2, 5.3]})
    assert table.empty
    assert "diverged in mlp" in note
    table, (note,) = effects(FACTORIAL, {**losses, "mlp": ["failed"] * 4})
    assert table.empty
    assert "no valid run finished in mlp" in note
    table, (note,) = effects(FACTORIAL, {**losses, "mlp": [5.0, "failed", 5.2, 5.3]})
    assert table["n"].eq(3).all()
    assert "3 of 4 seeds" in note


def test_three_levels_are_no_two() -> None:
    losses, levels = factorial_losses(("a", "b"), 3, lambda level, seed: 5.0 + seed)
    levels["a"] = {"a": 2, "b": 0}
    table, (note,) = main_effects(make_results(losses, levels=levels, plan=FACTORIAL))
    assert table.empty
    assert "factor a needs two levels but has 3" in note


def test_the_control_is_identical_to_the_last_bit() -> None:
    losses, levels = factorial_losses(FACTORS, 40, lambda level, seed: truth({**level, "norm": 0}, seed))
    # In a plan's order, by the number of factors that are on, the sums of the partners do not cancel to the last bit.
    losses = {cell: losses[cell] for cell in sorted(losses, key=lambda cell: sum(levels[cell].values()))}
    table, _ = main_effects(make_results(losses, levels=levels, plan=FACTORIAL))
    table = table.set_index("effect")
    assert table.loc["norm", "verdict"] == table.loc["norm x mlp", "verdict"] == "identical in 40 of 40 seeds"
    assert table.loc["norm", "difference"] == 0
    assert np.isnan(table.loc["norm", "p"])
    assert table["family"].eq(6).all()


def test_the_control_within_its_tolerance_is_not_tested() -> None:
    def nearly(level: dict[str, int], seed: int) -> float:
        return truth({**level, "norm": 0}, seed) + level["norm"] * (1e-5 + 1e-6 * seed)

    losses, levels = factorial_losses(FACTORS, 5, nearly)
    plan = {**FACTORIAL, "negative_control": {"factor": "norm", "tolerance_nats": 1e-3}}
    table, _ = main_effects(make_results(losses, levels=levels, plan=plan))
    table = table.set_index("effect")
    assert table.loc["norm", "verdict"].startswith("within tolerance")
    assert np.isnan(table.loc["norm", "p"])
    assert table.loc["attention", "verdict"] == "better"


def test_effects_are_within_a_scale() -> None:
    levels = {
        f"{cell}@{scale}": {"a": a, "scale": scale}
        for scale in ("small", "large")
        for a, cell in enumerate(("baseline", "a"))
    }
    losses = {"baseline@small": [5.0, 5.1, 5.2], "a@small": [4.0, 4.2, 4.1]}
    losses |= {"baseline@large": [1.0, 1.1, 1.2], "a@large": [2.0, 2.3, 2.1]}
    results = make_results(
        losses, levels=levels, plan=FACTORIAL, baseline=lambda cell: f"baseline@{cell.split('@')[1]}"
    )
    table, _ = main_effects(results)
    assert table["scale"].tolist() == ["small", "large"]
    assert table["difference"].tolist() == pytest.approx([-1.0, 1.0333333333])


def test_another_baseline_does_not_turn_an_effect_round() -> None:
    losses, levels = factorial_losses(FACTORS, 4, truth)
    usual, _ = main_effects(make_results(losses, levels=levels, plan=FACTORIAL))
    other, _ = main_effects(make_results(losses, levels=levels, plan=FACTORIAL, baseline="attention"))
    pd.testing.assert_frame_equal(usual, other)
