"""What "not resolved" leaves open: the interval that holds for all comparisons together, and equivalence (TOST).

Neither needs equal variances: both are made of each comparison's own paired differences (or its two arms).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from analysis import outcomes
from analysis.errors import AnalysisError
from analysis.looks import repeated_p, repeated_t_interval
from analysis.registered import registration
from analysis.results import NATS, Results
from analysis.significance import ALPHA, Array, holm

MARGIN = "equivalence_margin"
"""Key of the plan: the largest difference, nats, that is as good as none."""
EQUIVALENCE_COLUMNS = ("simultaneous_low", "simultaneous_high", "p_equivalence")


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


def equivalence(comparisons: pd.DataFrame, margin: float | None, looks: Sequence[int]) -> pd.DataFrame:
    """Return EQUIVALENCE_COLUMNS for a `paired_table`: null where nothing varies, p also without a test or a margin.

    With several looks both hold at all of them at once.

    Intervals have Bonferroni's level, 1 - 5 % / family. Equivalence is Holm-corrected over all that are tested, not
    only over those that show no difference: choosing them by their data would not hold the 5 %.
    """
    estimated, tested = comparisons["estimated"], comparisons["p"].notna()
    moments = comparisons["difference"], comparisons["t_sd"], comparisons["t_n"].where(estimated, 0)
    low, high = repeated_t_interval(*moments, looks, level=1 - ALPHA / max(int(estimated.sum()), 1))
    moments = comparisons["tested_difference"], comparisons["tested_sd"], comparisons["tested_n"].where(tested, 0)
    p = np.full(tested.shape, np.nan) if margin is None else holm(tost(*moments, margin, looks))
    return pd.DataFrame(dict(zip(EQUIVALENCE_COLUMNS, (low, high, p), strict=True)), index=comparisons.index)


def verdict(row: Mapping[str, Any], margin: float | None) -> str:
    """Return the verdict on a comparison: "not resolved" becomes a finding where equivalence is shown."""
    if margin is None or outcomes.outcome(row["verdict"]) != outcomes.OPEN or not row["p_equivalence"] <= ALPHA:
        return str(row["verdict"])
    return f"{outcomes.EQUIVALENT} within \u00b1{margin:g} nats"
