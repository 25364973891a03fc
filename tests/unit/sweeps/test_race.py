"""Races without Ray: what is suggested, when it waits, what it does after an interruption; and what is refused."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray.tune.search import Searcher
from rich.console import Console

from analysis.comparing.final_test import is_open, open_test, why_closed
from analysis.comparing.racing import race
from analysis.loading.load import load_results
from analysis.reporting.narrative import facts
from analysis.reporting.render import content, markdown
from analysis.schema import RECORDS_FOLDER
from analysis.summary import analyse
from moe_models.errors import ConfigError
from sweeps.engine.plan import Plan, PlannedRun
from sweeps.engine.progress import Progress
from sweeps.engine.race import open_runs, standing
from sweeps.engine.runner import _RaceQueue
from sweeps.engine.studies import find_plan
from sweeps.exp6_grid import STUDY
from sweeps.significance import looks_to, main
from tests.fakes_plan import ended

RACE = replace(STUDY, looks=(3, 5), equivalence_margin=None, label="race", first_seed=1000, published=None)
CELLS = "baseline,mlp,attention"


def loss_of(run: PlannedRun) -> float:
    """`mlp` is far off, `attention` is not."""
    own = np.random.default_rng([run.seed, len(run.cell.name)]).normal(0, 0.01)
    return 4.0 + (run.cell.name == "mlp") + own


def record(plan: Plan, run: PlannedRun) -> None:
    row = {"step": 4, "train_loss": 3.0, "val_loss": loss_of(run), "train_seconds": 1.0}
    test = {"test_loss": loss_of(run) + 0.1, "test_accuracy": 0.2}
    ended(plan, run, rows=[row], test=test).write(plan.folder / RECORDS_FOLDER)


class Driver:
    """Does what Tune does: asks for trials, some at a time, and says when they end."""

    def __init__(self, plan: Plan) -> None:
        plan.write()
        self.plan = plan
        self.said = io.StringIO()
        console = Console(file=self.said, width=200)
        self.progress = Progress(plan.name, [], open_runs(plan), 2, console)
        self.queue = _RaceQueue(plan, self.progress, {}, ())
        self.running: dict[str, PlannedRun] = {}
        self.started: list[tuple[str, int]] = []
        self._runs = {(run.cell.name, run.seed): run for run in plan.runs()}

    def start(self, slots: int) -> bool:
        """Start trials while there are slots; return whether the race has finished."""
        while len(self.running) < slots:
            name = str(len(self.started))
            asked = self.queue.suggest(name)
            if asked is None:
                assert self.running, "it waits for nothing"
                return False
            if asked == Searcher.FINISHED:
                return True
            run = self._runs[asked["labels"]["cell"], asked["seeds"][0]]
            self.running[name] = run
            self.started.append((run.cell.name, run.seed))
        return False

    def end(self, name: str, failed: bool = False) -> None:
        run = self.running.pop(name)
        if not failed:
            record(self.plan, run)
        self.queue.on_trial_complete(name, error=failed)

    def to_the_end(self, slots: int, order: Callable[[Iterable[str]], str] = min, most: int = 1000) -> None:
        for _ in range(most):
            if self.start(slots) and not self.running:
                return
            self.end(order(self.running))


@pytest.fixture
def race_plan(plan_for: Callable[..., Plan]) -> Callable[..., Plan]:
    def make(**options: Any) -> Plan:
        study = replace(RACE, **options.pop("study", {}))
        return plan_for(study=study, **{"variants": CELLS, "seeds": 5, **options})

    return make


def decisions(plan: Plan) -> dict[str, Any]:
    found = race(load_results(plan.folder))
    assert found is not None
    return found.to_json()


def how_far(plan: Plan) -> tuple[int, int, str]:
    """Return what `status` says: runs asked for, runs missing, and the state."""
    study = find_plan(plan.folder)
    return study.planned, study.missing, study.state


def test_a_race_waits_for_its_looks_and_drops_what_is_decided(race_plan: Callable[..., Plan]) -> None:
    plan = race_plan()
    assert plan.seeds == (1000, 1001, 1002, 1003, 1004)
    driver = Driver(plan)
    assert not driver.start(slots=20)
    first = {(cell, seed) for cell in CELLS.split(",") for seed in (1000, 1001, 1002)}
    assert set(driver.started) == first
    assert len(driver.started) == 9
    for name in list(driver.running)[:-1]:
        driver.end(name)
    assert how_far(plan) == (9, 1, "interrupted")
    assert not driver.start(slots=20)
    assert len(driver.started) == 9
    driver.end(next(iter(driver.running)))
    driver.to_the_end(slots=20)
    assert set(driver.started) - first == {(cell, seed) for cell in ("baseline", "attention") for seed in (1003, 1004)}
    assert len(driver.started) == 13
    said = driver.said.getvalue()
    assert "look at 3 seeds, mlp against baseline: worse" in said
    assert "look at 3 seeds, attention against baseline: open, goes on to 5 seeds" in said
    assert "the race is over: 13 runs instead of 15" in said
    assert open_runs(plan) == []
    assert how_far(plan) == (13, 0, "complete")
    results = load_results(plan.folder)
    assert dict(facts(results))["runs"] == "13 finished, of 15 at most"
    page = markdown(content(results, analyse(results)), [])
    assert "Holm p is corrected" in page
    assert "Joint p" not in page  # a race has none
    found = decisions(plan)
    assert (found["next_look"], found["runs"], found["fixed_runs"]) == (None, 13, 15)


def test_how_far_a_race_is_is_known_before_its_baseline_has_a_run(race_plan: Callable[..., Plan]) -> None:
    plan = race_plan()
    driver = Driver(plan)
    driver.start(slots=9)
    driver.end(next(name for name, run in driver.running.items() if run.cell.name == "mlp"))
    assert how_far(plan) == (9, 8, "interrupted")


@pytest.mark.parametrize("looks", [(), (3, 5)], ids=["fixed", "race"])
def test_fresh_seeds_are_the_planned_ones_and_the_test_split_opens(
    race_plan: Callable[..., Plan], looks: tuple[int, ...]
) -> None:
    plan = race_plan(study={"looks": looks})
    if looks:
        Driver(plan).to_the_end(slots=3)
    else:
        plan.write()
        for run in plan.runs():
            record(plan, run)
    results = open_test(load_results(plan.folder))
    compared = analyse(results).comparisons.set_index("cell")["plan"].to_dict()
    assert compared == {"attention": "primary", "mlp": "planned"}
    assert why_closed(results) == ""
    assert is_open(results)


@pytest.mark.parametrize("after", [5, 9, 12])
def test_interrupted_anywhere_and_in_any_order_it_ends_in_the_same_records(
    race_plan: Callable[..., Plan], tmp_path_factory: pytest.TempPathFactory, after: int
) -> None:
    whole = race_plan(output=tmp_path_factory.mktemp("whole"))
    Driver(whole).to_the_end(slots=1)
    plan = race_plan()
    first = Driver(plan)
    first.to_the_end(slots=4, order=max, most=after)  # what runs then is lost
    done = {path.name for path in (plan.folder / RECORDS_FOLDER).glob("*.json")}
    assert len(done) == after
    again = race_plan()
    second = Driver(again)
    second.to_the_end(slots=3)
    names = {path.name for path in (plan.folder / RECORDS_FOLDER).glob("*.json")}
    assert names == {path.name for path in (whole.folder / RECORDS_FOLDER).glob("*.json")}
    assert len(second.started) == len(names) - after, "a run that had ended was asked for again"
    assert decisions(again) == decisions(whole)


def test_a_look_waits_for_a_run_that_failed(race_plan: Callable[..., Plan]) -> None:
    driver = Driver(race_plan())
    driver.start(slots=9)
    name = next(name for name, run in driver.running.items() if run.cell.name == "attention")
    driver.end(name, failed=True)
    driver.to_the_end(slots=9)
    assert len(driver.started) == 9
    assert "the look at 3 seeds waits for runs that failed: 1" in driver.said.getvalue()
    again = Driver(race_plan())
    again.start(slots=9)
    assert again.started == [driver.started[int(name)]]
    again.to_the_end(slots=9)
    assert standing(race_plan()).next_look is None


def test_nothing_but_open_comparisons_is_left(race_plan: Callable[..., Plan]) -> None:
    plan = race_plan()
    assert len(open_runs(plan)) == 15
    driver = Driver(plan)
    driver.to_the_end(slots=9, most=9)
    assert {run.cell.name for run in open_runs(plan)} == {"baseline", "attention"}
    driver.start(slots=1)
    assert driver.progress._total == 4  # of this session's display: what is left at most


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"study": {"looks": ()}}, "is a race with looks at 3, 5 seeds: add --until-decided, or use another --output"),
        ({"study": {"looks": (3, 5, 7)}, "seeds": 7}, "so --seeds must stay 5"),
        ({"variants": "baseline,mlp"}, "between baseline, attention, mlp: name the same variants"),
        ({"study": {"equivalence_margin": 0.1}}, "with no --difference: keep that"),
    ],
)
def test_a_race_stays_what_was_declared(race_plan: Callable[..., Plan], options: dict[str, Any], message: str) -> None:
    race_plan().write()
    race_plan()
    with pytest.raises(ConfigError, match=message):
        race_plan(**options)


def test_no_race_becomes_one(race_plan: Callable[..., Plan]) -> None:
    fixed = race_plan(study={"looks": ()})
    fixed.write()
    assert not fixed.is_race
    with pytest.raises(ConfigError, match="is no race, it has one look: leave --until-decided out"):
        race_plan()


def test_looks_of_a_race() -> None:
    assert looks_to(4) == (3, 4)
    assert looks_to(10) == (3, 5, 7, 10)
    assert looks_to(20) == (3, 5, 7, 10, 14, 20)


@pytest.mark.parametrize(
    ("asked", "primary"),
    [("baseline,mlp", True), ("baseline,mlp,moe", False), ("baseline,mlp --until-decided", False)],
)
def test_a_contender_by_itself_is_the_primary_comparison(
    asked: str, primary: bool, corpus_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fixed = ["--corpus", str(corpus_file), "--scale", "cpu", "--precision", "fp32", "--dry-run"]
    assert main(["--variants", *asked.split(), *fixed]) == 0
    said = capsys.readouterr().out
    assert ("primary comparison: mlp against baseline, tested alone at 5 %" in said) == primary
    assert ("\nat most 20 runs to train: " in said) == ("--until-decided" in asked)


def test_comparisons_share_their_error_over_all_sizes_of_a_ladder(
    corpus_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fixed = ["--corpus", str(corpus_file), "--steps", "4", "--precision", "fp32", "--dry-run"]
    assert main(["--study", "scaling", "--variants", "baseline,mlp", *fixed]) == 0
    said = capsys.readouterr().out
    assert "one of 4 that share 5 %" in said
    assert "primary comparison" not in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--variants", "mlp"], "--variants names 'mlp' alone: name two or more"),
        (["--variants", "baseline,mpl"], "unknown cell 'mpl': did you mean 'mlp'?"),
        (["--study", "exp6"], "unknown study 'exp6'"),
        (["--until-decided", "--seeds", "3"], "--seeds must be 4 or more but got 3"),
        (["--until-decided", "--seeds", "1000"], "the last look is at 1000 seeds: it must be at 100 or less"),
        (["--seeds", "0"], "--seeds must be positive but got 0"),
        (["--seeds", "2", "--dry-run"], "--seeds must be 3 or more, since fewer are not tested, but got 2"),
        (["--difference", "-1"], "--difference must be positive but got -1"),
        (["--pilot", "nowhere"], "there is no 'nowhere'"),
        (["--equivalence-margin", "0.02"], "--equivalence-margin is --difference here: give that"),
        (["--design", "other"], "unknown design 'other'"),
        (["--protocol", "published"], "compare sound cells"),
        (["--unitl-decided"], "did you mean --until-decided?"),
        (
            ["--study", "variance", "--dry-run"],
            "'baseline_1' of variance is compared with no other cell, not with 'baseline'",
        ),
        (
            ["--study", "variance", "--design", "components", "--variants", "baseline,all_components_1", "--dry-run"],
            "'all_components_1' of variance is compared with 'baseline_1', not with 'baseline'",
        ),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    assert message in captured.err
