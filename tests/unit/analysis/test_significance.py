"""Tests and intervals agree with scipy, statsmodels and mpmath, and hold their promises in simulation."""

from __future__ import annotations

import itertools

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from analysis.statistics.significance import (
    clopper_pearson,
    detectable_effect,
    holm,
    noncentrality,
    power,
    sign_flip,
    sign_flip_floor,
    sign_flip_max_t,
    t_interval,
    t_test,
)

STUDENT = np.array([0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0])
"""Extra hours of sleep under the first drug (Student 1908): mean 0.75, sd 1.789, t = 1.3257, p = 0.2176."""


def moments(d: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.array([d.mean()]), np.array([d.std(ddof=1)]), np.array([d.size])


def noncentral_t_cdf(t: float, df: float, nc: float) -> mpmath.mpf:
    """P(T <= t) from the definition T = (Z + nc) / sqrt(W / df), integrated over W."""
    mpmath.mp.dps = 30

    def density(w: mpmath.mpf) -> mpmath.mpf:
        return w ** (mpmath.mpf(df) / 2 - 1) * mpmath.exp(-w / 2) / (2 ** (mpmath.mpf(df) / 2) * mpmath.gamma(df / 2))

    centre = df * (nc / t) ** 2
    pieces = sorted({0.0, centre / 2, centre, 2 * centre, df, df + 40.0, df + 200.0})
    return mpmath.quad(lambda w: mpmath.ncdf(t * mpmath.sqrt(w / df) - nc) * density(w), [*pieces, mpmath.inf])


def test_students_sleep_data() -> None:
    assert t_test(*moments(STUDENT))[0] == pytest.approx(0.2176, abs=5e-5)
    low, high = t_interval(*moments(STUDENT))
    assert (low[0], high[0]) == pytest.approx((-0.5297804, 2.0297804), abs=1e-7)


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_t_agrees_with_scipy(n: int) -> None:
    rng = np.random.default_rng(n)
    x, y = rng.normal(size=(2, n))
    result = stats.ttest_rel(x, y)
    interval = result.confidence_interval(0.95)
    low, high = t_interval(*moments(x - y))
    assert t_test(*moments(x - y))[0] == pytest.approx(result.pvalue, abs=1e-8)
    assert (low[0], high[0]) == pytest.approx((interval.low, interval.high), abs=1e-8)


def test_no_number_where_none_exists() -> None:
    mean, sd, n = np.array([0.3, 0.3, 0.3]), np.array([np.nan, 0.0, 0.1]), np.array([1, 5, 2])
    assert np.isnan(t_test(mean, sd, n)).tolist() == [True, True, False]
    assert np.isnan(t_interval(mean, sd, n)[0]).tolist() == [True, True, False]
    assert np.isnan(detectable_effect([0, 1, 2, 3], 1)).tolist() == [True, True, False, False]
    assert np.isnan(sign_flip([]))
    assert np.isnan(sign_flip([0.0, 0.0]))
    assert np.isnan(sign_flip(np.ones(31)))


def test_holm_by_hand() -> None:
    # Sorted p: 0.01 x 4, 0.02 x 3, 0.03 x 2, 0.5 x 1, then never below the one before.
    assert holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert holm([0.04, np.nan, 0.03])[[0, 2]] == pytest.approx([0.06, 0.06])
    assert np.isnan(holm([0.04, np.nan])[1])


def test_holm_agrees_with_statsmodels() -> None:
    rng = np.random.default_rng(0)
    for size in (1, 2, 15, 40):
        p = rng.beta(0.3, 3, size).round(3)
        assert holm(p) == pytest.approx(multipletests(p, method="holm")[1], abs=1e-12)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_properties(p: list[float]) -> None:
    corrected = holm(p)
    assert (corrected >= np.array(p)).all()
    assert (corrected <= 1).all()
    order = np.argsort(p, kind="stable")
    assert (np.diff(corrected[order]) >= 0).all()


def test_sign_flip_by_hand() -> None:
    # |sum| of (+-1 +-2 +-3): 6 twice, 4 twice, 2 twice, 0 twice.
    assert sign_flip([1.0, 2.0, 3.0]) == 2 / 8
    assert sign_flip([-1.0, 2.0, 3.0]) == 4 / 8
    assert sign_flip([1.0, 2.0, -3.0]) == 1.0
    assert sign_flip([1e-3] * 5) == sign_flip_floor(5) == 2 / 32


@given(st.lists(st.floats(-5, 5, allow_subnormal=False), min_size=1, max_size=9))
def test_sign_flip_counts_all_flips(d: list[float]) -> None:
    sums = [
        abs(sum(s * x for s, x in zip(signs, d, strict=True))) for signs in itertools.product((-1, 1), repeat=len(d))
    ]
    threshold = abs(sum(d)) - 1e-12 * sum(abs(x) for x in d)
    p = sign_flip(d)
    if any(d):
        # Sums within rounding of the threshold may fall on either side of it.
        slack = 1e-13 * sum(abs(x) for x in d)
        fewest, most = (np.mean([s >= threshold + change for s in sums]) for change in (slack, -slack))
        assert fewest <= p <= most
        assert p >= sign_flip_floor(len(d))
        assert p == sign_flip([-x for x in d]) == sign_flip(d[::-1])


def test_sign_flip_agrees_with_scipy() -> None:
    d = np.random.default_rng(1).normal(0.4, 1, 9)
    exact = stats.permutation_test((d,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert sign_flip(d) == pytest.approx(exact.pvalue, abs=1e-12)


@pytest.mark.parametrize(
    ("t", "df", "probability"),
    [
        (4.0, 2, 0.975),
        (4.0, 2, 0.025),
        (-4.0, 4, 0.975),
        (0.3, 2, 0.2),
        (30.0, 2, 0.2),
        (30.0, 9, 0.975),
        (141.0, 2, 0.2),
    ],
)
def test_noncentrality_agrees_with_mpmath(t: float, df: int, probability: float) -> None:
    nc = float(noncentrality(t, df, probability))
    # The cdf is flat in relative terms: a probability right to 1e-8 fixes the noncentrality as well.
    assert float(noncentral_t_cdf(t, df, nc)) == pytest.approx(probability, abs=1e-8)


def test_noncentrality_at_zero_and_beyond_the_normal_part() -> None:
    assert float(noncentrality(0.0, 5, 0.975)) == pytest.approx(-stats.norm.ppf(0.975), abs=1e-9)
    below, above = noncentrality(np.array([999.9, 1000.1]), 4, 0.025) / np.array([999.9, 1000.1])
    assert below == pytest.approx(above, rel=2e-5)
    assert np.isnan(noncentrality(np.nan, 4, 0.5))


@pytest.mark.parametrize(("n", "family"), [(3, 1), (3, 15), (5, 15), (10, 1)])
def test_detectable_effect_has_80_percent_power(n: int, family: int) -> None:
    effect = float(detectable_effect([n], family)[0])
    critical = stats.t.isf(0.05 / family / 2, n - 1)
    power = 1 - noncentral_t_cdf(float(critical), n - 1, effect * np.sqrt(n))
    assert float(power) == pytest.approx(0.8, abs=1e-6)


def test_three_seeds_and_fifteen_comparisons_can_hardly_find_anything() -> None:
    assert detectable_effect([3], 15)[0] == pytest.approx(12.7, abs=0.05)


def test_simulated_power_at_the_detectable_effect() -> None:
    rng = np.random.default_rng(0)
    effect = float(detectable_effect([5], 1)[0])
    d = rng.normal(effect, 1, size=(20_000, 5))
    p = t_test(d.mean(1), d.std(1, ddof=1), np.full(20_000, 5))
    assert np.mean(p <= 0.05) == pytest.approx(0.8, abs=0.01)


def test_simulated_coverage_of_the_t_interval() -> None:
    d = np.random.default_rng(0).normal(0.3, 1, size=(20_000, 3))
    low, high = t_interval(d.mean(1), d.std(1, ddof=1), np.full(20_000, 3))
    assert np.mean((low <= 0.3) & (high >= 0.3)) == pytest.approx(0.95, abs=0.006)


@settings(max_examples=50)
@given(st.lists(st.floats(-10, 10), min_size=3, max_size=8), st.floats(0.1, 10))
def test_t_does_not_depend_on_sign_order_or_unit(d: list[float], unit: float) -> None:
    values = np.array(d)
    p = t_test(*moments(values))[0]
    if values.std(ddof=1) > 1e-6:
        for other in (-values, values[::-1], unit * values):
            assert t_test(*moments(other))[0] == pytest.approx(p, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize(("k", "n"), [(0, 3), (3, 3), (2, 5), (9, 10)])
def test_clopper_pearson_agrees_with_scipy(k: int, n: int) -> None:
    expected = stats.binomtest(k, n).proportion_ci(0.95, method="exact")
    assert np.ravel(clopper_pearson(k, n)) == pytest.approx([expected.low, expected.high], abs=1e-12)
    assert np.isnan(clopper_pearson([0, np.nan], [0, 3])).all()


def max_t_by_brute_force(d: np.ndarray) -> list[float]:
    """Westfall and Young's definition, word by word: all 2^n flips, scipy's t, successive maxima."""

    def t_of(rows: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            t = [abs(float(stats.ttest_1samp(row[~np.isnan(row)], 0).statistic)) for row in rows]
        return np.array(t)

    observed = t_of(d)
    order = np.argsort(-observed)
    flipped = [t_of(d * np.array(signs)) for signs in itertools.product((1, -1), repeat=d.shape[1])]
    p = np.empty(len(d))
    for place, row in enumerate(order):
        p[row] = np.mean([t[order[place:]].max() >= observed[row] - 1e-9 for t in flipped])
    for before, after in itertools.pairwise(order):
        p[after] = max(p[before], p[after])
    return list(p)


@pytest.mark.parametrize(("comparisons", "seeds"), [(1, 5), (3, 4), (4, 6)])
@pytest.mark.parametrize("gap", [False, True])
def test_max_t_is_brute_force(comparisons: int, seeds: int, gap: bool) -> None:
    rng = np.random.default_rng([comparisons, seeds])
    d = rng.normal(0.3, 1, (comparisons, seeds)) + rng.normal(0, 1, seeds)
    if gap:
        d[-1, 0] = np.nan
    assert sign_flip_max_t(d).tolist() == pytest.approx(max_t_by_brute_force(d), abs=1e-12)


def test_max_t_by_hand() -> None:
    """Two rows, three seeds; up to mirroring the flips are none, the first, the second and the third seed."""
    d = np.array([[1.0, 2.0, 3.0], [1.0, -1.0, 2.0]])
    # Squared sums over n x squares: of the first row (36, 16, 4, 0) / 42, of the second (4, 0, 16, 4) / 18.
    # The larger of both is 0.857, 0.381, 0.889, 0.222: two of four reach 36 / 42; the second row alone reaches
    # 4 / 18 in three of four.
    assert sign_flip_max_t(d).tolist() == [0.5, 0.75]
    assert sign_flip_max_t(d[:1])[0] == pytest.approx(sign_flip(d[0]))


@settings(max_examples=30)
@given(st.integers(1, 5), st.integers(3, 8), st.integers(0, 10**6))
def test_max_t_lies_between_the_single_test_and_bonferroni(k: int, n: int, seed: int) -> None:
    d = np.random.default_rng(seed).normal(0.5, 1, (k, n))
    single = np.array([sign_flip(row) for row in d])
    adjusted = sign_flip_max_t(d)
    assert (adjusted >= single - 1e-12).all()
    assert adjusted.min() >= float(sign_flip_floor(n))
    assert sign_flip_max_t(np.concatenate([d, d]))[:k].tolist() == pytest.approx(
        adjusted.tolist()
    )  # twins cost nothing
    assert sign_flip_max_t(-2 * d[::-1])[::-1].tolist() == pytest.approx(adjusted.tolist())


def test_max_t_of_many_seeds_and_of_nothing() -> None:
    assert np.isnan(sign_flip_max_t(np.ones((2, 21)))).all()
    assert sign_flip_max_t(np.empty((0, 5))).size == 0


@pytest.mark.parametrize("n", [3, 5, 10, 40])
@pytest.mark.parametrize("family", [1, 15])
def test_power_is_the_inverse_of_what_is_detectable(n: int, family: int) -> None:
    assert power(detectable_effect(n, family), n, family) == pytest.approx(0.8, abs=1e-6)
    assert power(0.0, n, family) == pytest.approx(0.025 / family)  # one tail of the level
