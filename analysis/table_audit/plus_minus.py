"""Fields such as `3.21 ± 0.04`: figure and spread as columns of their own."""

from __future__ import annotations

import re
from pathlib import Path

from analysis.errors import AnalysisError

UNNAMED = "plus or minus"
"""Ends the name of a column of spreads of which nothing says what they are."""

_SIGN = r"(?:\u00b1|\+/?-)"
_FIELD = re.compile(rf"([^A-Za-z]*?\d(?:[eE][-+]?\d+)?[^A-Za-z]*?)\s*{_SIGN}\s*(\.?\d.*)")
"""A figure and its spread; names may have the sign between words."""
_KIND = re.compile(rf"(?<=[^\s(\[])[\s(\[]*(?:mean)?\s*{_SIGN}\s*([^)\]]*)[)\]]?$")
"""What a column's name says of its spreads, such as `(mean ± sd)`."""

_RUNS = re.compile(
    r"[\s,;]*(?:\b(?:of|over)\s+)?\b(?:n\s*=\s*(\d+)|(\d+)\s+(?:random\s+)?(?:seeds|runs|replicates))\b", re.IGNORECASE
)
"""What a column's name says of the runs behind its figures, such as `over 3 seeds`."""

Lines = list[tuple[int, dict[str, str]]]
"""(line number, row) pairs."""


def without_spread(column: str) -> str:
    """Return a column's name without what it says of the spread beside its figures, and of the runs behind them."""
    plain = _KIND.sub("", column)
    return re.sub(r"\(\s*(?:mean)?\s*\)", "", _RUNS.sub("", plain)).strip() if _RUNS.search(plain) else plain


def stated_runs(column: str) -> str:
    """Return the number of runs that a column's name states; empty where it states none."""
    found = _RUNS.search(column)
    return next(filter(None, found.groups()), "") if found else ""


def spreads_apart(path: Path, header: list[str], lines: Lines) -> tuple[list[str], Lines]:
    """Return header and rows with a column more for each that holds spreads beside its figures.

    A spread is called what the column's name says, `val_loss sd` for `val_loss (mean ± sd)`, or else UNNAMED.

    Raises:
        AnalysisError: there is such a column already.
    """
    for column in tuple(header):
        parts = [_FIELD.fullmatch(row[column]) for _, row in lines]
        if not any(parts):
            continue
        kind = _KIND.search(column)
        spread = f"{without_spread(column)} {(_RUNS.sub('', kind.group(1)).strip() if kind else '') or UNNAMED}"
        if spread in header:
            raise AnalysisError(f"{path}: column '{column}' holds spreads, and so does '{spread}': leave one out")
        header = [*header, spread]
        lines = [
            (line, row | ({column: part.group(1), spread: part.group(2)} if part else {spread: ""}))
            for (line, row), part in zip(lines, parts, strict=True)
        ]
    return header, lines
