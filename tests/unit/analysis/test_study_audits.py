"""Audits that compare runs: `budget` and `replication`, and all of them on their way into MLflow and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis.audits import budget, replication
from analysis.loading.load import load_results
from analysis.reporting.report import write_report
from analysis.schema import DIVERGED, NOTE, WARNING, TrialRecord, read_records
from analysis.summary import analyse
from analysis.sync import sync_mlflow
from tests.fakes import make_study
from tests.fakes_results import make_results

CELLS = ("baseline", "mlp", "moe")
SEARCH = {
    "trials": 20, "space": {"rate": {"low": 0.001, "high": 0.1}}, "tokens": 1000, "max_tokens": 1200,
    "rungs": [1, 3], "best": {"rate": 0.02}, "edge": [],
}  # fmt: skip


def run(cell: str, seed: int, steps: int = 4, evaluations: int = 2, **fields: Any) -> TrialRecord:
    losses = [None] * (3 - evaluations) + [3.0] * evaluations
    rows = [{"step": steps, "tokens": steps * 1000, "val_loss": loss} for loss in losses]
    defaults = {"study": "s", "scale": "cpu", "factors": {}, "status": "finished", "config_hash": f"{cell}{seed}"}
    return TrialRecord(**{**defaults, "cell": cell, "seed": seed, "rows": rows, **fields})


def budgets(records: list[TrialRecord], **plan: Any) -> list[tuple[str, str, tuple[str, ...]]]:
    cells = [{"name": name} for name in CELLS]
    found = budget.audit(records, {"cells": cells, **plan})
    assert {item.audit.name for item in found} <= {budget.NAME}
    return [(item.audit.severity, item.audit.evidence, item.cells) for item in found]


RUNS = [run(cell, seed) for cell in CELLS for seed in (0, 1)]


def test_runs_with_as_much_of_everything_are_left_alone() -> None:
    assert budgets(RUNS) == []
    assert budgets([]) == []
    other_scale = [run(f"{cell}@big", 0, steps=9, scale="big") for cell in CELLS]
    assert budgets([*RUNS, *other_scale]) == [], "scales have budgets of their own"
    assert budgets([*RUNS, run("moe", 2, steps=1, status=DIVERGED)]) == [], "diverging is an outcome"


def test_a_run_with_another_budget_is_named_with_its_figures() -> None:
    found = budgets([*RUNS, run("mlp", 2, steps=3)])
    assert found == [
        (WARNING, "1 of 7 runs have other updates than 4: mlp, seed 2 (3)", ("mlp",)),
        (WARNING, "1 of 7 runs have other training tokens than 4,000: mlp, seed 2 (3,000)", ("mlp",)),
    ]
    ((severity, words, cells),) = budgets([*RUNS, *(run("moe", seed, evaluations=3) for seed in range(2, 7))])
    assert (severity, cells) == (WARNING, ("moe",))
    assert words.startswith("5 of 11 runs have other evaluations than 2: moe, seed 2 (3), moe, seed 3 (3)")
    assert words.endswith("and 1 more")


def test_searches_of_all_cells_are_alike() -> None:
    tuning = dict.fromkeys(CELLS, SEARCH)
    assert budgets(RUNS, tuning=tuning) == []
    ((severity, words, cells),) = budgets(RUNS, tuning=dict.fromkeys(CELLS[:2], SEARCH))
    assert (severity, words, cells) == (WARNING, "hyperparameters were searched for, but not of moe", ("moe",))
    found = budgets(RUNS, tuning={**tuning, "mlp": {**SEARCH, "trials": 40}})
    assert found == [(WARNING, "1 of 3 cells have other trials than 20: mlp (40)", ("mlp",))]
    wider = {**SEARCH, "space": {"rate": {"low": 0.001, "high": 1.0}}}
    ((severity, words, cells),) = budgets(RUNS, tuning={**tuning, "moe": wider})
    assert (severity, cells) == (WARNING, ("moe",))
    assert "other search spaces than" in words
    ((severity, words, _),) = budgets(RUNS, tuning={**tuning, "moe": {**SEARCH, "tokens": 900}})
    assert severity == NOTE
    assert "between 900 (moe) and 1,000 training tokens (baseline)" in words


def test_a_best_value_at_the_edge_of_its_range_is_a_warning() -> None:
    edge = {**SEARCH, "best": {"rate": 0.1}, "edge": ["rate"]}
    ((severity, words, cells),) = budgets(RUNS, tuning={**dict.fromkeys(CELLS, SEARCH), "mlp": edge})
    assert (severity, cells) == (WARNING, ("mlp",))
    assert words.startswith("the best rate of mlp, 0.1, lies at the edge of its range, 0.001 to 0.1")


@pytest.mark.parametrize(
    ("seeds", "words"),
    [(1, "n = 1: no effect size exists, no interval and no test"), (2, "n = 2: no effect size exists and no test")],
)
def test_too_few_seeds_for_an_effect_size_are_a_warning(seeds: int, words: str) -> None:
    results = make_results({"baseline": [3.0, 3.1][:seeds], "a": [2.9, 3.2][:seeds], "b": [2.8, 3.0][:seeds]})
    analysis = analyse(results)
    (found,) = analysis.study_audits
    assert (found.audit.name, found.audit.severity, found.cells) == (replication.NAME, WARNING, ("baseline", "b", "a"))
    assert found.audit.evidence.startswith(words)
    (row,) = analysis.audits.to_dict("records")
    assert (row["audit"], row["cells"], row["runs"]) == ("replication", "baseline, b, a", 3 * seeds)


def test_a_baseline_that_lacks_seeds_is_named_and_failed_runs_are_not_counted() -> None:
    analysis = analyse(make_results({"baseline": [3.0, "failed", "failed"], "a": [2.9, 3.2, 3.1]}))
    (row,) = (row for row in analysis.audits.to_dict("records") if row["audit"] == replication.NAME)
    assert (row["cells"], row["runs"]) == ("baseline, a", 1 + 3)
    assert row["evidence"].startswith("n = 1: ")


def test_enough_seeds_and_no_seeds_say_nothing_of_replication() -> None:
    assert replication.audit(pd.DataFrame({"cell": ["a", "b"], "baseline": ["c", "c"], "n": [3, 0]})) == []
    assert analyse(make_results({"baseline": [3.0, 3.1, 3.2], "a": [2.9, 3.0, 3.1]})).study_audits == ()


def test_all_findings_survive_mlflow(tmp_path: Path, new_database: Callable[[Path], str]) -> None:
    more = {"protocol": "sound", "flaws": []}
    folder = make_study(tmp_path / "s", cells=CELLS, seeds=2, documents=30, plan=more, audits={})
    for record in read_records(folder):
        rows = [row for row in record.rows if (record.cell, record.seed) != ("moe", 1) or row["val_loss"] is None]
        rows = [*rows[:-1], record.rows[-1]]
        twin = record.cell if record.cell != "mlp" else "baseline"
        config = {"data": {"content_hash": "0"}, "model": {"cell": record.cell}}
        dataclasses.replace(
            record, rows=rows, digest=f"{twin} {record.seed}", params_dead=len(record.cell), config=config
        ).write(folder / "records")
    here = load_results(folder)
    write_report(here, folder)
    uri = new_database(tmp_path)
    sync_mlflow(folder, uri)
    there = load_results(uri)
    assert there.params_dead == here.params_dead == {(c, s): len(c) for c in CELLS for s in (0, 1)}
    assert list(there.runs["invalid"]) == list(here.runs["invalid"])
    assert set(here.runs.loc[here.runs["cell"] == "mlp", "invalid"]) == {"same_model"}
    names = {"budget", "evaluation_noise", "replication"}
    assert {item.audit.name for item in analyse(here).study_audits} == names
    assert {item.audit.name for item in analyse(there).study_audits} == names
    assert len(analyse(there).study_audits) == len(names), "found again and read back are one"
    assert there.scores == {}
    assert analyse(there).evaluation_noise.empty
