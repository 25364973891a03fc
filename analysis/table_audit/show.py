"""How an audit of a table looks in the terminal."""

from __future__ import annotations

import textwrap
from itertools import groupby

from rich.console import Console
from rich.text import Text

from analysis.schema import INVALID, NOTE, SEVERITIES, WARNING
from analysis.table_audit import TableAudit
from analysis.table_audit.columns import LOSS
from analysis.text import counted

STYLES = {INVALID: "bold red", WARNING: "bold yellow", NOTE: "bold"}
MEANINGS = {
    INVALID: "these figures mean nothing",
    WARNING: "these may not mean what they seem to",
    NOTE: "worth knowing",
}


def show(audit: TableAudit, console: Console) -> None:
    """Print the findings by severity, those with one remedy together, and what was not looked at."""
    table = audit.table
    _line(console, f"{table.source}: {counted(len(table.rows), 'row')}", style="bold")
    for severity in SEVERITIES:
        found = [finding for finding in audit.findings if finding.severity == severity]
        if not found:
            continue
        console.print()
        _line(console, f"{severity} ({len(found)}): {MEANINGS[severity]}", style=STYLES[severity])
        for (name, instead), alike in groupby(found, key=lambda finding: (finding.name, finding.instead)):
            _line(console, name, indent=2, style="bold")
            for finding in alike:
                _line(console, finding.evidence, indent=4)
            _line(console, f"-> {instead}", indent=4, style="italic")
    console.print()
    if not audit.findings:
        _line(console, "nothing found")
    better = "" if table.is_loss else f", {'lower' if table.direction == 'min' else 'higher'} is better"
    read = [
        f"{column} ({table.what(role)}{better if role == LOSS else ''})"
        for role, names in table.columns.items()
        for column in names
    ]
    _line(console, f"columns read: {', '.join(read)}")
    if table.not_checked:
        _line(console, f"columns not checked: {', '.join(table.not_checked)}")


def _line(console: Console, words: str, indent: int = 0, style: str = "") -> None:
    """Print words with all their lines indented, and without the blanks that rich would fill lines with."""
    margin = " " * indent
    wrapped = textwrap.fill(
        words, console.width, initial_indent=margin, subsequent_indent=margin, break_on_hyphens=False
    )
    console.print(Text(wrapped, style=style), soft_wrap=True)
