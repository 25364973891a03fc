"""Seeds for a wanted difference: the number has the power that it promises, and its own uncertainty."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.power import TTestPower

from analysis.__main__ import main
from analysis.errors import AnalysisError
from analysis.seeds import MOST, SEEDS_COLUMNS, plan_seeds, sd_bound, seeds_needed, spread
from tests.fakes_plan import registered
from tests.fakes_results import make_results

RNG = np.random.default_rng(0)
SEEDS = 5 + RNG.normal(0, 0.1, 5)
LOSSES = {"baseline": list(SEEDS)} | {name: list(SEEDS + RNG.normal(0, 0.02, 5)) for name in "abc"}


@pytest.mark.parametrize("effect", [0.2, 0.5, 1.0, 1.5])
@pytest.mark.parametrize("power", [0.8, 0.95])
def test_agrees_with_statsmodels(effect: float, power: float) -> None:
    n = int(seeds_needed(np.array(effect), 1, power))
    exact = TTestPower()
    assert exact.power(effect, n, 0.05) >= power - 1e-6
    assert exact.power(effect, n - 1, 0.05) < power


@settings(max_examples=12)
@given(st.floats(0.05, 30), st.integers(1, 40), st.floats(0.1, 0.99))
def test_fewest_that_are_enough(effect: float, family: int, power: float) -> None:
    def found(n: int) -> float:
        critical = stats.t.isf(0.05 / family / 2, n - 1)
        return float(stats.nct.sf(critical, n - 1, effect * math.sqrt(n)))

    n = float(seeds_needed(np.array([effect]), family, power)[0])
    if math.isinf(n):
        assert found(MOST) < power + 1e-6
        return
    assert n >= 3
    assert found(int(n)) >= power - 1e-6
    assert n == 3 or found(int(n) - 1) < power + 1e-6
    assert seeds_needed(np.array([effect]), family + 1, power)[0] >= n
    assert seeds_needed(np.array([1.1 * effect]), family, power)[0] <= n


def test_the_bound_of_the_sd_holds_what_it_says() -> None:
    sd = np.random.default_rng(1).normal(0, 2, (20_000, 4)).std(axis=1, ddof=1)
    for probability in (0.025, 0.8, 0.975):
        assert (sd_bound(sd, np.array(3.0), probability) >= 2).mean() == pytest.approx(probability, abs=0.0085)


def test_a_plan_from_a_pilot() -> None:
    plan = plan_seeds(make_results(LOSSES), 0.02)
    assert plan.comparisons == 3
    assert list(plan.table)[:-1] == list(SEEDS_COLUMNS)
    row = plan.table.set_index("cell").loc["b"]
    sd = np.std(np.subtract(LOSSES["b"], LOSSES["baseline"]), ddof=1)
    assert row["sd_planned"] == pytest.approx(sd * math.sqrt(4 / stats.chi2.ppf(0.2, 4)))
    assert row["alpha"] == pytest.approx(0.05 / 3)
    assert row["seeds"] == float(seeds_needed(np.array(0.02 / row["sd_planned"]), 3))
    assert row["seeds_low"] <= row["seeds_estimate"] <= row["seeds"] <= row["seeds_high"]


def test_each_comparison_is_planned_at_the_level_that_the_report_tests_it_at() -> None:
    plan = plan_seeds(make_results(LOSSES, plan=registered(list(LOSSES), primary="a")), 0.02)
    assert plan.comparisons == 2
    table = plan.table.set_index("cell")
    assert table["alpha"].to_dict() == pytest.approx({"a": 0.05, "b": 0.025, "c": 0.025})
    for cell, family in (("a", 1), ("b", 2), ("c", 2)):
        needed = seeds_needed(np.array(0.02 / table.loc[cell, "sd_planned"]), family)
        assert table.loc[cell, "seeds"] == float(needed)


def test_arms_that_share_no_seed_are_known_by_both_their_sds() -> None:
    apart = {"baseline": [None] * 5 + LOSSES["baseline"], "a": LOSSES["a"]}
    row = plan_seeds(make_results(apart), 0.02).table.iloc[0]
    a, b = (np.var(LOSSES[cell], ddof=1) for cell in ("a", "baseline"))
    df = (a + b) ** 2 / (a**2 / 4 + b**2 / 4)
    assert df > 7
    assert row["sd_planned"] == pytest.approx(math.sqrt((a + b) * df / stats.chi2.ppf(0.2, df)))


@pytest.mark.parametrize("difference", [0.0, -0.01, math.inf, math.nan])
def test_a_difference_that_is_none(difference: float) -> None:
    with pytest.raises(AnalysisError, match=r"--difference is .* must be a positive number"):
        plan_seeds(make_results(LOSSES), difference)


@pytest.mark.parametrize("power", [0.0, 0.05, 1.0, 80.0, math.nan])
def test_a_power_that_is_none(power: float) -> None:
    with pytest.raises(AnalysisError, match=r"--power is .* must lie between"):
        plan_seeds(make_results(LOSSES), 0.01, power)


def test_a_pilot_without_a_spread() -> None:
    for losses in ({cell: values[:2] for cell, values in LOSSES.items()}, {"baseline": list(SEEDS)}):
        with pytest.raises(AnalysisError, match="a pilot needs 3 or more seeds"):
            plan_seeds(make_results(losses), 0.01)


def test_a_pilot_of_invalid_runs_says_that_they_are_left_out() -> None:
    results = make_results(LOSSES)
    results.runs["invalid"] = "split_overlap"
    with pytest.raises(AnalysisError, match=r"in its baseline; 20 runs found invalid by an audit are left out$"):
        plan_seeds(results, 0.01)


def test_a_race_is_no_pilot() -> None:
    race = make_results(LOSSES, plan=registered(list(LOSSES), primary=None, looks=(3, 5)))
    for plan in (lambda: plan_seeds(race, 0.02), lambda: spread(race, "baseline", ["a"])):
        with pytest.raises(AnalysisError, match="'study' is a race, and no pilot"):
            plan()


def test_what_diverged_has_its_share_of_the_level() -> None:
    plan = plan_seeds(make_results({**LOSSES, "wild": ["diverged", *LOSSES["a"][1:]]}), 0.02)
    assert plan.comparisons == 4
    assert plan.table["alpha"].to_list() == pytest.approx([0.05 / 4] * 3)


def test_the_command_prints_a_line_a_comparison(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "pilot.csv"
    rows = [
        f"{cell},{seed},{loss!r}" for cell, values in LOSSES.items() for seed, loss in enumerate(map(float, values))
    ]
    path.write_text("\n".join(["cell,seed,val_loss", *rows]) + "\n")
    assert main(["seeds", str(path), "--difference", "0.02"]) == 0
    shown = capsys.readouterr().out
    assert "difference of 0.02 nats with 80 % power" in shown
    row = plan_seeds(make_results(LOSSES), 0.02).table.set_index("cell").loc["c"]
    assert f"{row['seeds']:.0f} [{row['seeds_low']:.0f}, {row['seeds_high']:.0f}]" in shown
    assert main(["seeds", str(path), "--difference", "0"]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert main(["seeds", str(path), "--difference", "0.00001"]) == 0
    assert "> 10,000" in capsys.readouterr().out
