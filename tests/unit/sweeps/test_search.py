"""A search without Ray: rungs, what is suggested, records, and going on exactly where it stopped."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

from analysis.schema import DIVERGED, FAILED, FINISHED
from analysis.tuning_records import (
    RANDOM,
    RUNNING,
    SEARCH,
    STOPPED,
    SWEEP,
    TuningRecord,
    best_of,
    of_arm,
    read_tuning_records,
)
from moe_models.errors import ConfigError
from sweeps.engine.importance import importance
from sweeps.engine.optuna_copy import OptunaCopy, frozen_trial, storage_url
from sweeps.engine.plan import Plan
from sweeps.engine.search import (
    Arm,
    Budget,
    best_first,
    draw,
    goes_on,
    open_trials,
    require_same_trials,
    suggest,
    sweep_of,
)
from sweeps.engine.space import DEFAULT_SPACE, parse_space, space_to_json
from sweeps.engine.storage import Storage
from trainables.tuning_trainable import TuningTrainable

SPACE = parse_space(DEFAULT_SPACE)
BUDGET = Budget(trials=14, updates=9, rungs=2, reduction=3, tokens_per_update=100, tokens=None)
SEED = 1000
DECLARED = {"study": "s", "space": space_to_json(SPACE), "seed": SEED}


def loss_at(values: dict[str, float], updates: int) -> float:
    """A made-up loss that falls with the updates and has its best inside the space."""
    muon, adamw = (math.log10(values[f"{name}_learning_rate"]) for name in ("muon", "adamw"))
    return 3 + 0.3 * (muon + 2) ** 2 + 0.1 * (adamw + 3) ** 2 + 2 / updates


def curve(values: dict[str, float], updates: int) -> list[dict[str, Any]]:
    return [{"step": step, "tokens": 100 * step, "val_loss": loss_at(values, step)} for step in range(1, updates + 1)]


def train(arm: Arm, most: int | None = None) -> None:
    """Train trials one at a time, rung by rung as Tune would; stop after so many have ended."""
    ended = 0
    while most is None or ended < most:
        record = arm.ask()
        if record is None:
            return
        if all(arm.reached(record.number, curve(record.hyperparameters, updates)) for updates in (*arm.milestones, 9)):
            arm.end(record.number, FINISHED, curve(record.hyperparameters, 9))
        ended += 1


def train_together(arm: Arm, slots: int, chance: np.random.Generator, most: int) -> None:
    """Train several trials at a time, rungs and ends in any order; stop after so many of these."""
    ways: dict[int, list[int]] = {}
    for _ in range(most):
        while len(ways) < slots and (record := arm.ask()) is not None:
            ways[record.number] = [*arm.milestones, BUDGET.updates]
        if not ways:
            return
        number = int(chance.choice(sorted(ways)))
        updates = ways[number].pop(0)
        rows = curve(arm.records[number].hyperparameters, updates)
        if not arm.reached(number, rows):
            del ways[number]
        elif not ways[number]:
            arm.end(number, FINISHED, rows)
            del ways[number]


@pytest.fixture
def arm_in(plan_for: Callable[..., Plan]) -> Callable[..., Arm]:
    cell = plan_for(variants="baseline", steps=9).cells[0]

    def make(folder: Path, arm: str = SEARCH, budget: Budget = BUDGET, root: str | None = None, **more: Any) -> Arm:
        storage = Storage(folder, root)
        storage.exchange_trials([cell.name])
        earlier = of_arm(read_tuning_records(folder), cell.name, arm)
        trials = {"trials": budget.trials, **more}
        return Arm(cell, arm, SPACE, budget, SEED, storage, {}, earlier=earlier, **trials)

    return make


def told(folder: Path) -> list[tuple[Any, ...]]:
    return [
        (record.number, record.hyperparameters, record.status, record.rungs, record.updates)
        for record in read_tuning_records(folder)
    ]


def test_rungs_of_a_budget_divide_each_other() -> None:
    budget = Budget(trials=1, updates=150, rungs=2, reduction=3, tokens_per_update=1, tokens=None)
    assert budget.milestones == (16, 48)
    assert Budget(trials=1, updates=9, rungs=0, reduction=3, tokens_per_update=1, tokens=None).milestones == ()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"updates": 8}, "need 9 updates or more, but a trial has 8"),
        ({"tokens": 899}, "--max-tokens 899 is too small to finish one trial, which takes 900 tokens"),
        ({"trials": 0}, "--trials must be 1 or more"),
        ({"reduction": 1}, "--reduction must be 2 or more"),
        ({"rungs": -1}, "--rungs must be 0 or more"),
    ],
)
def test_a_budget_that_finishes_no_trial_is_refused(change: dict[str, int], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        dataclasses.replace(BUDGET, **change)


def test_at_a_rung_the_best_third_goes_on_decided_at_arrival() -> None:
    arrived: dict[int, float] = {}
    decisions = []
    for number, loss in enumerate([5.0, 6.0, 4.0, 4.5, 4.4, 4.2, 4.2, 3.0, 4.1]):
        arrived[number] = loss
        decisions.append(goes_on(arrived, number, 3))
    #   first  worse  best  2 of 4 2 of 5 2 of 6 3 of 7 best  3 of 9
    assert decisions == [True, False, True, False, False, True, False, True, True]


def test_a_stopped_trial_is_a_part_that_counts_its_tokens_and_has_no_loss(
    tmp_path: Path, arm_in: Callable[..., Arm]
) -> None:
    train(arm_in(tmp_path))
    records = read_tuning_records(tmp_path)
    statuses = [record.status for record in records]
    assert len(records) == BUDGET.trials
    assert {FINISHED, STOPPED} == set(statuses)
    for record in records:
        whole = record.status == FINISHED
        assert record.tokens == (900 if whole else 100 * record.updates)
        assert (record.loss is None) == (not whole)
        assert whole or record.updates in BUDGET.milestones
        assert record.config["training"]["evaluate_every"] == 9
    best = best_of(records)
    assert best is not None
    assert best.loss == min(record.loss for record in records if record.loss is not None)


@pytest.mark.parametrize("stops", [(3,), (1, 2, 5), (12,)])
def test_an_interrupted_search_goes_on_exactly(
    tmp_path: Path, arm_in: Callable[..., Arm], stops: tuple[int, ...]
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(arm_in(whole))
    for stop in stops:
        arm = arm_in(parts)
        train(arm, most=stop)
        left = arm.ask()  # it had begun when the driver died
        assert left is not None
    train(arm_in(parts))
    assert told(parts) == told(whole)
    assert arm_in(parts).ask() is None


@pytest.mark.parametrize("chance", range(3))
def test_several_at_a_time_and_interrupted_every_cell_has_its_whole_search_and_true_losses(
    tmp_path: Path, arm_in: Callable[..., Arm], chance: int
) -> None:
    """What is suggested beyond the first ten draws may differ then; what was trained, and how many, does not."""
    rng = np.random.default_rng(chance)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(arm_in(whole))
    asked: dict[int, dict[str, float]] = {}
    for most in (9, 14, 99):
        train_together(arm_in(parts), 3, rng, most)
        for record in read_tuning_records(parts):
            assert asked.setdefault(record.number, record.hyperparameters) == record.hyperparameters
    read_tuning_records(parts)[12].write(parts).unlink()
    arm = arm_in(parts)
    assert arm.left == 1
    train_together(arm, 3, rng, 99)
    records = read_tuning_records(parts)
    assert [record.number for record in records] == list(range(BUDGET.trials))
    assert [record.hyperparameters for record in records[:10]] == [values for _, values, *_ in told(whole)[:10]]
    for record in records:
        assert record.status in (FINISHED, STOPPED)
        assert record.rows == curve(record.hyperparameters, record.updates)
        assert record.rungs == {
            str(rung): loss_at(record.hyperparameters, rung) for rung in BUDGET.milestones if rung <= record.updates
        }


@pytest.mark.parametrize("gone", [(2,), (0, 11), (13,)])
def test_trials_whose_records_are_gone_are_trained_again_as_they_were(
    tmp_path: Path, arm_in: Callable[..., Arm], gone: tuple[int, ...]
) -> None:
    train(arm_in(tmp_path))
    whole = told(tmp_path)
    for record in read_tuning_records(tmp_path):
        if record.number in gone:
            record.write(tmp_path).unlink()
    arm = arm_in(tmp_path)
    assert arm.left == len(gone)
    train(arm)
    assert told(tmp_path) == whole


def test_a_search_of_more_trials_than_are_asked_for_has_none_left(tmp_path: Path, arm_in: Callable[..., Arm]) -> None:
    train(arm_in(tmp_path))
    arm = arm_in(tmp_path, trials=BUDGET.trials - 2)
    assert (arm.left, arm.ask()) == (0, None)
    assert arm.complete


@pytest.mark.parametrize("where", [str, Path.as_uri])
def test_a_search_goes_on_from_the_storage_where_its_folder_is_gone_or_behind(
    tmp_path: Path, arm_in: Callable[..., Arm], where: Callable[[Path], str]
) -> None:
    whole, root = tmp_path / "whole" / "study", where(tmp_path / "shared")
    train(arm_in(whole))
    here, there = tmp_path / "here" / "study", tmp_path / "there" / "study"
    arm = arm_in(here, root=root)
    train(arm, most=6)
    assert arm.ask() is not None, "it had begun when the machine was lost"
    train(arm_in(there, root=root))
    assert told(there) == told(whole)
    assert len(told(here)) == 7
    arm_in(here, root=root)  # what was behind is brought up to date
    assert told(here) == told(whole)
    first = next((tmp_path / "shared").rglob("*.json"))
    first.unlink()
    arm_in(here, root=root)
    assert first.exists(), "and the storage is given what it lacks"
    first.write_text("{")
    (here / first.relative_to(tmp_path / "shared" / "study")).unlink()
    with pytest.raises(ConfigError, match=r"study/tuning/baseline/.*\.json is not a record of a search: .*; delete it"):
        arm_in(here, root=root)


def test_a_driver_that_dies_at_a_rung_decides_once(tmp_path: Path, arm_in: Callable[..., Arm]) -> None:
    arm = arm_in(tmp_path, budget=dataclasses.replace(BUDGET, trials=3))
    first, second = arm.ask(), arm.ask()
    assert first is not None
    assert second is not None
    poor = [{"step": 1, "tokens": 100, "val_loss": 6.0}]
    assert arm.reached(first.number, poor)
    resumed = arm_in(tmp_path, budget=dataclasses.replace(BUDGET, trials=3))
    assert [resumed.ask().number, resumed.ask().number] == [0, 1]  # type: ignore[union-attr]
    assert resumed.reached(1, [{"step": 1, "tokens": 100, "val_loss": 5.0}])
    assert resumed.reached(0, poor), "it was let through before, and reports the rung again"
    assert resumed.records[0].rungs == {"1": 6.0}


def test_rungs_passed_between_two_reports_are_decided_in_order(tmp_path: Path, arm_in: Callable[..., Arm]) -> None:
    arm = arm_in(tmp_path)
    first, second = arm.ask(), arm.ask()
    assert first is not None
    assert second is not None
    assert arm.reached(first.number, curve(first.hyperparameters, 9))
    worse = [{**row, "val_loss": row["val_loss"] + 9} for row in curve(first.hyperparameters, 9)]
    assert not arm.reached(second.number, worse)
    record = arm.records[second.number]
    assert (record.status, record.updates, list(record.rungs)) == (STOPPED, 1, ["1"])


def test_failed_trials_are_tried_again_with_their_own_hyperparameters(
    tmp_path: Path, arm_in: Callable[..., Arm]
) -> None:
    arm = arm_in(tmp_path)
    failed = arm.ask()
    assert failed is not None
    arm.end(failed.number, FAILED, [], "RuntimeError: planned")
    again = arm_in(tmp_path).ask()
    assert again == failed


@pytest.mark.parametrize("apart", [False, True])
def test_a_stopped_trial_leaves_no_checkpoint(plan_for: Callable[..., Plan], tmp_path: Path, apart: bool) -> None:
    plan = plan_for(variants="baseline", steps=9, storage=(tmp_path / "shared").as_uri() if apart else None)
    store, cell = plan.storage.store, plan.cells[0]
    arm = Arm(cell, SEARCH, SPACE, BUDGET, SEED, plan.storage, {}, trials=2)
    going, stopped = arm.ask(), arm.ask()
    assert going is not None
    assert stopped is not None
    assert arm.reached(going.number, [{"step": 1, "tokens": 100, "val_loss": 0.1}])
    with store.writing(f"checkpoints/{going.config_hash}.pt") as file:
        file.write(b"of a trial that goes on")
    trial = TuningTrainable(
        {
            "config": stopped.config,
            "seeds": [stopped.seed],
            "corpus_directory": str(plan.corpora[cell.scale].directory),
            "study_directory": plan.storage.place,
            "pauses": list(arm.milestones),
        }
    )
    assert not arm.reached(stopped.number, trial.train()["curve"])
    trial.stop()  # Tune ends a process after the decision
    assert len(store.list("checkpoints")) == 2
    arm.drop_checkpoints()
    assert store.list("checkpoints") == [f"checkpoints/{going.config_hash}.pt"]
    arm.end(going.number, FINISHED, curve(going.hyperparameters, 9))
    assert store.list("checkpoints") == []


def test_tokens_bound_a_search_and_are_freed_by_stopped_trials(tmp_path: Path, arm_in: Callable[..., Arm]) -> None:
    arm = arm_in(tmp_path, budget=dataclasses.replace(BUDGET, tokens=2_000))
    assert arm.ask() is not None
    assert arm.ask() is not None
    assert arm.ask() is None, "two whole trials may take 1,800"
    assert not arm.complete
    assert arm.reached(0, curve({"muon_learning_rate": 0.01, "adamw_learning_rate": 0.001}, 1))
    assert not arm.reached(1, curve({"muon_learning_rate": 0.3, "adamw_learning_rate": 0.3}, 1))
    assert arm.ask() is not None
    train(arm)
    for number in (0, 2):
        arm.end(number, FINISHED, curve(arm.records[number].hyperparameters, 9))
    assert arm.ask() is None
    assert arm.complete
    assert sum(record.tokens for record in arm.records.values()) == 1_900


def test_a_failed_trial_keeps_its_tokens_for_when_it_is_tried_again(tmp_path: Path, arm_in: Callable[..., Arm]) -> None:
    budget = dataclasses.replace(BUDGET, tokens=2_000)
    arm = arm_in(tmp_path, budget=budget)
    assert arm.ask() is not None
    failed = arm.ask()
    assert failed is not None
    arm.end(failed.number, FAILED, [], "RuntimeError: planned")
    assert arm.ask() is None, "the two may take 1,800 when all is done"
    arm.end(0, FINISHED, curve(arm.records[0].hyperparameters, 9))
    again = arm_in(tmp_path, budget=budget)
    train(again)
    assert [record.status for record in again.records.values()] == [FINISHED, FINISHED]


def test_trials_of_another_configuration_are_not_gone_on_with(
    tmp_path: Path, plan_for: Callable[..., Plan], arm_in: Callable[..., Arm]
) -> None:
    train(arm_in(tmp_path), most=2)
    records = read_tuning_records(tmp_path)
    (cell,) = plan_for(variants="baseline", steps=9).cells
    require_same_trials([cell], records, BUDGET, SEED)
    (other,) = plan_for(variants="attention", steps=9).cells
    require_same_trials([other], records, BUDGET, SEED)  # which has none
    changed = dataclasses.replace(cell, config=other.config)
    with pytest.raises(ConfigError, match=r"'baseline' is configured .* model\.attention\.kind is mla, there"):
        require_same_trials([changed], records, BUDGET, SEED)


def test_what_is_left_is_every_trial_that_has_not_ended(
    tmp_path: Path, plan_for: Callable[..., Plan], arm_in: Callable[..., Arm]
) -> None:
    arm = arm_in(tmp_path)
    train(arm, most=4)
    failed, begun = arm.ask(), arm.ask()
    assert failed is not None
    assert begun is not None
    arm.end(failed.number, FAILED, [], "planned")
    records, cells = read_tuning_records(tmp_path), plan_for(variants="baseline,mlp", steps=9).cells
    planned = {SEARCH: BUDGET.trials, RANDOM: 2}

    def left(budget: Budget) -> list[str]:
        return [run.cell.name for run in open_trials(cells, records, planned, budget, SEED)]

    assert left(BUDGET) == ["baseline", "mlp"] * 12 + ["mlp"] * 4
    spent = sum(record.tokens for record in records)
    bounded = left(dataclasses.replace(BUDGET, tokens=spent + 1_000))
    assert (bounded.count("baseline"), bounded.count("mlp")) == (2 + 2, -(-(spent + 1_000) // 900) + 2)


def test_what_was_stopped_with_its_process_comes_again_and_changes_nothing(
    tmp_path: Path, arm_in: Callable[..., Arm]
) -> None:
    whole, disturbed = tmp_path / "whole", tmp_path / "disturbed"
    train(arm_in(whole))
    arm = arm_in(disturbed)
    train(arm, most=11)
    lost = arm.ask()
    assert lost is not None
    goes = arm.reached(lost.number, curve(lost.hyperparameters, 1))
    for _ in range(2):
        arm.resume()
        assert arm.left == BUDGET.trials - 11 - (not goes)
    train(arm)
    assert told(disturbed) == told(whole)


def test_suggestions_are_functions_of_the_records(tmp_path: Path, arm_in: Callable[..., Arm]) -> None:
    train(arm_in(tmp_path))
    records = read_tuning_records(tmp_path)
    np.random.seed(1)
    first = suggest(SPACE, records, SEED, 14)
    np.random.seed(2)
    assert suggest(SPACE, reversed(records), SEED, 14) == first
    assert suggest(SPACE, records, SEED + 1, 14) != first
    assert suggest(SPACE, records[:-1], SEED, 14) != first, "beyond ten trials they learn from what was seen"
    for axis in SPACE:
        assert axis.low <= first[axis.name] <= axis.high


def trial(number: int, status: str, *losses: float, rows: list[dict[str, Any]] | None = None) -> TuningRecord:
    """A trial with its losses at the rungs that it reached and, when it has finished, at its end."""
    updates = (*BUDGET.milestones, BUDGET.updates)[: len(losses)]
    curve = [{"step": step, "tokens": step, "val_loss": loss} for step, loss in zip(updates, losses, strict=True)]
    return TuningRecord(
        study="s", cell="baseline", arm=SEARCH, number=number, seed=SEED, config_hash=f"{number}", status=status,
        hyperparameters=draw(SPACE, SEED, number), rows=curve if rows is None else rows,
        rungs={str(step): loss for step, loss in zip(BUDGET.milestones, losses, strict=False)},
    )  # fmt: skip


def test_trials_are_ordered_by_what_they_could_have_had_at_the_end() -> None:
    """The first trial always goes on, and this one is poor: what was stopped ahead of it is better."""
    tried = [
        trial(0, FINISHED, 6.6, 6.1, 5.6),  # fell by 0.5 and 0.5
        trial(1, FINISHED, 5.5, 4.7, 4.2),  # by 0.8 and 0.5
        trial(2, STOPPED, 6.1),
        trial(3, DIVERGED, 5.0, 9.0, 9.9),
        trial(4, STOPPED, 5.7, 4.8),  # by 0.9
        trial(5, RUNNING, 5.0),
        trial(6, FAILED, 5.0),
        trial(7, STOPPED, 7.2),
        trial(8, DIVERGED, 5.0),
        trial(9, STOPPED, 6.1),
    ]
    assert [record.number for record in best_first(tried)] == [1, 4, 2, 9, 0, 7, 3, 8]
    assert best_first([]) == []
    assert [record.number for record in best_first([trial(0, STOPPED, 5.0), trial(1, STOPPED, 4.0)])] == [1, 0]


def test_what_is_suggested_depends_on_stopped_trials_too_and_on_their_order_alone() -> None:
    """Both cells finished the same trials, and no cell's suggestions hang on how large its losses are."""

    def searched(low_is_better: bool, more: float = 0.0) -> list[TuningRecord]:
        rates = [draw(SPACE, SEED, number)["adamw_learning_rate"] for number in range(14)]
        places = [sorted(rates, reverse=not low_is_better).index(rate) for rate in rates]
        finished = [trial(0, FINISHED, 9.0 + more, 8.0 + more, 7.0 + more), trial(1, FINISHED, 5.0, 4.5, 4.0)]
        return finished + [trial(n, STOPPED, 6.0 + places[n] / 10 + more) for n in range(2, 14)]

    low = [suggest(SPACE, searched(True), SEED, number) for number in range(14, 20)]
    high = [suggest(SPACE, searched(False), SEED, number) for number in range(14, 20)]
    assert low != high
    mean = [np.mean([math.log(values["adamw_learning_rate"]) for values in found]) for found in (low, high)]
    assert mean[0] < mean[1]
    assert [suggest(SPACE, searched(True, more=1.0), SEED, number) for number in range(14, 20)] == low


def test_draws_are_independent_uniform_on_the_log_and_equal_in_all_cells() -> None:
    found = np.array([list(draw(SPACE, SEED, number).values()) for number in range(2_000)])
    shares = [
        (np.log(found[:, place]) - math.log(axis.low)) / (math.log(axis.high) - math.log(axis.low))
        for place, axis in enumerate(SPACE)
    ]
    for share in shares:
        assert np.histogram(share, bins=4, range=(0, 1))[0] == pytest.approx([500] * 4, abs=90)
    assert abs(np.corrcoef(*shares)[0, 1]) < 0.07


def test_the_random_arm_has_no_rungs(tmp_path: Path, arm_in: Callable[..., Arm]) -> None:
    train(arm_in(tmp_path, RANDOM))
    records = read_tuning_records(tmp_path)
    assert {record.status for record in records} == {FINISHED}
    found = importance(SPACE, records, guess=7.0)
    assert found["n"] == 14
    assert found["shares"]["muon_learning_rate"] > found["shares"]["adamw_learning_rate"] >= 0
    assert importance(SPACE, records[:5], guess=7.0)["reason"] == "5 independent draws are too few (10 are needed)"
    assert importance(SPACE, [], guess=7.0)["reason"] == "there are no independent draws (`--random N`)"


def test_importance_is_over_the_scale_that_is_drawn_from() -> None:
    """Muon's rate matters over the lower half of its logarithm, AdamW's a little over the last fifth of its own.

    The lower half of the logarithm is the lowest thirtieth of the rates themselves: over these AdamW's would count.
    """
    records = []
    for number in range(60):
        values = draw(SPACE, SEED, number)
        muon, adamw = (axis.share(values[axis.name]) for axis in SPACE)
        loss = 4 + 2 * max(0, 0.5 - muon) + 2 * max(0, adamw - 0.8)
        records.append(
            TuningRecord(
                study="s", cell="baseline", arm=RANDOM, number=number, hyperparameters=values, seed=SEED,
                config_hash=f"{number:016x}", status=FINISHED, rows=[{"step": 9, "tokens": 900, "val_loss": loss}],
            )
        )  # fmt: skip
    assert importance(SPACE, records, guess=7.0)["shares"]["muon_learning_rate"] > 0.9


def test_a_sweep_varies_one_learning_rate_from_end_to_end(tmp_path: Path, arm_in: Callable[..., Arm]) -> None:
    best = {"muon_learning_rate": 0.02, "adamw_learning_rate": 0.004}
    planned = sweep_of(best, SPACE, 5)
    train(arm_in(tmp_path, SWEEP, trials=len(planned), planned=planned))
    records = read_tuning_records(tmp_path)
    assert [record.varied for record in records] == ["muon_learning_rate"] * 5 + ["adamw_learning_rate"] * 5
    rates = [record.hyperparameters["muon_learning_rate"] for record in records[:5]]
    assert (rates[0], rates[-1]) == (3e-4, 0.3)
    assert np.diff(np.log(rates)) == pytest.approx(math.log(1000) / 4)
    assert {record.hyperparameters["adamw_learning_rate"] for record in records[:5]} == {0.004}


def test_the_optuna_copy_holds_each_trial_once(tmp_path: Path, arm_in: Callable[..., Arm]) -> None:
    train(arm_in(tmp_path, budget=dataclasses.replace(BUDGET, trials=6)))
    records = read_tuning_records(tmp_path)
    warnings: list[str] = []
    url = storage_url(None, tmp_path)
    for part in (records[:2], records, records):
        OptunaCopy(url, SPACE, DECLARED, warnings.append).copy(part)
    study = optuna.load_study(study_name=f"{tmp_path.name}/baseline", storage=url)
    states = {FINISHED: optuna.trial.TrialState.COMPLETE, STOPPED: optuna.trial.TrialState.PRUNED}
    assert [trial.state for trial in study.trials] == [states[record.status] for record in records]
    best = best_of(records)
    assert best is not None
    assert study.best_trial.user_attrs["config_hash"] == best.config_hash
    assert study.best_trial.params == best.hyperparameters
    assert not warnings


def test_a_search_of_the_same_name_that_was_declared_otherwise_is_not_mixed_in(
    tmp_path: Path, arm_in: Callable[..., Arm]
) -> None:
    train(arm_in(tmp_path, budget=dataclasses.replace(BUDGET, trials=2)))
    url, declared = storage_url(None, tmp_path), {**DECLARED, "study": tmp_path.name}
    OptunaCopy(url, SPACE, declared, print).copy(read_tuning_records(tmp_path))
    OptunaCopy(url, SPACE, {**declared, "cells": ["baseline", "more"]}, print)
    OptunaCopy(url, SPACE, {**declared, "study": f"{tmp_path.name}-more", "seed": 2000}, print)
    with pytest.raises(ConfigError, match=rf"declared otherwise \({tmp_path.name}/baseline\): give another"):
        OptunaCopy(url, SPACE, {**declared, "seed": 2000}, print)


def test_a_diverged_trial_has_no_value_in_the_copy() -> None:
    rows = [{"step": 1, "tokens": 1, "val_loss": 6.0}, {"step": 2, "tokens": 2, "val_loss": None}]
    diverged = frozen_trial(trial(0, DIVERGED, rows=rows), SPACE)
    assert (diverged.state, diverged.intermediate_values) == (optuna.trial.TrialState.PRUNED, {1: 6.0})


def test_the_command_of_a_dashboard_can_be_copied_into_a_shell(tmp_path: Path) -> None:
    copy = OptunaCopy(f"sqlite:///{tmp_path}/my searches.db", SPACE, DECLARED, print)
    assert copy.dashboard_command() == f"optuna-dashboard 'sqlite:///{tmp_path}/my searches.db'"


def test_passwords_of_a_storage_stay_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="ABLATUNE_OPTUNA_STORAGE") as error:
        storage_url("postgresql://me:secret@host/db", tmp_path)
    assert "secret" not in str(error.value)
    monkeypatch.setenv("ABLATUNE_OPTUNA_STORAGE", "nosuch://me:secret@127.0.0.1:1/db")
    with pytest.raises(ConfigError, match="nosuch://127") as error:
        OptunaCopy(storage_url(None, tmp_path), SPACE, DECLARED, print)
    assert "secret" not in str(error.value)


def test_a_storage_that_fails_is_said_once(tmp_path: Path, arm_in: Callable[..., Arm]) -> None:
    train(arm_in(tmp_path, budget=dataclasses.replace(BUDGET, trials=2)))
    records = read_tuning_records(tmp_path)
    warnings: list[str] = []
    copy = OptunaCopy(storage_url(None, tmp_path), SPACE, DECLARED, warnings.append)
    (tmp_path / "optuna.db").write_bytes(b"no database" * 1000)
    copy.copy(records)
    copy.copy(records)
    assert len(warnings) == 1
    assert "the search goes on" in warnings[0]
