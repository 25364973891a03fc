"""The joint analysis agrees with scipy and with Dunnett's tables, and counts every model once."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.formula.api import ols

from analysis.reporting.narrative import verdict
from analysis.statistics.joint import JOINT_COLUMNS, dunnett_cdf, dunnett_critical, pooled_residual
from analysis.summary import analyse
from tests.fakes_results import factorial_losses, make_results

DUNNETT_1964 = {(5, 2): 3.03, (5, 4): 3.48, (10, 3): 2.76, (10, 5): 2.99, (20, 2): 2.38, (20, 5): 2.73}
"""(df, comparisons) -> two-sided 5 % point, from Dunnett's tables (Biometrics 20)."""


def study(cells: int, seeds: int, effect: float = 0.0, seed: int = 0) -> dict[str, list[float]]:
    rng = np.random.default_rng(seed)
    values = 5 + rng.normal(0, 0.1, seeds) + rng.normal(0, 0.02, (cells, seeds))
    values[1:] -= effect
    return {"baseline" if cell == 0 else f"c{cell}": list(row) for cell, row in enumerate(values)}


def joint(losses: dict, **options: object) -> pd.DataFrame:
    return analyse(make_results(losses, **options)).comparisons.set_index("cell")  # type: ignore[arg-type]


@pytest.mark.parametrize(("df", "comparisons"), DUNNETT_1964)
def test_critical_values_are_dunnetts(df: int, comparisons: int) -> None:
    assert dunnett_critical(comparisons, df) == pytest.approx(DUNNETT_1964[df, comparisons], abs=6e-3)


@pytest.mark.parametrize(("groups", "size"), [(2, 4), (5, 3), (8, 6)])
def test_agrees_with_scipys_dunnett_for_independent_groups(groups: int, size: int) -> None:
    rng = np.random.default_rng(groups)
    control, *others = rng.normal(size=(groups + 1, size))
    found = stats.dunnett(*others, control=control, random_state=np.random.default_rng(0))
    p = 1 - dunnett_cdf(np.abs(found.statistic), groups, (groups + 1) * (size - 1))
    assert p == pytest.approx(found.pvalue, abs=1e-3)


@pytest.mark.parametrize("df", [2, 4, 28, 400])
def test_one_comparison_is_the_t_test(df: int) -> None:
    t = np.array([0.2, 1.0, 3.0, 8.0])
    assert 1 - dunnett_cdf(t, 1, df) == pytest.approx(2 * stats.t.sf(t, df), abs=1e-6)
    assert dunnett_critical(1, df) == stats.t.isf(0.025, df)


@settings(max_examples=25)
@given(st.integers(2, 30), st.integers(2, 9), st.floats(0.001, 0.2))
def test_the_critical_value_lies_between_one_comparison_and_bonferroni(k: int, more: int, alpha: float) -> None:
    df = k * more
    critical = dunnett_critical(k, df, alpha)
    assert stats.t.isf(alpha / 2, df) < critical < stats.t.isf(alpha / k / 2, df)
    assert 1 - dunnett_cdf(critical, k, df) == pytest.approx(alpha, abs=1e-9)
    assert dunnett_critical(k + 1, df, alpha) > critical


def test_the_residual_is_that_of_least_squares() -> None:
    table = pd.DataFrame(study(4, 3)).melt(var_name="cell", value_name="loss").assign(seed=[0, 1, 2] * 4)
    fit = ols("loss ~ C(cell) + C(seed)", table).fit()
    variance, df = pooled_residual(np.array(list(study(4, 3).values())))
    assert df == fit.df_resid
    assert variance == pytest.approx(fit.mse_resid)


def test_a_row_by_hand() -> None:
    losses = study(3, 4, effect=0.03)
    values = np.array(list(losses.values()))
    variance, df = pooled_residual(values)
    error, difference = np.sqrt(2 * variance / 4), values[1].mean() - values[0].mean()
    row = joint(losses).loc["c1"]
    assert row["joint_family"] == 2
    assert row["p_joint"] == pytest.approx(1 - float(dunnett_cdf(abs(difference) / error, 2, df)))
    half = dunnett_critical(2, df) * error
    assert (row["joint_low"], row["joint_high"]) == pytest.approx((difference - half, difference + half))


@settings(max_examples=6)
@given(st.integers(3, 7), st.integers(3, 6), st.integers(0, 99), st.floats(-2, 2))
def test_a_shift_of_a_seed_changes_nothing_and_p_and_interval_agree(c: int, s: int, seed: int, shift: float) -> None:
    losses = study(c, s, effect=0.03, seed=seed)
    moved = {cell: [values[0] + shift, *values[1:]] for cell, values in losses.items()}
    table = joint(losses)
    again = joint(moved).loc[table.index]
    assert again[list(JOINT_COLUMNS)].to_numpy() == pytest.approx(table[list(JOINT_COLUMNS)].to_numpy(), abs=1e-8)
    outside = (table["joint_low"] > 0) | (table["joint_high"] < 0)
    assert outside.tolist() == (table["p_joint"] <= 0.05).tolist()


def test_one_model_under_two_names_counts_once() -> None:
    losses = study(4, 4)
    table, twice = joint(losses), joint({**losses, "again": losses["c1"], "same": losses["baseline"]})
    for cell, same in {**{cell: cell for cell in table.index}, "again": "c1"}.items():
        assert twice.loc[cell, list(JOINT_COLUMNS)].tolist() == pytest.approx(
            table.loc[same, list(JOINT_COLUMNS)].tolist()
        )
    assert twice.loc["same", list(JOINT_COLUMNS)].isna().all()


def test_the_controls_partners_count_once() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.02, (2, 2, 2, 5))
    losses, levels = factorial_losses(
        ("norm", "moe", "mlp"), 5,
        lambda level, s: 5 + noise[0, level["moe"], level["mlp"], s] + 1e-5 * level["norm"] * noise[1, 0, 0, s],
    )  # fmt: skip
    control = {"negative_control": {"factor": "norm", "tolerance_nats": 1e-3}}
    table = joint(losses, levels=levels, plan=control)
    assert table["joint_family"].dropna().unique().tolist() == [3]
    assert table.loc["moe", "p_joint"] == pytest.approx(table.loc["norm_moe", "p_joint"], abs=1e-3)
    assert joint(losses, levels=levels)["joint_family"].dropna().unique().tolist() == [7]


def test_what_is_the_baseline_through_its_partner_takes_no_part() -> None:
    """`moe` equals the baseline in every seed, and `norm_moe` is `moe` up to rounding."""
    rng = np.random.default_rng(0)
    shared, tiny = rng.normal(5, 0.1, 5), 1e-5 * rng.normal(size=5)
    losses = {"baseline": shared, "moe": shared, "norm_moe": shared + tiny}
    losses |= {name: shared + rng.normal(0, 0.02, 5) for name in ("mlp", "moe_mlp")}
    on = {"baseline": (0, 0, 0), "moe": (1, 0, 0), "norm_moe": (1, 1, 0), "mlp": (0, 0, 1), "moe_mlp": (1, 0, 1)}
    levels = {cell: dict(zip(("moe", "norm", "mlp"), row, strict=True)) for cell, row in on.items()}
    control = {"negative_control": {"factor": "norm", "tolerance_nats": 1e-3}}
    table = joint({cell: list(row) for cell, row in losses.items()}, levels=levels, plan=control)
    assert table["joint_family"].dropna().to_dict() == {"mlp": 2.0, "moe_mlp": 2.0}


def test_only_with_complete_blocks_and_two_models() -> None:
    losses = study(4, 5)
    assert joint(losses)["p_joint"].notna().all()
    assert joint({**losses, "c1": [*losses["c1"][:4], None]})["p_joint"].isna().all()  # type: ignore[list-item]
    gap = analyse(make_results({**losses, "c1": [*losses["c1"][:4], "failed"]}))
    assert sum("no joint analysis of" in line for line in gap.notes) == 1
    alone = analyse(make_results(study(2, 5)))
    assert alone.comparisons["p_joint"].isna().all()
    assert not any("joint analysis" in line for line in alone.notes)
    fewer = {cell: [*values[:4], None] for cell, values in losses.items()}  # a seed that nobody has
    assert joint({**fewer, "other": ["diverged", *[5.0] * 4]})["p_joint"].notna().sum() == 3  # type: ignore[list-item]


def test_where_the_two_analyses_disagree_the_verdict_says_so() -> None:
    losses = study(8, 3, effect=0.08)
    table = joint(losses)
    found = table[(table["p_joint"] <= 0.05) & (table["p_holm"] > 0.05)]
    assert len(found) >= 5
    assert set(found["verdict"]) == {"depends on equal variances: better by the joint analysis alone"}
    # One cell much noisier than the others: the pooled residual hides what pairs alone can show.
    rng = np.random.default_rng(1)
    noisy = {**study(5, 6), "wild": list(rng.normal(5, 3, 6))}
    noisy["c1"] = [x + 0.1 + 0.001 * k for k, x in enumerate(noisy["baseline"])]
    assert joint(noisy).loc["c1", "verdict"] == "depends on equal variances: worse by the paired t test alone"


ALONE = " by the paired t test alone: no joint analysis of unequal seeds"


def test_what_is_found_without_the_joint_analysis_says_so() -> None:
    losses: dict = study(4, 5, effect=0.2)
    assert set(joint(losses)["verdict"]) == {"better"}
    for lost in (None, "failed"):
        gap = {**losses, "c1": [*losses["c1"][:4], lost], "open": [x + (-1) ** k for k, x in enumerate(losses["c1"])]}
        results = make_results(gap)
        analysis = analyse(results)
        table = analysis.comparisons.set_index("cell")
        assert set(table.loc[["c1", "c2", "c3"], "verdict"]) == {f"better{ALONE}"}
        assert table.loc["open", "verdict"].startswith("not resolved (could detect")
        (found,) = [finding for finding in verdict(results, analysis)[""] if finding.kind == "better"]
        assert all(words.endswith(f"nats; {ALONE.strip()}") for _, words in found.cells)
        assert len(found.cells) == 3
        (note,) = [note for note in analysis.notes if note.startswith("no joint analysis of")]
        assert note.endswith("rest on the paired t test with Holm's correction alone")


def test_a_run_that_a_models_other_name_has_is_not_missed() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.02, (2, 2, 5))
    losses, levels = factorial_losses(
        ("norm", "moe", "mlp"), 5,
        lambda level, s: 5 + noise[level["moe"], level["mlp"], s] - 0.3 * (level["moe"] + level["mlp"]),
    )  # fmt: skip
    plan = {"negative_control": {"factor": "norm", "tolerance_nats": 1e-3}}
    whole = joint(losses, levels=levels, plan=plan)
    for lost in ("moe", "norm_moe"):
        gap = joint({**losses, lost: [*losses[lost][:4], None]}, levels=levels, plan=plan)  # type: ignore[list-item]
        others = [cell for cell in whole.index if cell != lost]
        columns = [*JOINT_COLUMNS, "verdict"]
        pd.testing.assert_frame_equal(gap.loc[others, columns], whole.loc[others, columns])
        assert gap.loc[lost, list(JOINT_COLUMNS)].isna().all()
        assert gap.loc[lost, "verdict"] == f"better{ALONE}"
    both = {cell: [*losses[cell][:4], None] if cell.endswith("moe") else losses[cell] for cell in losses}
    assert joint(both, levels=levels, plan=plan)["p_joint"].isna().all()  # type: ignore[arg-type]


@pytest.mark.parametrize("cells", [1, 2])
def test_a_comparison_that_nothing_stands_beside_lacks_no_joint_analysis(cells: int) -> None:
    """One model, whatever its names, and one that is its baseline's under another."""
    losses: dict = study(2, 5, effect=0.2)
    losses = {**losses, "again": losses["c1"]} if cells == 2 else {**losses, "same": losses["baseline"]}
    table = joint(losses)
    assert table["p_joint"].isna().all()
    assert set(table["verdict"]) == ({"better"} if cells == 2 else {"better", "identical in 5 of 5 seeds"})
    gap = joint({**losses, "c1": [*losses["c1"][:4], None]})
    assert (gap.loc["c1", "verdict"] == "better") == (cells == 1)


def test_several_baselines_share_the_level() -> None:
    losses = study(4, 5, effect=0.02)
    both = {f"{cell}@{scale}": values for scale in ("a", "b") for cell, values in losses.items()}
    levels = {cell: {"variant": cell.split("@")[0], "scale": cell.split("@")[1]} for cell in both}
    table = joint(both, levels=levels, baseline=lambda cell: f"baseline@{cell.split('@')[1]}")
    alone = joint(losses)
    for cell, scale in itertools.product(alone.index, ("a", "b")):
        assert table.loc[f"{cell}@{scale}", "p_joint"] == pytest.approx(min(1, 2 * alone.loc[cell, "p_joint"]))
        assert table.loc[f"{cell}@{scale}", "joint_low"] < alone.loc[cell, "joint_low"]


def test_family_wise_error_and_simultaneous_coverage() -> None:
    rng = np.random.default_rng(0)
    studies, k, seeds = 20_000, 7, 3
    values = rng.normal(0, 1, (studies, k + 1, seeds)) + rng.normal(0, 3, (studies, 1, seeds))
    variance, df = pooled_residual(values)
    means = values.mean(axis=2)
    t = (means[:, 1:] - means[:, :1]) / np.sqrt(2 * variance / seeds)[:, None]
    wrong = np.abs(t).max(axis=1) > dunnett_critical(k, df)
    assert wrong.mean() == pytest.approx(0.05, abs=0.0047)  # three standard errors
