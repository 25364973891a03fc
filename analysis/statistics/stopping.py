"""The difference of a comparison that could have stopped earlier: a median-unbiased estimate.

What looks large stops early, so the mean of the pairs at the stop is on average too large. The estimate here is the
true mean under which a mean at the stop as large as the one seen, or larger, has probability 1/2: half of such
estimates are too large. Outcomes are ordered by their mean, whatever the look (Emerson & Fleming 1990; Jennison &
Turnbull 2000, section 8.4). They are not ordered by stages, as is usual where the sd is known: where boundaries are of
t, those stop first whose sd came out small, and how early says little about their mean.

The sd at the stop stands for the true one. The looks' own boundaries, and their rule of futility, are applied to pairs
from fixed quasi-random numbers, the same for every true mean.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from scipy import stats
from scipy.stats import qmc

from analysis.statistics.looks import levels
from analysis.statistics.significance import LEVEL, Array

POINTS = 13
"""Two to this power studies are drawn, and their opposites: estimates are good to 2e-3 sds."""
HALVINGS = 20
REACH = 6.0
"""Standard errors at the first look within which the estimate is sought: the mean at a stop is not farther off."""
SHOWN = "difference, adjusted where it could have stopped earlier,"
"""What `shown_difference` is where a plan has several looks, in words."""


def shown_difference(row: Mapping[Any, Any]) -> float:
    """Return the estimate that stands for a comparison: where it could have stopped earlier, the adjusted one."""
    adjusted = float(row.get("adjusted_difference", math.nan))
    return float(row["difference"]) if math.isnan(adjusted) else adjusted


def median_unbiased(
    mean: float, sd: float, looks: Sequence[int], alphas: Sequence[float], margin: float | None = None
) -> float:
    """Return the median-unbiased estimate of the true mean of paired differences.

    Args:
        mean: of the pairs at the stop.
        sd: their standard deviation (n - 1), positive.
        looks: pairs at each look that the plan declares.
        alphas: two-sided error over all looks by which a difference stops, as in force at each look but the one at
            which all stops: the last, or for what is still open the one that was reached. Without any it is the mean.
        margin: where the plain 95 % interval lies within it, the comparison stops for futility; None: never.
    """
    if not len(alphas):
        return mean
    made = tuple(looks[: len(alphas) + 1])
    seen, narrow = mean / sd, None if margin is None else margin / sd
    boundaries = tuple(
        float(stats.t.isf(levels(looks, alpha)[place] / 2, n - 1))
        for place, (n, alpha) in enumerate(zip(made, alphas, strict=False))
    )
    low, high = seen - REACH / math.sqrt(looks[0]), seen + REACH / math.sqrt(looks[0])
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if _as_large(middle, seen, made, boundaries, narrow) < 1 / 2:
            low = middle
        else:
            high = middle
    return sd * (low + high) / 2


def _as_large(
    true: float, seen: float, looks: tuple[int, ...], boundaries: Sequence[float], margin: float | None
) -> float:
    """Return the probability that the mean at the stop is `seen` or more; all in sds of a difference."""
    means, errors = _drawn(looks)
    going, large = np.ones(means.shape[1], dtype=bool), np.zeros(means.shape[1], dtype=bool)
    for n, boundary, around, error in zip(looks, boundaries, means, errors, strict=False):
        mean = around + true
        stops = np.abs(mean) >= boundary * error
        if margin is not None:
            stops |= np.abs(mean) + stats.t.isf((1 - LEVEL) / 2, n - 1) * error < margin
        large |= going & stops & (mean >= seen)
        going &= ~stops
    return float((large | (going & (means[-1] + true >= seen))).mean())


@lru_cache(maxsize=32)
def _drawn(looks: tuple[int, ...]) -> tuple[Array, Array]:
    """Return means of standard normal pairs at each look, and their errors, sd / sqrt(n); shape (looks, studies).

    Of the pairs between two looks only their sum and their spread matter: a normal and a chi-squared variable.
    """
    sizes = np.diff((0, *looks))
    uniform = qmc.Sobol(2 * len(looks), rng=np.random.default_rng(0)).random_base2(POINTS)
    normal = stats.norm.ppf(uniform[:, : len(looks)])
    spread = stats.chi2.ppf(uniform[:, len(looks) :], np.maximum(sizes - 1, 1)) * (sizes > 1)
    sums, squares = np.cumsum(np.sqrt(sizes) * normal, axis=1), np.cumsum(spread + normal**2, axis=1)
    n = np.array(looks)
    means, errors = sums / n, np.sqrt((squares - sums**2 / n) / (n - 1) / n)
    return np.concatenate([means, -means]).T.copy(), np.concatenate([errors, errors]).T.copy()
