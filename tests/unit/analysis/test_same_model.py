from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from analysis.load import load_results
from analysis.same_model import mark_same_models
from analysis.schema import DIVERGED, INVALID, NOTE, TrialRecord, read_records
from tests.fakes import make_study

PLAN = {
    "cells": [{"name": name} for name in ("baseline", "moe", "rmsnorm", "rmsnorm_moe", "mlp")],
    "negative_control": {"factor": "rmsnorm"},
}


def record(cell: str, seed: int, loss: float | None, **fields: Any) -> TrialRecord:
    factors = {name: int(name in cell) for name in ("moe", "rmsnorm", "mlp")}
    rows = [{"step": 4, "val_loss": loss, "train_loss": None if loss is None else loss - 0.1}]
    return TrialRecord(
        study="s", cell=cell, scale="cpu", factors=factors, seed=seed, config_hash=f"{cell}{seed}", rows=rows,
        **{"status": "finished", **fields},
    )  # fmt: skip


def severities(records: list[TrialRecord], plan: dict[str, Any] = PLAN) -> dict[str, str]:
    return {r.config_hash: r.audits[-1].severity for r in mark_same_models(records, plan) if r.audits}


def test_equal_losses_in_every_seed_are_one_model() -> None:
    records = [record(cell, seed, 3.0 + seed) for seed in (0, 1) for cell in ("moe", "baseline", "mlp")]
    records[-1] = dataclasses.replace(records[-1], rows=[{"step": 4, "val_loss": 4.0 + 1e-15, "train_loss": 3.9}])
    assert severities(records) == {"moe0": INVALID, "moe1": INVALID}, "the plan's first cell keeps its results"
    marked = {r.config_hash: r for r in mark_same_models(records, PLAN)}
    assert marked["moe0"].audits[0].evidence == (
        "the losses of 'baseline' to the last bit in 2 of 2 seeds: one model under two names"
    )
    assert marked["moe0"].result_row()["invalid"] == "same_model"


def test_the_negative_control_is_a_note_and_only_by_itself() -> None:
    records = [record(cell, 0, 3.0) for cell in ("baseline", "rmsnorm")]
    assert severities(records) == {"rmsnorm0": NOTE}
    assert severities(records, {**PLAN, "negative_control": None}) == {"rmsnorm0": INVALID}
    pairs = [*records, record("moe", 0, 2.0), record("rmsnorm_moe", 0, 2.0)]
    assert severities(pairs) == {"rmsnorm0": NOTE, "rmsnorm_moe0": NOTE}
    one = [record(cell, 0, 3.0) for cell in ("baseline", "rmsnorm", "moe", "rmsnorm_moe")]
    assert severities(one) == {"rmsnorm0": NOTE, "moe0": INVALID, "rmsnorm_moe0": INVALID}


@pytest.mark.parametrize(
    "other",
    [
        record("moe", 1, 3.0),  # of another seed
        record("moe", 0, 3.0 + 1e-12),
        record("moe", 0, None, status=DIVERGED),
    ],
)
def test_different_runs_are_left_alone(other: TrialRecord) -> None:
    assert severities([record("baseline", 0, 3.0), other]) == {}


def test_diverged_runs_are_nobodys_twins() -> None:
    assert severities([record(cell, 0, None, status=DIVERGED) for cell in ("baseline", "moe")]) == {}


def test_a_loaded_study_is_audited(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "s", cells=("baseline", "moe"), seeds=3)
    assert set(load_results(folder).runs[INVALID]) == {""}
    twins = {r.seed: r for r in read_records(folder) if r.cell == "baseline"}
    for r in read_records(folder):
        if r.cell == "moe":
            dataclasses.replace(r, rows=twins[r.seed].rows).write(folder / "records")
    runs = load_results(folder).runs
    assert set(runs.loc[runs["cell"] == "moe", INVALID]) == {"same_model"}
    assert set(runs.loc[runs["cell"] == "baseline", INVALID]) == {""}
