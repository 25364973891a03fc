"""Differences between arms that share no seed: Welch, Games-Howell, classical Dunnett, and g of independent groups.

Only for disjoint seeds. Where two arms have seeds in common these are pairs, which know more: see paired.py.

A Welch difference has the t distribution of a paired one with (its degrees of freedom + 1) pairs and the same standard
error; where the arms are of unequal size, the smaller one's degrees of freedom are taken. `as_pairs` says which, so
that intervals, tests, equivalence and detectable differences are those of significance.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from analysis.statistics.effects import MIN_PAIRS, gamma_correction
from analysis.statistics.joint import JOINT_COLUMNS, many_to_one_cdf, many_to_one_critical
from analysis.statistics.significance import ALPHA, LEVEL, Array, noncentrality, t_interval, t_test
from analysis.study import plan_check

MIN_RUNS = MIN_PAIRS
"""Fewer runs in an arm give neither an effect size nor a test."""
PAIRED, UNPAIRED = "paired", "unpaired"
TESTED_COLUMNS = ("n_tested", "tested_difference", "tested_n", "tested_sd")
"""What tests are made of, as n, difference, t_n and t_sd are what intervals are made of."""


@dataclass(frozen=True)
class UnpairedMoments:
    """Moments of two independent arms x and y, one entry a comparison; sds with n - 1."""

    n_x: Array
    n_y: Array
    mean_x: Array
    mean_y: Array
    sd_x: Array
    sd_y: Array

    @classmethod
    def of(cls, x: ArrayLike, y: ArrayLike) -> UnpairedMoments:
        """Return the moments of runs, shapes (..., runs of x) and (..., runs of y); NaN is no run."""
        x, y = (np.asarray(runs, dtype=float) for runs in (x, y))
        (n_x, mean_x, sd_x), (n_y, mean_y, sd_y) = _moments(x), _moments(y)
        return cls(n_x, n_y, mean_x, mean_y, sd_x, sd_y)

    @property
    def difference(self) -> Array:
        """Mean of x minus mean of y."""
        return self.mean_x - self.mean_y

    @property
    def smaller(self) -> Array:
        """Runs of the smaller arm."""
        return np.minimum(self.n_x, self.n_y)

    @property
    def exists(self) -> np.ndarray:
        """Whether there is a test: enough runs in both arms, and some variance."""
        return (self.n_x >= MIN_RUNS) & (self.n_y >= MIN_RUNS) & (self.sd_x**2 + self.sd_y**2 > 0)


def _moments(runs: Array) -> tuple[Array, Array, Array]:
    n = (~np.isnan(runs)).sum(axis=-1).astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.nansum(runs, axis=-1) / n
        squares = np.nansum((runs - mean[..., None]) ** 2, axis=-1)
        sd = np.where(n > 1, np.sqrt(squares / (n - 1)), np.nan)
    return n, mean, sd


def welch_error(m: UnpairedMoments) -> tuple[Array, Array]:
    """Return the standard error of the difference and its degrees of freedom (Welch 1938, Satterthwaite 1946).

    No equal variances are assumed. NaN where no test exists.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        a, b = m.sd_x**2 / m.n_x, m.sd_y**2 / m.n_y
        df = (a + b) ** 2 / (a**2 / (m.n_x - 1) + b**2 / (m.n_y - 1))
        return np.where(m.exists, np.sqrt(a + b), np.nan), np.where(m.exists, df, np.nan)


def as_pairs(m: UnpairedMoments) -> tuple[Array, Array, Array]:
    """Return (mean, sd, n) for the functions of significance.py, which then are Welch's; n need not be whole.

    Arms of unequal size have the degrees of freedom of the smaller, the fewest that Welch's can be: conservative for
    normal runs whatever the variances (Mickey & Brown 1966, Annals of Mathematical Statistics 37). Welch's own are
    estimated from few runs there: 15 arms of 3 against one of 20 have an error of 24 % with Holm at 5 %.
    """
    error, df = welch_error(m)
    df = np.where((m.n_x == m.n_y) | np.isnan(df), df, m.smaller - 1)
    return m.difference, error * np.sqrt(df + 1), df + 1


def welch_test(m: UnpairedMoments) -> Array:
    """Return the two-sided p of Welch's t test, for unequal sizes with fewer degrees of freedom: see `as_pairs`.

    NaN where no test exists.
    """
    return t_test(*as_pairs(m))


def welch_interval(m: UnpairedMoments, level: float = LEVEL) -> tuple[Array, Array]:
    """Return the interval of the difference that belongs to `welch_test`; NaN where no test exists."""
    return t_interval(*as_pairs(m), level=level)


def games_howell(m: UnpairedMoments, arms: int) -> Array:
    """Return p of each difference, adjusted for all pairs of so many arms (Games & Howell 1976).

    The studentised range with Welch's error and degrees of freedom: no equal variances. NaN where no test exists.
    """
    error, df = welch_error(m)
    with np.errstate(invalid="ignore", divide="ignore"):
        q = np.sqrt(2) * np.abs(m.difference) / error
    p = np.full(q.shape, np.nan)
    exists = ~np.isnan(q)
    p[exists] = np.clip(stats.studentized_range.sf(q[exists], arms, df[exists]), 0, 1)
    return p


def independent_d(m: UnpairedMoments) -> Array:
    """Return Cohen's d of independent groups: the difference over the pooled sd; NaN where no test exists."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(m.exists, m.difference / _pooled_sd(m), np.nan)


def independent_g(m: UnpairedMoments) -> Array:
    """Return Hedges' g: d without its small-sample bias, J(n_x + n_y - 2) d with the exact J (Hedges 1981)."""
    return independent_d(m) * gamma_correction(m.n_x + m.n_y - 2)


def independent_interval(m: UnpairedMoments) -> tuple[Array, Array]:
    """Return the exact 95 % interval of what d and g estimate, from the noncentral t (normal runs, equal variances)."""
    d = independent_d(m)
    low, high = np.full(d.shape, np.nan), np.full(d.shape, np.nan)
    ok = ~np.isnan(d)
    df = (m.n_x + m.n_y - 2)[ok]
    root = np.sqrt(m.n_x * m.n_y / (m.n_x + m.n_y))[ok]
    low[ok] = noncentrality(d[ok] * root, df, (1 + LEVEL) / 2) / root
    high[ok] = noncentrality(d[ok] * root, df, (1 - LEVEL) / 2) / root
    return low, high


def _pooled_sd(m: UnpairedMoments) -> Array:
    squares = (m.n_x - 1) * m.sd_x**2 + (m.n_y - 1) * m.sd_y**2
    return np.asarray(np.sqrt(squares / (m.n_x + m.n_y - 2)))


def dunnett(control: ArrayLike, *arms: ArrayLike, alpha: float = ALPHA, others: int = 0) -> pd.DataFrame:
    """Test independent arms against one control (Dunnett 1955, equal variances, any sizes); nothing is random.

    Args:
        control: its runs, without NaN.
        arms: two or more of them.
        alpha: of all comparisons together.
        others: further comparisons that share alpha; their arms are unknown, so they count as independent of these.

    Returns:
        JOINT_COLUMNS, one row an arm: adjusted p, simultaneous interval of the difference, number of arms and others.
        NaN where nothing varies.
    """
    groups = [np.asarray(group, dtype=float) for group in (control, *arms)]
    sizes = np.array([group.size for group in groups], dtype=float)
    means = np.array([group.mean() for group in groups])
    df = float(sizes.sum() - sizes.size)
    variance = sum(float(((group - group.mean()) ** 2).sum()) for group in groups) / df
    loadings = (*np.sqrt(sizes[1:] / (sizes[1:] + sizes[0])), *(0.0,) * others)
    table = pd.DataFrame(np.nan, index=range(len(arms)), columns=list(JOINT_COLUMNS))
    if variance > 0:
        difference = means[1:] - means[0]
        error = np.sqrt(variance * (1 / sizes[1:] + 1 / sizes[0]))
        half = many_to_one_critical(loadings, df, alpha) * error
        p = np.clip(1 - many_to_one_cdf(np.abs(difference) / error, loadings, df), 0, 1)
        table[:] = np.column_stack([p, difference - half, difference + half, np.full(p.shape, len(arms) + others)])
    return table


def tested_moments(x: Array, y: Array, added: np.ndarray) -> UnpairedMoments:
    """Return the moments that tests of rows rest on: those of `plan_check.tested_seeds`, of runs in either arm.

    Args:
        x: rows x seeds, NaN where there is no run.
        y: what each row is compared with, of the same shape.
        added: `plan_check.additions` of the seeds.
    """
    tested = plan_check.tested_seeds(~(np.isnan(x) & np.isnan(y)), added)
    return UnpairedMoments.of(np.where(tested, x, np.nan), np.where(tested, y, np.nan))


def unpaired_rows(cells: pd.DataFrame, bases: pd.DataFrame, added: np.ndarray) -> pd.DataFrame:
    """Compare the rows in which both arms have runs and share no seed.

    Args:
        cells: rows x seeds, NaN where there is no run.
        bases: what each row is compared with, of the same shape.
        added: `plan_check.additions` of the seeds.

    Returns:
        One row a row that is unpaired: n (runs of the smaller arm), difference, sd_difference (of two new runs), t_n
        and t_sd (`as_pairs`), TESTED_COLUMNS, cohens_d, hedges_g and its interval.
    """
    apart = cells.notna().any(axis=1) & bases.notna().any(axis=1) & ~(cells.notna() & bases.notna()).any(axis=1)
    x, y = cells[apart].to_numpy(), bases[apart].to_numpy()
    m = UnpairedMoments.of(x, y)
    tested = tested_moments(x, y, added)
    _, t_sd, t_n = as_pairs(m)
    _, tested_sd, tested_n = as_pairs(tested)
    g_low, g_high = independent_interval(m)
    columns = {
        "n": m.smaller.astype(int),
        "difference": m.difference,
        "sd_difference": np.hypot(m.sd_x, m.sd_y),
        "t_n": t_n,
        "t_sd": t_sd,
        **dict(zip(TESTED_COLUMNS, (tested.smaller.astype(int), tested.difference, tested_n, tested_sd), strict=True)),
        "cohens_d": independent_d(m),
        "hedges_g": independent_g(m),
        "hedges_g_low": g_low,
        "hedges_g_high": g_high,
    }
    return pd.DataFrame(columns, index=cells.index[apart])


def dunnett_table(values: pd.DataFrame, pairs: Mapping[str, str], others: int = 0) -> pd.DataFrame:
    """Test all unpaired comparisons with a baseline by `dunnett`; several baselines (of scales) share the 5 % equally.

    Args:
        values: the metric, cells x seeds, NaN where there is none.
        pairs: cell -> baseline of the unpaired comparisons that are tested.
        others: comparisons of the family that are tested elsewhere, or will be.

    Returns:
        JOINT_COLUMNS by cell; NaN where a baseline has less than two, or two of its arms share a seed: then they are
        not independent, which classical Dunnett assumes.
    """
    baselines = list(dict.fromkeys(pairs.values()))
    table = pd.DataFrame(np.nan, index=list(pairs), columns=list(JOINT_COLUMNS))
    for baseline in baselines:
        cells = [cell for cell, base in pairs.items() if base == baseline]
        block = values.loc[[baseline, *cells]]
        if len(cells) < 2 or (block.notna().sum() > 1).any():
            continue
        found = dunnett(*(row.dropna() for _, row in block.iterrows()), alpha=ALPHA / len(baselines), others=others)
        found["p_joint"] = np.clip(len(baselines) * found["p_joint"], 0, 1)
        table.loc[cells] = found.to_numpy()
    return table
