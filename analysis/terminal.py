"""Tables in a terminal, however narrow it is: a figure that lacks its last digits is another figure."""

from __future__ import annotations

from collections.abc import Iterable

from rich.table import Table


def plain_table(words: Iterable[str], numbers: Iterable[str]) -> Table:
    """Return an empty table with columns of words and then of numbers, which loses nothing where space is short.

    Words are folded first, numbers only where that is not enough. Nothing is ever cut.

    Args:
        words: headers of the columns on the left.
        numbers: headers of those on the right.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for header in words:
        table.add_column(header, overflow="fold")
    for header in numbers:
        table.add_column(header, justify="right", overflow="fold", no_wrap=True)
    return table
