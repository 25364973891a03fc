"""More comparisons than the runs can carry."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from analysis import text
from analysis.schema import NOTE, WARNING
from analysis.statistics.significance import ALPHA, detectable_effect, holm, sign_flip_floor
from analysis.table_audit.columns import P
from analysis.table_audit.differences import are_resolved, claims, corrected, differences
from analysis.table_audit.finding import Finding
from analysis.table_audit.replication import comparisons, count, seeds_needed
from analysis.table_audit.table import Table

NAME = "multiplicity"
HARDLY = 5.0
"""In sds of the paired differences: where only larger ones are found, a table of so many names finds hardly any."""


def multiplicity(table: Table) -> Iterator[Finding]:
    """Find more comparisons than the runs can carry, unless all of them find something; and p before correction."""
    family, counts = comparisons(table), [group.n for group in table.groups if group.n is not None]
    n = min(counts, default=0)
    if n >= 2 and family > 1 and not are_resolved(table):
        yield from _too_many(table, n, family)
    if P in table.columns:
        yield from _printed(table)
    elif claims(table):
        yield from _recomputed(table)


def _too_many(table: Table, n: int, family: int) -> Iterator[Finding]:
    """Find families in which no exact test can reject, where the table compares, hides its spread or finds nothing."""
    floor = float(sign_flip_floor([n])[0])
    blind = any(math.isnan(difference.p) for difference in differences(table))
    hopeless = float(detectable_effect([n], family)[0]) > HARDLY
    if family * floor > ALPHA and (claims(table) or blind or hopeless):
        yield Finding(
            name=NAME,
            severity=WARNING if P in table.columns else NOTE,
            evidence=f"{count(family)} at n = {n}: the smallest p of an exact sign-flip test is 2/2^{n}, times "
            f"{family} is {text.significant(family * floor, 2)}, above {ALPHA:g}: only tests that trust a normal "
            "distribution can find anything",
            instead=f"train {seeds_needed(family)} seeds, or name one primary comparison beforehand",
        )


def _recomputed(table: Table) -> Iterator[Finding]:
    """Find differences that stand by themselves and not among all that the table makes."""
    found = differences(table)
    lost = [(one, float(p)) for one, p in zip(found, corrected(found), strict=True) if one.p <= ALPHA < p]
    if lost:
        names = [
            f"{table.label(one.group)} (p {text.probability(one.p)}, corrected {text.probability(p)})"
            for one, p in lost
        ]
        unpaired = ", if the runs are not paired" if any(one.if_unpaired for one, _ in lost) else ""
        yield Finding(
            name=NAME,
            severity=WARNING,
            evidence=f"of {count(len(found))} with the control, {text.listing(names)} {_are(names)} told apart from it "
            f"only without Holm's correction{unpaired}",
            instead="give intervals that hold for all comparisons together, or name one primary comparison beforehand",
        )


def _printed(table: Table) -> Iterator[Finding]:
    """Find printed p values that do not outlive Holm's correction."""
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
            evidence=f"of {len(p)} p values, {text.listing(lost)} {_are(lost)} below {ALPHA:g} "
            "only without Holm's correction",
            instead="print p corrected for all comparisons made, and how many those are",
        )


def _are(names: list[str]) -> str:
    return "is" if len(names) == 1 else "are"
