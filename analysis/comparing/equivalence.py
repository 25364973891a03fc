"""What "not resolved" leaves open: the interval that holds for all comparisons together, and equivalence (TOST).

Neither needs equal variances: both are made of each comparison's own paired differences (or its two arms).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import optimize, special, stats

from analysis.comparing import outcomes
from analysis.errors import AnalysisError
from analysis.statistics.looks import levels, repeated_p, repeated_t_interval
from analysis.statistics.significance import ALPHA, POWER, Array, holm
from analysis.study.registered import registration
from analysis.study.results import NATS, Results
from analysis.study.runs import records

MARGIN = "equivalence_margin"
"""Key of the plan: the largest difference, nats, that is as good as none."""
EQUIVALENCE_COLUMNS = {
    "simultaneous_low": "lower end of the 95 % interval of all differences of this table together, from this one's own "
    "values by seed (level 1 - 5 % / their number, those of diverged runs and those to come included): needs no equal "
    "variances",
    "simultaneous_high": "its upper end",
    "p_equivalence": "two one-sided t tests that the difference is the plan's equivalence margin or more, "
    "Holm-corrected over the family; null where the plan has no margin",
    "showable_margin": "smallest margin within which a true difference of 0 would be shown with 80 % power at this n, "
    "sd and alpha = 5 % / family: where the plan's is smaller, the seeds are too few to show equivalence; null where "
    "the plan has no margin",
}
SDS = 2_000
"""Equally likely sds over which the power of equivalence is averaged: it is good to 1e-3."""


def margin(results: Results) -> float | None:
    """Return the plan's equivalence margin; None where it declares none, or cells are compared in another unit.

    Of a plan that was registered, the registered one: no other was chosen before the results.

    Raises:
        AnalysisError: it is no positive number.
    """
    plan = registration(results.plan)
    value = plan.registered.equivalence_margin if plan else results.plan.get(MARGIN)
    if value is None or results.metric not in NATS:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise AnalysisError(f"{MARGIN} of the plan is {value!r}: it must be a positive number of nats, such as 0.01")
    return float(value)


def tost(mean: ArrayLike, sd: ArrayLike, n: ArrayLike, margin: float, looks: Sequence[int] = ()) -> Array:
    """Return the p of two one-sided t tests that |true mean| >= margin (Schuirmann 1987): the larger of the two.

    With several looks it is the p that holds at all of them, of the two-sided test that the mean is the nearer margin.
    NaN where n < 2 or the sd is 0, and where n is no look.
    """
    mean, sd, n = (np.asarray(x, dtype=float) for x in (mean, sd, n))
    with np.errstate(invalid="ignore", divide="ignore"):
        p = stats.t.sf((margin - np.abs(mean)) / sd * np.sqrt(n), n - 1)
    p = np.where((n >= 2) & (sd > 0), p, np.nan)
    return repeated_p(np.minimum(2 * p, 1), n, looks) if looks else p


def showable_margin(n: ArrayLike, level: ArrayLike, power: float = POWER) -> Array:
    """Return the smallest margin, in sds of a difference, within which a true difference of 0 is shown with that power.

    Of two one-sided t tests: |mean| + t sd / sqrt(n) <= margin, averaged over the sds that there may be.

    Args:
        n: pairs, one a comparison; need not be whole.
        level: of each of the two one-sided tests.
        power: probability of showing it.

    Returns:
        Shape of n; NaN where n < 2.
    """
    n, level = np.broadcast_arrays(np.asarray(n, dtype=float), np.asarray(level, dtype=float))
    settings = zip(n.flat, level.flat, strict=True)
    found = [_showable(pairs, of_each, power) if pairs >= 2 else np.nan for pairs, of_each in settings]
    return np.array(found).reshape(n.shape)


@lru_cache(maxsize=256)
def _showable(n: float, level: float, power: float) -> float:
    quantiles = (np.arange(SDS) + 0.5) / SDS
    half = stats.t.isf(level, n - 1) * np.sqrt(stats.chi2.ppf(quantiles, n - 1) / (n - 1))

    def lacking(margin: float) -> float:
        shown = 2 * special.ndtr(np.maximum(margin - half, 0)) - 1
        return float(shown.mean()) - power

    return float(optimize.brentq(lacking, 0, half.max() + 10)) / math.sqrt(n)


def equivalence(comparisons: pd.DataFrame, margin: float | None, looks: Sequence[int], others: int = 0) -> pd.DataFrame:
    """Return EQUIVALENCE_COLUMNS for a `paired_table`: null where nothing varies, the last two also without a margin.

    With several looks both hold at all of them at once.

    Intervals have Bonferroni's level, 1 - 5 % / family. Equivalence is Holm-corrected over all that are tested, not
    only over those that show no difference: choosing them by their data would not hold the 5 %.

    Args:
        comparisons: the table.
        margin: `margin`.
        looks: pairs at each look of the plan; empty for one look.
        others: comparisons of the family that are tested elsewhere, or will be: both leave room for them.
    """
    estimated, tested = comparisons["estimated"], comparisons["p"].notna()
    untested = others + int(comparisons["awaits"].sum())
    moments = comparisons["difference"], comparisons["t_sd"], comparisons["t_n"].where(estimated, 0)
    low, high = repeated_t_interval(*moments, looks, level=1 - ALPHA / max(int(estimated.sum()) + others, 1))
    moments = comparisons["tested_difference"], comparisons["tested_sd"], comparisons["tested_n"].where(tested, 0)
    p, showable = np.full(tested.shape, np.nan), np.full(tested.shape, np.nan)
    if margin is not None and tested.any():
        p = holm(tost(*moments, margin, looks), untested)
        _, sd, n = (column[tested] for column in moments)
        alpha = ALPHA / (int(tested.sum()) + untested)
        at_look = dict(zip(looks, levels(looks, alpha) / 2, strict=True)) if looks else {}
        showable[tested] = sd * showable_margin(n, [at_look.get(pairs, alpha) for pairs in n])
    return pd.DataFrame(dict(zip(EQUIVALENCE_COLUMNS, (low, high, p, showable), strict=True)), index=comparisons.index)


def too_few(row: Mapping[str, Any], margin: float | None) -> bool:
    """Return whether so many seeds would rarely show a comparison's equivalence, even if there were no difference."""
    return margin is not None and bool(row["showable_margin"] > margin)


def notes(comparisons: pd.DataFrame, margin: float | None) -> list[str]:
    """Say for which unresolved comparisons the seeds are too few for the margin: that is no sign of a difference."""
    rows = [row for row in records(comparisons) if outcomes.outcome(row["verdict"]) == outcomes.OPEN]
    few = [row for row in rows if too_few(row, margin)]
    if not few:
        return []
    least = min(row["showable_margin"] for row in few)
    return [
        f"too few seeds for the margin of \u00b1{margin:g} nats in {len(few)} of {len(rows)} comparisons that are not "
        f"resolved: even without any difference it would rarely be shown (80 % power needs {least:.2g} nats or more); "
        "that they are not shown to be equivalent says nothing about a difference"
    ]


def verdict(row: Mapping[str, Any], margin: float | None) -> str:
    """Return the verdict on a comparison: "not resolved" becomes a finding where equivalence is shown."""
    if margin is None or outcomes.outcome(row["verdict"]) != outcomes.OPEN or not row["p_equivalence"] <= ALPHA:
        return str(row["verdict"])
    return f"{outcomes.EQUIVALENT} within \u00b1{margin:g} nats"
