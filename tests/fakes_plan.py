"""Registered plans without a study behind them, and records without a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from analysis.schema import FINISHED, STEP, VAL_LOSS, TrialRecord
from analysis.study.registered import (
    AGAINST_BASELINE,
    AMENDMENTS,
    HASH,
    REGISTERED,
    WHOLE_FACTORS,
    Comparison,
    Family,
    Registered,
    sha256,
)
from sweeps.engine.plan import Plan, PlannedRun
from sweeps.engine.runner import labels_of


def ended(plan: Plan, run: PlannedRun, **fields: Any) -> TrialRecord:
    """Return the record of a run of a study, one that finished unless told otherwise."""
    defaults = {
        **labels_of(plan, run), "seed": run.seed, "config_hash": run.config_hash, "config": run.cell.config.to_dict(),
        "status": FINISHED, "rows": [{STEP: 4, VAL_LOSS: 3.5}],
    }  # fmt: skip
    return TrialRecord(**{**defaults, **fields})


def registered(
    cells: Sequence[str],
    *,
    n: int = 5,
    primary: str | None = "attention",
    amendments: Sequence[Mapping[str, Any]] = (),
    effects: int = 0,
    **changes: Any,
) -> dict[str, Any]:
    """Return the sections of a plan on registration: all cells against `baseline`, one of them alone."""
    pairs = [Comparison(cell=cell, baseline="baseline") for cell in cells if cell != "baseline"]
    others = tuple(pair for pair in pairs if pair.cell != primary)
    families = [Family(name=AGAINST_BASELINE, metric="val_loss", comparisons=others, size=len(others))]
    if effects:
        families.append(Family(name=WHOLE_FACTORS, metric="val_loss", size=effects))
    fields = {
        "metric": "val_loss", "direction": "min", "primary": next((p for p in pairs if p.cell == primary), None),
        "families": tuple(families), "cells": tuple(cells), "n": n, "looks": (n,), "equivalence_margin": None,
        "divergence_limit": {"cpu": 7.9315}, "exclusions": ("none",), "tuned": False, "final_test": True,
    }  # fmt: skip
    section = Registered(**{**fields, **changes}).to_json()
    entries = [
        {"name": cell, "factors": {"variant": place}, "baseline": "baseline", "hashes": {}}
        for place, cell in enumerate(cells)
    ]
    return {REGISTERED: section, HASH: sha256(section), AMENDMENTS: list(amendments), "cells": entries}


def added(what: str, items: Sequence[Any], ended: int) -> dict[str, Any]:
    """Return an amendment."""
    return {
        "when": "2026-01-02T03:04:05+00:00",
        "what": what,
        "added": list(items),
        "count": len(items),
        "ended": ended,
    }
