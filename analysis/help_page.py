"""Pages of `--help`: paragraphs as wide as the terminal, and no default where there is none.

Tyro keeps the line ends of a description in the source, prints what stands above the options as one line, and shows
`(default: None)`.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import inspect
import io
import itertools
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast, get_type_hints

import tyro

Kind = TypeVar("Kind")
Command = TypeVar("Command", bound=Callable[..., Any])

CONFIG = (tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone)
"""How all commands are read: flags are only ever given, and nobody types None."""


def _default(label: str) -> str:
    return "" if label in ("None", "False") else f"(default: {label})"


PLAIN = tyro.conf.arg(help_behavior_hint=_default)
Word = Annotated[str | None, PLAIN]
Place = Annotated[Path | None, PLAIN]
Flag = Annotated[bool, PLAIN]
"""Types of options whose default is nothing."""


def described(kind: type[Kind]) -> type[Kind]:
    """Return a dataclass of options with the description of each as one paragraph."""
    words, types = _descriptions(kind), get_type_hints(kind)
    options = [
        (
            option.name,
            Annotated[types[option.name], tyro.conf.arg(help=words[option.name], help_behavior_hint=_default)],
            dataclasses.field(default=option.default),
        )
        for option in dataclasses.fields(cast(Any, kind))
    ]
    made = dataclasses.make_dataclass(kind.__name__, options, bases=(kind,), frozen=True, kw_only=True)
    return cast(type[Kind], made)


def _descriptions(kind: type) -> dict[str, str]:
    """Return the text under each field of a dataclass, as one line."""
    found = {}
    for owner in reversed(kind.__mro__[:-1]):
        (declared,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
        assert isinstance(declared, ast.ClassDef)
        for field, below in itertools.pairwise(declared.body):
            match field, below:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(words))):
                    found[name] = " ".join(words.split())
    return found


def one_line_an_argument(command: Command) -> Command:
    """Make each argument's description in a command's docstring one line."""
    command.__doc__ = re.sub(r"\n {8,}(?=\S)", " ", inspect.cleandoc(command.__doc__ or ""))
    return command


def is_asked(argv: Sequence[str]) -> bool:
    """Return whether arguments ask for help."""
    return bool({"-h", "--help"} & set(argv))


@contextlib.contextmanager
def paragraphs(argv: Sequence[str]) -> Iterator[None]:
    """Break what is printed between words, where the arguments ask for help."""
    if not is_asked(argv):
        yield
        return
    page = _Page()
    try:
        with contextlib.redirect_stdout(page):
            yield
    finally:
        width = shutil.get_terminal_size().columns
        # Boxes are as wide as the terminal already, and have colours that count as letters.
        lines = [
            textwrap.fill(line, width, break_long_words=False) if re.match(r"\w", line) else line
            for line in re.sub(r"\n{3,}", "\n\n", page.getvalue()).splitlines()
        ]
        print("\n".join(lines), flush=True)


class _Page(io.StringIO):
    """What is printed, with the colours and the characters that standard output has."""

    def __init__(self) -> None:
        super().__init__()
        self._out = sys.stdout

    def isatty(self) -> bool:
        return self._out.isatty()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._out.encoding
