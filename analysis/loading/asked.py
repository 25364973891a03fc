"""Which runs a study asks for: its plan says it, and of a race its records as well."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from analysis.comparing.racing import race
from analysis.loading.load import load_results
from analysis.schema import RECORDS_FOLDER
from analysis.study.registered import REGISTERED


def asked_hashes(folder: Path, plan: Mapping[str, Any]) -> set[str]:
    """Return the hashes of the runs that a study asks for: all that are planned, of a race those up to where it stands.

    Args:
        folder: the study's.
        plan: what its `plan.json` holds.
    """
    looks = plan.get(REGISTERED, {}).get("looks", ())
    if len(looks) < 2:
        return _hashes(plan, {cell["name"]: len(plan["seeds"]) for cell in plan["cells"]})
    first = _hashes(plan, {cell["name"]: looks[0] for cell in plan["cells"]})
    if not first <= {path.stem for path in (folder / RECORDS_FOLDER).glob("*.json")}:
        return first  # before the first look there may be no run of a baseline, and nothing to compare
    found = race(load_results(folder))
    assert found is not None, "a plan with several looks is a race"
    return _hashes(plan, found.asked())


def _hashes(plan: Mapping[str, Any], seeds: Mapping[str, int]) -> set[str]:
    """Return the hashes of the first planned runs of each cell, so many as `seeds` says."""
    return {
        cell["hashes"][str(seed)]
        for cell in plan["cells"]
        for seed in sorted(plan["seeds"])[: seeds.get(cell["name"], 0)]
        if str(seed) in cell["hashes"]
    }
