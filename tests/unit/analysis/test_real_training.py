"""What benchmarks/real_training.py predicts before it trains, against scipy's own test on draws of its own."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from benchmarks.real_training import RUNS, interval, power

STUDIES = 20_000


@pytest.mark.parametrize(("difference", "sd", "other_sd"), [(0.0, 1.0, 1.0), (1.2, 1.0, 1.0), (2.0, 0.5, 1.5)])
def test_the_predicted_power_is_the_share_of_studies_that_welchs_test_finds(
    difference: float, sd: float, other_sd: float
) -> None:
    draw = np.random.default_rng(5)
    shape = np.linspace(-1.0, 1.0, 100)
    shape /= shape.std(ddof=1)
    predicted = power(5.0 + sd * shape, 5.0 + difference + other_sd * shape)
    baseline, other = draw.normal(5.0, sd, (STUDIES, RUNS)), draw.normal(5.0 + difference, other_sd, (STUDIES, RUNS))
    found = (stats.ttest_ind(baseline, other, axis=1, equal_var=False).pvalue <= 0.05).mean()
    # Both are shares of as many draws.
    assert predicted == pytest.approx(found, abs=4 * np.sqrt(2 * found * (1 - found) / STUDIES))


def test_the_interval_holds_99_percent_of_counts_and_hardly_more() -> None:
    low, high = interval(200, 0.345)
    inside = stats.binom.cdf(high, 200, 0.345) - stats.binom.cdf(low - 1, 200, 0.345)
    assert inside >= 0.99
    assert inside - stats.binom.pmf(low, 200, 0.345) - stats.binom.pmf(high, 200, 0.345) < 0.99
