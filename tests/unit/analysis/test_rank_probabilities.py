"""Probabilities of ranks agree with the t distribution where it says them, and with studies that were simulated."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from analysis.comparing.rank_probabilities import rank_shares
from analysis.reporting.report import results_json
from analysis.statistics.joint import pooled_residual
from analysis.summary import analyse
from tests.fakes_results import make_results


def study(means: list[float], seeds: int = 5, sd: float = 0.02, seed: int = 0) -> dict[str, list[float]]:
    rng = np.random.default_rng(seed)
    values = np.array(means)[:, None] + rng.normal(0, 0.3, seeds) + rng.normal(0, sd, (len(means), seeds))
    return {"baseline" if cell == 0 else f"c{cell}": list(row) for cell, row in enumerate(values)}


def ranking(losses: dict, **options: object) -> pd.DataFrame:
    return analyse(make_results(losses, **options)).ranking.set_index("cell")  # type: ignore[arg-type]


@pytest.mark.parametrize("difference", [0.0, 0.3, 1.0, 4.0])
def test_two_cells_are_a_t_distribution(difference: float) -> None:
    shares = rank_shares(np.array([0.0, difference]), 0.5, 4, np.array([1, 1]))
    assert shares[0, 0] == pytest.approx(stats.t.cdf(difference / (0.5 * 2**0.5), 4), abs=0.015)


@settings(max_examples=20)
@given(st.lists(st.tuples(st.floats(-2, 2), st.integers(1, 3)), min_size=2, max_size=6), st.integers(2, 30))
def test_every_rank_is_somebodys(models: list[tuple[float, int]], df: int) -> None:
    means, sizes = (np.array(column) for column in zip(*models, strict=True))
    shares = rank_shares(means, 0.4, df, sizes)
    assert shares.sum(axis=1) == pytest.approx(1)
    assert shares[:, 0].sum() == pytest.approx(1)
    if (sizes == 1).all():
        assert shares.sum(axis=0) == pytest.approx(1)


def test_in_the_ranking() -> None:
    table = ranking(study([5.0, 4.99, 4.0]))
    assert table.index[0] == "c2"
    assert table.loc["c2", ["p_best", "rank_low", "rank_high"]].tolist() == [1.0, 1.0, 1.0]
    assert table.loc["baseline", ["rank_low", "rank_high"]].tolist() == [2.0, 3.0]
    worst = ranking(study([5.0, 4.99, 4.0]), plan={"metric": "val_perplexity", "direction": "max"})
    assert worst.loc["c2", "p_best"] == 0
    assert worst.loc["c2", "rank_low"] == 3


def test_what_the_seeds_have_in_common_does_not_count() -> None:
    losses = study([5.0, 4.98, 4.97])
    moved = {cell: [value + 10 * k for k, value in enumerate(values)] for cell, values in losses.items()}
    assert ranking(moved)["p_best"].tolist() == pytest.approx(ranking(losses)["p_best"].tolist(), abs=0.002)


def test_equal_models_share_their_place() -> None:
    losses = study([5.0, 4.5, 4.48])
    alone, twice = ranking(losses), ranking({**losses, "again": losses["c1"]})
    assert (
        twice.loc["again", "p_best"] == twice.loc["c1", "p_best"] == pytest.approx(alone.loc["c1", "p_best"], abs=0.02)
    )
    assert twice.loc["baseline", ["rank_low", "rank_high"]].tolist() == [4.0, 4.0]
    assert twice["rank"].max() == 4


@pytest.mark.parametrize(
    "losses",
    [
        study([5.0, 4.0], seeds=2),
        {"baseline": [5.0, 5.1, 5.3], "c1": [4.0, 4.1, None]},
        {"baseline": [5.0, 5.1, 5.3], "c1": [5.0, 5.1, 5.3]},
    ],
)
def test_where_there_is_no_probability(losses: dict) -> None:
    results = make_results(losses)
    assert analyse(results).ranking["p_best"].isna().all()
    assert {row["p_best"] for row in results_json(results, analyse(results))["ranking"]} == {None}


def test_a_diverged_cell_takes_no_part() -> None:
    table = ranking({**study([5.0, 4.9, 4.8]), "wild": [1.0, "diverged", 1.0, 1.0, 1.0]})
    assert np.isnan(table.loc["wild", "p_best"])
    assert table["p_best"].sum() == pytest.approx(1)


def test_a_flawed_cell_takes_no_place_from_a_result() -> None:
    results = make_results(study([5.0, 4.9, 3.0]))
    results.runs.loc[results.runs["cell"] == "c2", "flaws"] = "causality"
    table = analyse(results).ranking.set_index("cell")
    assert np.isnan(table.loc["c2", "p_best"])
    assert table.loc["c1", ["p_best", "rank_low"]].tolist() == pytest.approx([1.0, 1.0], abs=0.001)


def test_the_probability_of_being_best_is_calibrated() -> None:
    """Over studies whose true means are drawn from a wide prior, the cell said to be best with p is so in p of them."""
    rng = np.random.default_rng(0)
    said, true = [], []
    for _ in range(300):
        means = rng.normal(0, 2, 4)
        values = means[:, None] + rng.normal(0, 1, (4, 4))
        variance, df = pooled_residual(values)
        shares = rank_shares(values.mean(axis=1), float(np.sqrt(variance / 4)), df, np.ones(4, dtype=int))
        said.append(shares[:, 0])
        true.append(np.arange(4) == means.argmin())
    probability, best = np.concatenate(said), np.concatenate(true)
    for low, high in ((0.0, 0.5), (0.5, 1.0)):
        there = (probability > low) & (probability <= high)
        expected, n = probability[there].mean(), int(there.sum())
        assert abs(best[there].mean() - expected) < 3.3 * np.sqrt(expected * (1 - expected) / n) + 0.01
