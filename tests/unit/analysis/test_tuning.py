"""Figures of a search: against enumeration, by hand, and what they refuse to say."""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.errors import AnalysisError
from analysis.schema import DIVERGED, FAILED, FINISHED, Audit, write_json
from analysis.tuning.findings import at_edge, best_by_budget, draws, expected_best, load_tuning, sensitivity
from analysis.tuning.plots import figures
from analysis.tuning.report import write_tuning_report
from analysis.tuning_records import (
    RANDOM,
    RUNNING,
    SEARCH,
    STOPPED,
    SWEEP,
    TUNING_FILE,
    TuningRecord,
    best_of,
    parse_tuning,
    read_tuning_records,
)

GUESS = math.log(1024)
SPACE = {
    "muon_learning_rate": {"low": 1e-4, "high": 1.0, "log": True},
    "weight_decay": {"low": 0.0, "high": 1.0, "log": False},
}


def trial(number: int, loss: float | None, rate: float = 0.01, **more: Any) -> TuningRecord:
    """Return a trial; without a loss it diverged."""
    row = {"step": 9, "tokens": 900, "val_loss": loss}
    fixed = {
        "study": "s", "cell": "baseline", "arm": SEARCH, "seed": 1000, "config_hash": f"{number:016x}",
        "status": DIVERGED if loss is None else FINISHED, "rows": [row],
        "hyperparameters": {"muon_learning_rate": rate, "weight_decay": 0.1},
    }  # fmt: skip
    return TuningRecord(**{**fixed, "number": number, **more})


@given(st.lists(st.floats(1, 9), min_size=1, max_size=7), st.data())
def test_expected_best_is_the_mean_over_all_subsets(losses: list[float], data: st.DataObject) -> None:
    number = data.draw(st.integers(1, len(losses)))
    subsets = [min(subset) for subset in itertools.combinations(losses, number)]
    assert expected_best(losses, number) == pytest.approx(np.mean(subsets))


def test_expected_best_has_no_bias_where_drawing_with_replacement_has() -> None:
    n, number, studies = 6, 4, 20_000
    samples = np.random.default_rng(1).exponential(size=(studies, n))
    truth = 1 / number  # the lowest of k exponential draws
    unbiased = np.mean([expected_best(sample, number) for sample in samples])
    ordered = np.sort(samples, axis=1)
    place = np.arange(n)
    weights = ((n - place) / n) ** number - ((n - place - 1) / n) ** number
    replaced = np.mean(ordered @ weights)
    assert unbiased == pytest.approx(truth, abs=0.01)
    assert abs(replaced - truth) > 0.05


def test_the_interval_of_the_median_best_holds_its_promise() -> None:
    n, studies = 16, 1_000
    samples = np.random.default_rng(2).exponential(size=(studies, n))
    truth = {number: -math.log(0.5) / number for number in range(1, n + 1)}  # of exponential draws
    held = dict.fromkeys(truth, 0)
    for sample in samples:
        for best in best_by_budget(sample):
            low = -math.inf if best.low is None else best.low
            high = math.inf if best.high is None else best.high
            held[best.draws] += low <= truth[best.draws] <= high
    assert min(held.values()) / studies > 0.95 - 3 * math.sqrt(0.05 * 0.95 / studies)


def test_few_draws_do_not_bound_the_best_from_below() -> None:
    bests = best_by_budget(list(np.linspace(3, 4, 16)))
    assert bests[0].low is not None
    assert bests[3].low is None, "1 - P(no draw of 16 below the median best of 4) is 94 %"
    assert [best.expected for best in bests] == sorted((best.expected for best in bests), reverse=True)


def test_sensitivity_by_hand() -> None:
    rates, losses = (1e-4, 1e-3, 1e-2, 1e-1, 1.0), (5.0, 4.0, 3.0, 4.0, None)
    line = [
        trial(place, loss, rate, arm=SWEEP, varied="muon_learning_rate")
        for place, (rate, loss) in enumerate(zip(rates, losses, strict=True))
    ]
    found = sensitivity("baseline", "muon_learning_rate", line, GUESS)
    assert found is not None
    above = [2.0, 1.0, 0.0, 1.0, GUESS - 3]
    assert found.deviation == pytest.approx(sum((a + b) / 2 for a, b in itertools.pairwise(above)) / 4)
    assert found.decades == pytest.approx(4)
    assert sensitivity("baseline", "adamw_learning_rate", line, GUESS) is None
    gap = [*line[:-1], trial(4, None, 1.0, arm=SWEEP, varied="muon_learning_rate", status=RUNNING)]
    assert sensitivity("baseline", "muon_learning_rate", gap, GUESS) is None


def test_losses_above_guessing_count_as_guessing() -> None:
    assert draws([trial(0, 3.0), trial(1, 50.0), trial(2, None)], GUESS) == [3.0, GUESS, GUESS]


@pytest.mark.parametrize("status", [RUNNING, FAILED])
def test_no_draw_is_left_out(status: str) -> None:
    assert draws([trial(0, 3.0), trial(1, None, status=status)], GUESS) == []


@pytest.mark.parametrize(
    ("rate", "decay", "edge"),
    [
        (0.01, 0.5, ()),
        (1.2e-4, 0.5, ("muon_learning_rate",)),
        (0.7, 0.95, ("muon_learning_rate", "weight_decay")),
        (0.01, 0.01, ()),  # nothing lies below no weight decay
        (10 ** (-4 + 4 * 0.11), 0.5, ()),
    ],
)
def test_edges_lie_within_a_tenth_of_the_range(rate: float, decay: float, edge: tuple[str, ...]) -> None:
    assert at_edge({"muon_learning_rate": rate, "weight_decay": decay}, SPACE) == edge


@pytest.mark.parametrize(("high", "edge"), [(1.0, ()), (0.98, ("warmup_fraction",))])
def test_nothing_lies_beyond_the_whole_of_a_fraction(high: float, edge: tuple[str, ...]) -> None:
    space = {"warmup_fraction": {"low": 0.0, "high": high, "log": False}}
    assert at_edge({"warmup_fraction": 0.95}, space) == edge


def test_the_best_is_a_finished_trial_of_the_search() -> None:
    stopped = trial(0, 2.0, status=STOPPED)
    drawn = trial(1, 2.5, arm=RANDOM)
    assert best_of([stopped, drawn]) is None
    assert best_of([stopped, drawn, trial(2, 3.1), trial(3, 3.0), trial(4, 3.0)]).number == 3  # type: ignore[union-attr]


def test_the_best_is_a_sound_trial_where_there_is_one() -> None:
    invalid = [Audit(name="causality", severity="invalid", evidence="it looks ahead")]
    leaking = [trial(0, 1.0, audits=invalid), trial(1, 0.9, audits=invalid)]
    assert best_of(leaking).number == 1  # type: ignore[union-attr]
    assert best_of([*leaking, trial(2, 3.0)]).number == 2  # type: ignore[union-attr]


def test_the_report_says_which_trials_are_invalid(tmp_path: Path) -> None:
    invalid = [Audit(name="causality", severity="invalid", evidence="it looks ahead")]
    trial(9, 1.0, 0.02, audits=invalid).write(make_search(tmp_path))
    report = write_tuning_report(tmp_path).read_text()
    assert "**Found invalid by an audit:** trials of baseline (1: causality)." in report
    assert "**Not the lowest:** beside the search, trials of baseline (3.0000) and" in report
    assert (tmp_path / "tuning.csv").read_text().count(",causality\n") == 1


def make_search(folder: Path, cells: tuple[str, ...] = ("baseline", "attention")) -> Path:
    rng = np.random.default_rng(3)
    for cell in cells:
        for arm, count in ((SEARCH, 9), (RANDOM, 12), (SWEEP, 5)):
            for number in range(count):
                rate = 10 ** (-number) if arm == SWEEP else float(10 ** rng.uniform(-4, 0))
                loss = 3 + 0.3 * (math.log10(rate) + 2) ** 2
                status = STOPPED if arm == SEARCH and number % 3 == 0 else FINISHED
                trial(
                    number, loss, rate, cell=cell, arm=arm, status=status,
                    varied="muon_learning_rate" if arm == SWEEP else None,
                ).write(folder)  # fmt: skip
    declared = {
        "study": "tune-demo", "cells": list(cells), "space": SPACE, "trials": 9, "random": 12, "sweep": 5,
        "rungs": [1, 3], "updates": 9, "reduction": 3, "trial_tokens": 900, "seed": 1000, "guess_loss": GUESS,
        "importance": {
            "baseline": {"n": 12, "shares": {"muon_learning_rate": 0.9, "weight_decay": 0.1}, "reason": None},
            "attention": {"n": 2, "shares": {}, "reason": "2 draws are too few"},
        },
    }  # fmt: skip
    write_json(folder / TUNING_FILE, declared)
    return folder


def test_the_report_says_what_was_spent_found_and_stopped(tmp_path: Path) -> None:
    report = write_tuning_report(make_search(tmp_path)).read_text()
    assert "| baseline | search: TPE, poor trials stopped at rungs | 9 | 6 finished, 3 stopped | 8,100 |" in report
    assert "is part of a longer schedule and has no loss" in report
    assert "| baseline | 12 | 0.90 | 0.10 |" in report
    assert "attention: 2 draws are too few." in report
    assert "sensitivity (nats)" in report
    assert "expected best" in report
    assert (tmp_path / "tuning_muon_learning_rate.png").exists()
    assert (tmp_path / "tuning_budget.png").exists()
    table = (tmp_path / "tuning.csv").read_text().splitlines()
    assert len(table) == 1 + 2 * (9 + 12 + 5)
    stopped = [line for line in table if ",stopped," in line]
    assert len(stopped) == 6
    assert all(line.split(",")[10] == "" for line in stopped), "a stopped trial has no loss"


def test_the_report_says_that_tokens_bounded_the_trials(tmp_path: Path) -> None:
    folder = make_search(tmp_path)
    assert "Every cell had the same search: 9 trials over the same space" in write_tuning_report(folder).read_text()
    write_json(folder / TUNING_FILE, {**parse_tuning(folder), "max_tokens": 5_000})
    said = "Every cell had the same search: as many trials as 5,000 tokens allow, 9 at most, over the same space"
    assert said in write_tuning_report(folder).read_text()


@pytest.mark.parametrize("name", ["study", "trials", "updates"])
def test_a_declaration_that_lacks_something_is_refused_in_words(tmp_path: Path, name: str) -> None:
    folder = make_search(tmp_path)
    write_json(folder / TUNING_FILE, {key: value for key, value in parse_tuning(folder).items() if key != name})
    with pytest.raises(AnalysisError, match=f"is not the declaration of a search: '{name}'"):
        load_tuning(folder)


def test_figures_show_every_trial(tmp_path: Path) -> None:
    matplotlib.use("agg")
    tuning = load_tuning(make_search(tmp_path))
    axes = figures(tuning)["tuning_muon_learning_rate"].axes[0]
    assert axes.get_xscale() == "log"
    dots = [line for line in axes.lines if line.get_marker() == "o" and line.get_linestyle() == "None"]
    assert sum(len(line.get_xdata()) for line in dots) == 2 * (9 + 12)  # type: ignore[arg-type]
    labels = [text.get_text() for text in axes.get_legend().get_texts()]  # type: ignore[union-attr]
    assert [label.split(":")[0] for label in labels] == ["baseline", "attention"]


def test_a_figure_has_room_for_a_stopped_trial_below_all_that_ended(tmp_path: Path) -> None:
    folder = make_search(tmp_path, ("baseline",))
    trial(9, 2.0, status=STOPPED).write(folder)
    axes = figures(load_tuning(folder))["tuning_muon_learning_rate"].axes[0]
    assert axes.get_ylim()[0] < 2.0


def test_records_read_back_and_others_are_refused(tmp_path: Path) -> None:
    record = trial(0, 3.0)
    path = record.write(tmp_path)
    assert read_tuning_records(tmp_path) == [record]
    second = dataclasses.replace(record, config_hash="other").write(tmp_path)
    with pytest.raises(ValueError, match=r"json is a second record of the trial in search-.*, as two drivers at once"):
        read_tuning_records(tmp_path)
    second.unlink()
    path.write_text("{")
    with pytest.raises(ValueError, match="is not a record of a search"):
        read_tuning_records(tmp_path)
    with pytest.raises(AnalysisError, match=r"has no tuning\.json"):
        load_tuning(tmp_path)
