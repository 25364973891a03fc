"""Disjoint seeds: Welch, Games-Howell, classical Dunnett and independent g, against scipy, tables and hand."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from analysis.comparing.unpaired import (
    UnpairedMoments,
    as_pairs,
    dunnett,
    dunnett_table,
    games_howell,
    independent_d,
    independent_g,
    independent_interval,
    welch_error,
    welch_interval,
    welch_test,
)
from analysis.statistics.joint import many_to_one_cdf

DRUG_1 = np.array([0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0])
DRUG_2 = np.array([1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4])
"""Extra hours of sleep (Student 1908). Taken as independent groups, R's t.test prints t = -1.8608, df = 17.776,
p-value = 0.07939 and the interval -3.3654832 to 0.2054832."""
BLOOD = ([7.40, 8.50, 7.20, 8.24, 9.84, 8.32], [9.76, 8.80, 7.68, 9.36], [12.80, 9.68, 12.16, 9.20, 10.55])
"""Blood counts (Dunnett 1955, table II): a control and two drugs, unequal sizes."""


def test_student_as_independent_groups() -> None:
    m = UnpairedMoments.of(DRUG_1, DRUG_2)
    error, df = welch_error(m)
    assert float(m.difference / error) == pytest.approx(-1.8608, abs=5e-5)
    assert float(df) == pytest.approx(17.776, abs=5e-4)
    assert float(welch_test(m)) == pytest.approx(0.07939, abs=5e-6)
    low, high = welch_interval(m)
    assert (float(low), float(high)) == pytest.approx((-3.3654832, 0.2054832), abs=5e-8)


def test_by_hand() -> None:
    """x = 1, 2, 3 and y = 2, 4, 6, 8: means 2 and 5, variances 1 and 20/3."""
    m = UnpairedMoments.of([1.0, 2.0, 3.0], [2.0, 4.0, 6.0, 8.0])
    error, df = welch_error(m)
    a, b = 1 / 3, 20 / 12
    assert float(error) == pytest.approx(math.sqrt(a + b), abs=1e-12)
    assert float(df) == pytest.approx((a + b) ** 2 / (a**2 / 2 + b**2 / 3), abs=1e-12)
    pooled = math.sqrt((2 * 1 + 3 * 20 / 3) / 5)
    assert float(independent_d(m)) == pytest.approx(-3 / pooled, abs=1e-12)
    mpmath.mp.dps = 30
    exact = mpmath.gamma(2.5) / (mpmath.sqrt(2.5) * mpmath.gamma(2))
    assert float(independent_g(m)) == pytest.approx(float(exact) * -3 / pooled, abs=1e-8)


SAMPLES = st.lists(st.integers(-99, 99).map(lambda i: i / 10), min_size=3, max_size=8)


@settings(max_examples=60)
@given(SAMPLES, SAMPLES, st.floats(0.2, 5))
def test_welch_is_scipys_and_swapping_mirrors(x: list[float], y: list[float], unit: float) -> None:
    if np.std(x) < 0.01 or np.std(y) < 0.01:
        return
    m = UnpairedMoments.of(x, y)
    expected = stats.ttest_ind(x, y, equal_var=False)
    assert float(welch_error(m)[1]) == pytest.approx(expected.df, rel=1e-8)
    interval, p, df = expected.confidence_interval(), expected.pvalue, expected.df
    low, high = interval.low, interval.high
    if len(x) != len(y):  # the fewest degrees of freedom that Welch's can be
        df = min(len(x), len(y)) - 1
        assert df <= expected.df + 1e-9
        p = 2 * stats.t.sf(abs(expected.statistic), df)
        half = stats.t.isf(0.025, df) * float(welch_error(m)[0])
        low, high = np.mean(x) - np.mean(y) - half, np.mean(x) - np.mean(y) + half
    assert float(welch_test(m)) == pytest.approx(p, abs=1e-8)
    assert [float(end) for end in welch_interval(m)] == pytest.approx([low, high], abs=1e-8)
    low, high = independent_interval(m)
    mirrored = independent_interval(UnpairedMoments.of(y, x))
    assert (-float(mirrored[1]), -float(mirrored[0])) == pytest.approx((float(low), float(high)), abs=1e-6)
    scaled = UnpairedMoments.of(unit * np.array(x) + 3, unit * np.array(y) + 3)
    assert float(independent_g(scaled)) == pytest.approx(float(independent_g(m)), rel=1e-6, abs=1e-9)
    assert float(welch_test(scaled)) == pytest.approx(float(welch_test(m)), rel=1e-6)


def test_the_interval_of_g_is_where_the_noncentral_t_has_its_tails() -> None:
    m = UnpairedMoments.of(DRUG_1, DRUG_2[:7])
    root = math.sqrt(10 * 7 / 17)
    t = float(independent_d(m)) * root
    assert t == pytest.approx(stats.ttest_ind(DRUG_1, DRUG_2[:7]).statistic, abs=1e-10)
    for end, tail in zip(independent_interval(m), (0.975, 0.025), strict=True):
        nc = float(end) * root
        mpmath.mp.dps = 25

        def density(w: mpmath.mpf) -> mpmath.mpf:
            return w ** mpmath.mpf(6.5) * mpmath.exp(-w / 2) / (2**7.5 * mpmath.gamma(7.5))

        def given_w(w: mpmath.mpf, nc: float = nc) -> mpmath.mpf:
            return mpmath.ncdf(t * mpmath.sqrt(w / 15) - nc) * density(w)

        assert float(mpmath.quad(given_w, [0, 5, 10, 15, 20, 30, 60, 200])) == pytest.approx(tail, abs=1e-8)


def test_games_howell_is_scipys() -> None:
    rng = np.random.default_rng(0)
    groups = [rng.normal(mean, sd, n) for mean, sd, n in ((0, 1, 5), (1, 3, 8), (0.5, 1, 3), (2, 2, 6))]
    expected = stats.tukey_hsd(*groups, equal_var=False).pvalue
    for i, j in ((0, 1), (0, 3), (2, 3)):
        m = UnpairedMoments.of(groups[i], groups[j])
        assert float(games_howell(m, 4)) == pytest.approx(expected[i, j], abs=1e-8)
        # Of two arms it is Welch's t test, with Welch's own degrees of freedom.
        welch = stats.ttest_ind(groups[i], groups[j], equal_var=False).pvalue
        assert float(games_howell(m, 2)) == pytest.approx(welch, abs=1e-8)


def test_dunnett_blood_counts() -> None:
    table = dunnett(*BLOOD)
    expected = stats.dunnett(*BLOOD[1:], control=BLOOD[0], rng=np.random.default_rng(0))
    interval = expected.confidence_interval()
    assert table["p_joint"].tolist() == pytest.approx(expected.pvalue, abs=1e-3)
    assert table["joint_low"].tolist() == pytest.approx(interval.low, abs=5e-3)
    assert table["joint_high"].tolist() == pytest.approx(interval.high, abs=5e-3)
    assert table["joint_family"].tolist() == [2, 2]


@pytest.mark.parametrize("sizes", [(3, 3, 3), (10, 3, 4, 20), (3, 30, 5)])
def test_unequal_sizes_against_the_multivariate_t(sizes: tuple[int, ...]) -> None:
    n = np.array(sizes[1:])
    loadings = tuple(np.sqrt(n / (n + sizes[0])))
    correlation = np.outer(loadings, loadings)
    np.fill_diagonal(correlation, 1)
    df = sum(sizes) - len(sizes)
    for t in (0.5, 2.0, 3.5):
        box = stats.multivariate_t(shape=correlation, df=df, seed=0)
        inside = box.cdf(np.full(n.size, t), lower_limit=np.full(n.size, -t), random_state=0)
        assert float(many_to_one_cdf(t, loadings, df)) == pytest.approx(inside, abs=1e-3)


def test_one_arm_is_the_pooled_t_test_and_nothing_is_random() -> None:
    row = dunnett(BLOOD[0], BLOOD[1]).loc[0]
    expected = stats.ttest_ind(BLOOD[1], BLOOD[0])
    interval = expected.confidence_interval()
    assert row["p_joint"] == pytest.approx(expected.pvalue, abs=1e-6)
    assert (row["joint_low"], row["joint_high"]) == pytest.approx((interval.low, interval.high), abs=1e-8)
    assert dunnett(*BLOOD).equals(dunnett(*BLOOD))


def test_no_test_without_runs_or_variance() -> None:
    few, flat = UnpairedMoments.of([1.0, 2.0], DRUG_1), UnpairedMoments.of([1.0] * 3, [2.0] * 4)
    none = UnpairedMoments.of([np.nan] * 3, DRUG_1)
    for m in (few, flat, none):
        values = [welch_test(m), *welch_interval(m), games_howell(m, 3), independent_g(m), *independent_interval(m)]
        assert np.isnan(values).all()
        assert np.isnan(as_pairs(m)[1])
    assert dunnett([1.0] * 3, [2.0] * 3, [3.0] * 3)["p_joint"].isna().all()


def test_rows_are_comparisons_and_nan_is_no_run() -> None:
    x = np.array([[1.0, 2.0, 3.0, np.nan], [2.0, 2.5, 2.0, 2.2]])
    y = np.array([[2.0, np.nan, 4.0, 6.0], [3.0, 3.1, 3.4, 3.3]])
    m = UnpairedMoments.of(x, y)
    assert m.n_x.tolist() == [3, 4]
    for row in (0, 1):
        alone = stats.ttest_ind(x[row], y[row], equal_var=False, nan_policy="omit")
        assert welch_test(m)[row] == pytest.approx(alone.pvalue, abs=1e-8)


def test_error_rate_and_coverage() -> None:
    rng = np.random.default_rng(5)
    studies = 4_000
    low, high = (bound / studies for bound in stats.binom.interval(0.999, studies, 0.95))
    for n_x, n_y, truth in ((3, 3, 0.0), (5, 10, 2.0)):
        m = UnpairedMoments.of(rng.standard_normal((studies, n_x)) + truth, rng.standard_normal((studies, n_y)))
        ends = independent_interval(m)
        assert low <= np.mean((ends[0] <= truth) & (truth <= ends[1])) <= high
        ends = welch_interval(m)
        assert low <= np.mean((ends[0] <= truth) & (truth <= ends[1]))


def test_arms_that_share_seeds_are_not_independent() -> None:
    rows = {"baseline": [5.0, 5.1, 5.2, *[np.nan] * 6], "a": [*[np.nan] * 3, 4.9, 5.0, 5.2, *[np.nan] * 3]}
    apart = {**rows, "b": [*[np.nan] * 6, 5.5, 5.6, 5.8]}
    together = {**rows, "b": [*[np.nan] * 3, 5.5, 5.6, 5.8, *[np.nan] * 3]}
    pairs = {"a": "baseline", "b": "baseline"}
    table = dunnett_table(pd.DataFrame(apart).T, pairs)
    expected = dunnett([5.0, 5.1, 5.2], [4.9, 5.0, 5.2], [5.5, 5.6, 5.8])
    assert table.to_numpy() == pytest.approx(expected.to_numpy())
    with_others = dunnett_table(pd.DataFrame(apart).T, pairs, others=2)
    assert (with_others["joint_family"] == 4).all()
    between = table["p_joint"] * 4 / 2  # by Bonferroni, of comparisons that are independent a little less
    assert ((with_others["p_joint"] > table["p_joint"]) & (with_others["p_joint"] < between)).all()
    assert dunnett_table(pd.DataFrame(together).T, pairs)["p_joint"].isna().all()
    assert dunnett_table(pd.DataFrame(apart).T, {"a": "baseline"})["p_joint"].isna().all()
