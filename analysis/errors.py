"""The one error that data which cannot be analysed raises."""

from __future__ import annotations


class AnalysisError(ValueError):
    """Results that cannot be analysed. The message is one line: what, where, and what works."""
