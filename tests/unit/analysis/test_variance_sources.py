"""Components of variance agree with statsmodels, and their intervals cover what they promise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm

from analysis.__main__ import main
from analysis.comparing.variance_sources import BOTH, DOCUMENTS, INITIALISATION, ORDER, components, variance_sources
from analysis.figures.pareto import pareto_figure
from analysis.figures.plots import ranking_figure
from analysis.figures.variance import variance_figure
from analysis.reporting.narrative import verdict
from analysis.reporting.render import content, markdown
from analysis.schema import DocumentScores
from analysis.study.results import Results
from analysis.summary import analyse
from tests.fakes_results import make_results

SDS = {INITIALISATION: 0.01, ORDER: 0.02, BOTH: 0.005}


def grid(rng: np.random.Generator, seeds: int, orders: int, sds: dict[str, float] = SDS) -> np.ndarray:
    a, b = rng.normal(0, sds[INITIALISATION], (seeds, 1)), rng.normal(0, sds[ORDER], orders)
    return 4 + a + b + rng.normal(0, sds[BOTH], (seeds, orders))


def study(values: np.ndarray, **losses: list[float]) -> Results:
    """Return a study whose cells are orders (columns) and whose seeds are the rows."""
    names = ["baseline" if order == 0 else f"baseline_{order}" for order in range(values.shape[1])]
    levels = {name: {"model": "plain", "data_order": order} for order, name in enumerate(names)}
    return make_results(
        {name: list(column) for name, column in zip(names, values.T, strict=True)} | losses, levels=levels
    )


def test_orders_of_the_data_are_not_compared() -> None:
    """They would be: the orders' sd is large beside what is left. But of five orders one is always the best."""
    results = study(grid(np.random.default_rng(0), 5, 4, {INITIALISATION: 0.01, ORDER: 0.2, BOTH: 0.001}))
    analysis = analyse(results)
    assert analysis.all_pairs.empty
    table = analysis.comparisons
    assert set(table["verdict"]) == {"another order of the data alone: of several one is always the best"}
    assert table["p"].isna().all()


def test_orders_of_one_model_have_no_rank_and_nothing_that_is_made_of_ranks() -> None:
    """In the plan's order: sorted by their means they would be a ranking all the same."""
    values = grid(np.random.default_rng(0), 10, 4, {INITIALISATION: 0.01, ORDER: 0.2, BOTH: 0.001})
    results = study(values)
    analysis = analyse(results)
    assert list(analysis.ranking["cell"]) == ["baseline", "baseline_1", "baseline_2", "baseline_3"]
    assert list(analysis.ranking["mean"]) == pytest.approx(list(values.mean(axis=0)))
    assert analysis.ranking[["rank", "p_best", "rank_low", "groups"]].isna().all(axis=None)
    assert analysis.mean_ranks == ()
    assert analysis.pareto["train_seconds_front"].isna().all()
    assert "best" not in [finding.kind for finding in verdict(results, analysis)[""]]
    assert any(note.startswith("no ranks: some cells are one model in several orders") for note in analysis.notes)
    assert pareto_figure(results, analysis) is None
    assert "Means of validation loss" in [words.get_text() for words in ranking_figure(results, analysis).texts]
    assert "## Ranking" not in (written := markdown(content(results, analysis), []))
    assert "## Means" in written


def test_nor_have_models_where_one_of_them_was_trained_in_several_orders() -> None:
    """It is there with the best of its orders."""
    values = grid(np.random.default_rng(0), 5, 2)
    results = study(values)
    levels = results.cells.to_dict("index") | {"other": {"model": "other", "data_order": 0}}
    losses = {name: list(column) for name, column in zip(results.cells.index, values.T, strict=True)}
    mixed = make_results(losses | {"other": [5.0, 5.1, 5.2, 5.0, 5.1]}, levels=levels)
    assert analyse(mixed).ranking["rank"].isna().all()
    alone = make_results({"baseline": losses["baseline"], "other": [5.0, 5.1, 5.2, 5.0, 5.1]}, levels={
        name: levels[name] for name in ("baseline", "other")
    })  # fmt: skip
    assert list(analyse(alone).ranking["rank"]) == [1, 2]


def test_pairs_of_models_are_of_one_order_of_the_data() -> None:
    """Of several orders one is always the best: across them a pair would be of models and of luck."""
    rng = np.random.default_rng(0)
    cells = {f"{model}_{order}": {"model": model, "data_order": order} for model in "abc" for order in range(3)}
    results = make_results({name: list(rng.normal(4, 0.1, 4)) for name in cells}, levels=cells, baseline="a_0")
    pairs = analyse(results).all_pairs
    assert {frozenset(pair) for pair in zip(pairs["cell"], pairs["partner"], strict=True)} == {
        frozenset((f"{one}_{order}", f"{other}_{order}")) for one, other in ("ab", "ac", "bc") for order in range(3)
    }


def test_the_figure_has_room_for_the_intervals_of_all_models() -> None:
    rng = np.random.default_rng(2)
    cells, losses = {}, {}
    for model, size in (("a", 1), ("b", 20)):
        values = grid(rng, 4, 3, {source: size * sd for source, sd in SDS.items()})
        cells |= {f"{model}_{order}": {"model": model, "data_order": order} for order in range(3)}
        losses |= {f"{model}_{order}": list(values[:, order]) for order in range(3)}
    results = make_results(losses, levels=cells, baseline="a_0")
    analysis = analyse(results)
    figure = variance_figure(results, analysis)
    assert figure is not None
    for axes in figure.axes:
        low, high = axes.get_xlim()
        assert low == 0
        assert high > analysis.variance["sd_high"].max()


def test_mean_squares_are_those_of_a_two_way_analysis_of_variance() -> None:
    values = grid(np.random.default_rng(1), 5, 4)
    long = pd.DataFrame([(i, j, values[i, j]) for i in range(5) for j in range(4)], columns=["seed", "order", "y"])
    table = anova_lm(ols("y ~ C(seed) + C(order)", long).fit())
    of_seed, of_order, rest = table["mean_sq"]
    found = components(values)
    assert found[BOTH].variance == pytest.approx(rest, rel=1e-8)
    assert found[INITIALISATION].variance == pytest.approx((of_seed - rest) / 4, rel=1e-8)
    assert found[ORDER].variance == pytest.approx((of_order - rest) / 5, rel=1e-8)
    assert [found[name].df for name in (INITIALISATION, ORDER, BOTH)] == [4, 3, 12]


def test_without_a_rest_the_interval_is_chi_squared() -> None:
    """Rows that differ by constants: the effect's mean square is the variance, its interval exact."""
    values = np.array([[1.0, 1.0, 1.0], [2.0, 2.0, 2.0], [4.0, 4.0, 4.0], [5.0, 5.0, 5.0]])
    found = components(values)[INITIALISATION]
    variance = np.var([1, 2, 4, 5], ddof=1)
    assert found.variance == pytest.approx(variance)
    assert found.interval == pytest.approx(
        (3 * variance / stats.chi2.isf(0.025, 3), 3 * variance / stats.chi2.ppf(0.025, 3))
    )


@pytest.mark.parametrize("sds", [SDS, {INITIALISATION: 0.001, ORDER: 0.01, BOTH: 0.01}])
def test_intervals_cover_the_true_variances(sds: dict[str, float]) -> None:
    rng = np.random.default_rng(2)
    inside = dict.fromkeys(sds, 0)
    studies = 1_000
    for _ in range(studies):
        for name, part in components(grid(rng, 5, 5, sds)).items():
            inside[name] += part.interval[0] <= sds[name] ** 2 <= part.interval[1]
    assert all(0.93 <= count / studies <= 0.975 for count in inside.values()), inside


def test_in_the_analysis() -> None:
    values = grid(np.random.default_rng(3), 5, 5)
    results = study(values)
    table = analyse(results).variance.set_index("source")
    assert list(table.index) == [INITIALISATION, ORDER, BOTH]
    assert table["share"].sum() == pytest.approx(1)
    expected = components(values)
    for source in table.index:
        assert table.loc[source, "variance"] == pytest.approx(expected[source].variance)
        assert table.loc[source, "sd_low"] <= table.loc[source, "sd"] <= table.loc[source, "sd_high"]
    assert analyse(make_results({"baseline": [4.0, 4.1], "new": [3.9, 4.0]})).variance.empty


def test_documents_are_a_source_of_their_own() -> None:
    """Four documents of equal size, all runs alike: the variance of a mean over four."""
    results = study(grid(np.random.default_rng(4), 3, 3))
    losses = np.array([1.0, 2.0, 4.0, 5.0])
    scores = DocumentScores(documents=[0, 1, 2, 3], clusters=[0, 1, 2, 3], tokens=[10] * 4, losses=list(10 * losses))
    runs = zip(results.runs["cell"], results.runs["seed"], strict=True)
    results = Results(
        "study", results.runs, results.curves, results.factors, results.baselines, scores=dict.fromkeys(runs, scores)
    )
    row = variance_sources(results).set_index("source").loc[DOCUMENTS]
    assert row["variance"] == pytest.approx(losses.var(ddof=1) / 4)
    assert row["df"] == pytest.approx(3)
    assert np.isnan(row["share"])


def test_an_incomplete_grid_is_not_split_and_said() -> None:
    values = grid(np.random.default_rng(5), 4, 3)
    values[1, 2] = np.nan
    results = study(np.where(np.isnan(values), 4.0, values))
    kept = ~((results.runs["cell"] == "baseline_2") & (results.runs["seed"] == 1))
    results = Results("study", results.runs[kept], results.curves, results.factors, results.baselines)
    analysis = analyse(results)
    assert analysis.variance.empty
    assert any("1 of 12 runs (seeds x orders) are missing" in note for note in analysis.notes)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = grid(np.random.default_rng(6), 3, 3)
    rows = [f"{'baseline' if o == 0 else f'o{o}'},{o},{s},{values[s, o]}" for o in range(3) for s in range(3)]
    path = tmp_path / "mine.csv"
    path.write_text("cell,data_order,seed,val_loss\n" + "\n".join(rows))
    assert main(["variance", str(path)]) == 0
    said = capsys.readouterr().out
    assert "initialisation: the seed" in said
    assert f"{np.sqrt(components(values)[BOTH].variance):.4f}" in said
    path.write_text("cell,seed,val_loss\nbaseline,0,1\nnew,0,2\n")
    assert main(["variance", str(path)]) == 1
    assert "has no factor 'data_order'" in capsys.readouterr().err
