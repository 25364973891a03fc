"""Results refuse, in one line, what cannot be analysed."""

from __future__ import annotations

import dataclasses
import math

import pandas as pd
import pytest

from analysis.errors import AnalysisError
from analysis.study.results import Results
from tests.fakes_results import make_results

SOUND = {"baseline": [5.0, 5.1], "a": [4.9, "diverged"]}


def changed(column: str, row: int, value: object) -> Results:
    """The sound study with one value of its runs replaced."""
    sound = make_results(SOUND)
    runs = sound.runs.astype({column: object})
    runs.loc[row, column] = value
    return dataclasses.replace(sound, runs=runs)


def refused(make: object, *words: str) -> None:
    with pytest.raises(AnalysisError) as caught:
        make()  # type: ignore[operator]
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_tables_by_seed() -> None:
    results = make_results({"baseline": [5.0, None, 5.2], "a": [4.9, "diverged", "failed"]})
    values = results.finished("val_loss")
    assert values.loc["baseline"].tolist() == pytest.approx([5.0, math.nan, 5.2], nan_ok=True)
    assert values.loc["a"].tolist() == pytest.approx([4.9, math.nan, math.nan], nan_ok=True)
    assert results.count("diverged").to_dict() == {"baseline": 0, "a": 1}
    assert results.statuses.loc["a"].tolist() == ["finished", "diverged", "failed"]
    assert pd.isna(results.statuses.loc["baseline", 1])


def test_planned_cells_are_there_without_runs_and_in_the_plans_order() -> None:
    planned = [
        {"name": name, "factors": {"variant": place}, "scale": "cpu", "baseline": "baseline"}
        for place, name in enumerate(("b", "baseline", "a"))
    ]
    results = make_results(SOUND, levels={"baseline": {"variant": 1}, "a": {"variant": 2}}, plan={"cells": planned})
    assert results.cells["variant"].to_dict() == {"b": 0, "baseline": 1, "a": 2}
    assert results.finished("val_loss").loc["b"].isna().all()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None])
def test_a_finished_run_needs_a_finite_loss(value: float | None) -> None:
    refused(lambda: changed("val_loss", 1, value), "'baseline'", "seed 1", "val_loss", "diverged")


def test_infinite_figures_are_refused_and_unknown_ones_are_not() -> None:
    refused(lambda: changed("train_seconds", 0, math.inf), "'baseline'", "train_seconds")
    changed("train_seconds", 0, None)
    changed("val_accuracy", 0, math.nan)


def test_a_diverged_run_may_have_any_loss() -> None:
    changed("val_loss", 3, math.inf)


def test_text_where_a_number_should_be() -> None:
    refused(lambda: changed("val_loss", 0, "good"), "val_loss", "good")


def test_what_identifies_a_run() -> None:
    refused(lambda: changed("seed", 1, 0), "'baseline'", "seed 0", "more than one")
    refused(lambda: changed("cell", 0, None), "no cell")
    refused(lambda: changed("status", 0, "done"), "'done'", "finished, diverged, failed")
    sound = make_results(SOUND)
    refused(lambda: dataclasses.replace(sound, runs=sound.runs.drop(columns="status")), "lack", "'status'")
    refused(lambda: dataclasses.replace(sound, runs=sound.runs.iloc[:0]), "no runs")


def test_metric_and_direction() -> None:
    refused(lambda: make_results(SOUND, plan={"metric": "loss"}), "'loss'", "val_loss")
    refused(lambda: make_results(SOUND, plan={"direction": "down"}), "'down'", "min, max")


def test_baselines_and_factors() -> None:
    sound = make_results(SOUND)
    refused(lambda: make_results(SOUND, baseline="control"), "'control'", "baseline")
    refused(lambda: dataclasses.replace(sound, baselines={"baseline": "baseline"}), "'a'", "no baseline")
    refused(lambda: changed("variant", 2, 7), "'a'", "different levels")
    levels = {"baseline": {"scale": "cpu"}, "a": {"scale": "paper_256d"}}
    refused(lambda: make_results(SOUND, levels=levels), "'a'", "different scales")


def test_off_level_is_zero_or_the_baselines() -> None:
    numbers = {"baseline": {"norm": 1}, "a": {"norm": 0}}
    names = {"baseline": {"norm": "layer"}, "a": {"norm": "rms"}}
    assert make_results(SOUND, levels=numbers).off_level("norm", "") == 0
    assert make_results(SOUND, levels=names).off_level("norm", "") == "layer"
