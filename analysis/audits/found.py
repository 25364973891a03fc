"""What the audits found in the runs of a study, audit by audit."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from analysis.comparing.marks import MARK_MEANING
from analysis.schema import CELL, FAILED, FLAWS, SEED, SEVERITIES, STATUS
from analysis.study.results import Results, StudyAudit

AUDIT_COLUMNS = {
    "audit": "name of the audit",
    "severity": "invalid: the run means nothing; warning: it may not mean what it seems to; note: worth knowing",
    "runs": "runs that it found this about; where it compares runs, all of these cells that no error ended",
    "cells": "their cells; 'all' for the study as a whole",
    "evidence": "what it found; where it looks at each run, in the first of them",
    FLAWS: MARK_MEANING,
}
SHOWN = 4
"""Most cells named in one row."""


def audit_findings(results: Results, study: Sequence[StudyAudit]) -> pd.DataFrame:
    """Return AUDIT_COLUMNS, the severest first: one row an audit and severity, of audits of the study one a finding."""
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
                    "cells": _named(cells),
                    "evidence": f"{_first(found)}{others}",
                    FLAWS: results.marks_of(cells),
                }
            )
        for item in (item for item in study if item.audit.severity == severity):
            about = results.runs[CELL].isin(item.cells or list(results.cells.index)) & (results.runs[STATUS] != FAILED)
            rows.append(
                {
                    "audit": item.audit.name,
                    "severity": severity,
                    "runs": int(about.sum()),
                    "cells": _named(list(item.cells)) or "all",
                    "evidence": item.audit.evidence,
                    FLAWS: results.marks_of(item.cells),
                }
            )
    return pd.DataFrame(rows, columns=list(AUDIT_COLUMNS))


def _named(cells: list[str]) -> str:
    return ", ".join(cells[:SHOWN]) + (f" and {len(cells) - SHOWN} more" if cells[SHOWN:] else "")


def _first(found: pd.DataFrame) -> str:
    run = found.iloc[0]
    return f"{run[CELL]}, seed {run[SEED]}: {run['evidence']}"


def audited_runs(results: Results, findings: pd.DataFrame) -> str:
    """Say how much was audited, and where nothing was found that; empty where the source knows of no audit."""
    if results.audited == 0:
        return ""
    where = "" if results.audited == len(results.runs) else f" in the {results.audited} of {len(results.runs)} runs"
    if findings.empty:
        return f"No audit found anything{where + ' that were audited' if where else ''}."
    return f"What the audits found{where + ' that were audited' if where else ' (all runs were audited)'}."
