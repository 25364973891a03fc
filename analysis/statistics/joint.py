"""All comparisons with one baseline in one model: cell + seed block, pooled residual, joint critical values.

It stands beside the paired t tests with Holm's correction. Where all cells have equal residual variances it finds more
at small n, since the variance comes from all cells: (cells - 1) (seeds - 1) degrees of freedom instead of seeds - 1.
Where they have not, its promise does not hold and that of the paired t tests does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import optimize, special, stats

from analysis.statistics.significance import ALPHA, Array

NODES = (48, 96)
"""Gauss-Legendre nodes over log s and z in `dunnett_cdf`: off by less than 2e-6 for up to 2,000 comparisons and df at
least twice as many, as complete blocks of 3 seeds and more have."""
TAIL = 1e-13
"""Probability of the scale s outside its nodes, on either side."""
WIDTH = 8.5
"""Standard deviations that the nodes over z reach to."""
CHUNK = 512
"""Values of t integrated at once, to bound memory."""
JOINT_COLUMNS = ("p_joint", "joint_low", "joint_high", "joint_family")


def pooled_residual(values: Array) -> tuple[Array, int]:
    """Return the residual mean square of the model cell + seed block, and its degrees of freedom.

    Args:
        values: shape (..., cells, seeds), complete, 2 or more of each.

    Returns:
        Shape (...), and (cells - 1) (seeds - 1).
    """
    cells, seeds = values.shape[-2:]
    df = (cells - 1) * (seeds - 1)
    centred = values - values.mean(axis=-1, keepdims=True)
    return np.asarray(((centred - centred.mean(axis=-2, keepdims=True)) ** 2).sum(axis=(-2, -1)) / df), df


def many_to_one_cdf(t: ArrayLike, loadings: Sequence[float], df: float) -> Array:
    """Return P(max |T_i| <= t) for comparisons with one baseline (Dunnett 1955).

    With T_i = (l_i X_0 + sqrt(1 - l_i^2) X_i) / s, X normal and s = sqrt(chi-squared(df) / df), it is the mean over
    X_0 = z and s of the product of Phi((l_i z + t s) / sqrt(1 - l_i^2)) - Phi((l_i z - t s) / sqrt(1 - l_i^2)).

    Args:
        t: any shape.
        loadings: l_i of each comparison, the share of the baseline in its error: T_i and T_j correlate l_i l_j.
        df: degrees of freedom of the common variance.
    """
    t = np.asarray(t, dtype=float)
    s, s_weights, z, z_weights = _nodes(df)
    flat = t.ravel()
    result = np.empty(flat.shape)
    for start in range(0, flat.size, CHUNK):
        reach = flat[start : start + CHUNK, None, None] * s[:, None]
        together = 1.0
        for loading, count in zip(*np.unique(loadings, return_counts=True), strict=True):
            own = np.sqrt(1 - loading**2)
            within = special.ndtr((loading * z + reach) / own) - special.ndtr((loading * z - reach) / own)
            together = together * within**count
        result[start : start + CHUNK] = together @ z_weights @ s_weights
    return result.reshape(t.shape)


def dunnett_cdf(t: ArrayLike, comparisons: int, df: float) -> Array:
    """Return P(max |T_i| <= t) for means of equally many seeds: T_i correlate 0.5."""
    return many_to_one_cdf(t, (np.sqrt(0.5),) * comparisons, df)


@lru_cache(maxsize=64)
def _nodes(df: float) -> tuple[Array, Array, Array, Array]:
    """Return nodes and weights over s = sqrt(chi-squared(df) / df), spread in log s, and over a standard normal z."""
    of_s, of_z = (np.polynomial.legendre.leggauss(count) for count in NODES)
    low, high = (np.log(quantile) for quantile in (stats.chi2.ppf(TAIL, df), stats.chi2.isf(TAIL, df)))
    log_w = low + (of_s[0] + 1) * (high - low) / 2
    s_weights = of_s[1] * stats.chi2.pdf(np.exp(log_w), df) * np.exp(log_w)
    z = WIDTH * of_z[0]
    z_weights = of_z[1] * stats.norm.pdf(z)
    return np.exp(log_w / 2) / np.sqrt(df), s_weights / s_weights.sum(), z, z_weights / z_weights.sum()


@lru_cache(maxsize=64)
def many_to_one_critical(loadings: Sequence[float], df: float, alpha: float = ALPHA) -> float:
    """Return the two-sided critical value: P(max |T_i| > it) = alpha.

    It lies between the values for one comparison and, by Bonferroni, for that many.
    """
    low, high = stats.t.isf(alpha / 2, df), stats.t.isf(alpha / len(loadings) / 2, df)
    if len(loadings) == 1:
        return float(low)
    return float(
        optimize.brentq(lambda t: float(many_to_one_cdf(t, loadings, df)) - (1 - alpha), low, high, xtol=1e-10)
    )


def dunnett_critical(comparisons: int, df: float, alpha: float = ALPHA) -> float:
    """Return the two-sided critical value for means of equally many seeds."""
    return many_to_one_critical((np.sqrt(0.5),) * comparisons, df, alpha)


def one_model(values: pd.DataFrame, control: pd.DataFrame) -> dict[str, str]:
    """Return for each cell the first that is the same model: same values in every seed, or the control's partner.

    Counted twice, one model would add degrees of freedom that do not exist.

    Args:
        values: cells x seeds.
        control: `comparisons.negative_control`.
    """
    same = control[control["largest"] <= control["tolerance"]]
    partner = dict(zip(same["cell"], same["partner"], strict=True))
    first: dict[bytes, str] = {}
    names = {str(cell): first.setdefault(row.tobytes(), str(cell)) for cell, row in _rows(values)}
    return {cell: names[partner.get(cell, cell)] for cell in names}


def stand_ins(values: pd.DataFrame, models: Mapping[str, str]) -> dict[str, str]:
    """Return for each cell the one of these cells that its model is counted by.

    A model's first name may be one that does not compete, or that lacks a seed. So it is that of the names here with
    all seeds that any of these cells has, the first one if it is among them; without such a one the first name here.

    Args:
        values: the cells that compete x seeds, NaN where there is none.
        models: `one_model`.
    """
    seen = values.loc[:, values.notna().any()]
    lacks_a_seed = seen.isna().any(axis=1)
    chosen: dict[str, str] = {}
    for cell in sorted(values.index, key=lambda cell: (lacks_a_seed[cell], models[cell] != cell)):
        chosen.setdefault(models[cell], cell)
    return {cell: chosen[models[cell]] for cell in values.index}


def _rows(values: pd.DataFrame) -> zip[tuple[str, Array]]:
    return zip(values.index, np.ascontiguousarray(values.to_numpy(dtype=float)), strict=True)


@dataclass(frozen=True)
class _Family:
    """What is compared with one baseline."""

    baseline: str
    cells: list[str]
    block: pd.DataFrame
    """Values of all of these, cells x the seeds that one of them has; NaN where there is none."""
    distinct: list[str]
    """Of each model that is not the baseline's one cell, by `stand_ins`."""

    @property
    def models(self) -> pd.DataFrame | None:
        """The values of baseline and models; None with less than two models, or where one lacks a seed."""
        found = self.block.loc[[self.baseline, *self.distinct]]
        return None if len(self.distinct) < 2 or found.isna().any(axis=None) else found


def joint_table(
    values: pd.DataFrame, pairs: Mapping[str, str], models: Mapping[str, str], others: int = 0
) -> pd.DataFrame:
    """Test all comparisons with a baseline in one model; several baselines (of scales) share the 5 % equally.

    Args:
        values: the metric, cells x seeds, NaN where there is none.
        pairs: cell -> baseline of the comparisons that are tested.
        models: `one_model`; a model counts once, under whatever names.
        others: comparisons of the family that are tested elsewhere, or will be: p and interval leave room for them.

    Returns:
        JOINT_COLUMNS by cell: p adjusted for all comparisons, simultaneous 95 % interval of the difference, and the
        different comparisons behind both. NaN where there are less than two, where the baseline or a model lacks,
        under all its names, a seed that another has, and for a name that does.
    """
    families = _families(values, pairs, models)
    table = pd.DataFrame(np.nan, index=list(pairs), columns=list(JOINT_COLUMNS))
    for family in families:
        of_models = family.models
        if of_models is None:
            continue
        k, seeds = len(family.distinct) + others, of_models.shape[1]
        variance, df = pooled_residual(of_models.to_numpy())
        means = family.block.mean(axis=1)
        cells = [cell for cell in family.cells if family.block.loc[cell].notna().all()]
        difference = means[cells] - means[family.baseline]
        error = np.sqrt(2 * variance / seeds)
        half = dunnett_critical(k, df, ALPHA / len(families)) * error
        p = np.clip(len(families) * (1 - dunnett_cdf(difference.abs() / error, k, df)), 0, 1)
        table.loc[cells] = np.column_stack([p, difference - half, difference + half, np.full(p.shape, k)])
    return table


def primary_table(
    values: pd.DataFrame, primary: str, pairs: Mapping[str, str], models: Mapping[str, str]
) -> pd.DataFrame:
    """Test one comparison alone at 5 %, with the residual of one model of all cells that have its baseline.

    Args:
        values: the metric, cells x seeds, NaN where there is none.
        primary: the cell that is tested.
        pairs: cell -> baseline of all comparisons, this one included.
        models: `one_model`.

    Returns:
        JOINT_COLUMNS, one row: p, 95 % interval, and 1. NaN where there are less than two models beside the baseline,
        or it, the baseline or a model under all its names lacks a seed that another has.
    """
    table = pd.DataFrame(np.nan, index=[primary], columns=list(JOINT_COLUMNS))
    (family,) = _families(values, {cell: base for cell, base in pairs.items() if base == pairs[primary]}, models)
    of_models = family.models
    by_seed = (values.loc[primary] - values.loc[family.baseline])[family.block.columns].to_numpy(dtype=float)
    if of_models is None or np.isnan(by_seed).any():
        return table
    variance, df = pooled_residual(of_models.to_numpy())
    if variance > 0:
        difference = float(by_seed.mean())
        error = float(np.sqrt(2 * variance / of_models.shape[1]))
        half = float(stats.t.isf(ALPHA / 2, df)) * error
        p = 2 * float(stats.t.sf(abs(difference) / error, df))
        table.loc[primary] = (p, difference - half, difference + half, 1)
    return table


def _families(values: pd.DataFrame, pairs: Mapping[str, str], models: Mapping[str, str]) -> Sequence[_Family]:
    families = []
    for baseline in dict.fromkeys(pairs.values()):
        cells = [cell for cell, base in pairs.items() if base == baseline and models[cell] != models[baseline]]
        block = values.loc[[baseline, *cells]].dropna(axis=1, how="all")
        distinct = list(dict.fromkeys(stand_ins(block.loc[cells], models).values()))
        families.append(_Family(baseline, cells, block, distinct))
    return families
