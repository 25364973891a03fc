"""Rows that stand twice, and names that are one model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from analysis import text
from analysis.schema import INVALID, NOTE, WARNING
from analysis.table_audit.columns import LOSS
from analysis.table_audit.finding import Finding
from analysis.table_audit.table import Group, Table, measured_columns

Key = tuple[tuple[str, ...], ...]
"""The measured figures of each of a name's rows, as printed, with their seed."""


def repeats(table: Table) -> Iterator[Finding]:
    """Find a run that is counted twice, equal figures under several names, and several names of one model."""
    yield from _runs_twice(table)
    for context in table.contexts:
        equal: dict[Key, list[Group]] = {}
        for group in table.within(context):
            equal.setdefault(_key(table, group), []).append(group)
        yield from (finding for groups in equal.values() for finding in _same_figures(table, groups))
        yield from _one_model(table, context)


def _runs_twice(table: Table) -> Iterator[Finding]:
    counts = Counter((row.context, row.name, row.seed) for row in table.with_loss if row.seed)
    labels = {(row.context, row.name, row.seed): table.label(row) for row in table.with_loss}
    for run, count in counts.items():
        if count > 1:
            yield Finding(
                name="duplicate",
                severity=INVALID,
                evidence=f"{labels[run]} stands {count} times: it counts as one run",
                instead="keep one row a run; a rerun with the same seed is not a further sample",
            )


def _key(table: Table, group: Group) -> Key:
    columns = measured_columns(table)
    return tuple(
        sorted((row.seed, *(row.figures[c].text if c in row.figures else "" for c in columns)) for row in group.rows)
    )


def _same_figures(table: Table, groups: list[Group]) -> Iterator[Finding]:
    if len(groups) < 2:
        return
    row = groups[0].rows[0]
    shared = [column for column in measured_columns(table) if column in row.figures]
    many = f" in all {len(groups[0].rows)} rows, first" if len(groups[0].rows) > 1 else ":"
    yield Finding(
        name="duplicate",
        severity=WARNING if len(shared) > 1 or len(groups[0].rows) > 1 else NOTE,
        evidence=f"{text.listing([table.label(group) for group in groups])} have the same {text.listing(shared)}{many} "
        f"{table.loss(row).text}",
        instead="say so if it is one model under several names (a negative control), and count it once; else retrain",
    )


def _one_model(table: Table, context: tuple[str, ...]) -> Iterator[Finding]:
    """Find names whose rows were the same model, as the table itself says, and yet have different losses."""
    models: dict[tuple[str, str], list[Group]] = {}
    for group in table.within(context):
        for row in group.rows:
            if row.model:
                models.setdefault((row.model, row.seed), []).append(group)
    for (model, _), groups in models.items():
        losses = sorted({table.loss(row).value for group in groups for row in group.rows if row.model == model})
        names = list(dict.fromkeys(table.label(group) for group in groups))
        if len(names) > 1 and len(losses) > 1:
            yield Finding(
                name="same_model",
                severity=INVALID,
                evidence=f"{text.listing(names)} are one model ({model}), and their {table.columns[LOSS][0]} differs "
                f"by {losses[-1] - losses[0]:.3g}: any difference of that size is noise",
                instead="count them as repeated runs of one model, and train what the names say",
            )
