from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweeps.engine.options import Options
from sweeps.engine.plan import Plan
from sweeps.engine.planning import make_plan
from sweeps.engine.resources import Resources
from sweeps.engine.study import Study
from sweeps.exp6_grid import STUDY

CPU = Resources(slots=2, gpus=0, gpus_per_trial=0.0, reason="no GPU was seen")


@pytest.fixture(autouse=True)
def _in_own_place(own_place: Path) -> None:
    """Every test here runs in a place of its own."""


@pytest.fixture
def plan_for(corpus_file: Path) -> Callable[..., Plan]:
    """Make a small plan; keyword arguments are options."""

    def make(resources: Resources = CPU, study: Study = STUDY, **options: Any) -> Plan:
        defaults = {"corpus": str(corpus_file), "precision": "fp32", "steps": 4, "seeds": 2}
        return make_plan(study, Options(**{**defaults, **options}), resources)

    return make
