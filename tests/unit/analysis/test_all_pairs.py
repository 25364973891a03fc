"""Every model against every other, exploratory."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from analysis.comparing.all_pairs import ALL_PAIRS_COLUMNS, MOST_PAIRS, all_pairs
from analysis.comparing.unpaired import UnpairedMoments, games_howell
from analysis.reporting.tables import tables
from analysis.statistics.joint import one_model
from analysis.statistics.looks import repeated_t_interval, repeated_t_test
from analysis.statistics.significance import benjamini_hochberg
from analysis.study.results import Results
from analysis.summary import analyse
from tests.fakes_plan import added, registered
from tests.fakes_results import make_results

RNG = np.random.default_rng(0)
SEEDS = RNG.normal(5, 0.1, 6)
LOSSES = {name: list(SEEDS + RNG.normal(effect, 0.01, 6)) for name, effect in
          (("baseline", 0.0), ("a", -0.05), ("b", -0.045), ("c", 0.02), ("d", 0.021))}  # fmt: skip


def explored(results: Results) -> tuple[pd.DataFrame, tuple[str, ...]]:
    models = one_model(
        results.finished(results.metric), pd.DataFrame(columns=["cell", "partner", "largest", "tolerance"])
    )
    order = list(results.finished(results.metric).mean(axis=1).sort_values(kind="stable").index)
    return all_pairs(results, order, models)


def test_benjamini_hochberg_is_statsmodels_and_by_hand() -> None:
    p = RNG.uniform(0, 0.3, 20)
    assert benjamini_hochberg(p).tolist() == pytest.approx(multipletests(p, method="fdr_bh")[1].tolist(), abs=1e-12)
    # 0.01 x 3 / 1, 0.02 x 3 / 2 and 0.04 x 3 / 3, each at most what follows.
    assert benjamini_hochberg([0.04, np.nan, 0.01, 0.02]).tolist() == pytest.approx(
        [0.04, np.nan, 0.03, 0.03], nan_ok=True
    )
    assert np.isnan(benjamini_hochberg([np.nan])).all()


def test_every_pair_once_the_better_first() -> None:
    table, (note,) = explored(make_results(LOSSES))
    assert list(table.columns) == list(ALL_PAIRS_COLUMNS)
    assert len(table) == 10
    p = []
    for row in table.to_dict("records"):
        expected = stats.ttest_rel(LOSSES[row["cell"]], LOSSES[row["partner"]])
        interval = expected.confidence_interval()
        assert row["difference"] <= 0
        assert row["p"] == pytest.approx(expected.pvalue, abs=1e-8)
        assert (row["difference_low"], row["difference_high"]) == pytest.approx((interval.low, interval.high), abs=1e-8)
        p.append(expected.pvalue)
    assert table["q"].tolist() == pytest.approx(multipletests(p, method="fdr_bh")[1].tolist(), abs=1e-8)
    count = int((table["q"] <= 0.05).sum())
    assert f"of 10 tested {count} with a q of 5 %" in note
    assert f"other {10 - count} in results.json" in note
    assert "exploratory" in note


def test_the_report_shows_the_small_q_alone() -> None:
    results = make_results(LOSSES)
    analysis = analyse(results)
    shown = tables(results, analysis)["all_pairs"]
    assert len(analysis.all_pairs) == 10
    assert 0 < len(shown.rows) == int((analysis.all_pairs["q"] <= 0.05).sum()) < 10
    assert "pairs tested" in shown.headers


def test_one_model_counts_once_and_two_cells_are_no_exploration() -> None:
    twice = {**LOSSES, "again": LOSSES["a"]}
    table, _ = explored(make_results(twice))
    assert len(table) == 10
    assert explored(make_results({name: LOSSES[name] for name in ("baseline", "a")}))[0].empty
    assert explored(make_results({name: values[:2] for name, values in LOSSES.items()}))[0].empty  # nothing is tested


def test_diverged_cells_are_not_tested_and_scales_are_apart() -> None:
    table, _ = explored(make_results({**LOSSES, "d": [*LOSSES["d"][:5], "diverged"]}))
    assert table.loc[table["partner"] == "d", "p"].isna().all()
    assert table["family"].eq(6).all()
    levels = {f"{cell}@{scale}": {"variant": cell, "scale": scale} for scale in "xy" for cell in LOSSES}
    both = {f"{cell}@{scale}": [v + (scale == "y") for v in LOSSES[cell]] for scale in "xy" for cell in LOSSES}
    results = make_results(both, levels=levels, baseline=lambda cell: f"baseline@{cell[-1]}")
    table, _ = explored(results)
    assert len(table) == 20
    assert (table["cell"].str[-1] == table["partner"].str[-1]).all()


def test_disjoint_seeds_are_welch_and_games_howell() -> None:
    arms = {name: list(RNG.normal(mean, 0.1, 4)) for name, mean in (("baseline", 5), ("a", 4.5), ("b", 5.1))}
    places = {name: place * 4 for place, name in enumerate(arms)}
    losses = {name: [None] * places[name] + values for name, values in arms.items()}
    table, _ = explored(make_results(losses))
    assert table["pairing"].tolist() == ["unpaired"] * 3
    for row in table.to_dict("records"):
        x, y = arms[row["cell"]], arms[row["partner"]]
        assert row["p"] == pytest.approx(stats.ttest_ind(x, y, equal_var=False).pvalue, abs=1e-8)
        assert row["p_games_howell"] == pytest.approx(float(games_howell(UnpairedMoments.of(x, y), 3)))
    assert explored(make_results(LOSSES))[0]["p_games_howell"].isna().all()


def test_disjoint_arms_are_tested_on_what_was_added_later_alone() -> None:
    """Each arm has four planned seeds of its own, and four that were added after results were known."""
    arms = {name: RNG.normal(mean, 0.1, 8) for name, mean in (("baseline", 5), ("a", 4.5), ("b", 5.1))}
    losses: dict[str, list[float | None]] = {name: [None] * 24 for name in arms}
    for place, (name, values) in enumerate(arms.items()):
        losses[name][place * 4 : place * 4 + 4] = values[:4]
        losses[name][12 + place * 4 : 16 + place * 4] = values[4:]
    plan = registered(list(losses), n=12, primary=None, amendments=[added("seeds", list(range(12, 24)), ended=12)])
    table, _ = explored(make_results(losses, plan={**plan, "seeds": list(range(24))}))
    for row in table.to_dict("records"):
        x, y = arms[row["cell"]], arms[row["partner"]]
        assert (row["n"], row["n_tested"]) == (8, 4)
        assert row["difference"] == pytest.approx(x.mean() - y.mean())
        assert row["p"] == pytest.approx(stats.ttest_ind(x[4:], y[4:], equal_var=False).pvalue, abs=1e-8)
        assert row["p_games_howell"] == pytest.approx(float(games_howell(UnpairedMoments.of(x[4:], y[4:]), 3)))


def test_pairs_of_a_race_hold_at_all_looks() -> None:
    looks = (3, 5, 7)
    losses = {name: [*values, values[0]] for name, values in LOSSES.items() if name in ("baseline", "a", "b")}
    losses["b"] = losses["b"][:6]  # one more than its look
    plan = registered(list(losses), n=7, looks=looks, primary=None)
    table, _ = explored(make_results(losses, plan={**plan, "seeds": list(range(7))}))
    for row in table.to_dict("records"):
        n = 5 if "b" in (row["cell"], row["partner"]) else 7
        d = np.array(losses[row["cell"]][:n]) - np.array(losses[row["partner"]][:n])
        assert row["n"] == n
        assert row["p"] == pytest.approx(float(repeated_t_test(d.mean(), d.std(ddof=1), n, looks)))
        ends = [float(end) for end in repeated_t_interval(d.mean(), d.std(ddof=1), n, looks)]
        assert [row["difference_low"], row["difference_high"]] == pytest.approx(ends)


def test_too_many_pairs_are_said() -> None:
    many = {"baseline" if i == 0 else f"c{i}": list(SEEDS[:3] + i) for i in range(102)}
    table, (note,) = explored(make_results(many))
    assert table.empty
    assert len(list(itertools.combinations(many, 2))) == 5151 > MOST_PAIRS
    assert "5,151" in note


def test_the_false_discovery_rate_is_held() -> None:
    """Two groups of models: of the pairs called different, those within a group are false."""
    rng = np.random.default_rng(1)
    shares = []
    for _ in range(300):
        seeds = rng.normal(5, 0.1, 5)
        losses = {f"c{i}": list(seeds + 0.04 * (i % 2) + rng.normal(0, 0.01, 5)) for i in range(6)}
        names = list(losses)
        pairs = list(itertools.combinations(range(6), 2))
        p = stats.ttest_1samp([np.subtract(losses[names[i]], losses[names[j]]) for i, j in pairs], 0, axis=1).pvalue
        called = benjamini_hochberg(p) <= 0.05
        false = np.array([i % 2 == j % 2 for i, j in pairs])
        shares.append((called & false).sum() / max(called.sum(), 1))
    assert np.mean(shares) <= 0.05
