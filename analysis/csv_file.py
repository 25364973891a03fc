"""A CSV file as rows of texts: what all that read anybody's table share."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

from analysis.errors import AnalysisError

NULLS = ("", "na", "none", "null")
"""Fields that hold nothing, in lower case."""


def read_csv(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Return the header and (line number, row) pairs; fields are stripped.

    Raises:
        AnalysisError: it cannot be read, has no rows, a column twice, or a line of another length.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
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
    if not rows:
        raise AnalysisError(f"{path} has no rows")
    return header, [(line, dict(zip(header, map(str.strip, values), strict=True))) for line, values in rows]
