"""Effects of whole factors: one contrast a seed, and none where the grid has a hole."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from analysis import text
from analysis.factors.factorial import MAIN_EFFECT_COLUMNS, main_effects
from analysis.factors.interactions import INTERACTION_COLUMNS, interactions
from analysis.factors.shapley import SHAPLEY_COLUMNS, TOTAL, shapley, shapley_weights
from analysis.figures.plots import contributions_figure
from analysis.reporting.render import content, markdown
from analysis.reporting.tables import tables
from analysis.statistics.design import standard_fraction
from analysis.summary import analyse
from tests.fakes_plan import added, registered
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


def test_an_effect_within_the_margin_is_a_finding_and_a_sum_of_interactions_is_none() -> None:
    noise = np.random.default_rng(4).normal(0, 1e-4, (64, 6))
    losses, levels = factorial_losses(
        tuple("abcdef"), 6, lambda level, seed: 5 + float(noise[int("".join(map(str, level.values())), 2), seed])
    )
    fraction = standard_fraction(tuple("abcdef"))
    chosen = ["_".join(f for f in "abcdef" if level[f]) or "baseline" for level in fraction.cells()]
    plan = {"factorial": True, "fraction": fraction.to_json(), "equivalence_margin": 0.01}
    results = make_results(
        {cell: losses[cell] for cell in chosen}, levels={cell: levels[cell] for cell in chosen}, plan=plan
    )
    table, _ = main_effects(results)
    is_sum = table["kind"] == "aliased interactions"
    assert 0 < is_sum.sum() < len(table)
    assert set(table.loc[~is_sum, "verdict"]) == {"equivalent within \u00b10.01 nats"}
    assert table.loc[is_sum, "verdict"].str.startswith("not resolved").all()
    contrasts = results.finished("val_loss")
    a = contrasts[[levels[cell]["a"] == 1 for cell in contrasts.index]].mean()
    a = a - contrasts[[levels[cell]["a"] == 0 for cell in contrasts.index]].mean()
    row = table.set_index("effect").loc["a"]
    interval = stats.t.interval(1 - 0.05 / len(table), 5, a.mean(), stats.sem(a))
    assert (row["simultaneous_low"], row["simultaneous_high"]) == pytest.approx(interval, abs=1e-9)
    analysis = analyse(results)
    shown = tables(results, analysis)["main_effects"]
    # Not one cell has a single factor on: the figure of contributions has no section of its own.
    written = markdown(content(results, analysis), ["contributions"])
    assert "one at a time" not in written
    assert "contributions.png" in written.partition("## Components, averaged over the others")[2]
    figure = contributions_figure(results, analysis)
    assert figure is not None
    assert [axes.get_title(loc="left") or axes.get_title() for axes in figure.axes] == [
        "averaged over the other components"
    ]
    assert text.interval(*interval, sign=True) in shown.rows[table["effect"].tolist().index("a")]


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


@pytest.mark.parametrize("effects_planned", [0, 10])
def test_cells_that_nobody_asked_for_are_not_missed(effects_planned: int) -> None:
    full, _ = factorial_losses(FACTORS, 4, truth)
    chosen = {cell: full[cell] for cell in ("baseline", "attention", "mlp")}
    plan = {**FACTORIAL, **registered(tuple(chosen), effects=effects_planned)}
    del plan["cells"]
    table, notes = effects(plan, chosen)
    assert table.empty
    assert bool(notes) == bool(effects_planned)


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
    plan["negative_control"] = {"factor": "norm", "tolerance_nats": None}  # its two levels are tuned apart
    apart, _ = main_effects(make_results(losses, levels=levels, plan=plan))
    assert apart.set_index("effect").loc["norm", "p"] < 0.05


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


def test_effects_that_rest_on_added_seeds_are_exploratory_and_those_of_another_scale_are_not() -> None:
    """Of three planned seeds the cells at `large` had three more, after results were known."""
    levels = {
        f"{cell}@{scale}": {"a": a, "scale": scale} for scale in ("small", "large") for a, cell in enumerate("ba")
    }
    losses = {
        name: [round(4 + 0.1 * seed + 0.01 * (seed % 2) * level["a"] - 0.1 * level["a"], 6) for seed in range(count)]
        for name, level in levels.items()
        for count in [6 if level["scale"] == "large" else 3]
    }
    plan = registered(list(losses), n=3, primary=None, effects=2, amendments=[added("seeds", [3, 4, 5], ended=12)])
    results = make_results(
        losses, levels=levels, plan=FACTORIAL | plan | {"cells": []}, baseline=lambda cell: f"b{cell[1:]}"
    )
    table = analyse(results).main_effects.set_index("scale")
    assert table["n_tested"].tolist() == [3, 3]
    assert table.loc["small", "plan"] == "planned"
    assert table.loc["large", "plan"] == "exploratory: seeds were added after the plan"


def test_another_baseline_does_not_turn_an_effect_round() -> None:
    losses, levels = factorial_losses(FACTORS, 4, truth)
    usual, _ = main_effects(make_results(losses, levels=levels, plan=FACTORIAL))
    other, _ = main_effects(make_results(losses, levels=levels, plan=FACTORIAL, baseline="attention"))
    pd.testing.assert_frame_equal(usual, other)


# --- the pooled interval ---


def test_the_pooled_interval_is_that_of_least_squares() -> None:
    table, _ = effects(FACTORIAL)
    losses, levels = factorial_losses(FACTORS, 4, truth)
    coded = pd.DataFrame(
        [{**levels[c], "y": y, "seed": s} for c, values in losses.items() for s, y in enumerate(values)]
    )
    coded[list(FACTORS)] = 2 * coded[list(FACTORS)] - 1
    fit = smf.ols(f"y ~ ({' * '.join(FACTORS)}) + C(seed)", coded).fit()
    interval = fit.conf_int()
    for effect, term, halves in (("attention", "attention", 2), ("mlp", "mlp", 2), ("mlp x moe", "mlp:moe", 4)):
        row = table.loc[effect]
        assert (row["pooled_low"], row["pooled_high"]) == pytest.approx(tuple(halves * interval.loc[term]), abs=1e-9)
        assert row["pooled_df"] == fit.df_resid == 15 * 3


def test_one_model_in_two_cells_counts_once_in_the_pooled_interval() -> None:
    """With the control off or on the grid of 16 is one of 8, and no more is known about attention."""
    losses, levels = factorial_losses(FACTORS, 5, lambda level, seed: truth({**level, "norm": 0}, seed))
    half = {cell: values for cell, values in losses.items() if not levels[cell]["norm"]}
    table, _ = effects(FACTORIAL, losses)
    others = {cell: {f: level for f, level in levels[cell].items() if f != "norm"} for cell in half}
    alone, _ = main_effects(make_results(half, levels=others, plan=FACTORIAL))
    alone = alone.set_index("effect")
    ends = ["pooled_low", "pooled_high", "pooled_df"]
    for effect in ("attention", "mlp x moe"):
        assert table.loc[effect, ends].tolist() == pytest.approx(alone.loc[effect, ends].tolist())
    assert table.loc["norm", ends].isna().all()


def test_simultaneous_intervals_share_the_level() -> None:
    table, _ = effects(FACTORIAL)
    row = table.loc["attention"]
    losses, levels = factorial_losses(FACTORS, 4, truth)
    contrast = np.mean([(1 if levels[c]["attention"] else -1) * np.array(v) for c, v in losses.items()], axis=0) * 2
    interval = stats.ttest_1samp(contrast, 0).confidence_interval(1 - 0.05 / 10)
    assert (row["simultaneous_low"], row["simultaneous_high"]) == pytest.approx((interval.low, interval.high), abs=1e-8)


# --- Shapley values ---


def shapley_by_orders(losses: dict[str, list[float]], levels: dict[str, dict[str, int]]) -> dict[str, np.ndarray]:
    """By the definition: what each factor changes when it comes, averaged over all orders."""
    cells = {tuple(level.values()): np.array(losses[cell]) for cell, level in levels.items()}
    factors = list(next(iter(levels.values())))
    orders = list(itertools.permutations(range(len(factors))))
    found = {factor: np.zeros(len(cells[(0,) * len(factors)])) for factor in factors}
    for order in orders:
        on = [0] * len(factors)
        for place in order:
            before = cells[tuple(on)]
            on[place] = 1
            found[factors[place]] += (cells[tuple(on)] - before) / len(orders)
    return found


def test_shapley_values_are_the_average_over_all_orders() -> None:
    rng = np.random.default_rng(0)
    losses, levels = factorial_losses(FACTORS, 5, lambda level, seed: rng.normal(5, 1))
    table = shapley(make_results(losses, levels=levels, plan=FACTORIAL)).set_index("factor")
    assert [*table.columns] == [name for name in SHAPLEY_COLUMNS if name != "factor"]
    for factor, by_seed in shapley_by_orders(losses, levels).items():
        row = table.loc[factor]
        interval = stats.ttest_1samp(by_seed, 0).confidence_interval()
        assert row["shapley"] == pytest.approx(by_seed.mean(), abs=1e-12)
        assert (row["shapley_low"], row["shapley_high"]) == pytest.approx((interval.low, interval.high), abs=1e-10)
    everything = np.subtract(losses["attention_norm_mlp_moe"], losses["baseline"])
    assert table.loc[TOTAL, "shapley"] == pytest.approx(everything.mean())
    assert table.loc[list(FACTORS), "shapley"].sum() == pytest.approx(everything.mean(), abs=1e-12)


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.integers(2, 5))
def test_without_three_way_terms_shapley_values_are_the_main_effects(seed: int, k: int) -> None:
    """v(S) = sum of a_i and b_ij over S: both are a_i plus half of its b_ij, by seed, to 1e-12."""
    rng = np.random.default_rng(seed)
    names = tuple("abcde"[:k])
    single, pair, block = rng.normal(size=(3, k)), rng.normal(size=(3, k, k)), rng.normal(size=3)

    def value(level: dict[str, int], s: int) -> float:
        x = np.array([level[name] for name in names])
        return float(5 + block[s] + single[s] @ x + x @ np.triu(pair[s], 1) @ x)

    losses, levels = factorial_losses(names, 3, value)
    results = make_results(losses, levels=levels, plan=FACTORIAL)
    table = shapley(results).set_index("factor").loc[list(names)]
    assert table["shapley"].tolist() == pytest.approx(table["main_effect"].tolist(), abs=1e-12)
    symmetric = np.triu(pair, 1) + np.triu(pair, 1).transpose(0, 2, 1)
    expected = single + symmetric.sum(axis=2) / 2
    assert table["shapley"].tolist() == pytest.approx(expected.mean(axis=0).tolist(), abs=1e-12)
    half = stats.t.ppf(0.975, 2) * expected.std(axis=0, ddof=1) / math.sqrt(3)
    assert (table["shapley_high"] - table["shapley"]).tolist() == pytest.approx(half.tolist(), abs=1e-10)


def test_a_three_way_term_is_where_the_two_differ() -> None:
    """A loss of 12 that only all three together have: a third each of it is 4, and a quarter of the grid sees it: 3."""
    losses, levels = factorial_losses(
        ("a", "b", "c"), 2, lambda level, seed: 5 + seed + 12.0 * (sum(level.values()) == 3)
    )
    table = shapley(make_results(losses, levels=levels, plan=FACTORIAL)).set_index("factor")
    assert table["shapley"].tolist() == pytest.approx([4, 4, 4, 12])
    assert table["main_effect"].tolist()[:3] == pytest.approx([3, 3, 3])
    assert table["shapley_low"].isna().all()


def test_shapley_weights_by_hand() -> None:
    on = np.array([[0, 0], [1, 0], [0, 1], [1, 1]], dtype=bool)
    assert shapley_weights(on).tolist() == [[-0.5, 0.5, -0.5, 0.5], [-0.5, -0.5, 0.5, 0.5]]


@pytest.mark.parametrize("plan", [LEVELS, {"factorial": False}])
def test_no_shapley_values_without_a_full_orthogonal_grid(plan: dict[str, Any]) -> None:
    losses, levels = factorial_losses(FACTORS, 4, truth)
    assert shapley(make_results(losses, levels=levels, plan=plan)).empty
    broken = {cell: values for cell, values in losses.items() if cell != "mlp"}
    chosen = {cell: levels[cell] for cell in broken}
    assert shapley(make_results(broken, levels=chosen, plan=FACTORIAL)).empty


# --- interaction plots ---


def test_means_of_each_combination() -> None:
    losses, levels = factorial_losses(FACTORS, 4, truth)
    table = interactions(make_results(losses, levels=levels, plan=FACTORIAL))
    assert list(table.columns) == list(INTERACTION_COLUMNS)
    assert len(table) == 6 * 4
    row = table.set_index(["across", "level", "by", "by_level"]).loc[("mlp", "on", "moe", "off")]
    by_seed = np.mean([v for c, v in losses.items() if (levels[c]["mlp"], levels[c]["moe"]) == (1, 0)], axis=0)
    interval = stats.ttest_1samp(by_seed, 0).confidence_interval()
    expected = (by_seed.mean(), interval.low, interval.high)
    assert (row["mean"], row["mean_low"], row["mean_high"]) == pytest.approx(expected)


def test_the_joined_pair_lies_across() -> None:
    losses, levels = factorial_losses(FACTORS, 4, truth)
    table = interactions(make_results(losses, levels=levels, plan=LEVELS))
    assert set(zip(table["across"], table["by"], strict=True)) == {
        ("attention", "norm"), ("feed_forward", "attention"), ("feed_forward", "norm"),
    }  # fmt: skip
    assert table["n"].eq(4).all()


# --- one at a time against the grid ---


def disagreement(effect: Callable[[dict[str, int]], float]) -> list[str]:
    noise = np.random.default_rng(0).normal(0, 0.005, (4, 6))
    losses, levels = factorial_losses(
        ("a", "b"), 6, lambda level, seed: 5 + effect(level) + noise[2 * level["a"] + level["b"], seed]
    )
    analysis = analyse(make_results(losses, levels=levels, plan=FACTORIAL))
    return [line for line in analysis.notes if "averaged over the grid" in line]


def test_a_component_that_turns_round_in_company_is_a_warning() -> None:
    a, b = disagreement(lambda level: -0.1 * level["a"] + 0.5 * level["a"] * level["b"] + 0.2 * level["b"])
    assert a.startswith("WARNING: a alone against the baseline")
    assert "different signs" in a
    assert "do not overlap" in a
    assert "different signs" not in b  # 0.2 alone, 0.45 on average


def test_a_component_that_does_more_in_company_is_a_warning() -> None:
    lines = disagreement(lambda level: -0.1 * level["a"] - 0.3 * level["a"] * level["b"])
    assert [line.split()[1] for line in lines] == ["a", "b"]  # b does nothing alone
    assert all("different signs" not in line and "do not overlap" in line for line in lines)


def test_additive_components_agree() -> None:
    assert not disagreement(lambda level: -0.1 * level["a"] + 0.2 * level["b"])


def test_a_component_taken_out_is_set_beside_what_taking_it_out_does_on_average() -> None:
    """Leave-one-out: the baseline has all components. Its differences are of the other sign than the grid's."""
    noise = np.random.default_rng(0).normal(0, 0.005, (4, 6))

    def warned(effect: Callable[[Mapping[str, int]], float]) -> tuple[list[str], list[str]]:
        losses, levels = factorial_losses(
            ("a", "b"), 6, lambda level, seed: 5 + effect(level) + noise[2 * level["a"] + level["b"], seed]
        )
        analysis = analyse(make_results(losses, levels=levels, plan=FACTORIAL, baseline="a_b"))
        assert dict(zip(analysis.contributions["cell"], analysis.contributions["factor"], strict=True)) == {
            "b": "without a", "a": "without b",
        }  # fmt: skip
        effects = analysis.main_effects.set_index("effect")["difference"]
        return [line for line in analysis.notes if "averaged over the grid" in line], [f"{-effects['a']:+.4f}"]

    assert warned(lambda level: -0.1 * level["a"] + 0.2 * level["b"])[0] == []
    (line, *_), (average,) = warned(lambda level: 0.1 * level["a"] - 0.4 * level["a"] * level["b"])
    assert line.startswith("WARNING: without a alone against the baseline (+0.29")
    assert f"averaged over the grid ({average} [" in line
    assert "different signs" not in line


def test_a_level_of_the_feed_forward_part_is_set_beside_its_cell_alone() -> None:
    noise = np.random.default_rng(0).normal(0, 0.005, (8, 6))

    def loss(level: Mapping[str, int], seed: int) -> float:
        effect = -0.1 * level["mlp"] + 0.5 * level["mlp"] * level["attention"] - 0.1 * level["moe"]
        return 5 + effect + noise[4 * level["attention"] + 2 * level["mlp"] + level["moe"], seed]

    losses, levels = factorial_losses(("attention", "mlp", "moe"), 6, loss)
    analysis = analyse(make_results(losses, levels=levels, plan=LEVELS))
    lines = [line for line in analysis.notes if "averaged over the grid" in line]
    assert any(line.startswith("WARNING: mlp alone") and "different signs" in line for line in lines)
    assert not any(line.startswith("WARNING: moe alone") for line in lines)
