"""Boundaries of repeated looks, against integrals and simulations that share nothing with them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from analysis.errors import AnalysisError
from analysis.statistics.looks import (
    MOST,
    at_look,
    check_looks,
    detectable,
    levels,
    repeated_p,
    repeated_t_interval,
    repeated_t_test,
    spent,
)
from analysis.statistics.significance import detectable_effect, t_interval, t_test

LOOKS = (3, 5, 7, 10)


@pytest.mark.parametrize("alpha", [0.2, 0.05, 0.05 / 15, 1e-5])
def test_two_looks_by_adaptive_integration(alpha: float) -> None:
    """Looks at 3 and 4: t at 4 pairs is beyond its bound where the fourth difference is between two roots."""
    first, second = levels((3, 4), alpha)
    assert first == pytest.approx(alpha * 9 / 16, rel=1e-4)
    bound_3, bound_4 = stats.t.isf(first / 2, 2), stats.t.isf(second / 2, 3)
    # The fourth difference over the root mean square of the first three is t with 3 df, whatever t at 3 pairs was.
    grid = np.tan(np.linspace(-np.pi / 2, np.pi / 2, 8001)[1:-1])

    def crosses(t: float) -> float:
        mean = (3 * t / np.sqrt(2 + t**2) + grid) / 4  # of the first three with a mean square of 1, and the fourth
        sd = np.sqrt((3 + grid**2 - 4 * mean**2) / 3)
        excess = 2 * np.abs(mean) - bound_4 * sd
        turns = np.flatnonzero(excess[:-1] * excess[1:] < 0)
        edges = grid[turns] - excess[turns] * (grid[turns + 1] - grid[turns]) / (excess[turns + 1] - excess[turns])
        cuts = np.concatenate(([0.0], stats.t.cdf(edges, 3), [1.0]))
        return float(np.diff(cuts)[(0 if excess[0] > 0 else 1) :: 2].sum())

    later = integrate.quad(lambda t: 2 * crosses(t) * stats.t.pdf(t, 2), 0, bound_3, limit=100, epsabs=0, epsrel=1e-4)
    assert first + later[0] == pytest.approx(alpha, rel=2e-3)


@pytest.mark.parametrize(
    ("looks", "alpha"), [(LOOKS, 0.05), (LOOKS, 0.05 / 15), ((5, 10), 0.2), ((3, 4, 5, 6), 0.1), ((3, 12), 0.05)]
)
def test_error_by_simulation_with_another_generator(looks: Sequence[int], alpha: float) -> None:
    studies = 200_000
    values = 3 * np.random.Generator(np.random.MT19937(5)).standard_normal((studies, looks[-1]))
    crossed = np.zeros(studies, dtype=bool)
    for n, level, share in zip(looks, levels(looks, alpha), alpha * spent(looks), strict=True):
        crossed |= stats.ttest_1samp(values[:, :n], 0, axis=1).pvalue <= level
        low, high = stats.binom.interval(0.999, studies, share)
        assert low <= crossed.sum() <= high


def test_one_look_is_the_plain_test() -> None:
    assert levels((7,), 0.03) == pytest.approx([0.03])
    p = np.array([0.0, 1e-300, 0.2, 1.0])
    assert repeated_p(p, 7, (7,)) == pytest.approx(p)
    assert repeated_t_interval(0.3, 1.0, 7, (7,)) == pytest.approx(t_interval(0.3, 1.0, 7))
    assert repeated_t_test(0.3, 1.0, 7, ()) == pytest.approx(t_test(0.3, 1.0, 7))
    assert repeated_t_interval(0.3, 1.0, 7, ()) == pytest.approx(t_interval(0.3, 1.0, 7))
    assert detectable([7], 3, (7,)) == pytest.approx(detectable_effect([7], 3))
    assert detectable([7], 3, ()) == pytest.approx(detectable_effect([7], 3))


@pytest.mark.parametrize("alpha", [0.5, 0.05, 0.05 / 15, 1e-8])
def test_p_and_boundary_say_the_same(alpha: float) -> None:
    at_boundary = levels(LOOKS, alpha)
    assert repeated_p(at_boundary, LOOKS, LOOKS) == pytest.approx([alpha] * 4, rel=1e-4)
    assert at_boundary[0] == pytest.approx(alpha * 9 / 100, rel=1e-4)
    low, high = repeated_t_interval(0.0, 1.0, LOOKS, LOOKS, level=1 - alpha)
    assert repeated_t_test(high, 1.0, LOOKS, LOOKS) == pytest.approx([alpha] * 4, rel=1e-4)
    assert low == pytest.approx(-high)


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=2), st.sampled_from(LOOKS))
def test_repeated_p_keeps_the_order_and_is_never_below_the_plain_one(means: list[float], n: int) -> None:
    plain = t_test(means, 1.0, n)
    repeated = repeated_t_test(means, 1.0, n, LOOKS)
    assert (repeated >= plain * (1 - 1e-9)).all()
    assert (repeated <= 1 + 1e-9).all()
    assert (plain[0] < plain[1]) <= (repeated[0] <= repeated[1])


def test_what_does_not_exist_is_nan() -> None:
    assert np.isnan(repeated_t_test([0.3, 0.3, np.nan], [0.0, 1.0, 1.0], [5, 4, 5], LOOKS)).all()
    assert np.isnan(repeated_t_interval([0.3, 0.3], [0.0, 1.0], [5, 4], LOOKS)).all()
    assert np.isnan(detectable([4], 1, LOOKS)).all()
    assert repeated_p(0.0, 5, LOOKS) == 0


def test_a_look_takes_the_first_pairs_in_order() -> None:
    nan = np.nan
    table = pd.DataFrame([[1.0, 2, 3, 4, 5, 6], [1, nan, 3, nan, 5, 6], [1, nan, nan, nan, nan, 6]])
    kept = at_look(table, (3, 5))
    assert kept.count(axis=1).tolist() == [5, 3, 2]
    assert kept.iloc[0].tolist()[:5] == [1, 2, 3, 4, 5]
    assert kept.iloc[1].dropna().tolist() == [1, 3, 5]
    assert at_look(table, ()).equals(table)


@pytest.mark.parametrize(
    ("looks", "message"),
    [
        ((), "none"),
        ((2, 5), "the first look is at 2 seeds: it must be at 3 or more"),
        ((3, 3), "must rise"),
        ((5, 3), "must rise, such as 3, 5, 10, but are 5, 3"),
        ((3, MOST + 1), f"must be at {MOST} or less"),
        ((3.5, 5), "whole numbers"),
        ((True, 5), "whole numbers"),
    ],
)
def test_looks_that_make_no_sense(looks: Sequence[int], message: str) -> None:
    with pytest.raises(AnalysisError, match=message):
        check_looks(looks)


def test_looks_that_do() -> None:
    assert check_looks([3, 5, MOST]) == (3, 5, MOST)
