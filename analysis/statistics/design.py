"""Fractional factorial designs for many factors: which cells to train, and what cannot then be told apart.

With k factors of two levels the full grid has 2^k cells. A fraction trains 2^(k - p) of them: p factors follow from the
others, each the product of some of them. Of resolution IV, main effects are free of two-way interactions, and only
these share a contrast with each other. Standard library alone: the engine makes cells from it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from analysis.errors import AnalysisError

MIN_RESOLUTION = 4
STANDARD = {
    6: {"e": "abc", "f": "bcd"},
    7: {"e": "abc", "f": "bcd", "g": "acd"},
    8: {"e": "bcd", "f": "acd", "g": "abc", "h": "abd"},
    9: {"f": "bcde", "g": "acde", "h": "abde", "i": "abce"},
    10: {"f": "abcd", "g": "abce", "h": "abde", "i": "acde", "j": "bcde"},
    11: {"f": "abc", "g": "bcd", "h": "cde", "i": "acd", "j": "ade", "k": "bde"},
}
"""Factors -> generators of the standard fraction of resolution IV: 16 cells for 6 to 8 factors, 32 for 9 to 11 (Box,
Hunter & Hunter, Statistics for Experimenters, table 12.15). Letters are the factors in their order."""

Word = frozenset[str]
"""Factors whose product is constant over the cells of a fraction."""


@dataclass(frozen=True)
class Fraction:
    """A regular fraction of the 2^k grid that holds the cell with every factor off.

    Raises:
        AnalysisError: on construction, where it is none, or its resolution is below IV.
    """

    factors: tuple[str, ...]
    generators: Mapping[str, tuple[str, ...]]
    """Generated factor -> the factors whose product it is."""

    def __post_init__(self) -> None:
        for factor, product in self.generators.items():
            unknown = [name for name in (factor, *product) if name not in self.factors]
            if unknown:
                raise AnalysisError(f"generator {factor} = {' x '.join(product)}: '{unknown[0]}' is no factor")
            again = [name for name in product if name in self.generators]
            if again or len(set(product)) < len(product):
                raise AnalysisError(
                    f"generator {factor} = {' x '.join(product)}: it needs different factors that are not generated"
                )
        if self.resolution < MIN_RESOLUTION:
            word = min(self.defining_relation(), key=len)
            raise AnalysisError(
                f"a fraction needs resolution IV or more, but this one has {self.resolution}: "
                f"{self.named(word)} is constant, so main effects could not be told from two-way interactions"
            )

    @property
    def base(self) -> tuple[str, ...]:
        """The factors that are crossed in full."""
        return tuple(factor for factor in self.factors if factor not in self.generators)

    def defining_relation(self) -> dict[Word, int]:
        """Return every word with the sign of its product over the cells; levels count as -1 (off) and 1 (on)."""
        generators = [frozenset({factor, *product}) for factor, product in self.generators.items()]
        words: dict[Word, int] = {}
        for count in range(1, len(generators) + 1):
            for chosen in itertools.combinations(generators, count):
                word: Word = frozenset()
                for generator in chosen:
                    word = word ^ generator
                words[word] = (-1) ** len(word)  # its product in the cell with every factor off
        return words

    @property
    def resolution(self) -> int:
        """Length of the shortest word; of a full grid one more than there are factors."""
        return min(map(len, self.defining_relation()), default=len(self.factors) + 1)

    def cells(self) -> list[dict[str, int]]:
        """Return each cell's level of each factor, 0 or 1: those with fewer factors on first."""
        cells = []
        for levels in itertools.product((0, 1), repeat=len(self.base)):
            level = dict(zip(self.base, levels, strict=True))
            for factor, product in self.generators.items():
                sign = (-1) ** (len(product) + 1) * math.prod(2 * level[name] - 1 for name in product)
                level[factor] = (sign + 1) // 2
            cells.append({factor: level[factor] for factor in self.factors})
        return sorted(cells, key=lambda level: (sum(level.values()), [-on for on in level.values()]))

    def aliased_pairs(self) -> list[list[tuple[tuple[str, str], int]]]:
        """Return the two-way interactions in groups that share a contrast, each with its sign in it.

        The first of a group has sign 1; groups of one can be told from all other two-way interactions.
        """
        groups: list[list[tuple[tuple[str, str], int]]] = []
        words = self.defining_relation()
        for pair in itertools.combinations(self.factors, 2):
            for group in groups:
                sign = words.get(frozenset(pair) ^ frozenset(group[0][0]))
                if sign is not None:
                    group.append((pair, sign))
                    break
            else:
                groups.append([(pair, 1)])
        return groups

    def named(self, word: Word) -> str:
        """Return a product of factors by name, in their order."""
        return " x ".join(factor for factor in self.factors if factor in word)

    def describe(self) -> Iterator[str]:
        """Yield in words what the fraction is and what it cannot tell apart."""
        k, p = len(self.factors), len(self.generators)
        names = {4: "IV", 5: "V", 6: "VI", 7: "VII", 8: "VIII"}
        yield (
            f"Fractional design 2^({k} - {p}): {2 ** (k - p)} of {2**k} cells, resolution "
            f"{names.get(self.resolution, self.resolution)}. Generated: "
            + "; ".join(
                f"{_sign(product)}{factor} = {' x '.join(product)}" for factor, product in self.generators.items()
            )
            + "."
        )
        words = sorted(self.defining_relation().items(), key=lambda item: (len(item[0]), self.named(item[0])))
        yield (
            "Constant products: "
            + "; ".join(f"{'-' if sign < 0 else ''}{self.named(word)}" for word, sign in words)
            + "."
        )
        aliased = [group for group in self.aliased_pairs() if len(group) > 1]
        if aliased:
            yield (
                "Main effects are free of two-way interactions. Two-way interactions that cannot be told apart: "
                + "; ".join(pair_sum(group, " = ") for group in aliased)
                + "."
            )
        else:
            yield "Main effects and two-way interactions are free of each other."
        yield (
            "Every effect also holds interactions of three and more factors, which are taken as nothing; Shapley "
            "values need the full grid."
        )

    def to_json(self) -> dict[str, Any]:
        """Return it as `plan.json` holds it."""
        return {
            "factors": list(self.factors),
            "generators": {name: list(word) for name, word in self.generators.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Fraction:
        """Return the fraction of a plan; one that is none raises AnalysisError."""
        try:
            generators = {str(name): tuple(map(str, word)) for name, word in data["generators"].items()}
            return cls(tuple(map(str, data["factors"])), generators)
        except (KeyError, TypeError, AttributeError) as error:
            raise AnalysisError(f"the plan's fraction cannot be read: {error}") from error


def pair_sum(group: Sequence[tuple[tuple[str, str], int]], between: str = "") -> str:
    """Return the interactions of a group by name with their signs: `a x b + c x e`."""
    (first, _), *others = group
    text = " x ".join(first)
    for pair, sign in others:
        text += (between + ("-" if sign < 0 else "") if between else (" - " if sign < 0 else " + ")) + " x ".join(pair)
    return text


def _sign(product: Sequence[str]) -> str:
    """Return the minus of a generator whose product is 1 where every factor is off."""
    return "-" if len(product) % 2 == 0 else ""


def standard_fraction(factors: Sequence[str]) -> Fraction:
    """Return the standard fraction of resolution IV for 6 to 11 factors.

    Raises:
        AnalysisError: there is none for so many factors, or a name occurs twice.
    """
    if len(set(factors)) < len(factors):
        raise AnalysisError(f"factors of a fraction must differ, but got {', '.join(factors)}")
    if len(factors) not in STANDARD:
        raise AnalysisError(
            f"there are standard fractions for {min(STANDARD)} to {max(STANDARD)} factors, but got {len(factors)}: "
            "with fewer, train the full grid"
        )
    letters = dict(zip("abcdefghijk", factors, strict=False))
    generators = {
        letters[factor]: tuple(letters[letter] for letter in product)
        for factor, product in STANDARD[len(factors)].items()
    }
    return Fraction(tuple(factors), generators)
