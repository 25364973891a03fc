"""Tests and intervals for paired differences: t, Holm, exact sign flips, and what n can detect.

All functions take and return arrays with one entry a comparison; where a number does not exist (n too small, zero
variance) the entry is NaN, never an infinite or a zero p.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from scipy.optimize import elementwise

LEVEL = 0.95
"""Of every interval of one comparison."""
ALPHA = 0.05
"""Family-wise, two-sided."""
POWER = 0.8
"""At which the detectable difference is stated, unless told."""
SIGN_FLIP_LIMIT = 30
"""Most pairs for which sign flips are enumerated; beyond, the t test needs no companion."""

MAX_T_LIMIT = 20
"""Most seeds whose joint flips are enumerated."""
FLIPS = 2**14
"""Joint flips at once, to bound memory."""

Array = NDArray[np.float64]


def t_interval(mean: ArrayLike, sd: ArrayLike, n: ArrayLike, level: float = LEVEL) -> tuple[Array, Array]:
    """Return both ends of the t interval of a mean, mean -+ t(n - 1) sd / sqrt(n); 95 % unless told.

    NaN where n < 2, or where the sd is 0 or unknown: an interval of no width would claim certainty.
    """
    mean, sd, n = (np.asarray(x, dtype=float) for x in (mean, sd, n))
    exists = (n >= 2) & (sd > 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        half = np.where(exists, stats.t.ppf((1 + level) / 2, n - 1) * sd / np.sqrt(n), np.nan)
    return mean - half, mean + half


def t_test(mean: ArrayLike, sd: ArrayLike, n: ArrayLike) -> Array:
    """Return the two-sided p of the one-sample t test that the mean is 0 (of differences: the paired t test).

    NaN where n < 2 or the sd is 0.
    """
    mean, sd, n = (np.asarray(x, dtype=float) for x in (mean, sd, n))
    exists = (n >= 2) & (sd > 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(exists, 2 * stats.t.sf(np.abs(mean) / sd * np.sqrt(n), n - 1), np.nan)


def holm(p: ArrayLike, others: int = 0) -> Array:
    """Return p values corrected by Holm's step-down method (Holm 1979) over the family of all that are not NaN.

    Equal to statsmodels' multipletests, which collects the interpreter's garbage at every call (0.1 s).

    Args:
        p: NaN where there is no test.
        others: further tests of the family, made elsewhere or still to come: each counts as a p of 1.
    """
    p = np.asarray(p, dtype=float)
    corrected = np.full(p.shape, np.nan)
    order = np.argsort(p)[: np.count_nonzero(~np.isnan(p))]  # NaN sorts last
    steps = p[order] * (others + np.arange(order.size, 0, -1))
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return corrected


def benjamini_hochberg(p: ArrayLike) -> Array:
    """Return p values adjusted for the false discovery rate (Benjamini & Hochberg 1995) over all that are not NaN."""
    p = np.asarray(p, dtype=float)
    adjusted = np.full(p.shape, np.nan)
    tested = ~np.isnan(p)
    if tested.any():
        adjusted[tested] = stats.false_discovery_control(p[tested], method="bh")
    return adjusted


def sign_flip(differences: ArrayLike) -> float:
    """Return the exact two-sided p of the mean when every paired difference may change its sign (Fisher 1935).

    It assumes that differences are symmetric around 0 under the null, nothing else; its smallest value is 2 / 2^n.
    The 2^n sums are counted as pairs of half sums (2 x 2^(n/2) of them), so that n = 30 takes milliseconds.

    Args:
        differences: shape (n,), finite.

    Returns:
        p, or NaN for n = 0, for differences that are all zero and for n above SIGN_FLIP_LIMIT.
    """
    d = np.abs(np.asarray(differences, dtype=float))
    if not 0 < d.size <= SIGN_FLIP_LIMIT or not d.any():
        return float("nan")
    # Sums that are equal on paper may differ by rounding; they count as at least as extreme.
    threshold = abs(float(np.sum(differences))) - 1e-12 * d.sum()
    left, right = (np.sort(_signed_sums(half)) for half in (d[: d.size // 2], d[d.size // 2 :]))
    # The distribution is symmetric: count the upper tail twice (both tails together are all sums for threshold <= 0).
    upper = int(np.sum(right.size - np.searchsorted(right, threshold - left, side="left")))
    return min(1.0, 2 * upper / 2.0**d.size)


def _signed_sums(values: Array) -> Array:
    """Return all 2^n sums of the values with either sign; shape (2^n,)."""
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate((sums - value, sums + value))
    return sums


def sign_flip_max_t(differences: ArrayLike) -> Array:
    """Return p of each row of paired differences, adjusted for all rows, when whole seeds may change their sign.

    All comparisons of a seed flip together, so what they have in common (the baseline, the seed) counts; the largest t
    of every flip is compared with the observed ones, stepping down (Westfall & Young 1993, algorithm 4.1). Exact where
    the differences are together symmetric around 0 under the null; the smallest p is 2 / 2^seeds, however many rows.

    Args:
        differences: shape (comparisons, seeds), NaN where a comparison has no pair.

    Returns:
        Shape (comparisons,); NaN above MAX_T_LIMIT seeds.
    """
    d = np.asarray(differences, dtype=float)
    d = d[:, ~np.isnan(d).all(axis=0)]
    rows, seeds = d.shape
    if rows == 0 or seeds > MAX_T_LIMIT:
        return np.full(rows, np.nan)
    n = (~np.isnan(d)).sum(axis=1)
    # A flip leaves the sum of squares as it is, so t rises with the share of it that the mean explains.
    scaled = np.nan_to_num(d) / np.sqrt(np.nansum(d**2, axis=1) * n)[:, None]

    def squared_t(share: Array) -> Array:
        with np.errstate(divide="ignore"):
            return np.asarray((n - 1) * share / (1 - np.clip(share, 0, 1)))

    observed = scaled.sum(axis=1) ** 2
    order = np.argsort(-squared_t(observed), kind="stable")
    # Values that are equal on paper may differ by rounding; they count as at least as extreme.
    threshold = squared_t(observed - 1e-12)[order]
    extreme, flips = np.zeros(rows), 2 ** (seeds - 1)  # the other half mirrors them
    for start in range(0, flips, FLIPS):
        bits = np.arange(start, min(start + FLIPS, flips))[:, None] >> np.arange(seeds) & 1
        t = squared_t(((1 - 2 * bits) @ scaled.T) ** 2)[:, order]
        largest = np.maximum.accumulate(t[:, ::-1], axis=1)[:, ::-1]  # of this row and all with a smaller observed t
        extreme += (largest >= threshold).sum(axis=0)
    p = np.empty(rows)
    p[order] = np.maximum.accumulate(extreme / flips)
    return p


def sign_flip_floor(n: ArrayLike) -> Array:
    """Return the smallest p that the sign-flip test can give, 2 / 2^n; NaN for n = 0."""
    n = np.asarray(n, dtype=float)
    return np.where(n > 0, 2.0 ** (1 - n), np.nan)


def clopper_pearson(successes: ArrayLike, n: ArrayLike) -> tuple[Array, Array]:
    """Return both ends of the exact 95 % interval of a probability (Clopper & Pearson 1934); NaN for n = 0 or NaN."""
    k, n = np.asarray(successes, dtype=float), np.asarray(n, dtype=float)
    tail = (1 - LEVEL) / 2
    low = np.where(k > 0, stats.beta.ppf(tail, k, n - k + 1), 0.0)
    high = np.where(k < n, stats.beta.isf(tail, k + 1, n - k), 1.0)
    exists = (n > 0) & ~np.isnan(k)
    return np.where(exists, low, np.nan), np.where(exists, high, np.nan)


def detectable_effect(n: ArrayLike, family: float, power: float = POWER) -> Array:
    """Return the smallest true |mean| / sd that the two-sided t test finds with that power.

    The level is 5 % / family, that of Holm's first step: what is promised even if nothing else in the family is
    there. From the noncentral t distribution; the other tail's share of the power, below 1e-6, is left out.
    (statsmodels' TTestPower.solve_power returns wrong roots at n = 3 and such levels.)

    Args:
        n: pairs, one a comparison.
        family: number of comparisons, or whatever else 5 % is divided by; 1 or more.
        power: probability of finding it.

    Returns:
        Shape of n; NaN where n < 2.
    """
    n = np.asarray(n, dtype=float)
    values, inverse = np.unique(n, return_inverse=True)
    effects = np.full(values.shape, np.nan)
    exists = values >= 2
    df = values[exists] - 1
    critical = stats.t.isf(ALPHA / family / 2, df)
    effects[exists] = noncentrality(critical, df, 1 - power) / np.sqrt(values[exists])
    return effects[inverse].reshape(n.shape)


def power(effect: ArrayLike, n: ArrayLike, family: float = 1) -> Array:
    """Return the probability with which the two-sided t test finds a true |mean| / sd.

    The level and the tail left out are those of `detectable_effect`, whose inverse this is.

    Args:
        effect: true |mean| / sd, not negative.
        n: pairs, 2 or more; broadcasts with effect.
        family: what 5 % is divided by.
    """
    effect, n = np.broadcast_arrays(np.asarray(effect, dtype=float), np.asarray(n, dtype=float))
    critical = stats.t.isf(ALPHA / family / 2, n - 1)
    return np.asarray(stats.nct.sf(critical, n - 1, effect * np.sqrt(n)))


def noncentrality(t: ArrayLike, df: ArrayLike, probability: float) -> Array:
    """Return the noncentrality nc at which P(T <= t) = probability, T noncentral t with df degrees of freedom.

    scipy's own inverse (special.nctdtrinc) is good to 1e-4 at t = 1000 and does not return for larger ones. With
    V = sqrt(chi2 / df), the solution is the (1 - probability) quantile of t V - Z; that gives a bracket and, for
    |t| > 1000, where Z no longer counts, the solution itself (to 1e-5 of it). NaN where t is.
    """
    t, df = np.broadcast_arrays(np.asarray(t, dtype=float), np.asarray(df, dtype=float))
    quantile = np.where(t >= 0, 1 - probability, probability)  # of |t| V - Z, by symmetry
    size = np.abs(t)

    def chi(q: Array) -> Array:
        return np.asarray(np.sqrt(stats.chi2.ppf(q, df) / df))

    margin = np.minimum(quantile, 1 - quantile) / 5
    # The ends leave one fifth of the tail to V and give Z eight standard deviations.
    low, high = size * chi(quantile - margin) - 8, size * chi(quantile + margin) + 8
    small = size <= 1000
    root = np.asarray(size * chi(quantile))
    if small.any():
        found = elementwise.find_root(
            lambda nc, t, df, q: stats.nct.cdf(t, df, nc) - (1 - q),
            (low[small], high[small]),
            args=(size[small], df[small], quantile[small]),
        )
        root[small] = found.x
    return np.where(t >= 0, root, -root)
