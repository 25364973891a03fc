"""The estimate of a difference that could have stopped earlier, against closed forms and independent integration."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import integrate, optimize, stats

from analysis.statistics import stopping
from analysis.statistics.looks import levels, repeated_t_interval
from analysis.statistics.stopping import median_unbiased
from benchmarks.calibration import LOOKS, estimates, generator, normal

ALPHAS = (0.05,)


def as_large(true: float, seen: float, looks: tuple[int, int], boundary: float) -> float:
    """P(mean at the stop >= seen) for an sd of 1, integrated over the first look's mean; its sd is chi-squared."""
    first, last = looks
    rest = last - first

    def density(mean: float) -> float:
        stops = stats.chi2.cdf((first - 1) * first * (mean / boundary) ** 2, first - 1)
        later = stats.norm.sf((last * seen - first * mean - rest * true) / math.sqrt(rest))
        own = stats.norm.pdf(mean, true, 1 / math.sqrt(first))
        return float(own * (stops * (mean >= seen) + (1 - stops) * later))

    reach = 10 / math.sqrt(first)
    edges = [true - reach, *sorted(x for x in (0.0, seen) if abs(x - true) < reach), true + reach]
    return sum(integrate.quad(density, *ends, epsabs=1e-9, limit=200)[0] for ends in itertools.pairwise(edges))


@pytest.mark.parametrize("looks", [(3, 10), (5, 10), (10, 20)])
@pytest.mark.parametrize("seen", [0.5, 1.0, 2.0])
def test_two_looks_agree_with_integration(looks: tuple[int, int], seen: float) -> None:
    boundary = stats.t.isf(levels(looks)[0] / 2, looks[0] - 1)
    exact = optimize.brentq(lambda true: as_large(true, seen, looks, boundary) - 0.5, seen - 1, seen + 1)
    assert median_unbiased(seen, 1.0, looks, ALPHAS) == pytest.approx(exact, abs=1e-3)


@pytest.mark.parametrize("seen", [0.5, 1.0, 1.5])
def test_a_known_variance_agrees_with_integration(monkeypatch: pytest.MonkeyPatch, seen: float) -> None:
    looks = (5, 10)
    means, errors = stopping._drawn(looks)
    monkeypatch.setattr(stopping, "_drawn", lambda _: (means, np.ones_like(errors) / np.sqrt(looks)[:, None]))
    edge = stats.t.isf(levels(looks)[0] / 2, 4) / math.sqrt(5)

    def known(true: float) -> float:
        def goes_on(mean: float) -> float:
            later = stats.norm.sf((10 * seen - 5 * mean - 5 * true) / math.sqrt(5))
            return float(stats.norm.pdf(mean, true, 1 / math.sqrt(5)) * later)

        stops = stats.norm.sf(max(edge, seen), true, 1 / math.sqrt(5))
        return float(stops) + integrate.quad(goes_on, -edge, edge)[0]

    exact = optimize.brentq(lambda true: known(true) - 0.5, 0, 2)
    assert median_unbiased(seen, 1.0, looks, ALPHAS) == pytest.approx(exact, abs=1e-3)


def test_one_look_is_the_mean_and_the_unit_is_the_sds() -> None:
    assert median_unbiased(0.3, 0.2, (5,), ()) == 0.3
    one = median_unbiased(1.2, 1.0, LOOKS, (0.05,) * 3)
    assert one < 1.2
    assert median_unbiased(-0.012, 0.01, LOOKS, (0.05,) * 3) == pytest.approx(-0.01 * one, abs=1e-5)
    assert median_unbiased(1.2, 1.0, LOOKS, (0.05,) * 3) == one
    # A rule that never stops anything leaves the mean alone.
    assert median_unbiased(1.2, 1.0, LOOKS, (1e-12,) * 3) == pytest.approx(1.2, abs=2e-3)


@pytest.mark.parametrize("effect", [1.0, 1.5])
def test_half_of_the_estimates_are_too_large_where_more_of_the_means_are(effect: float) -> None:
    losses = normal(0.5)(generator(15, effect), 10_000, 2, LOOKS[-1])
    losses[:, 1] += effect
    mean, adjusted = ((part > effect).mean() for part in estimates(losses, 0.0))
    assert mean > 0.52
    assert abs(adjusted - 0.5) < 0.0165  # 99.9 %


@pytest.mark.parametrize("margin", [0.0, 1.5])
def test_the_interval_that_holds_at_all_looks_contains_it(margin: float) -> None:
    for effect in (0.0, 1.0, 4.0):
        losses = normal(0.5)(generator(16, effect), 5, 4, LOOKS[-1])
        losses[:, 1:] += effect
        for study in losses:
            for n in LOOKS:
                difference = study[1:, :n] - study[0, :n]
                mean, sd = difference.mean(axis=1), difference.std(axis=1, ddof=1)
                low, high = repeated_t_interval(mean, sd, n, LOOKS)
                adjusted = median_unbiased(mean[0], sd[0], LOOKS, (0.05 / 3,) * 3, margin or None)
                assert low[0] < adjusted < high[0]
                assert np.isfinite(adjusted)
