"""The fractional study: its plan says what it is and what it cannot tell apart."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from analysis.schema import PLAN_FILE
from analysis.statistics.design import Fraction
from sweeps.engine.plan import Plan
from sweeps.engine.study import Design
from sweeps.screening import FACTORS, STUDY


def test_the_plan_holds_the_fraction_and_its_aliases(plan_for: Callable[..., Plan]) -> None:
    plan = plan_for(study=STUDY)
    plan.write()
    data = json.loads((plan.folder / PLAN_FILE).read_text())
    fraction = Fraction.from_json(data["fraction"])
    assert [tuple(cell["factors"].values()) for cell in data["cells"]] == [
        tuple(level.values()) for level in fraction.cells()
    ]
    assert len(data["cells"]) == 16
    assert data["factorial"] is True
    assert data["cells"][0]["name"] == "baseline"
    assert any("Fractional design 2^(6 - 2): 16 of 64 cells, resolution IV" in note for note in data["notes"])
    assert any("cannot be told apart: attention x norm = final_norm x gating" in note for note in data["notes"])
    assert any(note.startswith("gating: a gated expert has half as many parameters again") for note in data["notes"])
    whole = next(family for family in data["registered"]["families"] if family["name"] == "effects of whole factors")
    assert whole["size"] == 6 + 7
    # Each cell is the model that its levels say.
    assert len({cell.config.model for cell in plan.cells}) == 16


def test_a_few_cells_of_the_fraction_say_nothing_of_what_it_can_tell_apart(plan_for: Callable[..., Plan]) -> None:
    some = ",".join(cell.name for cell in STUDY.designs["default"].cells[:2])
    plan = plan_for(study=STUDY, variants=some)
    plan.write()
    assert not any("Fractional design" in note or "free of" in note for note in plan.to_json()["notes"])
    others = ",".join(cell.name for cell in STUDY.designs["default"].cells[2:])
    assert any("16 of 64 cells" in note for note in plan_for(study=STUDY, variants=others).to_json()["notes"])


def test_cells_that_are_not_the_fraction_are_refused() -> None:
    design = STUDY.designs["default"]
    with pytest.raises(AssertionError, match="cells of the fraction"):
        replace(STUDY, designs={"default": Design(cells=design.cells[:-1], factorial=True, fraction=design.fraction)})
    assert design.fraction is not None
    assert design.fraction.factors == FACTORS
