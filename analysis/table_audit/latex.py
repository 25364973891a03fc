"""Fields as a LaTeX table has them, such as `$\\mathbf{3.21}$` or `38.1\\%`, in plain letters."""

from __future__ import annotations

import re

from analysis.errors import AnalysisError
from analysis.table_audit.plus_minus import Lines

_SIGNS = {
    r"\pm": "\u00b1", r"\times": "\u00d7", r"\downarrow": "\u2193", r"\uparrow": "\u2191", r"\Delta": "\u0394",
    r"\dagger": "\u2020", r"\ddagger": "\u2021", r"\ast": "*", r"\star": "*",
}  # fmt: skip
_ESCAPED = re.compile(r"\\([%&_#$])")
_SPACE = re.compile(r"\\[,;:! ]|~")
_LOOKS = re.compile(
    r"\\(?:text(?:bf|it|rm|tt|sf|sc|up|normal)?|math(?:bf|it|rm|tt|sf)|emph|underline|bm|boldsymbol|num)\s*\{([^{}]*)\}"
)
"""What changes how its content looks and not what it is."""
_SWITCHES = re.compile(r"\\(?:bfseries|itshape|bf|it|small|footnotesize|scriptsize)(?![A-Za-z])\s*")
_GROUP = re.compile(r"(?<![_^])\{([^{}]*)\}|[_^]\{(\s*\u00b1[^{}]*|[^{}\d]*)\}|[_^]([\u2020\u2021*])")
"""A group, or an index that is a spread, a mark or words. One with figures stays: `10^{3}` is not 103."""
_SIGNS_OF = re.compile("|".join(f"{re.escape(name)}(?![A-Za-z])" for name in sorted(_SIGNS, key=len, reverse=True)))


def plain(field: str) -> str:
    """Return a field without LaTeX's marks; one that has none is as it was."""
    if "\\" not in field and "{,}" not in field and not re.search(r"\$.*\$", field):
        return field
    text = _SIGNS_OF.sub(lambda found: _SIGNS[found[0]], _SWITCHES.sub("", field))
    text = _SPACE.sub(" ", text)
    text = re.sub(r"(?<!\\)\$", "", _repeatedly(_LOOKS, text))
    text = _repeatedly(_GROUP, text)
    return re.sub(r"\s+", " ", _ESCAPED.sub(r"\1", text)).strip()


def _repeatedly(pattern: re.Pattern[str], text: str) -> str:
    """Put what a pattern's group holds in the place of all that it matches, from the inside out."""
    before = None
    while before != text:
        before, text = text, pattern.sub(lambda found: next((part for part in found.groups() if part), ""), text)
    return text


def without_latex(path: object, header: list[str], lines: Lines) -> tuple[list[str], Lines]:
    """Return header and rows in plain letters.

    Raises:
        AnalysisError: two columns have one name then.
    """
    names = [plain(column) for column in header]
    for name in names:
        if names.count(name) > 1 and name:
            raise AnalysisError(f"{path}: column '{name}' is there twice")
    return names, [
        (line, {name: plain(row[column]) for name, column in zip(names, header, strict=True)}) for line, row in lines
    ]
