"""The test split stays closed until the study is complete as registered, and its opening is on record."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from analysis.comparing.final_test import lead, open_test, read_openings
from analysis.errors import AnalysisError
from analysis.reporting.render import content, markdown
from analysis.study.results import Results
from analysis.summary import analyse
from tests.fakes_plan import added, registered
from tests.fakes_results import make_results
from tests.unit.analysis.test_plan_check import CELLS, LATER, LOSSES


def scored(losses: Any, folder: Path, **changes: Any) -> Results:
    """Return results whose runs scored the test split 0.1 nats higher, each a little else."""
    results = make_results(losses, plan=registered(CELLS, **changes))
    test = {}
    for row in results.counted.itertuples():
        jitter = np.random.default_rng([len(row.cell), row.seed]).normal(0, 0.002)
        test[row.cell, row.seed] = {"test_loss": row.val_loss + 0.1 + jitter, "test_accuracy": 0.2}
    folder.mkdir(exist_ok=True)
    return dataclasses.replace(results, folder=folder, test=test, test_openings=read_openings(folder))


def report(results: Results) -> str:
    return markdown(content(results, analyse(results)), [])


def test_it_stays_closed_while_a_registered_run_is_missing(tmp_path: Path) -> None:
    early = {cell: losses[:4] for cell, losses in LOSSES.items()}
    results = open_test(scored(early, tmp_path))
    assert analyse(results).final_test.empty
    assert lead(results) == (
        "The test split stays closed: of the registered runs 4 have not ended, or failed and are to be tried again."
    )
    assert "test loss" not in report(results)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_run_keeps_it_closed_and_a_diverged_one_does_not(tmp_path: Path) -> None:
    failed = {**LOSSES, "mlp": [*LOSSES["mlp"][:4], "failed"]}
    assert "of the registered runs 1 have not ended" in lead(open_test(scored(failed, tmp_path / "a")))
    diverged = {**LOSSES, "mlp": [*LOSSES["mlp"][:4], "diverged"]}
    results = open_test(scored(diverged, tmp_path / "b"))
    table = analyse(results).final_test.set_index("cell")
    assert table.loc["mlp", "n"] == 4


@pytest.mark.parametrize("lost", [2, 5])
def test_survivors_come_last_and_say_so(tmp_path: Path, lost: int) -> None:
    best = [3.0, 3.1, 3.05, 3.02, 3.08]
    results = open_test(scored({**LOSSES, "mlp": [*best[lost:], *["diverged"] * lost]}, tmp_path))
    table = analyse(results).final_test
    assert table["cell"].iloc[-1] == "mlp"
    assert table["n"].tolist() == [5, 5, 5, 5 - lost]
    assert table["survivors"].tolist() == ["", "", "", f"diverged in {lost} of 5 seeds"]
    section = report(results).partition("## Final test")[2].partition("\n## ")[0]
    (line,) = [line for line in section.splitlines() if line.startswith("| mlp |")]
    assert f"| mlp | diverged in {lost} of 5 seeds | {5 - lost} |" in line


def test_differences_from_a_baselines_survivors_say_so(tmp_path: Path) -> None:
    results = open_test(scored({**LOSSES, "baseline": [*LOSSES["baseline"][:4], "diverged"]}, tmp_path))
    table = analyse(results).final_test.set_index("cell")
    assert table["survivors"].drop("baseline").eq("baseline diverged in 1 of 5 seeds").all()
    assert table.index[-1] == "baseline"


def test_a_complete_study_opens_it_once_and_writes_so_first(tmp_path: Path) -> None:
    sealed = scored(LOSSES, tmp_path)
    assert analyse(sealed).final_test.empty  # analysing alone opens nothing
    results = open_test(sealed)
    log = json.loads((tmp_path / "test_opened.json").read_text())["openings"]
    assert [len(entry["runs"]) for entry in log] == [20]
    assert "## Final test" in report(results)
    assert lead(results).startswith(f"Opened on {log[0]['when'][:10]} with 20 runs")
    again = open_test(scored(LOSSES, tmp_path))
    assert json.loads((tmp_path / "test_opened.json").read_text())["openings"] == log
    assert analyse(again).final_test.equals(analyse(results).final_test)


def test_its_figures_are_estimates_alone_and_no_second_test(tmp_path: Path) -> None:
    results = open_test(scored(LOSSES, tmp_path))
    table = analyse(results).final_test.set_index("cell")
    assert not {"p", "plan", "verdict"} & set(table.columns)
    section = report(results).partition("## Final test")[2].partition("\n## ")[0]
    assert "The registered tests are on the validation split" in section
    assert not any(word in section for word in ("primary", "planned", "| p |"))
    losses = {cell: [results.test[cell, seed]["test_loss"] for seed in range(5)] for cell in CELLS}
    for cell in CELLS:
        assert table.loc[cell, "test_loss"] == pytest.approx(np.mean(losses[cell]))
    for cell in CELLS[1:]:
        interval = stats.ttest_rel(losses[cell], losses["baseline"]).confidence_interval(0.95)
        ends = table.loc[cell, ["difference_low", "difference_high"]].tolist()
        assert ends == pytest.approx([interval.low, interval.high], rel=1e-9)
    assert table.loc["attention", "validation_difference"] == pytest.approx(
        np.mean(LOSSES["attention"]) - np.mean(LOSSES["baseline"])
    )
    assert np.isnan(table.loc["baseline", "difference"])
    assert list(table["test_loss"]) == sorted(table["test_loss"])


def test_later_seeds_make_a_second_opening_that_is_seen_as_such(tmp_path: Path) -> None:
    first = analyse(open_test(scored(LOSSES, tmp_path))).final_test.set_index("cell")
    results = open_test(scored(LATER, tmp_path, amendments=[added("seeds", [5, 6], ended=20)]))
    assert [len(entry["runs"]) for entry in results.test_openings] == [20, 28]
    assert "with 8 runs that the first opening did not have" in lead(results)
    second = analyse(results).final_test.set_index("cell")
    moved = second["difference"] - first["difference"]
    assert moved["attention"] == pytest.approx(0)  # on the registered seeds, as its test is
    assert abs(moved["mlp"]) > 1e-5


def test_it_is_closed_where_the_plan_was_changed_or_the_source_is_no_folder(tmp_path: Path) -> None:
    changed = scored(LOSSES, tmp_path)
    changed.plan["registered_sha256"] = "0" * 64
    assert "the registered plan was changed" in lead(open_test(changed))
    elsewhere = dataclasses.replace(scored(LOSSES, tmp_path), folder=None)
    assert "this report is of another source" in lead(open_test(elsewhere))
    assert list(tmp_path.iterdir()) == []


def test_without_a_final_test_nothing_is_said(tmp_path: Path) -> None:
    assert lead(make_results(LOSSES)) == ""
    assert lead(scored(LOSSES, tmp_path, final_test=False)) == ""


def test_an_opening_that_cannot_be_written_opens_nothing(tmp_path: Path) -> None:
    results = scored(LOSSES, tmp_path / "study")
    blocked = dataclasses.replace(results, folder=tmp_path / "file")
    (tmp_path / "file").write_text("")
    closed = open_test(blocked)
    assert analyse(closed).final_test.empty
    assert "its opening cannot be written" in lead(closed)


def test_a_damaged_log_is_said(tmp_path: Path) -> None:
    (tmp_path / "test_opened.json").write_text("{")
    with pytest.raises(AnalysisError, match="log of the test split's openings, cannot be read"):
        read_openings(tmp_path)
