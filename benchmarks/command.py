"""The command line of every benchmark: the arguments of its `main`, `--help`, and one line for a user's error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import tyro

from analysis.help_page import CONFIG, one_line_an_argument, paragraphs
from moe_models.errors import unknown_name
from sweeps.engine.cli import guarded

Words = tyro.conf.Positional[tuple[str, ...]]
Word = tyro.conf.Positional[str]
Number = tyro.conf.Positional[int]
Numbers = tyro.conf.Positional[tuple[int, ...]]
"""Types of arguments without a flag."""


def run(main: Callable[..., int]) -> None:
    """End the process with what a script's `main` returns, called with the command line's arguments."""

    def command(arguments: list[str]) -> int:
        with paragraphs(arguments):
            return tyro.cli(
                one_line_an_argument(main),
                args=arguments,
                prog=f"python benchmarks/{Path(sys.argv[0]).name}",
                description=sys.modules["__main__"].__doc__,
                config=CONFIG,
            )

    sys.exit(guarded(sys.argv[1:], command))


def chosen(parts: Sequence[str], known: Collection[str]) -> list[str]:
    """Return the parts that were asked for, or all; an unknown one raises ConfigError."""
    for part in parts:
        if part not in known:
            raise unknown_name("part", part, known)
    return list(parts or known)
