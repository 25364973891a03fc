"""Effect sizes are what their names say, and their intervals cover."""

from __future__ import annotations

import dataclasses

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from analysis.statistics.effects import (
    PairedMoments,
    cohens_d,
    d_z,
    d_z_interval,
    gamma_correction,
    hedges_g,
    pooled_interval,
)

X = np.array([[4.9, 5.0, 5.2, 4.8, 5.1]])
Y = np.array([[5.0, 5.2, 5.3, 5.0, 5.0]])


def moments(x: np.ndarray, y: np.ndarray) -> PairedMoments:
    d = x - y
    n = np.full(len(x), float(x.shape[1]))
    return PairedMoments(n, d.mean(1), d.std(1, ddof=1), x.std(1, ddof=1), y.std(1, ddof=1))


def simulate(n: int, correlation: float, effect: float, studies: int, seed: int = 0) -> PairedMoments:
    """Normal pairs of sd 1 whose mean difference is the true Cohen's d."""
    z, w = np.random.default_rng(seed).standard_normal((2, studies, n))
    return moments(z + effect, correlation * z + np.sqrt(1 - correlation**2) * w)


def test_by_hand() -> None:
    m = moments(X, Y)
    # Means 5.0 and 5.1; squared deviations sum to 0.10 and 0.08; differences -.1 -.2 -.1 -.2 .1, squares sum to 0.06.
    pooled = np.sqrt((0.10 / 4 + 0.08 / 4) / 2)
    assert cohens_d(m)[0] == pytest.approx(-0.1 / pooled, abs=1e-12)
    assert d_z(m)[0] == pytest.approx(-0.1 / np.sqrt(0.06 / 4), abs=1e-12)
    # r = covariance / pooled variance: 1 - 0.015 / (2 x 0.0225).
    r = 1 - 0.015 / 0.045
    df = 2 * 4 / (1 + r**2)
    exact = mpmath.gamma(df / 2) / (mpmath.sqrt(df / 2) * mpmath.gamma((df - 1) / 2))
    assert hedges_g(m)[0] == pytest.approx(float(exact) * -0.1 / pooled, abs=1e-8)


@pytest.mark.parametrize(("df", "value"), [(2, 0.5641895835), (4, 0.7978845608), (8, 0.9027033336), (20, 0.9619445)])
def test_gamma_correction_is_hedges_table(df: int, value: float) -> None:
    assert gamma_correction(df) == pytest.approx(value, abs=1e-7)
    assert gamma_correction(df) == pytest.approx(1 - 3 / (4 * df - 1), abs=0.02)
    assert np.isnan(gamma_correction(1))


@pytest.mark.parametrize(("correlation", "slack"), [(0.0, 0.04), (0.9, 0.02)])
def test_hedges_g_has_little_bias_where_cohens_d_has_much(correlation: float, slack: float) -> None:
    m = simulate(5, correlation, 2.0, 20_000)
    assert hedges_g(m).mean() == pytest.approx(2.0, rel=slack)
    assert cohens_d(m).mean() > 2.0 * 1.08


def test_none_below_three_pairs_or_without_variance() -> None:
    two = moments(X[:, :2], Y[:, :2])
    flat = moments(np.full((1, 4), 5.0), np.full((1, 4), 4.0))
    for m in (two, flat):
        for value in (cohens_d(m), hedges_g(m), d_z(m), *d_z_interval(m), *pooled_interval(m)):
            assert np.isnan(value).all()


@pytest.mark.parametrize("n", [3, 5, 10])
@pytest.mark.parametrize("correlation", [0.0, 0.9])
@pytest.mark.parametrize("effect", [0.0, 2.0])
def test_pooled_interval_covers(n: int, correlation: float, effect: float) -> None:
    low, high = pooled_interval(simulate(n, correlation, effect, 1500))
    # 93 to 98.5 %: what the docstring says, widened by three standard errors of 1,500 studies.
    assert 0.925 <= np.mean((low <= effect) & (effect <= high)) <= 0.99


@pytest.mark.parametrize("n", [3, 5])
def test_d_z_interval_covers_exactly(n: int) -> None:
    m = simulate(n, 0.5, 1.5, 2000)
    low, high = d_z_interval(m)
    assert np.mean((low <= 1.5) & (high >= 1.5)) == pytest.approx(0.95, abs=0.015)  # sd of differences is 1


def test_pooled_interval_against_simulated_pivot() -> None:
    m = moments(X, Y)
    rng = np.random.default_rng(0)
    a, b = rng.chisquare(4, size=(2, 1_000_000))
    var_v = m.sd_difference**2
    var_u = 2 * (m.sd_x**2 + m.sd_y**2) - var_v
    assert var_u[0] == pytest.approx((X + Y).var(ddof=1), rel=1e-12)
    sv2, su2 = 4 * var_v / b, 4 * var_u / a
    pivot = (m.mean_difference - rng.standard_normal(a.size) * np.sqrt(sv2 / 5)) / np.sqrt((su2 + sv2) / 4)
    low, high = pooled_interval(m)
    assert (low[0], high[0]) == pytest.approx(tuple(np.quantile(pivot, [0.025, 0.975])), abs=0.01)


PAIRS = arrays(float, (2, 1, 5), elements=st.integers(1000, 9999).map(lambda i: i / 1000))


@settings(max_examples=40)
@given(PAIRS, st.floats(-3, 3), st.floats(0.2, 5), st.permutations(range(5)))
def test_symmetries(xy: np.ndarray, shift: float, unit: float, order: list[int]) -> None:
    x, y = xy
    m = moments(x, y)
    if m.sd_difference[0] < 1e-6 or min(m.sd_x[0], m.sd_y[0]) < 1e-6:
        return
    values = [f(m)[0] for f in (cohens_d, hedges_g, d_z)]
    low, high = pooled_interval(m)
    swapped = moments(y, x)
    assert [f(swapped)[0] for f in (cohens_d, hedges_g, d_z)] == pytest.approx([-v for v in values], abs=1e-9)
    swapped_low, swapped_high = pooled_interval(swapped)
    width = high[0] - low[0]
    assert (-swapped_high[0], -swapped_low[0]) == pytest.approx((low[0], high[0]), abs=2e-3 * width)
    for other in (moments(x + shift, y + shift), moments(unit * x, unit * y), moments(x[:, order], y[:, order])):
        assert [f(other)[0] for f in (cohens_d, hedges_g, d_z)] == pytest.approx(values, rel=1e-6, abs=1e-9)
    assert low[0] < values[1] < high[0]


def test_d_z_depends_on_the_pairing_and_cohens_d_does_not() -> None:
    paired, shuffled = moments(X, Y), moments(X, Y[:, ::-1])
    assert cohens_d(paired) == pytest.approx(cohens_d(shuffled))
    assert abs(d_z(paired)[0]) > 1.2 * abs(d_z(shuffled)[0])


def test_rows_do_not_touch_each_other() -> None:
    many = simulate(5, 0.5, 1.0, 300)
    low, high = pooled_interval(many)
    one = PairedMoments(*(getattr(many, f.name)[257:258] for f in dataclasses.fields(many)))
    assert (low[257], high[257]) == pytest.approx(tuple(v[0] for v in pooled_interval(one)), rel=1e-7)
