"""The ranking: means, intervals, ties, and cells that have no rank."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from scipy import stats

from analysis.comparing.ranking import RANKING_COLUMNS, rank_cells
from analysis.loading.load import load_results
from analysis.schema import PLAN_FILE, RECORDS_FOLDER
from analysis.summary import analyse
from tests.fakes import make_study
from tests.fakes_results import make_results


def test_means_ranks_and_intervals() -> None:
    table = rank_cells(make_results({"baseline": [5.0, 5.2, 5.1], "a": [4.7, 4.9, 5.1], "b": [5.3, 5.4, 5.5]}))
    assert list(table.columns) == list(RANKING_COLUMNS)
    assert table["cell"].tolist() == ["a", "baseline", "b"]
    assert table["rank"].tolist() == [1, 2, 3]
    assert table["mean"].tolist() == pytest.approx([4.9, 5.1, 5.4])
    assert table["sd"].tolist() == pytest.approx([0.2, 0.1, 0.1])
    expected = stats.t.interval(0.95, 2, loc=4.9, scale=0.2 / 3**0.5)
    assert table.loc[0, ["ci_low", "ci_high"]].tolist() == pytest.approx(list(expected), abs=1e-8)
    assert table["is_baseline"].tolist() == [False, True, False]


def test_one_seed_has_no_interval() -> None:
    table = rank_cells(make_results({"baseline": [5.0], "a": [4.9]}))
    assert table["rank"].tolist() == [1, 2]
    assert table[["sd", "ci_low", "ci_high"]].isna().all(axis=None)


def test_equal_figures_have_no_spread_however_their_mean_is_rounded() -> None:
    """The mean of three 0.1 is not 0.1, by one unit in the last place."""
    results = make_results({"baseline": [0.2, 0.3, 0.4], "a": [0.1] * 3})
    table = rank_cells(results).set_index("cell")
    assert table.loc["a", "sd"] == 0
    assert table.loc["a", ["ci_low", "ci_high"]].isna().all()
    assert any(note.startswith("no spread: all seeds gave the same val_loss in a;") for note in analyse(results).notes)


def test_ties_share_the_better_rank_and_keep_their_order() -> None:
    table = rank_cells(make_results({"baseline": [5.0, 5.1], "b": [4.0, 4.2], "a": [5.0, 5.1], "c": [6.0, 6.0]}))
    assert table["cell"].tolist() == ["b", "baseline", "a", "c"]
    assert table["rank"].tolist() == [1, 2, 2, 4]


def test_means_that_rounding_alone_tells_apart_are_ties() -> None:
    rising = [3.0, 3.1, 3.2, 3.3, 3.4]
    losses = {"baseline": rising, "a": [3.3] * 5, "b": rising[::-1]}
    table = rank_cells(results := make_results(losses))
    assert table["mean"].nunique() == 3
    assert table["cell"].tolist() == ["baseline", "b", "a"]
    assert table["rank"].tolist() == [1, 1, 3]
    assert any("share a rank: baseline = b" in note for note in analyse(results).notes)
    apart = rank_cells(make_results({"baseline": rising, "b": [3.2 + 1e-9] * 5}))
    assert apart["rank"].tolist() == [1, 2]


def test_a_cell_with_diverged_runs_has_no_rank_however_good_its_survivors_are() -> None:
    table = rank_cells(
        make_results({"a": [1.0, "diverged", 1.2], "baseline": [5.0, 5.1, 5.2], "b": [4.0, "failed", 4.1]})
    ).set_index("cell")
    assert table.index.tolist() == ["b", "baseline", "a"]
    assert pd.isna(table.loc["a", "rank"])
    assert table.loc["a", ["n", "diverged", "mean"]].tolist() == pytest.approx([2, 1, 1.1])
    assert table.loc["b", ["rank", "n", "failed"]].tolist() == [1, 2, 1]


def test_planned_runs_without_a_record_are_missing() -> None:
    results = make_results({"baseline": [5.0, 5.1, 5.2], "a": [4.0, None, "failed"]}, plan={"seeds": [0, 1, 2]})
    assert rank_cells(results).set_index("cell")["missing"].to_dict() == {"baseline": 0, "a": 1}


def test_seeds_by_which_other_cells_alone_were_extended_are_not_missing(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "study", cells=("baseline", "mlp", "moe"), seeds=3)
    plan = json.loads((folder / PLAN_FILE).read_text())
    never_asked = plan["cells"][1]["hashes"].pop("2")
    (folder / PLAN_FILE).write_text(json.dumps(plan))
    (folder / RECORDS_FOLDER / f"{never_asked}.json").unlink()
    (folder / RECORDS_FOLDER / f"{plan['cells'][2]['hashes']['0']}.json").unlink()
    missing = rank_cells(load_results(folder)).set_index("cell")["missing"].to_dict()
    assert missing == {"baseline": 0, "mlp": 0, "moe": 1}


def test_higher_is_better_where_the_plan_says_so() -> None:
    results = make_results({"baseline": [5.0], "a": [6.0]}, plan={"metric": "val_perplexity", "direction": "max"})
    assert rank_cells(results)["cell"].tolist() == ["a", "baseline"]


def test_ranks_are_within_a_scale() -> None:
    levels = {
        f"{cell}@{scale}": {"variant": place, "scale": scale}
        for scale in ("small", "large")
        for place, cell in enumerate(("baseline", "a"))
    }
    losses = {"baseline@small": [5.0], "a@small": [4.0], "baseline@large": [1.0], "a@large": [2.0]}
    table = rank_cells(make_results(losses, levels=levels, baseline=lambda cell: f"baseline@{cell.split('@')[1]}"))
    assert table["cell"].tolist() == ["a@small", "baseline@small", "baseline@large", "a@large"]
    assert table["rank"].tolist() == [1, 2, 1, 2]
    assert table["scale"].tolist() == ["small", "small", "large", "large"]
