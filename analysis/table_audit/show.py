"""How an audit of a table looks in the terminal."""

from __future__ import annotations

from itertools import groupby

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from analysis.schema import INVALID, NOTE, SEVERITIES, WARNING
from analysis.table_audit import TableAudit

STYLES = {INVALID: "bold red", WARNING: "bold yellow", NOTE: "bold"}
MEANINGS = {
    INVALID: "these figures mean nothing",
    WARNING: "these may not mean what they seem to",
    NOTE: "worth knowing",
}


def show(audit: TableAudit, console: Console) -> None:
    """Print the findings by severity, those with one remedy together, and what was not looked at."""
    table = audit.table
    console.print(Text(f"{table.source}: {len(table.rows)} rows", style="bold"), soft_wrap=True)
    for severity in SEVERITIES:
        found = [finding for finding in audit.findings if finding.severity == severity]
        if not found:
            continue
        console.print()
        console.print(Text(f"{severity} ({len(found)}): {MEANINGS[severity]}", style=STYLES[severity]))
        for (name, instead), alike in groupby(found, key=lambda finding: (finding.name, finding.instead)):
            console.print(Padding(Text(name, style="bold"), (0, 0, 0, 2)))
            for finding in alike:
                console.print(Padding(Text(finding.evidence), (0, 0, 0, 4)))
            console.print(Padding(Text(f"-> {instead}", style="italic"), (0, 0, 0, 4)))
    console.print()
    if not audit.findings:
        console.print("nothing found")
    checked = ", ".join(f"{column} ({role})" for role, names in table.columns.items() for column in names)
    console.print(Text(f"columns read: {checked}"))
    if table.not_checked:
        console.print(Text(f"not checked: {', '.join(table.not_checked)}"))
