"""Fronts agree with their definition, and how sure they are with the t distribution."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from analysis.comparing.pareto import on_front
from analysis.figures.pareto import pareto_figure
from analysis.reporting.tables import tables
from analysis.statistics.joint import pooled_residual
from analysis.study.results import Results
from analysis.summary import analyse
from tests.fakes_results import make_results

SHIFTS = np.random.default_rng(3).normal(0, 0.3, 5)


def study(cells: dict[str, tuple[float, float]], noise: float = 0.02, **options: Any) -> Results:
    """Return a study of cells with these true losses and parameter counts, five seeds."""
    rng = np.random.default_rng(1)
    losses = {cell: list(loss + SHIFTS + rng.normal(0, noise, 5)) for cell, (loss, _) in cells.items()}
    results = make_results(losses, **options)
    results.runs["params_total"] = results.runs["cell"].map({cell: cost for cell, (_, cost) in cells.items()})
    return results


def fronts(results: Results) -> pd.DataFrame:
    return analyse(results).pareto.set_index("cell")


@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=12))
def test_a_front_is_what_nothing_dominates(points: list[tuple[int, int]]) -> None:
    loss, cost = np.array(points, dtype=float).T
    expected = [
        not any(a <= x and b <= y and (a, b) != (x, y) for a, b in zip(loss, cost, strict=True))
        for x, y in zip(loss, cost, strict=True)
    ]
    assert on_front(np.stack([loss, loss]), np.stack([cost, cost])).tolist() == [expected, expected]


def test_in_the_analysis() -> None:
    table = fronts(study({"baseline": (4.0, 5e6), "small": (4.5, 1e6), "bad": (4.6, 6e6), "wide": (3.5, 9e6)}))
    assert table["live_parameters_front"].to_dict() == {"wide": True, "baseline": True, "small": True, "bad": False}
    assert table["live_parameters_dominated_by"].to_dict() == {
        "wide": None,
        "baseline": None,
        "small": None,
        "bad": "baseline",
    }
    assert table["live_parameters_p_front"].to_dict() == {"wide": 1.0, "baseline": 1.0, "small": 1.0, "bad": 0.0}
    assert table["live_parameters"].to_dict() == {"wide": 9e6, "baseline": 5e6, "small": 1e6, "bad": 6e6}
    assert table["live_parameters_low"].isna().all()  # all seeds cost the same
    assert table["peak_memory_bytes_front"].isna().all()  # unknown


def test_how_sure_a_front_is() -> None:
    """The dearer of two is on it where its true mean is lower: a t probability."""
    results = study({"baseline": (4.0, 1e6), "dear": (3.99, 2e6)})
    losses = results.finished("val_loss")
    variance, df = pooled_residual(losses.to_numpy())
    gap = losses.mean(axis=1)["baseline"] - losses.mean(axis=1)["dear"]
    expected = stats.t.cdf(gap / np.sqrt(2 * variance / 5), df)
    table = fronts(results)
    assert table.loc["dear", "live_parameters_p_front"] == pytest.approx(expected, abs=0.02)
    assert 0.02 < expected < 0.98
    assert table.loc["baseline", "live_parameters_p_front"] == 1


def test_a_measured_cost_is_as_sure_as_its_seeds() -> None:
    results = study({"baseline": (4.0, 1e6), "slow": (4.5, 1e6)})
    rng = np.random.default_rng(5)
    results.runs["train_seconds"] = np.exp(np.repeat([3.0, 3.02], 5) + rng.normal(0, 0.05, 10))
    seconds = np.log(results.finished("train_seconds").to_numpy())
    variance, df = pooled_residual(seconds)
    gap = seconds[0].mean() - seconds[1].mean()
    expected = stats.t.cdf(gap / np.sqrt(2 * variance / 5), df)  # its loss is surely higher: it must be quicker
    table = fronts(results)
    assert table.loc["slow", "train_seconds_p_front"] == pytest.approx(expected, abs=0.02)
    assert table.loc["slow", "train_seconds_low"] < table.loc["slow", "train_seconds"]


def test_one_model_under_two_names_shares_its_place() -> None:
    results = study({"baseline": (4.0, 1e6), "wide": (3.9, 2e6)})
    twin = results.runs[results.runs["cell"] == "wide"].assign(cell="twin", variant=2)
    results = Results(
        "study",
        pd.concat([results.runs, twin]),
        results.curves,
        results.factors,
        results.baselines | {"twin": "baseline"},
    )
    table = fronts(results)
    assert table.loc["twin", "live_parameters_p_front"] == table.loc["wide", "live_parameters_p_front"] > 0.5
    assert table.loc[["twin", "wide"], "live_parameters_front"].all()


def test_a_model_is_on_a_front_by_a_name_that_competes() -> None:
    """Without the survivors' mean of the name that diverged, which is worse than `small`'s."""
    results = study({"baseline": (4.0, 5e6), "small": (4.02, 1e6), "wide": (3.5, 9e6)})
    twin = results.runs[results.runs["cell"] == "baseline"].assign(cell="norm", norm=1)
    runs = pd.concat([results.runs.assign(norm=0), twin], ignore_index=True)
    runs.loc[(runs["cell"] == "baseline") & (runs["seed"] == 2), ["status", "val_loss"]] = ["diverged", np.nan]
    control = {"negative_control": {"factor": "norm", "tolerance_nats": 1e-3}}
    baselines = results.baselines | {"norm": "baseline"}
    both = Results("study", runs, results.curves, ("variant", "norm"), baselines, control)
    here, alone = fronts(both), fronts(results)
    columns = ["live_parameters_front", "live_parameters_p_front"]
    for cell, name in (("norm", "baseline"), ("small", "small"), ("wide", "wide")):
        assert here.loc[cell, columns].tolist() == pytest.approx(alone.loc[name, columns].tolist(), abs=0.02)
    assert here.loc["baseline", columns].isna().all()
    assert here.loc["baseline", "survivors"] == "diverged in 1 of 5 seeds"


@pytest.mark.parametrize("lost", ["diverged", "flawed", "unknown"])
def test_what_is_no_result_is_on_no_front(lost: str) -> None:
    results = study({"baseline": (4.0, 5e6), "small": (4.5, 1e6), "wide": (3.5, 9e6)})
    chosen = results.runs["cell"] == "wide"
    if lost == "diverged":
        results.runs.loc[chosen & (results.runs["seed"] == 2), ["status", "val_loss"]] = ["diverged", np.nan]
    elif lost == "flawed":
        results.runs.loc[chosen, "flaws"] = "labels_not_shifted"
    else:
        results.runs.loc[chosen, "params_total"] = np.nan
    table = fronts(results)
    assert pd.isna(table.loc["wide", "live_parameters_front"])
    assert np.isnan(table.loc["wide", "live_parameters_p_front"])
    assert table.loc[["baseline", "small"], "live_parameters_front"].tolist() == [True, True]


def test_higher_may_be_better() -> None:
    plan = {"metric": "val_perplexity", "direction": "max"}
    table = fronts(study({"baseline": (4.0, 5e6), "small": (3.5, 1e6), "bad": (3.6, 6e6)}, plan=plan))
    assert table["live_parameters_front"].to_dict() == {"baseline": True, "small": True, "bad": False}


def test_two_seeds_make_a_front_without_a_probability() -> None:
    results = make_results({"baseline": [4.0, 4.1], "new": [3.9, 4.0]})
    table = fronts(results)
    assert table["live_parameters_front"].tolist() == [True, False]
    assert table["live_parameters_p_front"].isna().all()


def test_the_report_says_it() -> None:
    results = study({"baseline": (4.0, 5e6), "small": (4.5, 1e6), "bad": (4.6, 6e6)})
    table = tables(results, analyse(results))["pareto"]
    shown = {row[0]: dict(zip(table.headers, row, strict=True)) for row in table.rows}
    assert shown["small"]["front of live parameters"] == "yes, P 1.00"
    assert shown["bad"]["front of live parameters"] == "P 0.00, behind baseline"
    assert shown["bad"]["live parameters, M [95 %]"] == "6.000"
    assert not any("memory" in header for header in table.headers)


def test_what_training_never_reached_costs_nothing() -> None:
    results = make_results({"baseline": [4.0, 4.1, 4.2], "whole": [4.0, 4.2, 4.1]}, params_total=3e6)
    dead = {("whole", 0): 2_000_000, ("whole", 1): 2_000_010, ("whole", 2): 2_000_020}
    table = fronts(dataclasses.replace(results, params_dead=dead))
    assert table["live_parameters"].to_dict() == {"baseline": 3e6, "whole": 1e6}


def test_a_measured_cost_is_a_geometric_mean_with_a_positive_interval() -> None:
    """The t interval of these times themselves would be [-11, 211] seconds."""
    results = study({"baseline": (4.0, 1e6), "slow": (4.5, 1e6)})
    results.runs["train_seconds"] = [60, 60, 60, 60, 260, *[200.0] * 5]
    table = fronts(results)
    logs = np.log([60, 60, 60, 60, 260])
    ends = stats.t.interval(0.95, 4, logs.mean(), stats.sem(logs))
    columns = ["train_seconds", "train_seconds_low", "train_seconds_high"]
    assert table.loc["baseline", columns].tolist() == pytest.approx(np.exp([logs.mean(), *ends]).tolist())
    assert table.loc["slow", columns].tolist() == pytest.approx([200, math.nan, math.nan], nan_ok=True)
    shown = tables(results, analyse(results))["pareto"]
    times = {row[0]: row[shown.headers.index("train seconds, s [95 %]")] for row in shown.rows}
    assert times == {"baseline": "80.45 [35.64, 181.6]", "slow": "200.0"}


def test_the_front_is_of_the_costs_that_are_shown() -> None:
    """Twice the seconds in one run: the arithmetic mean of `new` is higher than the baseline's, its geometric not."""
    results = study({"baseline": (4.0, 1e6), "new": (4.5, 1e6)})
    results.runs["train_seconds"] = [70.0] * 5 + [60, 60, 60, 60, 120]
    table = fronts(results)
    assert table.loc["new", "train_seconds"] < table.loc["baseline", "train_seconds"]
    assert table.loc["new", "train_seconds_front"]
    assert table.loc["new", "train_seconds_p_front"] > 0.5


def test_an_interval_looks_as_it_is() -> None:
    results = study({"baseline": (4.0, 1e6), "new": (4.5, 1e6)})
    results.runs["train_seconds"] = 60 + np.arange(10) * 1e-4
    shown = tables(results, analyse(results))["pareto"]
    assert shown.rows[0][shown.headers.index("train seconds, s [95 %]")] == "60.0002 [60.0000, 60.0004]"


def test_the_figure_has_room_for_its_bars() -> None:
    results = study({"baseline": (4.0, 1e6), "slow": (4.5, 1e6)})
    results.runs["train_seconds"] = [60, 60, 60, 60, 260, *[200.0] * 5]
    results = dataclasses.replace(results, runs=results.runs[results.runs["seed"] >= 3])
    drawn = pareto_figure(results, analyse(results))
    assert drawn is not None
    (panel,) = (axes for axes in drawn.axes if axes.get_xlabel() == "training time (seconds)")
    assert panel.get_xscale() == "log"
    assert panel.get_xlim()[0] > 0
