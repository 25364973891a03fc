"""What the audits found in the runs of a study, audit by audit."""

from __future__ import annotations

import pandas as pd

from analysis.marks import MARK_MEANING
from analysis.results import Results
from analysis.schema import CELL, FLAWS, SEED, SEVERITIES

AUDIT_COLUMNS = {
    "audit": "name of the audit",
    "severity": "invalid: the run means nothing; warning: it may not mean what it seems to; note: worth knowing",
    "runs": "runs in which it found this",
    "cells": "their cells",
    "evidence": "what it found in the first of them",
    FLAWS: MARK_MEANING,
}
SHOWN = 4
"""Most cells named in one row."""


def audit_findings(results: Results) -> pd.DataFrame:
    """Return AUDIT_COLUMNS, one row an audit and severity, the severest first."""
    places = {cell: place for place, cell in enumerate(results.cells.index)}
    audits = results.audits.sort_values([CELL, SEED], key=lambda s: s.map(places) if s.name == CELL else s)
    rows = []
    for severity in SEVERITIES:
        for name, found in audits[audits["severity"] == severity].groupby("audit"):
            cells = list(dict.fromkeys(found[CELL]))
            others = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
            rows.append(
                {
                    "audit": name,
                    "severity": severity,
                    "runs": len(found),
                    "cells": ", ".join(cells[:SHOWN]) + (f" and {len(cells) - SHOWN} more" if cells[SHOWN:] else ""),
                    "evidence": f"{_first(found)}{others}",
                    FLAWS: results.marks_of(cells),
                }
            )
    return pd.DataFrame(rows, columns=list(AUDIT_COLUMNS))


def _first(found: pd.DataFrame) -> str:
    run = found.iloc[0]
    return f"{run[CELL]}, seed {run[SEED]}: {run['evidence']}"


def audited_runs(results: Results) -> str:
    """Say how much was audited, and where nothing was found that; empty where the source knows of no audit."""
    if results.audited == 0:
        return ""
    where = "" if results.audited == len(results.runs) else f" in the {results.audited} of {len(results.runs)} runs"
    if results.audits.empty:
        return f"No audit found anything{where + ' that were audited' if where else ''}."
    return f"What the audits found{where + ' that were audited' if where else ' (all runs were audited)'}."
