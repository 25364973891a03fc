"""How many runs are behind each name, and what so many can say."""

from __future__ import annotations

import math
from collections.abc import Iterator

from analysis import text
from analysis.schema import INVALID, NOTE, WARNING
from analysis.statistics.effects import MIN_PAIRS
from analysis.statistics.significance import ALPHA, detectable_effect, sign_flip_floor
from analysis.table_audit.columns import REPLICATED, SD, SEED, N, P, is_unnamed_spread, normal
from analysis.table_audit.differences import claims, differences
from analysis.table_audit.finding import Finding
from analysis.table_audit.plus_minus import UNNAMED
from analysis.table_audit.table import Group, Row, Table

NAME = "replication"
OR_A_MEAN = "if rows are means already, say over how many in a column n"


def replication(table: Table) -> Iterator[Finding]:
    """Say what n allows, and refuse figures that need more runs than there are."""
    single = [group for group in table.groups if group.n == 1]
    pairs = [group for group in table.groups if group.n is not None and 1 < group.n < MIN_PAIRS]
    enough = [group.n for group in table.groups if group.n is not None and group.n >= MIN_PAIRS]
    unknown = [group for group in table.groups if group.n is None]
    family = comparisons(table)
    if single:
        yield Finding(
            name=NAME,
            severity=WARNING,
            evidence=f"n = 1: no effect size exists, no interval and no test ({_who(table, single)})",
            instead=_more_seeds(family) + (f"; {OR_A_MEAN}" if not {N, SEED} & set(table.columns) else ""),
        )
    if pairs:
        yield Finding(
            name=NAME,
            severity=WARNING,
            evidence=f"n = 2: an interval exists and is 12.7 standard errors to either side; no effect size and no "
            f"test ({_who(table, pairs)})",
            instead=_more_seeds(family),
        )
    unjudged = [one.group for one in differences(table) if math.isnan(one.p) and (one.group.n or 0) >= MIN_PAIRS]
    if enough and unjudged and claims(table):
        n = min(enough)
        effect = float(detectable_effect([n], family)[0])
        runs = f"n = {n}" if n == max(enough) else f"n = {n} to {max(enough)}"
        yield Finding(
            name=NAME,
            severity=NOTE,
            evidence=f"{runs}: names are ranked or compared, and no spread of the runs is there to judge that by "
            f"({_who(table, unjudged)}); with {n} seeds and {count(family)} a difference below "
            f"{text.significant(effect, 2)} sd of the paired differences is found less often than 80 % of the time",
            instead="print the sd over runs beside each mean, and the interval of each difference",
        )
    if unknown:
        yield Finding(
            name=NAME,
            severity=WARNING,
            evidence=f"figures look like means over runs, but how many is not stated ({_who(table, unknown)})",
            instead="add a column n with the number of runs behind each row",
        )
    if not {N, SEED} & set(table.columns) and any(len(group.rows) > 1 for group in table.groups):
        yield Finding(
            name=NAME,
            severity=NOTE,
            evidence="several rows of one name were taken as runs that differ in the seed alone: no column says so",
            instead="add a column seed; if something else differs, make it part of the name",
        )
    yield from _without_replicates(table)
    for column in filter(is_unnamed_spread, table.columns.get(REPLICATED, ())):
        of = column.removesuffix(f" {UNNAMED}")
        yield Finding(
            name=NAME,
            severity=WARNING,
            evidence=f"nothing says whether what stands after the \u00b1 of {of} is an sd, a standard error or half an "
            "interval",
            instead=f"say it in the column's name, such as '{of} \u00b1 sd'",
        )


def comparisons(table: Table) -> int:
    """Return how many comparisons of a name with the control (or with one other) the table invites."""
    return sum(len(table.within(context)) - 1 for context in table.contexts)


def count(family: int) -> str:
    """Return `1 comparison`, `2 comparisons` and so on."""
    return "1 comparison" if family == 1 else f"{family} comparisons"


def seeds_needed(family: int) -> int:
    """Return the fewest seeds with which an exact sign-flip test can reject under Holm: family x 2 / 2^n <= 5 %."""
    return next(n for n in range(MIN_PAIRS, 64) if family * float(sign_flip_floor([n])[0]) <= ALPHA)


def _more_seeds(family: int) -> str:
    exact = f"; {seeds_needed(family)} seeds let exact tests find something in {count(family)}" if family else ""
    return f"train every variant with the same {MIN_PAIRS} or more seeds and print n, mean and sd{exact}"


def _who(table: Table, groups: list[Group]) -> str:
    if len(groups) == len(table.groups):
        return f"all {len(groups)} names" if len(groups) > 1 else table.label(groups[0])
    return text.listing([table.label(group) for group in groups])


def _without_replicates(table: Table) -> Iterator[Finding]:
    """Refuse spreads, intervals and p values of one run; of two, tests alone are doubted."""
    for group in table.groups:
        if group.n is None or group.n >= MIN_PAIRS:
            continue
        for row in group.rows:
            for column, figure in _replicated(table, row):
                is_test = column in table.columns.get(P, ()) or normal(column).startswith("p_")
                if group.n == 1 or is_test:
                    yield Finding(
                        name=NAME,
                        severity=INVALID if group.n == 1 else WARNING,
                        evidence=f"{table.label(row)}: {column} is {figure}, but n = {group.n}",
                        instead="leave the column out, or state the runs behind it in a column n",
                    )


def _replicated(table: Table, row: Row) -> Iterator[tuple[str, str]]:
    """Yield a row's figures that exist only over several runs, effect sizes apart, with their column."""
    for column in (*table.columns.get(SD, ()), *table.columns.get(P, ())):
        figure = row.figures.get(column)
        if figure is not None and not (column in table.columns.get(SD, ()) and figure.value == 0):
            yield column, figure.text
    for column in table.columns.get(REPLICATED, ()):
        if column in row.words:
            yield column, row.words[column]
