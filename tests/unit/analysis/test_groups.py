"""Groups agree with Tukey's test of every pair, mean ranks with scipy and Demšar's table."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from analysis.comparing.groups import critical_difference, letter, runs, tukey
from analysis.figures import style as figure_style
from analysis.figures.ranks import ranks_figure
from analysis.statistics.joint import pooled_residual
from analysis.study.results import Results
from analysis.summary import Analysis, analyse
from tests.fakes_results import make_results

MEANS = {"baseline": 4.0, "a": 4.01, "b": 4.05, "c": 4.3}


def study(seeds: int, means: dict[str, float] = MEANS, **options: Any) -> Analysis:
    rng = np.random.default_rng(1)
    shared = rng.normal(0, 0.5, seeds)
    losses = {cell: list(mean + shared + rng.normal(0, 0.02, seeds)) for cell, mean in means.items()}
    return analyse(make_results(losses, **options))


@settings(max_examples=100)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=9), st.integers(0, 10))
def test_two_cells_share_a_letter_where_they_are_close(means: list[int], gap: int) -> None:
    values = np.sort(np.array(means, dtype=float))
    letters = letter(runs(values, gap), values.size)
    for i, one in enumerate(letters):
        for j, other in enumerate(letters):
            assert bool(set(one) & set(other)) == (abs(values[i] - values[j]) <= gap)


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_letters_are_tukeys_test_of_every_pair(seeds: int) -> None:
    analysis = study(seeds)
    letters = analysis.ranking.set_index("cell")["groups"]
    rng = np.random.default_rng(1)
    shared = rng.normal(0, 0.5, seeds)
    values = np.array([mean + shared + rng.normal(0, 0.02, seeds) for mean in MEANS.values()])
    variance, df = pooled_residual(values)
    names = list(MEANS)
    for i, one in enumerate(names):
        for j, other in enumerate(names):
            t = abs(values[i].mean() - values[j].mean()) / np.sqrt(variance / seeds)
            p = stats.studentized_range.sf(t, len(names), df)
            assert bool(set(letters[one]) & set(letters[other])) == (p > 0.05)
    assert not set(letters["c"]) & set(letters["baseline"])


def test_one_model_under_two_names_has_the_same_letters_and_counts_once() -> None:
    rng = np.random.default_rng(2)
    losses = {cell: list(mean + rng.normal(0, 0.02, 5)) for cell, mean in MEANS.items()}
    alone = analyse(make_results(losses)).ranking.set_index("cell")["groups"]
    both = analyse(make_results(losses | {"twin": losses["c"]})).ranking.set_index("cell")["groups"]
    assert both["twin"] == both["c"]
    pd.testing.assert_series_equal(both.drop("twin").loc[alone.index], alone)


CONTROL = {"negative_control": {"factor": "norm", "tolerance_nats": 1e-3}}


def with_twins(lost: float | str | None = None, seeds: int = 5) -> tuple[Results, dict[str, list]]:
    """Return a study of pairs of names of one model, `b` with a last run that ended so, and the models' losses."""
    rng = np.random.default_rng(2)
    models = {cell: list(mean + rng.normal(0, 0.02, seeds)) for cell, mean in MEANS.items()}
    losses = models | {f"{cell}_norm": values for cell, values in models.items()}
    losses["b"] = [*losses["b"][:-1], lost]
    levels = {
        cell: {"norm": int(cell.endswith("_norm")), "part": "baseline abc".index(cell.removesuffix("_norm"))}
        for cell in losses
    }
    return make_results(losses, levels=levels, plan=CONTROL), models


@pytest.mark.parametrize("lost", ["diverged", "failed", None])
def test_a_model_counts_by_a_name_that_competes(lost: str | None) -> None:
    results, models = with_twins(lost)
    ranking = analyse(results).ranking.set_index("cell")
    alone = analyse(make_results(models)).ranking.set_index("cell")
    columns = ["groups", "p_best"]
    for cell in MEANS:
        assert ranking.loc[f"{cell}_norm", "groups"] == alone.loc[cell, "groups"]
        assert ranking.loc[f"{cell}_norm", "p_best"] == pytest.approx(alone.loc[cell, "p_best"], abs=0.02)
    if lost == "diverged":
        assert ranking.loc["b", columns].isna().all()
    else:
        assert ranking.loc["b", columns].tolist() == ranking.loc["b_norm", columns].tolist()


def test_mean_ranks_name_a_cell_that_competes() -> None:
    (found,) = analyse(with_twins("diverged", seeds=12)[0]).mean_ranks
    assert found.cells == ("baseline", "a", "b_norm", "c")


@pytest.mark.parametrize("twin", [True, False])
def test_without_a_complete_name_the_report_says_what_is_missing(twin: bool) -> None:
    results, _ = with_twins()
    if not twin:
        results = dataclasses.replace(results, runs=results.runs[results.runs["cell"] != "b_norm"])
    analysis = analyse(results)
    said = [note for note in analysis.notes if note.startswith("no P(best)")]
    assert analysis.ranking["groups"].notna().any() == twin
    assert said == ([] if twin else [
        "no P(best), likely ranks, groups and probabilities of fronts: they need equal seeds of all cells, and there "
        "are seeds without b"
    ])  # fmt: skip


@pytest.mark.parametrize("losses", [[4.0, 4.1], [4.0, 4.1, None], [4.0, 4.1, "diverged"]])
def test_no_groups_without_the_model(losses: list[Any]) -> None:
    table = analyse(make_results({"baseline": [4.0, 4.2, 4.1][: len(losses)], "new": losses})).ranking
    assert table["groups"].isna().all()


def test_tukeys_quantile_of_two_is_students() -> None:
    assert tukey(2, 7) / np.sqrt(2) == pytest.approx(stats.t.isf(0.025, 7), abs=1e-6)


@pytest.mark.parametrize(("cells", "q"), [(2, 1.960), (3, 2.343), (5, 2.728), (10, 3.164)])
def test_critical_difference_is_that_of_demsars_table(cells: int, q: float) -> None:
    assert critical_difference(cells, 20) == pytest.approx(q * np.sqrt(cells * (cells + 1) / 120), abs=1e-3)


def test_mean_ranks_from_ten_seeds_on() -> None:
    assert study(9).mean_ranks == ()
    (found,) = study(12).mean_ranks
    assert found.cells == ("baseline", "a", "b", "c")
    assert found.ranks.mean() == pytest.approx(2.5)
    assert found.ranks[-1] == 4
    assert found.friedman < 0.001
    assert found.critical == pytest.approx(critical_difference(4, 12))
    higher = study(12, plan={"metric": "val_perplexity", "direction": "max"}).mean_ranks[0]
    assert higher.cells == found.cells[::-1]


def test_the_diagram_shows_every_cell_and_every_group() -> None:
    analysis = study(12)
    results = make_results({"baseline": [1.0]})
    with figure_style.style():
        figure = ranks_figure(results, analysis)
    assert figure is not None
    (found,) = analysis.mean_ranks
    axes = figure.axes[0]
    dots = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "o"]  # type: ignore[index]
    assert dots == list(found.ranks)
    bars = [line for line in axes.lines if line.get_color() == figure_style.BETTER]
    assert len(bars) == len(found.groups)
    said = " ".join(text.get_text() for text in axes.texts)
    assert all(cell in said for cell in found.cells)
    assert ranks_figure(results, study(9)) is None
