"""`replication`: what the number of seeds does not allow to be said."""

from __future__ import annotations

import pandas as pd

from analysis.schema import WARNING, Audit
from analysis.statistics.effects import MIN_PAIRS
from analysis.study.results import StudyAudit

NAME = "replication"


def audit(comparisons: pd.DataFrame) -> list[StudyAudit]:
    """Say of which comparisons no effect size exists: one finding a number of pairs, all below MIN_PAIRS.

    A finding names the baselines, too: it may be they that lack seeds.

    Args:
        comparisons: `comparisons.compare`.
    """
    few = comparisons[(comparisons["n"] > 0) & (comparisons["n"] < MIN_PAIRS)]
    found = []
    for n, rows in few.groupby("n"):
        missing = ", no interval and no test" if n == 1 else " and no test"
        evidence = f"n = {n}: no effect size exists{missing}; train {MIN_PAIRS} or more seeds of each cell"
        cells = tuple(dict.fromkeys([*rows["baseline"], *rows["cell"]]))
        found.append(StudyAudit(Audit(name=NAME, severity=WARNING, evidence=evidence), cells))
    return found
