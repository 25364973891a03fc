"""Tables and sentences in a terminal, however narrow it is: a figure that lacks its last digits is another figure."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

from rich.console import Console
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


def say(console: Console, line: str, style: str = "") -> None:
    """Print a sentence: in a terminal broken between words, elsewhere as one line.

    A word that is longer than a line, such as a path, stays whole. A command to be copied is no sentence: it must stay
    one line.
    """
    if console.is_terminal:
        line = "\n".join(_folded(part, console.width) for part in line.split("\n"))
    console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)


def _folded(line: str, width: int) -> str:
    indent = line[: len(line) - len(line.lstrip())] + "  "
    return textwrap.fill(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
