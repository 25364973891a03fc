"""A CSV file as rows of texts: what all that read anybody's table share."""

from __future__ import annotations

import csv
import re
from collections import Counter
from pathlib import Path

from analysis.errors import AnalysisError

NULLS = ("", "na", "none", "null")
"""Fields that hold nothing, in lower case."""
SEPARATORS = (";", "\t")
"""Of columns, where the header has no comma."""
DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+(?:[eE][+-]?\d+)?")
"""A number as it is written where semicolons separate columns; `1,234` may also be a thousand, and is as unclear."""


def read_csv(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Return the header and (line number, row) pairs; fields are stripped.

    Columns are separated by commas; where the header has none but semicolons or tabs, by these.

    Raises:
        AnalysisError: it cannot be read, has no rows, a column twice, a line of another length, or decimal commas.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            separator = _separator(path, file.readline())
            file.seek(0)
            reader = csv.reader(file, strict=True, delimiter=separator)
            header = [name.strip() for name in next(reader, [])]
            rows = [(reader.line_num, values) for values in reader if values]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise AnalysisError(f"{path} cannot be read as CSV: {error}") from error
    twice = [name for name, count in Counter(header).items() if count > 1]
    if twice:
        raise AnalysisError(f"{path}: column '{twice[0]}' is there twice")
    for line, values in rows:
        if len(values) != len(header):
            raise AnalysisError(f"{path}, line {line}: {len(values)} values for {len(header)} columns")
        if separator != "," and (found := next(filter(DECIMAL_COMMA.fullmatch, map(str.strip, values)), None)):
            raise AnalysisError(f"{path}, line {line}: '{found}' has a decimal comma: write numbers with a point")
    if not rows:
        raise AnalysisError(f"{path} has no rows")
    return header, [(line, dict(zip(header, map(str.strip, values), strict=True))) for line, values in rows]


def _separator(path: Path, header: str) -> str:
    """Return what separates the columns of a file with this header."""
    others = [separator for separator in SEPARATORS if separator in header]
    if "," in header or not others:
        return ","
    if len(others) > 1:
        raise AnalysisError(
            f"{path}: its header has semicolons and tabs, so columns are unclear: separate them by commas"
        )
    return others[0]
