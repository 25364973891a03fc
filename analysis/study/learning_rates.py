"""What differences are claims about: components, but only where every cell had its own learning rate tuned."""

from __future__ import annotations

from analysis.study import plan_check
from analysis.study.registered import registration
from analysis.study.results import Results

TUNED, UNTUNED = "learning rates tuned", "at one learning rate"
SENTENCES = {
    TUNED: "Learning rates were tuned for each cell: these differences are claims about components.",
    UNTUNED: "All cells were trained at one learning rate: these are differences between settings, not claims about "
    "components.",
    "": "",
}


def rates(results: Results) -> str:
    """Return TUNED or UNTUNED; empty for a table without a plan, which does not say."""
    if plan_check.tuned(results):
        return TUNED
    return UNTUNED if results.plan.get("cells") or registration(results.plan) is not None else ""


def titled(title: str, results: Results) -> str:
    """Return the title of a figure of components, with what the learning rates were."""
    return ", ".join(filter(None, (title, rates(results))))


def sentence(results: Results) -> str:
    """Return what the differences are claims about, as a sentence; empty where nobody knows."""
    return SENTENCES[rates(results)]
