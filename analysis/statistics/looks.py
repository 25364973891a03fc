"""Repeated looks at paired differences of growing n: t boundaries that hold the error however the stopping is decided.

The paired t statistic over all pairs so far depends, where nothing differs, on no unknown scale, and its values over n
form a Markov chain: a pair more moves it by a draw that is independent of all before (the sum of squares is complete
and sufficient for the scale, t is ancillary; Hall, Wijsman & Ghosh 1965). So the probability to cross a boundary at any
look is found by numerical integration, without normal theory, which at these n is far off. The error is spent over the
looks (Lan & DeMets 1983) in proportion to the square of the share of seeds (Kim & DeMets 1987). Intervals and p values
are repeated ones (Jennison & Turnbull 1989): they hold at all looks at once, so at whichever a study stops.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import special, stats
from scipy.interpolate import PchipInterpolator

from analysis.errors import AnalysisError
from analysis.statistics.effects import MIN_PAIRS
from analysis.statistics.significance import ALPHA, LEVEL, POWER, Array, detectable_effect, t_interval, t_test

SPENDING = 2.0
"""Of the error, (pairs at the look / pairs at the last) to this power is spent by then."""
MOST = 100
"""Pairs at the last look: the integration takes one step a pair."""
BINS = 400
WIDTH = 0.02
EDGES = WIDTH * np.arange(BINS + 1)
MIDDLES = EDGES + WIDTH / 2
"""Of the bins in which |t| is followed, on the scale of a normal of equal tail probability; the last has no end."""
ALPHAS = np.logspace(-12, 0, 241)
"""Levels whose boundaries are integrated; those between are interpolated."""


def check_looks(looks: Sequence[int]) -> tuple[int, ...]:
    """Return looks (pairs at each) that make sense.

    Raises:
        AnalysisError: they do not rise, begin below MIN_PAIRS, or are more than MOST pairs.
    """
    numbers = tuple(looks)
    shown = ", ".join(map(str, numbers))
    if not numbers or any(isinstance(n, bool) or not isinstance(n, int) for n in numbers):
        raise AnalysisError(f"looks must be whole numbers of seeds, such as 3, 5, 10, but are {shown or 'none'}")
    if numbers[0] < MIN_PAIRS:
        raise AnalysisError(f"the first look is at {numbers[0]} seeds: it must be at {MIN_PAIRS} or more")
    if any(later <= earlier for earlier, later in pairwise(numbers)):
        raise AnalysisError(f"looks must rise, such as 3, 5, 10, but are {shown}")
    if numbers[-1] > MOST:
        raise AnalysisError(f"the last look is at {numbers[-1]} seeds: it must be at {MOST} or less")
    return numbers


def spent(looks: Sequence[int]) -> Array:
    """Return the share of the error that is spent up to each look; 1 at the last."""
    return np.asarray((np.array(looks) / looks[-1]) ** SPENDING)


def levels(looks: Sequence[int], alpha: float = ALPHA) -> Array:
    """Return the level of the two-sided t test at each look with which all together have error alpha.

    Args:
        looks: pairs at each, as `check_looks` returns them.
        alpha: two-sided, 1e-12 to 1.
    """
    table = PchipInterpolator(np.log(ALPHAS), _log_levels(tuple(looks)), axis=1)
    return np.asarray(np.exp(table(np.log(alpha))))


def repeated_p(p: ArrayLike, n: ArrayLike, looks: Sequence[int]) -> Array:
    """Return the p that holds at all looks at once: the smallest alpha whose boundary the statistic crosses here.

    Where nothing differs, it is below any a at some look with probability a. With one look it is p itself.

    Args:
        p: of the t test over the pairs so far.
        n: those pairs, each a look; another n gives NaN.
        looks: pairs at each look.
    """
    p, n = np.broadcast_arrays(np.asarray(p, dtype=float), np.asarray(n))
    result = np.full(p.shape, np.nan)
    for look, row in zip(looks, _log_levels(tuple(looks)), strict=True):
        here = (n == look) & ~np.isnan(p)
        with np.errstate(divide="ignore"):
            log_p = np.log(p[here])
        inside = PchipInterpolator(row, np.log(ALPHAS))(np.clip(log_p, row[0], row[-1]))
        # Below the table the share of alpha that a look has is that of its end.
        result[here] = np.exp(inside + np.minimum(log_p - row[0], 0))
    return result


def repeated_t_test(mean: ArrayLike, sd: ArrayLike, n: ArrayLike, looks: Sequence[int]) -> Array:
    """Return `repeated_p` of the t test that the mean is 0; the plain p without looks.

    NaN where the sd is 0, and where n is no look.
    """
    p = t_test(mean, sd, n)
    return repeated_p(p, n, looks) if looks else p


def repeated_t_interval(
    mean: ArrayLike, sd: ArrayLike, n: ArrayLike, looks: Sequence[int], level: float = LEVEL
) -> tuple[Array, Array]:
    """Return both ends of the interval of the mean that holds at all looks at once; the plain t interval without looks.

    NaN where the sd is 0, and where n is no look.
    """
    if not looks:
        return t_interval(mean, sd, n, level)
    mean, sd, n = np.broadcast_arrays(np.asarray(mean, dtype=float), np.asarray(sd, dtype=float), np.asarray(n))
    low, high = np.full(mean.shape, np.nan), np.full(mean.shape, np.nan)
    for look, nominal in zip(looks, levels(looks, 1 - level), strict=True):
        here = n == look
        low[here], high[here] = t_interval(mean[here], sd[here], n[here], 1 - nominal)
    return low, high


def detectable(n: ArrayLike, comparisons: int, looks: Sequence[int], power: float = POWER) -> Array:
    """Return the smallest true |mean| / sd that the test at a look finds by itself with that power.

    At level 5 % / comparisons over all looks; without looks `significance.detectable_effect`. NaN where n is no look.
    """
    if not looks:
        return detectable_effect(n, comparisons, power)
    n = np.asarray(n)
    effects = np.full(n.shape, np.nan)
    for look, level in zip(looks, levels(looks, ALPHA / comparisons), strict=True):
        effects[n == look] = detectable_effect(look, ALPHA / level, power)
    return effects


def at_look(differences: pd.DataFrame, looks: Sequence[int]) -> pd.DataFrame:
    """Return rows of differences as they were at their last look: of each its first pairs in order of seeds.

    Args:
        differences: rows x seeds (rising), NaN where there is no pair.
        looks: pairs at each look; without any, all pairs count.
    """
    if not looks:
        return differences
    n = differences.count(axis=1).to_numpy()
    reached = np.array([0, *looks])[np.searchsorted(looks, n, side="right")]
    kept = np.where(reached > 0, reached, n)  # before the first look there is no test anyway
    return differences.where(differences.notna().cumsum(axis=1) <= kept[:, None])


@lru_cache(maxsize=16)
def _log_levels(looks: tuple[int, ...]) -> Array:
    """Return the log of the nominal level at each look (rows) for each of ALPHAS (columns, rising)."""
    if len(looks) == 1:
        return np.log(ALPHAS)[None]
    tails = 2 * stats.norm.sf(EDGES)
    mass = np.tile(-np.diff(tails, append=0.0)[:, None], ALPHAS.size)  # bin x level: what has not crossed so far
    rows = []
    for look, next_look, share in zip(looks, (*looks[1:], looks[-1]), np.diff(spent(looks), prepend=0.0), strict=True):
        boundary, mass = _cross(mass, share * ALPHAS)
        rows.append(np.log(2 * stats.norm.sf(boundary)))
        for n in range(look, next_look):
            mass = _step(n) @ mass
    return np.array(rows)


def _cross(mass: Array, target: Array) -> tuple[Array, Array]:
    """Return for each level (column) the boundary with `target` of the mass beyond it, and the mass that is within."""
    above = np.cumsum(mass[::-1], axis=0)[::-1]  # beyond each bin's lower edge
    target = np.minimum(target, above[0])  # the last look spends what is left, up to rounding
    place, columns = np.clip((above > target).sum(axis=0) - 1, 0, BINS - 1), np.arange(mass.shape[1])
    here, beyond = above[place, columns], above[place + 1, columns]
    boundary = EDGES[place] + WIDTH * np.log(here / target) / np.log(here / beyond)
    within = np.where(np.arange(len(mass))[:, None] < place, mass, 0.0)
    within[place, columns] = here - target
    return boundary, within


@lru_cache(maxsize=MOST)
def _step(n: int) -> Array:
    """Return the probabilities to go with one pair more from each bin at n pairs (columns) to each at n + 1 (rows).

    With u = sum / sqrt(n x sum of squares), so that t = u sqrt((n - 1) / (1 - u^2)), and x the new difference, r = x /
    sqrt(sum of squares) is t(n) / sqrt(n) whatever u was, and u becomes (sqrt(n) u + r) / sqrt((n + 1) (1 + r^2)):
    beyond b in size where r is beyond a root of a quadratic equation.
    """
    u_left, b_left = _complement(MIDDLES, n), _complement(EDGES[1:, None], n + 1)  # 1 - u^2 and 1 - b^2
    size = (n + 1) * (1 - b_left)
    centre = np.sqrt(n * (1 - u_left))
    discriminant = (n + 1) * b_left - n * u_left
    root = np.sqrt(size * np.maximum(discriminant, 0.0))
    near, far = (size - n * (1 - u_left)) / (centre + root), (centre + root) / (size - 1)
    beyond_near, beyond_far = (special.stdtr(n, -r * np.sqrt(n)) for r in (near, far))
    # Below 1 / sqrt(n + 1) every u can be left on either side; above it r must lie between the two roots.
    tail = beyond_near + np.where(size < 1, 1 - beyond_far, -beyond_far)
    tail = np.where((size > 1) & (discriminant <= 0), 0.0, tail)
    return np.asarray(-np.diff(tail, axis=0, prepend=1.0, append=0.0))


def _complement(z: ArrayLike, n: int) -> Array:
    """Return 1 - u^2 at n pairs where the t statistic has the tail probability of a normal's z."""
    t = stats.t.isf(stats.norm.sf(z), n - 1)
    return np.asarray((n - 1) / (n - 1 + t**2))
