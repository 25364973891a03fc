from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from analysis.schema import DIVERGED, FAILED, FINISHED, INVALID, NOTE, Audit, TrialRecord
from sweeps.engine import usage as module
from sweeps.engine.plan import Plan, PlannedRun
from sweeps.engine.progress import Progress
from sweeps.variance import STUDY as VARIANCE


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def record(run: PlannedRun, val_loss: float | None = 3.0, status: str = FINISHED, **fields: Any) -> TrialRecord:
    rows = [{"step": 4, "val_loss": val_loss, "train_seconds": 12.0}]
    return TrialRecord(
        study="s", cell=run.cell.name, scale=run.cell.scale, factors={}, seed=run.seed,
        config_hash=run.config_hash, status=status, rows=rows, **fields,
    )  # fmt: skip


def make(plan: Plan, *, terminal: bool, earlier: int = 0) -> tuple[Progress, io.StringIO]:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=160, highlight=False)
    runs = plan.runs()
    done = [record(run) for run in runs[:earlier]]
    return Progress(plan.name, done, runs[earlier:], 2, console, plan.protocol.under), out


@pytest.mark.parametrize("terminal", [False, True])
def test_no_flawed_loss_is_shown_without_saying_so(plan_for: Callable[..., Plan], terminal: bool) -> None:
    for undo, words in ((None, "under 9 flaws"), ("all", "")):
        plan = plan_for(variants="baseline", protocol="published", undo=undo)
        progress, out = make(plan, terminal=terminal)
        with progress:
            progress.started(plan.runs()[0])
            progress.ended(plan.runs()[0], record(plan.runs()[0], 0.0344))
        shown = [line for line in out.getvalue().splitlines() if "0.0344" in line]
        assert shown
        assert all((f"val_loss 0.0344 {words}".strip() in line) for line in shown)
        assert ("flaws" in out.getvalue()) == bool(words)


def test_without_a_terminal_there_is_one_line_a_run(plan_for: Callable[..., Plan], clock: Clock) -> None:
    progress, out = make(plan_for(variants="baseline,mlp"), terminal=False, earlier=1)
    run, other, *_ = plan_for(variants="baseline,mlp").runs()[1:]
    with progress:
        progress.started(run)
        clock.now += 10
        progress.reported(run, [{"step": 2, "train_loss": 4.0}], 9.0)
        progress.ended(run, record(run, 3.25))
        progress.started(other)
        progress.ended(other, record(other, None, DIVERGED, error="val_loss became nan"))
    lines = out.getvalue().splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("[2/4] baseline, seed 1: val_loss 3.2500, 12 s of training, about ")
    assert lines[1].startswith("[3/4] mlp, seed 0: diverged: val_loss became nan")


def test_utilisation_is_busy_time_over_slots_and_span(plan_for: Callable[..., Plan], clock: Clock) -> None:
    plan = plan_for(variants="baseline,mlp")
    progress, _ = make(plan, terminal=False)
    first, second, *_ = plan.runs()
    assert progress.utilisation() is None
    progress.started(first)
    clock.now += 2
    progress.started(second)
    clock.now += 8
    progress.reported(first, [], 9.0)
    progress.reported(second, [], 6.0)
    progress.ended(first, record(first))
    progress.ended(second, record(second))
    clock.now += 50  # the report is no part of it
    assert progress.utilisation() == pytest.approx(15 / (2 * 10))


def test_what_training_took(plan_for: Callable[..., Plan], clock: Clock) -> None:
    plan = plan_for(variants="baseline,mlp")
    progress, _ = make(plan, terminal=False, earlier=1)
    assert (progress.usage.seconds, progress.usage.peak_bytes) == (None, None)
    for run, peak in zip(plan.runs()[1:], (3_000, 5_000, None), strict=True):
        progress.started(run)
        clock.now += 10
        ended = record(run)
        ended.rows[-1]["peak_memory_bytes"] = peak
        progress.ended(run, ended)
    clock.now += 50  # the report is no part of it
    assert (progress.usage.seconds, progress.usage.peak_bytes) == (30.0, 5_000)


def test_time_left_follows_the_work_done(plan_for: Callable[..., Plan], clock: Clock) -> None:
    plan = plan_for(variants="baseline", seeds=4)
    progress, _ = make(plan, terminal=False)
    run = plan.runs()[0]
    assert progress.seconds_left() is None
    progress.started(run)
    clock.now += 10
    progress.reported(run, [{"step": 2, "train_loss": None}], 10.0)  # half of one of four
    assert progress.seconds_left() == pytest.approx(70)
    progress.ended(run, record(run))
    assert progress.seconds_left() == pytest.approx(30)


def test_the_best_cell_has_the_lowest_mean(plan_for: Callable[..., Plan]) -> None:
    plan = plan_for(variants="baseline,mlp")
    progress, _ = make(plan, terminal=False)
    losses = {("baseline", 0): 3.0, ("baseline", 1): 3.2, ("mlp", 0): 2.9, ("mlp", 1): 3.5}
    for run in plan.runs():
        progress.ended(run, record(run, losses[run.cell.name, run.seed]))
    assert progress.best() == [("cpu", "baseline", pytest.approx(3.1), 2)]


def test_of_several_orders_of_the_data_none_is_the_best(plan_for: Callable[..., Plan]) -> None:
    plan = plan_for(study=VARIANCE, variants="baseline,baseline_1")
    progress, _ = make(plan, terminal=False)
    for run in plan.runs():
        progress.ended(run, dataclasses.replace(record(run), factors=dict(run.cell.factors)))
    assert progress.best() == []


@pytest.mark.parametrize("terminal", [False, True])
def test_an_invalid_run_is_named_and_never_the_best(
    plan_for: Callable[..., Plan], clock: Clock, terminal: bool
) -> None:
    plan = plan_for(variants="baseline,mlp")
    progress, out = make(plan, terminal=terminal)
    run, other = plan.runs()[:2]
    leak = Audit(name="causality", severity=INVALID, evidence="logits moved by 0.2")
    progress.ended(run, record(run, 0.03, audits=[leak]))
    progress.ended(other, record(other, 3.0, audits=[Audit(name="budget", severity=NOTE, evidence="fine")]))
    assert "val_loss 0.0300, 12 s of training, INVALID: causality" in out.getvalue()
    assert "budget" not in out.getvalue()
    assert [best[1:3] for best in progress.best()] == [(other.cell.name, 3.0)]


def test_a_terminal_shows_the_state_of_the_study(plan_for: Callable[..., Plan], clock: Clock) -> None:
    plan = plan_for(variants="baseline,mlp")
    progress, out = make(plan, terminal=True, earlier=1)
    first, second, third = plan.runs()[1:]
    progress.started(first)
    progress.started(second)
    clock.now += 10
    progress.reported(first, [{"step": 2, "train_loss": 4.0}], 9.0)
    progress.ended(second, record(second, None, FAILED, error="no memory"))
    progress.started(third)
    progress.console.print(progress._display())
    text = out.getvalue()
    for part in (
        plan.name, "1 of 4 finished", "2 running", "1 failed", "left", "slots 45 % used",
        "baseline, seed 1", "update 2 of 4, training loss 4.000", "best at cpu", "baseline: val_loss 3.0000 (n = 1)",
        "mlp, seed 0: failed: no memory",
    ):  # fmt: skip
        assert part in text
