"""Tables and sentences in a terminal, however narrow it is: a figure that lacks its last digits is another figure."""

from __future__ import annotations

import math
import os
import textwrap
from collections.abc import Iterable, Sequence
from typing import IO

from rich.cells import cell_len
from rich.console import Console
from rich.table import Column, Table

NAMES = 24
"""Characters that the columns of words are left with together."""
GAP = 2
"""Blanks behind each column."""
EXIT_UNREAD = 1
"""As rich ends a command whose output nobody reads any more."""


class UnreadError(Exception):
    """What read a command's output has ended, as `| head` does, while there was more to do than to print."""


class LastingConsole(Console):
    """A console of a command that does more than print; where nobody reads any longer, printing raises UnreadError."""

    def on_broken_pipe(self) -> None:
        """Rich would end the process without a word."""
        self.quiet = True
        print_nothing_more(self.file)
        raise UnreadError("what read standard output has ended; the same command continues the study")


def print_nothing_more(stream: IO[str]) -> None:
    """Let an output go nowhere, once nobody reads it: Python complains at its end of what is left to print."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def plain_table(words: Iterable[str], numbers: Iterable[str]) -> Table:
    """Return an empty table with columns of words, which are folded where space is short, and then of numbers.

    Print it with `print_table`, which cuts nothing.

    Args:
        words: headers of the columns on the left.
        numbers: headers of those on the right.
    """
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0))
    for header in words:
        table.add_column(header, overflow="fold")
    for header in numbers:
        table.add_column(header, justify="right", overflow="fold", no_wrap=True)
    return table


def print_table(console: Console, table: Table) -> None:
    """Print a table of `plain_table` so that nothing is cut: numbers that do not fit beside others follow below."""
    words = [column for column in table.columns if not column.no_wrap]
    least = max(3, NAMES // max(1, len(words)))
    parts: list[list[Column]] = [[*words]]
    for column in table.columns:
        if not column.no_wrap:
            continue
        if len(parts[-1]) > len(words) and _width([*parts[-1], column], least) > console.width:
            parts.append([*words])
        parts[-1].append(column)
    if len(parts) == 1:
        console.print(table)
        return
    for place, columns in enumerate(parts):
        if place:
            console.print()
        part = plain_table((str(column.header) for column in words), (str(c.header) for c in columns[len(words) :]))
        for row in zip(*(column.cells for column in columns), strict=True):
            part.add_row(*row)
        console.print(part)


def fits(console: Console, table: Table) -> bool:
    """Return whether a table has room in a terminal as it is, without a word folded."""
    return _width(table.columns) <= console.width


def _width(columns: Sequence[Column], most: float = math.inf) -> float:
    """Return the characters that a line of these columns takes, where their words take so many at most."""
    taken = 0.0
    for column in columns:
        lines = [line for cell in (column.header, *column.cells) for line in str(cell).splitlines()]
        longest = max(map(cell_len, lines), default=0)
        taken += GAP + (longest if column.no_wrap else min(longest, most))
    return taken - GAP


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
