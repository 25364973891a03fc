"""`modular`: a running sum modulo a prime. A number, then again and again what is added and the sum.

`sum5 plus9 sum1 plus12 sum0 ...` modulo 13. The known best loss is that of the first number and of what is added; the
sums are certain. Power et al., https://arxiv.org/abs/2201.02177, have single equations.

Shapes: V symbols.
"""

from __future__ import annotations

import math

import numpy as np

from trainables.synthetic.base import END, register

MODULUS = 13
ADDITIONS = 24

SUM_0 = END + 1
PLUS_0 = SUM_0 + MODULUS


@register
class Modular:
    """The language."""

    name = "modular"
    version = 1
    symbols = (*(f"sum{number}" for number in range(MODULUS)), *(f"plus{number}" for number in range(MODULUS)))

    def reader(self) -> ModularReader:
        """Return a reader before the first number."""
        return ModularReader()

    def entropy(self) -> float:
        """Return the entropy rate in nats per token."""
        return (1 + ADDITIONS) * math.log(MODULUS) / (1 + 2 * ADDITIONS + 1)


class ModularReader:
    """A document of `Modular` as far as it has been read."""

    def __init__(self) -> None:
        self._sum: int | None = None
        self._added: int | None = None
        """What waits for its sum."""
        self._additions = 0

    def probabilities(self) -> np.ndarray:
        """Return the probability of each symbol to come next (V,)."""
        p_V = np.zeros(PLUS_0 + MODULUS)
        if self._sum is None:
            p_V[SUM_0:PLUS_0] = 1 / MODULUS
        elif self._added is not None:
            p_V[SUM_0 + (self._sum + self._added) % MODULUS] = 1.0
        elif self._additions == ADDITIONS:
            p_V[END] = 1.0
        else:
            p_V[PLUS_0:] = 1 / MODULUS
        return p_V

    def read(self, symbol: int) -> None:
        """Take in the next symbol."""
        if symbol >= PLUS_0:
            self._added = symbol - PLUS_0
        else:
            self._additions += self._added is not None
            self._sum, self._added = symbol - SUM_0, None
