"""How many digits recomputed figures and their ranges need beside a printed one."""

from __future__ import annotations

import math
from collections.abc import Sequence

from analysis.published import Interval
from analysis.text import MINUS

FEWEST, MOST = 3, 15
"""Significant digits; more than the most are noise of floating point."""


def beside(figures: Sequence[float], printed: float) -> list[str]:
    """Return figures with so many digits that a reader sees how far the nearest of them is from a printed one.

    The last digit is at most half of that. Where three digits do, zeros at their end are left out.
    """
    nearest = min((figure for figure in figures if math.isfinite(figure)), key=lambda f: abs(f - printed), default=0.0)
    digits, gap = FEWEST, abs(nearest - printed)
    if nearest != 0 and gap / 2 > 0:  # half of the smallest number there is rounds to nothing
        needed = math.floor(math.log10(abs(nearest))) - math.floor(math.log10(gap / 2)) + 1
        digits = min(max(needed, FEWEST), MOST)
    zeros = "#" if digits > FEWEST else ""
    return [f"{figure:{zeros}.{digits}g}".replace("-", MINUS) for figure in figures]


def ranges_beside(ranges: Sequence[Interval], printed: float) -> str:
    """Return ranges in words, in order and those that meet as one, with the digits of `beside`."""
    merged: list[Interval] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    ends = beside([end for pair in merged for end in pair], printed)
    return " or ".join(f"{low} to {high}" for low, high in zip(ends[::2], ends[1::2], strict=True))
