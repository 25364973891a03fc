"""Rows that stand twice, runs that do not differ, and names that are one model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from decimal import Decimal

from analysis import text
from analysis.schema import INVALID, NOTE, WARNING
from analysis.statistics.effects import MIN_PAIRS
from analysis.table_audit.columns import LOSS, SD, N
from analysis.table_audit.finding import Finding
from analysis.table_audit.table import Figure, Group, Row, Table, measured_columns

FINE = 1e-3
"""Share of the loss. Runs of different seeds differ by more, so only coarser digits may hide it (published: the sd of
one model's runs was 0.0025 of 6.4, from arithmetic alone)."""

Key = tuple[tuple[str, ...], ...]
"""The measured figures of each of a name's rows, as printed, with their seed."""


def repeats(table: Table) -> Iterator[Finding]:
    """Find what is counted twice, runs that do not differ, equal figures under several names, and one model's names."""
    yield from _runs_twice(table)
    yield from _rows_twice(table)
    yield from _several_means(table)
    yield from _without_spread(table)
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


def _rows_twice(table: Table) -> Iterator[Finding]:
    """Find rows without a seed of which all fields are the same: a mean over runs is one, runs may be two by chance."""
    alike: dict[tuple[str, ...], list[Row]] = {}
    for row in table.with_loss:
        if not row.seed:
            alike.setdefault(tuple(row.fields.values()), []).append(row)
    for rows in alike.values():
        row, times = rows[0], len(rows)
        loss = table.loss(row)
        stands = (
            f"{table.label(row)} stands {times} times with all fields the same ({table.columns[LOSS][0]} {loss.text})"
        )
        if times > 1 and table.states_runs(row):
            yield Finding(
                name="duplicate",
                severity=INVALID,
                evidence=f"{stands}: it counts once{_stated(table, [row])}",
                instead="print one row a name",
            )
        elif times > 1:
            yield Finding(
                name="duplicate",
                severity=WARNING if _is_fine(table, loss, loss) else NOTE,
                evidence=f"{stands}: one run that was copied, or {times} that do not differ",
                instead="keep one row a run, and give each its seed",
            )


def _several_means(table: Table) -> Iterator[Finding]:
    for group in table.groups:
        if len(group.rows) > 1 and any(table.states_runs(row) for row in group.rows):
            yield Finding(
                name="duplicate",
                severity=WARNING,
                evidence=f"{table.label(group)} has {len(group.rows)} rows that are means over runs"
                f"{_stated(table, group.rows)}: nothing says what tells them apart",
                instead="print one row a name; if something differs, make it part of the name",
            )


def _stated(table: Table, rows: Sequence[Row]) -> str:
    """Return the n that rows state, as a remark; empty where they state none."""
    n = [figure.text for row in rows if (figure := table.figure(row, N)) is not None]
    return f", with n = {text.listing(n)}" if n else ""


def _without_spread(table: Table) -> Iterator[Finding]:
    """Find names of which three and more runs have one loss: the seed does nothing, or digits hide what it does."""
    for group in table.groups:
        found = _no_spread(table, group)
        if found is not None:
            figure, what = found
            yield Finding(
                name="no_spread",
                severity=WARNING if _is_fine(table, figure, table.loss(group.rows[0])) else NOTE,
                evidence=f"{table.label(group)}: {what}",
                instead="see to it that the seed reaches initial values and data, and print digits that show what "
                "runs differ by; equal runs count as one",
            )


def _no_spread(table: Table, group: Group) -> tuple[Figure, str] | None:
    """Return the sd or loss that says that a name's runs are equal, in words too; None where they differ or are few."""
    row, runs = group.rows[0], len({row.seed or row.line for row in group.rows})
    loss, sd = table.loss(row), table.figure(row, SD)
    if len(group.rows) == 1 and sd is not None and sd.value == 0 and (group.n or 0) >= MIN_PAIRS:
        return sd, f"{table.columns[SD][0]} is {sd.text} over {group.n} runs"
    is_one_row = not row.seed and all(other.fields == row.fields for other in group.rows)  # _rows_twice names those
    if runs >= MIN_PAIRS and len({table.loss(row).text for row in group.rows}) == 1 and not is_one_row:
        return loss, f"{table.columns[LOSS][0]} is {loss.text} in all {runs} runs"
    return None


def _is_fine(table: Table, figure: Figure, loss: Figure) -> bool:
    """Whether a figure's last digit would show what runs of such a loss differ by; of other metrics nobody knows."""
    return table.is_loss and 10.0 ** int(Decimal(figure.text).as_tuple().exponent) < FINE * abs(loss.value)


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
