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
    seeds = {cell["name"]: len(plan["seeds"]) for cell in plan["cells"]}
    if len(looks) > 1:
        begun = any((folder / RECORDS_FOLDER).glob("*.json"))
        found = race(load_results(folder)) if begun else None
        seeds = found.asked() if found else dict.fromkeys(seeds, looks[0])
    return {
        cell["hashes"][str(seed)]
        for cell in plan["cells"]
        for seed in sorted(plan["seeds"])[: seeds.get(cell["name"], 0)]
        if str(seed) in cell["hashes"]
    }
