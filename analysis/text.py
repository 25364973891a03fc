"""How a number looks, everywhere: report.md, report.html, ranking.tex and the figures call these functions."""

from __future__ import annotations

import math
from collections.abc import Sequence

MINUS, NOTHING = "\u2212", "\u2013"
MOST_DECIMALS = 16
"""Of an interval so narrow, or so near 0, that fewer would hide what it says."""


def number(value: float | None, decimals: int = 4, sign: bool = False) -> str:
    """Return the value with fixed decimals; an en dash for null. `sign` writes the plus sign too."""
    if value is None or not math.isfinite(value):
        return NOTHING
    text = f"{value:+.{decimals}f}" if sign else f"{value:.{decimals}f}"
    if float(text) == 0:
        text = text.lstrip("+-")
    return text.replace("-", MINUS)


def interval(low: float | None, high: float | None, decimals: int = 4, sign: bool = False) -> str:
    """Return `[low, high]`; an empty text where there is no interval. Of so many decimals or more: see `enough`."""
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return ""
    decimals = enough(decimals, low, high)
    return f"[{number(low, decimals, sign)}, {number(high, decimals, sign)}]"


def estimate(value: float | None, low: float | None, high: float | None, decimals: int = 4, sign: bool = False) -> str:
    """Return `value [low, high]`, of so many decimals or more: see `enough`."""
    if low is not None and high is not None and math.isfinite(high - low):
        decimals = enough(decimals, low, high)
    return f"{number(value, decimals, sign)} {interval(low, high, decimals, sign)}".rstrip()


def enough(decimals: int, low: float, high: float) -> int:
    """Return the fewest decimals, not below those wanted, by which an interval looks as it is.

    Its ends differ, and one that is not 0 does not look like 0: what is shown must not contradict a verdict.
    """
    for fewest in range(decimals, MOST_DECIMALS):
        shown = [float(f"{end:.{fewest}f}") for end in (low, high)]
        if (shown[0] == shown[1]) == (low == high) and [end == 0 for end in shown] == [low == 0, high == 0]:
            return fewest
    return decimals


def spread(value: float | None, decimals: int = 4) -> str:
    """Return an sd or an error with so many decimals; with more where it has less than two digits in these."""
    if value is not None and math.isfinite(value) and value:
        while decimals < MOST_DECIMALS and float(f"{abs(value):.{decimals}f}") < 10 ** (1 - decimals):
            decimals += 1
    return number(value, decimals)


def significant(value: float | None, digits: int = 4) -> str:
    """Return the value with so many significant digits, zeros at the end included."""
    if value is None or not math.isfinite(value):
        return NOTHING
    return f"{value:#.{digits}g}".rstrip(".").replace("-", MINUS)


def whole(value: float | None) -> str:
    """Return a count with thousands separated."""
    return NOTHING if value is None or not math.isfinite(value) else f"{round(value):,}"


def probability(p: float | None) -> str:
    """Return a p-value; below 0.0001 only that it is, and beside 5 % with as many decimals as show the side."""
    if p is None or not math.isfinite(p):
        return NOTHING
    decimals = 4
    while decimals < MOST_DECIMALS and float(f"{p:.{decimals}f}") == 0.05 != p:
        decimals += 1
    return "< 0.0001" if p < 0.0001 else f"{p:.{decimals}f}"


def counted(count: int, noun: str) -> str:
    """Return `1 seed` or `2 seeds`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def times(p: float, family: int) -> str:
    """Return what the smallest p of so many comparisons becomes by Holm's correction, in words."""
    corrected = p * family
    return f"times {family} comparisons {f'{corrected:.3g}' if corrected < 1 else '1 or more'}"


def at_seeds(numbers: Sequence[int]) -> str:
    """Return `1 seed`, or `2, 4 and 6 seeds`."""
    return listing([*map(str, numbers[:-1]), counted(numbers[-1], "seed")])


def duration(seconds: float) -> str:
    """Return a time in words: `42 s`, `3 min 5 s`, `2 h 10 min`."""
    whole_seconds = round(seconds)
    if whole_seconds < 60:
        return f"{whole_seconds} s"
    if whole_seconds < 3600:
        return f"{whole_seconds // 60} min {whole_seconds % 60} s"
    return f"{whole_seconds // 3600} h {whole_seconds % 3600 // 60} min"


def listing(items: list[str]) -> str:
    """Return `a, b and c`."""
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def tiny(value: float | None) -> str:
    """Return a figure that may be of the size of rounding errors: two digits, in powers of ten where it is small."""
    if value is None or not math.isfinite(value):
        return NOTHING
    return f"{value:.2g}".replace("-", MINUS)
