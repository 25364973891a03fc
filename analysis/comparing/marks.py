"""The red mark of what is no result: how a flawed number is told apart in every table, figure and sentence.

`Results.marks` says which cells carry one; here is how it looks. Tables and words of the report end a marked name in
MARK, which Markdown, HTML, LaTeX and the terminal turn red in their own way.
"""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from analysis.comparing import outcomes
from analysis.schema import CELL, FLAWS
from analysis.study.results import AUDIT_MARK, Results
from analysis.study.runs import records

MARK = "\u2020"
"""Ends a marked name."""
MARK_IN_MARKDOWN = "\U0001f534"
"""The mark where text has no colour: a red one."""
MARK_MEANING = "why this is no result: flaws it was trained under, audits that found it invalid; empty for a result"
"""Of the column `flaws` of every table of the analysis."""
NO_FINDING = f"{outcomes.FLAWED}: no finding"
"""Verdict on a marked comparison, whatever its test says."""
CLAIMS = (outcomes.BETTER, outcomes.WORSE, outcomes.DEPENDS, outcomes.EQUIVALENT, outcomes.OPEN)
COMPARED = (CELL, "baseline", "partner")
"""Columns of the analysis' tables that name a cell."""
INCLUDED = "an audit found runs of {} invalid; they are in the numbers{}"


def mark_rows(results: Results, table: pd.DataFrame) -> pd.DataFrame:
    """Return a table of the analysis with the column `flaws`: the marks of all cells that a row is made of.

    A row that names no cell is made of all cells of its scale. What the test of a marked row says becomes NO_FINDING.
    """
    named = [name for name in COMPARED if name in table]
    marks = [
        results.marks_of(
            [row[name] for name in named] if named else results.scales.index[results.scales == row["scale"]]
        )
        for row in records(table)
    ]
    table = table.assign(**{FLAWS: pd.Series(marks, index=table.index, dtype=object)})
    if "verdict" in table:
        is_claim = table["verdict"].map(_is_claim).astype(bool)
        table["verdict"] = table["verdict"].mask(is_claim & (table[FLAWS] != ""), NO_FINDING)
    return table


def _is_claim(verdict: str) -> bool:
    """Return whether a verdict says what a test found, or awaits more seeds: none make a test of a marked row."""
    return outcomes.outcome(verdict) in CLAIMS or verdict.startswith(outcomes.TOO_FEW_ADDED)


def marked(name: str, flaws: str) -> str:
    """Return the name, with the mark where there are flaws."""
    return f"{name} {MARK}" if flaws else name


def is_marked(words: str) -> bool:
    """Return whether a text ends in the mark."""
    return words.endswith(f" {MARK}")


def in_markdown(words: str) -> str:
    """Return the text with the mark as Markdown has it."""
    return words.replace(MARK, MARK_IN_MARKDOWN)


def bare(words: str) -> str:
    """Return the text without the mark."""
    return words.removesuffix(f" {MARK}")


def caption(flaws: Iterable[str]) -> str:
    """Return the line that explains the mark, from texts of names by spaces; empty where there is no name."""
    names = sorted({name for text in flaws for name in text.split()})
    audits = [name.removeprefix(AUDIT_MARK) for name in names if name.startswith(AUDIT_MARK)]
    trained = [name for name in names if not name.startswith(AUDIT_MARK)]
    parts = [
        *([f"trained under {', '.join(trained)}"] if trained else []),
        *([f"found invalid by {', '.join(audits)}"] if audits else []),
    ]
    return f"{MARK} no result: {'; '.join(parts)}" if parts else ""


def warning(results: Results) -> str:
    """Return the caption of everything that shows all cells; empty where no cell is marked."""
    return caption([results.marks_of(results.marks)])


def explanations(results: Results) -> list[tuple[str, str]]:
    """Return each mark of the study with what it means, in the plan's words; empty text where the plan has none."""
    words = results.plan.get("flaw_explanations", {})
    why = "" if results.plan.get("flaws") else " on request"

    def found(name: str) -> str:
        cells = [cell for cell, names in results.marks.items() if name in names]
        return INCLUDED.format("all cells" if len(cells) == len(results.cells) else ", ".join(cells), why)

    return [
        (name, found(name) if name.startswith(AUDIT_MARK) else str(words.get(name, "")))
        for name in results.marks_of(results.marks).split()
    ]
