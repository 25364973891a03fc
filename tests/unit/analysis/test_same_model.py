from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from analysis.audits.same_model import mark_same_models
from analysis.loading.load import load_results
from analysis.schema import DIVERGED, INVALID, NOTE, TrialRecord, read_records
from tests.fakes import make_study

PLAN = {
    "cells": [{"name": name} for name in ("baseline", "moe", "rmsnorm", "rmsnorm_moe", "mlp")],
    "negative_control": {"factor": "rmsnorm"},
}
CPU = {"device": "cpu", "hardware": "2 cores", "versions": "torch 2"}


def record(cell: str, seed: int, digest: str, config: dict[str, Any] | None = None, **fields: Any) -> TrialRecord:
    factors = {name: int(name in cell) for name in ("moe", "rmsnorm", "mlp")}
    loss = fields.pop("loss", 3.0)
    rows = [{"step": 4, "val_loss": loss, "train_loss": None if loss is None else loss - 0.1}]
    return TrialRecord(
        study="s", cell=cell, scale="cpu", factors=factors, seed=seed, config_hash=f"{cell}{seed}", rows=rows,
        digest=digest, config={} if config is None else {"model": config, "training": {}, "data": {}},
        **{"status": "finished", "environment": CPU, **fields},
    )  # fmt: skip


def severities(records: list[TrialRecord], plan: dict[str, Any] = PLAN) -> dict[str, str]:
    return {r.config_hash: r.audits[-1].severity for r in mark_same_models(records, plan) if r.audits}


def evidence(records: list[TrialRecord]) -> dict[str, str]:
    return {r.config_hash: r.audits[-1].evidence for r in mark_same_models(records, PLAN) if r.audits}


def test_equal_parameters_after_three_updates_in_every_seed_are_one_model() -> None:
    records = [record(cell, seed, f"d{seed}") for seed in (0, 1) for cell in ("moe", "baseline", "mlp")]
    records[-1] = dataclasses.replace(records[-1], digest="other")
    assert severities(records) == {"moe0": INVALID, "moe1": INVALID}, "the plan's first cell keeps its results"
    marked = {r.config_hash: r for r in mark_same_models(records, PLAN)}
    assert marked["moe0"].audits[0].evidence == (
        "the parameters of 'baseline' after 3 updates to the last bit in 2 of 2 seeds: one model under two names"
    )
    assert marked["moe0"].result_row()["invalid"] == "same_model"


def test_seeds_that_train_one_run_are_counted_once() -> None:
    """As where a seed decides nothing: ten equal runs would be a difference without any spread."""
    records = [record("moe", seed, "same") for seed in (2, 0, 1)] + [record("moe", 3, "d"), record("baseline", 0, "b")]
    assert severities(records) == {"moe1": INVALID, "moe2": INVALID}
    assert evidence(records)["moe2"] == (
        "the parameters of seed 0 after 3 updates to the last bit: one run under two seeds"
    )
    assert severities([record("moe", seed, "") for seed in (0, 1)]) == {}, "too short a run has no digest"


def test_one_configuration_is_one_model_whatever_it_drew_and_is_called() -> None:
    """As the published grid had it: `moe` trained the baseline, from another random state."""
    records = [record("baseline", 0, "a", {"d": 1}), record("moe", 0, "b", {"d": 1}), record("mlp", 0, "c", {"d": 2})]
    records[1] = dataclasses.replace(records[1], config={**records[1].config, "place": 3, "declared_model": {"d": 3}})
    assert severities(records) == {"moe0": INVALID}
    assert evidence(records)["moe0"] == "it trained the configuration of 'baseline': one model under two names"
    other = dataclasses.replace(records[1], config={**records[1].config, "data": {"content_hash": "1"}})
    assert severities([records[0], other]) == {}


def test_one_model_on_two_declared_orders_of_the_data_is_two_cells() -> None:
    """As sweeps/variance.py has it: the order of the data is its factor."""
    records = [record("baseline", 0, "a", {"d": 1}), record("moe", 0, "b", {"d": 1}, loss=3.5)]
    order = dataclasses.replace(records[1], config={**records[1].config, "data_seed": 1})
    assert severities(records) == {"moe0": INVALID}
    assert severities([records[0], order]) == {}
    same = dataclasses.replace(order, cell="mlp", config_hash="mlp0")
    assert severities([records[0], order, same]) == {"mlp0": INVALID}


def test_the_negative_control_is_a_note_and_only_by_itself() -> None:
    records = [record(cell, 0, "a") for cell in ("baseline", "rmsnorm")]
    assert severities(records) == {"rmsnorm0": NOTE}
    assert severities(records, {**PLAN, "negative_control": None}) == {"rmsnorm0": INVALID}
    pairs = [*records, record("moe", 0, "b"), record("rmsnorm_moe", 0, "b")]
    assert severities(pairs) == {"rmsnorm0": NOTE, "rmsnorm_moe0": NOTE}
    one = [record(cell, 0, "a") for cell in ("baseline", "rmsnorm", "moe", "rmsnorm_moe")]
    assert severities(one) == {"rmsnorm0": NOTE, "moe0": INVALID, "rmsnorm_moe0": INVALID}


def test_different_runs_are_left_alone() -> None:
    base = record("baseline", 0, "a")
    assert severities([base, record("moe", 1, "a")]) == {}, "of another seed"
    assert severities([base, record("moe", 0, "b")]) == {}
    assert severities([base, record("moe", 0, "", loss=None, status=DIVERGED)]) == {}, "too short to tell"
    assert severities([record("baseline", 0, ""), record("moe", 0, "")]) == {}, "from before there were digests"
    assert severities([base, record("moe", 0, "a"), record("baseline", 1, "b"), record("moe", 1, "c")]) == {}


def test_a_twin_that_diverged_is_a_twin() -> None:
    records = [record(cell, 0, "a", loss=None, status=DIVERGED) for cell in ("baseline", "moe")]
    assert severities(records) == {"moe0": INVALID}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, "yet two equal runs on one CPU ended 0.5 nats apart: training is not deterministic"),
        ({"status": DIVERGED}, "yet of two equal runs on one CPU one diverged and one finished"),
        ({"environment": {**CPU, "device": "cuda"}}, None),
        ({"environment": {**CPU, "versions": "torch 3"}}, None),
        ({"environment": {}}, None),
        ({"config": {"model": {"d": 1}, "training": {}, "data": {}, "place": 1}}, None),
    ],
)
def test_equal_runs_on_a_cpu_must_end_alike(change: dict[str, Any], said: str | None) -> None:
    one, other = record("baseline", 0, "a", {"d": 1}), record("moe", 0, "a", {"d": 1}, loss=3.5)
    alike = dataclasses.replace(other, rows=one.rows)
    assert "deterministic" not in evidence([one, alike])["moe0"]
    found = evidence([one, dataclasses.replace(other, **change)])["moe0"]
    assert (said in found) if said else ("deterministic" not in found)
    control = dataclasses.replace(other, cell="rmsnorm", config_hash="r", factors={**one.factors, "rmsnorm": 1})
    assert severities([one, control]) == {"r": INVALID}
    assert severities([one, dataclasses.replace(control, rows=one.rows)]) == {"r": NOTE}


def test_a_loaded_study_is_audited(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "s", cells=("baseline", "moe"), seeds=3)
    assert set(load_results(folder).runs[INVALID]) == {""}
    for r in read_records(folder):
        dataclasses.replace(r, digest=f"seed {r.seed}").write(folder / "records")
    runs = load_results(folder).runs
    assert set(runs.loc[runs["cell"] == "moe", INVALID]) == {"same_model"}
    assert set(runs.loc[runs["cell"] == "baseline", INVALID]) == {""}
