"""What a generated language is, how documents are drawn from it, and how any document is scored under it.

A language says for every beginning of a document how probable each symbol is to come next. Documents are drawn from
these very probabilities, so the log-likelihood of a token under the true generator is exact, no estimate. Documents are
independent of each other: what came before a document tells nothing about it.

Shapes: V symbols of a language, N symbols of a document with its end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

import numpy as np

END = 0
"""The symbol that ends a document, in every language."""


class Reader(Protocol):
    """A document as far as it has been read."""

    def probabilities(self) -> np.ndarray:
        """Return the probability of each symbol to come next (V,), float64; they sum to 1."""

    def read(self, symbol: int) -> None:
        """Take in the next symbol, which must be one that is possible here."""


class Language(Protocol):
    """A distribution over documents."""

    name: str
    """What `--corpus` calls it."""
    version: int
    """To be raised when its documents or probabilities change: older cache entries are then not used."""
    symbols: tuple[str, ...]
    """How symbols 1, 2, ... are written, without white space; 0 is `END`."""

    def reader(self) -> Reader:
        """Return a reader before the first symbol of a document."""

    def entropy(self) -> float:
        """Return the exact entropy rate in nats per token: of a document in all, over its mean length with its end.

        No model that sees only what came before can have a lower expected loss. One that sees a window that may begin
        inside a document cannot always reach it.
        """


LANGUAGES: dict[str, Callable[[], Language]] = {}
"""By name; filled by the modules of this package."""

L = TypeVar("L", bound=type[Language])


def register(cls: L) -> L:
    """Class decorator: make a language known by its name."""
    assert cls.name not in LANGUAGES, f"language '{cls.name}' is registered twice"
    LANGUAGES[cls.name] = cls
    return cls


def draw_document(language: Language, draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw a document.

    Only uniform numbers are drawn, which numpy keeps equal across its versions.

    Returns:
        Its symbols, the end included (N,), int64, and the log-probability of each given those before it (N,), nats.
    """
    reader = language.reader()
    symbols: list[int] = []
    logs: list[float] = []
    while not symbols or symbols[-1] != END:
        probabilities_V = reader.probabilities()
        sums_V = probabilities_V.cumsum()
        symbol = int(np.searchsorted(sums_V, draw.random() * sums_V[-1], side="right"))
        symbols.append(symbol)
        logs.append(probabilities_V[symbol])
        reader.read(symbol)
    return np.array(symbols), np.log(logs)


def log_probabilities(language: Language, symbols: Iterable[int]) -> np.ndarray:
    """Return the log-probability in nats of each symbol of a document given those before it (N,)."""
    reader, logs = language.reader(), []
    for symbol in symbols:
        logs.append(reader.probabilities()[symbol])
        reader.read(int(symbol))
    return np.log(logs)


def entropy_of(probabilities: np.ndarray) -> np.ndarray:
    """Return the entropy in nats over the last axis."""
    logs = np.log(probabilities, out=np.zeros_like(probabilities), where=probabilities > 0)
    return -(probabilities * logs).sum(axis=-1)
