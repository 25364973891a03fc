"""`copy`: letters at random, then the same again. The known best loss is that of the first half alone.

Graves et al., https://arxiv.org/abs/1410.5401, section 4.1, with one length, so that each letter of the copy stands at
the same distance from its original.

Shapes: V symbols.
"""

from __future__ import annotations

import math

import numpy as np

from trainables.synthetic.base import END, register

LETTERS = 16
LENGTH = 24
"""Letters to copy."""

LETTER_0 = END + 1
COPY = LETTER_0 + LETTERS
"""Stands between the two."""


@register
class Copy:
    """The language."""

    name = "copy"
    version = 1
    symbols = (*(f"letter{letter}" for letter in range(LETTERS)), "copy")

    def reader(self) -> CopyReader:
        """Return a reader before the first letter."""
        return CopyReader()

    def entropy(self) -> float:
        """Return the entropy rate in nats per token."""
        return LENGTH * math.log(LETTERS) / (LENGTH + 1 + LENGTH + 1)


class CopyReader:
    """A document of `Copy` as far as it has been read."""

    def __init__(self) -> None:
        self._read: list[int] = []

    def probabilities(self) -> np.ndarray:
        """Return the probability of each symbol to come next (V,)."""
        p_V, place = np.zeros(COPY + 1), len(self._read)
        if place < LENGTH:
            p_V[LETTER_0:COPY] = 1 / LETTERS
        elif place == LENGTH:
            p_V[COPY] = 1.0
        elif place <= 2 * LENGTH:
            p_V[self._read[place - LENGTH - 1]] = 1.0
        else:
            p_V[END] = 1.0
        return p_V

    def read(self, symbol: int) -> None:
        """Take in the next symbol."""
        self._read.append(symbol)
