"""What a comparison comes to, read off its verdict: for the colours of figures and the order of the report's words."""

from __future__ import annotations

BETTER, WORSE, OPEN, IDENTICAL, UNTESTED = "better", "worse", "not resolved", "identical", "not tested"
DEPENDS = "depends on equal variances"
"""The joint analysis and the paired t tests disagree."""
EQUIVALENT = "equivalent"
"""The difference is shown to be smaller than the plan's margin."""
FLAWED = "flawed"
"""Not a finding, whatever the test says: see marks.py."""
TOO_FEW_ADDED = "not tested: "
"""Begins the verdict of an estimate whose test awaits more of the seeds that were added after results were known."""
SAME_AS_PRIMARY = "the same model as the primary "
"""Begins the verdict of a cell that is the primary comparison's model under another name: that verdict follows."""
BEGINNINGS = {
    "better": BETTER,
    "worse": WORSE,
    "together better": BETTER,  # of interactions
    "together worse": WORSE,
    "not resolved": OPEN,
    "identical": IDENTICAL,
    "within tolerance": IDENTICAL,  # of the negative control
    "exactly zero": IDENTICAL,
    "depends on equal variances": DEPENDS,
    "equivalent": EQUIVALENT,
    "flawed": FLAWED,
}


def outcome(verdict: str) -> str:
    """Return what a verdict of `Analysis.comparisons` or `Analysis.main_effects` comes to.

    UNTESTED where it gives a reason for which no test was made.
    """
    if verdict.startswith(SAME_AS_PRIMARY):
        verdict = verdict.partition(": ")[2]
    return next((found for words, found in BEGINNINGS.items() if verdict.startswith(words)), UNTESTED)
