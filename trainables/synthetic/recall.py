"""`recall`: associative recall. Pairs of a key and a value, then keys that were there, each followed by its value.

The key that is asked for is any of the document's, so it may come again. Values after `ask` are certain; the known best
loss is what the pairs and the choice of questions carry. Ba et al., https://arxiv.org/abs/1610.06258, section 4.1.

Shapes: V symbols.
"""

from __future__ import annotations

import math

import numpy as np

from trainables.synthetic.base import END, register

KEYS, VALUES = 32, 16
PAIRS = 6
"""In a document, of different keys."""
QUESTIONS = 18

KEY_0 = END + 1
VALUE_0 = KEY_0 + KEYS
ASK = VALUE_0 + VALUES


@register
class Recall:
    """The language."""

    name = "recall"
    version = 1
    symbols = (*(f"key{key}" for key in range(KEYS)), *(f"value{value}" for value in range(VALUES)), "ask")

    def reader(self) -> RecallReader:
        """Return a reader before the first key."""
        return RecallReader()

    def entropy(self) -> float:
        """Return the entropy rate in nats per token: of keys without repetition, of values, of questions."""
        pairs = sum(math.log(KEYS - known) for known in range(PAIRS)) + PAIRS * math.log(VALUES)
        return (pairs + QUESTIONS * math.log(PAIRS)) / (2 * PAIRS + 1 + 2 * QUESTIONS + 1)


class RecallReader:
    """A document of `Recall` as far as it has been read."""

    def __init__(self) -> None:
        self._value_of: dict[int, int] = {}
        """Of the keys that were shown."""
        self._key: int | None = None
        """One that waits for its value."""
        self._asked: int | None = None
        """Questions so far; None before `ask`."""

    def probabilities(self) -> np.ndarray:
        """Return the probability of each symbol to come next (V,)."""
        p_V = np.zeros(ASK + 1)
        if self._key is not None:
            if self._asked is None:
                p_V[VALUE_0:ASK] = 1 / VALUES
            else:
                p_V[self._value_of[self._key]] = 1.0
        elif self._asked is not None:
            if self._asked == QUESTIONS:
                p_V[END] = 1.0
            else:
                p_V[list(self._value_of)] = 1 / PAIRS
        elif len(self._value_of) == PAIRS:
            p_V[ASK] = 1.0
        else:
            p_V[KEY_0:VALUE_0] = 1 / (KEYS - len(self._value_of))
            p_V[list(self._value_of)] = 0.0
        return p_V

    def read(self, symbol: int) -> None:
        """Take in the next symbol."""
        if symbol == ASK:
            self._asked = 0
        elif self._key is None:
            self._key = symbol
        else:
            if self._asked is None:
                self._value_of[self._key] = symbol
            else:
                self._asked += 1
            self._key = None
