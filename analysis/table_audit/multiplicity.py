"""More comparisons than the runs can carry."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from analysis import text
from analysis.schema import NOTE, WARNING
from analysis.significance import ALPHA, holm, sign_flip_floor
from analysis.table_audit.columns import P
from analysis.table_audit.finding import Finding
from analysis.table_audit.replication import comparisons, count, seeds_needed
from analysis.table_audit.table import Table

NAME = "multiplicity"


def multiplicity(table: Table) -> Iterator[Finding]:
    """Find families in which no exact test can reject, and p values that do not outlive Holm's correction."""
    family, counts = comparisons(table), [group.n for group in table.groups if group.n is not None]
    n = min(counts, default=0)
    if n >= 2 and family:
        floor = float(sign_flip_floor([n])[0])
        if family * floor > ALPHA:
            yield Finding(
                name=NAME,
                severity=WARNING if P in table.columns else NOTE,
                evidence=f"{count(family)} at n = {n}: the smallest p of an exact sign-flip test is 2/2^{n}, times "
                f"{family} is {text.significant(family * floor, 2)}, above {ALPHA:g}: only tests that trust a normal "
                "distribution can find anything",
                instead=f"train {seeds_needed(family)} seeds, or name one primary comparison beforehand",
            )
    if P not in table.columns:
        return
    rows = [row for row in table.rows if table.figure(row, P) is not None]
    p = np.array([figure.value for row in rows if (figure := table.figure(row, P)) is not None])
    lost = [
        f"{table.label(row)} ({value:g}, corrected {text.probability(float(corrected))})"
        for row, value, corrected in zip(rows, p, holm(p), strict=True)
        if value <= ALPHA < corrected
    ]
    if lost:
        yield Finding(
            name=NAME,
            severity=WARNING,
            evidence=f"of {len(p)} p values, {text.listing(lost)} {'is' if len(lost) == 1 else 'are'} below {ALPHA:g} "
            "only without Holm's correction",
            instead="print p corrected for all comparisons made, and how many those are",
        )
