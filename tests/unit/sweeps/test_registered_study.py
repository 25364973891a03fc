"""A registered study through the real trainer, without Ray: from its plan to its report, and extended after it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from analysis.loading.load import load_results
from analysis.reporting.report import write_report
from analysis.schema import PLAN_FILE, RESULTS_CSV, RESULTS_JSON, TEST_OPENED_FILE, read_records
from analysis.study.registered import sha256
from sweeps.engine.plan import Plan
from sweeps.engine.race import open_runs
from sweeps.engine.runner import trial_config
from trainables.ray_trainable import AblationTrainable


def train(plan: Plan) -> None:
    """Write the plan, then train every open run of it in this process."""
    plan.write()
    for run in open_runs(plan):
        actor = AblationTrainable(trial_config(plan, run, plan.evidence))
        while not actor.train()["done"]:
            pass


def report(folder: Path) -> str:
    return write_report(load_results(folder), folder).markdown.read_text()


@pytest.fixture
def cells() -> str:
    return "baseline,attention,mlp"


def test_from_the_plan_to_the_final_test_and_beyond(plan_for: Callable[..., Plan], cells: str) -> None:
    first = plan_for(variants=cells, seeds=3, steps=2)
    train(first)
    text = report(first.folder)
    assert "Primary comparison, attention against baseline, tested alone at 5 %, at one learning rate" in text
    assert "| anything else | nothing | nothing | yes |" in text
    assert "Opened on" in text
    opened = json.loads((first.folder / TEST_OPENED_FILE).read_text())["openings"]
    assert [len(entry["runs"]) for entry in opened] == [9]
    records = read_records(first.folder)
    sha = json.loads((first.folder / PLAN_FILE).read_text())["registered_sha256"]
    assert {record.environment["registered_sha256"] for record in records} == {sha}
    assert all(record.test["test_loss"] is not None for record in records)
    assert "test_loss" not in (first.folder / RESULTS_CSV).read_text()
    shown = json.loads((first.folder / RESULTS_JSON).read_text())["final_test"]
    own = [record.test["test_loss"] or 0.0 for record in records if record.cell == "mlp"]
    assert next(row for row in shown if row["cell"] == "mlp")["test_loss"] == pytest.approx(sum(own) / 3)

    train(plan_for(variants=cells, seeds=4, steps=2))
    text = report(first.folder)
    assert "1 seed was added to the plan on" in text
    assert "Exploratory: seeds were added after the plan" in text
    assert "with 3 runs that the first opening did not have" in text
    later = json.loads((first.folder / TEST_OPENED_FILE).read_text())["openings"]
    assert later[0] == opened[0]
    assert len(later) == 2


def test_an_interrupted_study_keeps_the_test_closed(plan_for: Callable[..., Plan], cells: str) -> None:
    plan = plan_for(variants=cells, seeds=2, steps=2)
    train(plan)
    left = plan.runs()[-1]
    (plan.folder / "records" / f"{left.config_hash}.json").unlink()
    text = report(plan.folder)
    assert "The test split stays closed: of the registered runs 1 have not ended" in text
    assert "test loss" not in text
    assert not (plan.folder / TEST_OPENED_FILE).exists()


def test_a_plan_rewritten_with_its_hash_is_an_alarm(plan_for: Callable[..., Plan]) -> None:
    plan = plan_for(variants="baseline,attention", seeds=2, steps=2)
    train(plan)
    path = plan.folder / PLAN_FILE
    data = json.loads(path.read_text())
    data["registered"]["primary"] = None
    data["registered_sha256"] = sha256(data["registered"])
    path.write_text(json.dumps(data))
    text = report(plan.folder)
    assert "ALARM, the registered plan was changed" in text
    assert "The test split stays closed: the registered plan was changed" in text


def test_the_published_protocol_trains_without_a_final_test(plan_for: Callable[..., Plan]) -> None:
    plan = plan_for(protocol="published", variants="baseline", seeds=1, steps=1)
    train(plan)
    assert [record.test for record in read_records(plan.folder)] == [{}]
    assert "Final test" not in report(plan.folder)
