from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from sweeps.engine import probe
from sweeps.engine.plan import Plan
from sweeps.engine.probe import estimate_runs, faster_precision, matmul_rate

CPU = torch.device("cpu")


def test_the_rate_of_matrix_products_is_that_of_a_computer() -> None:
    assert 1e8 < matmul_rate(CPU) < 1e13


def test_an_estimate_comes_from_measured_updates(
    plan_for: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PROBE_SECONDS", "LONGEST_UPDATE_SECONDS"):  # this machine may be busy
        monkeypatch.setattr(probe, name, 60.0)
    plan = plan_for(variants="baseline,mlp")
    threads = torch.get_num_threads()
    estimate = estimate_runs([(cell.config, plan.corpora["cpu"]) for cell in plan.cells], CPU)
    assert estimate.method == "from measured updates of 2 of 2 cells"
    assert all(0 < seconds < 60 for seconds in estimate.run_seconds)
    assert torch.get_num_threads() == threads


def test_an_estimate_counts_updates_and_evaluations(
    plan_for: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "matmul_rate", lambda _: 1e12)  # however busy this machine is
    monkeypatch.setattr(probe, "update_seconds", lambda configs, *_, **__: [2.0] * len(configs))
    plan = plan_for(variants="baseline")
    config, corpus = plan.cells[0].config, plan.corpora["cpu"]
    evaluation = 2.0 * (len(corpus.validation.tokens) - 1) / config.training.tokens_per_update / 3
    both = 2 * evaluation  # of the validation split, and at the end of the test split
    assert estimate_runs([(config, corpus)], CPU).run_seconds == (pytest.approx(4 * 2.0 + both),)


def test_what_would_take_too_long_is_computed_from_flops(
    plan_for: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "matmul_rate", lambda _: 1e6)
    monkeypatch.setattr(probe, "update_seconds", lambda *_, **__: pytest.fail("an update was tried"))
    plan = plan_for(variants="baseline")
    config, corpus = plan.cells[0].config, plan.corpora["cpu"]
    estimate = estimate_runs([(config, corpus)], CPU)
    assert "FLOPs" in estimate.method
    assert estimate.run_seconds[0] > plan.cells[0].cost / 1e6
    assert faster_precision(config, corpus, CPU) == "fp32"


@pytest.mark.parametrize(("bf16_seconds", "chosen"), [(0.5, "bf16"), (0.85, "fp32"), (2.0, "fp32")])
def test_bf16_is_taken_where_it_is_clearly_faster(
    plan_for: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch, bf16_seconds: float, chosen: str
) -> None:
    seconds = {"fp32": 1.0, "bf16": bf16_seconds}
    monkeypatch.setattr(probe, "matmul_rate", lambda _: 1e12)
    monkeypatch.setattr(
        probe, "update_seconds", lambda configs, *_, **__: [seconds[c.training.precision] for c in configs]
    )
    plan = plan_for(variants="baseline")
    assert faster_precision(plan.cells[0].config, plan.corpora["cpu"], CPU) == chosen
