"""What a dry run says that training will take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from analysis.schema import RECORDS_FOLDER
from sweeps.engine.forecast import forecast
from sweeps.engine.memory import footprint
from sweeps.engine.plan import Plan, PlannedRun
from sweeps.engine.probe import Estimate
from sweeps.engine.resources import Resources
from sweeps.engine.usage import Usage
from tests.fakes_plan import ended
from trainables.config import TrialConfig

TWO = Resources(slots=2, gpus=0, gpus_per_trial=0.0, reason="")
QUARTERS = Resources(slots=8, gpus=2, gpus_per_trial=0.25, reason="")


@pytest.fixture
def plan(plan_for: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch) -> Plan:
    """Two runs of an hour and two of half an hour."""
    plan = plan_for(variants="baseline,mlp")
    hours = [1.0 if cell.name == plan.runs()[0].cell.name else 0.5 for cell in plan.cells]
    by_config = {cell.config.hash(0): 3600 * h for cell, h in zip(plan.cells, hours, strict=True)}

    def told(_: Resources, measure: Any, cells: Sequence[tuple[TrialConfig, Any]], device: torch.device) -> Estimate:
        return Estimate(tuple(by_config[config.hash(0)] for config, _ in cells), "as told")

    monkeypatch.setattr("sweeps.engine.forecast.where_runs_train", told)
    return plan


def test_runs_are_laid_over_the_slots(plan: Plan) -> None:
    found = forecast(plan, TWO)
    assert (found.runs, found.seconds, found.busy_seconds) == (4, 1.5 * 3600, 3 * 3600)
    assert found.memory_bytes == 2 * footprint(plan.runs(), TWO).run_bytes
    assert found.line().startswith("4 runs to train: about 1 h 30 min and 3 core-hours, with up to ")
    assert found.to_json()["estimate_cost"] == pytest.approx(3.0)


def test_a_share_of_a_gpu_is_paid_as_a_share(plan: Plan) -> None:
    found = forecast(plan, QUARTERS)
    assert found.seconds == 3600
    assert found.cost == pytest.approx(0.75)
    assert " 0.75 GPU-hours" in found.line()
    assert " on each GPU" in found.line()
    assert footprint(plan.runs(), QUARTERS).together == 2


def test_that_runs_which_share_a_gpu_slow_each_other_down_is_said(plan: Plan) -> None:
    slower = "as told, each alone on a GPU: 2 at a time there may take up to 2 times as long"
    assert forecast(plan, QUARTERS).line().endswith(f" ({slower})")
    assert forecast(plan, QUARTERS).to_json()["estimate_method"] == slower
    for unshared in (TWO, replace(QUARTERS, slots=2), replace(QUARTERS, gpus_per_trial=1.0, slots=2)):
        assert forecast(plan, unshared).method == "as told"


def test_what_is_done_costs_nothing(plan: Plan) -> None:
    for run in plan.runs():
        ended(plan, run).write(plan.folder / RECORDS_FOLDER)
    found = forecast(plan, TWO)
    assert (found.seconds, found.memory_bytes, found.line()) == (0.0, 0, "nothing is left to train")


def test_other_runs_than_the_plan_s_can_be_laid(plan: Plan) -> None:
    trials = [PlannedRun(cell=plan.runs()[0].cell, seed=1000)] * 6
    found = forecast(plan, TWO, [*trials, *plan.runs()])
    assert (found.runs, found.busy_seconds) == (10, 9 * 3600)
    assert forecast(plan, TWO, []).runs == 0


def test_what_a_search_took_is_said() -> None:
    usage = Usage()
    assert usage.line("GPU-hours", "trial") == "nothing was left to train"
    usage.started()
    for peak in (None, 3 * 2**30, 2**30):
        usage.reported(1200.0, 0.25, peak)
    assert usage.line("GPU-hours", "trial") == "0 s and 0.25 GPU-hours; the largest trial took 3.0 GiB of memory"
    assert usage.to_json("GPU-hours")["cost"] == 0.25
