"""What a rule finds in a table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from analysis.schema import Audit
from analysis.table_audit.table import Table


@dataclass(frozen=True, kw_only=True)
class Finding(Audit):
    """What one rule found out about a table; `evidence` names row and figure."""

    instead: str
    """One line: what to do instead."""


Rule = Callable[[Table], Iterator[Finding]]
"""Yields what is wrong with a table, and nothing where it is sound."""
