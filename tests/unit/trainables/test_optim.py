"""Muon against torch's, the schedule, which parameter goes where."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from moe_models.model import build_model
from trainables.config import TrainingConfig
from trainables.optim import Muon, build_optimizers, learning_rate_factor, newton_schulz_factor
from trainables.scales import SCALES


def training(**changes: object) -> TrainingConfig:
    settings = {"updates": 100, "batch_size": 2, "seq_len": 8}
    return TrainingConfig(**(settings | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(16, 16), (8, 40), (40, 8), (8, 12), (64, 256)])
def test_muon_is_torchs_muon(shape: tuple[int, int]) -> None:
    stream = torch.Generator().manual_seed(0)
    start = torch.randn(shape, generator=stream)
    mine, theirs = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    my_optimizer = Muon([mine], lr=0.02, momentum=0.95)
    their_optimizer = torch.optim.Muon([theirs], lr=0.02, momentum=0.95, weight_decay=0.0)
    for _ in range(5):
        gradient = torch.randn(shape, generator=stream)
        mine.grad, theirs.grad = gradient.clone(), gradient.clone()
        my_optimizer.step()
        their_optimizer.step()
    moved = (theirs - start).norm()
    # torch iterates in bf16, this in fp32: they agree to bf16's rounding.
    assert (mine - theirs).norm() < 0.02 * moved


def test_stacked_experts_are_orthogonalised_one_by_one() -> None:
    stream = torch.Generator().manual_seed(1)
    start, gradient = torch.randn(2, 3, 24, 8, generator=stream)
    stacked = torch.nn.Parameter(start.clone())
    single = [torch.nn.Parameter(expert.clone()) for expert in start]
    stacked.grad = gradient.clone()
    for parameter, expert in zip(single, gradient, strict=True):
        parameter.grad = expert.clone()
    Muon([stacked], lr=0.1, momentum=0.9).step()
    Muon(single, lr=0.1, momentum=0.9).step()
    torch.testing.assert_close(stacked, torch.stack(list(single)), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shape", [(3, 16, 16), (3, 8, 40)])
def test_newton_schulz_equals_the_definition_in_fp64(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    expected = x.double() / x.double().norm(dim=(-2, -1), keepdim=True)
    for _ in range(5):
        gram = expected @ expected.mT
        expected = 3.4445 * expected - 4.7750 * gram @ expected + 2.0315 * gram @ gram @ expected
    torch.testing.assert_close((newton_schulz_factor(x @ x.mT) @ x).double(), expected, rtol=1e-3, atol=1e-4)
    singular = torch.linalg.svdvals(newton_schulz_factor(x @ x.mT) @ x)
    assert singular.max() < 1.3


class Precisions(TorchDispatchMode):
    """Notes the precision in force at each product of matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if "mm" in str(func):
            self.seen.append(torch.get_float32_matmul_precision())
        return func(*args, **(kwargs or {}))


def test_muon_s_products_are_in_full_precision_whatever_the_others_are() -> None:
    parameter = torch.nn.Parameter(torch.ones(4, 6))
    parameter.grad = torch.ones(4, 6)
    torch.set_float32_matmul_precision("high")  # as an environment variable of torch's makes it
    try:
        with Precisions() as products:
            Muon([parameter], lr=0.01, momentum=0.9).step()
        after = torch.get_float32_matmul_precision()
    finally:
        torch.set_float32_matmul_precision("highest")
    assert set(products.seen) == {"highest"}
    assert after == "high"


def test_a_zero_gradient_moves_nothing() -> None:
    parameter = torch.nn.Parameter(torch.ones(4, 9))
    parameter.grad = torch.zeros(4, 9)
    Muon([parameter], lr=0.1, momentum=0.9).step()
    assert torch.equal(parameter, torch.ones(4, 9))


def test_muon_takes_the_blocks_matrices_and_adamw_the_rest() -> None:
    config = SCALES["cpu"].model(attention="mla_rope_only", norm="rmsnorm", feed_forward="moe_softmax_biased_relu")
    model = build_model(config, seed=0)
    muon, adamw = build_optimizers(model, training())
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    in_muon = {names[id(p)] for p in muon.param_groups[0]["params"]}
    in_adamw = {names[id(p)] for p in adamw.param_groups[0]["params"]}
    assert in_muon | in_adamw == set(names.values())
    assert not in_muon & in_adamw
    assert "embedding" in in_adamw
    assert "layers.0.feed_forward.experts.up" in in_muon
    assert "layers.0.feed_forward.router.weight" in in_muon
    assert "layers.0.feed_forward.experts.up_bias" in in_adamw  # two dimensions, but no matrix
    assert all("norm" in name or name.endswith("bias") or name == "embedding" for name in in_adamw)
    (alone,) = build_optimizers(model, training(optimizer="adamw"))
    assert len(alone.param_groups[0]["params"]) == len(names)


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_unused_parameters_stay_as_they_are(optimizer: str) -> None:
    config = SCALES["cpu"].model(attention="mha", norm="rmsnorm", feed_forward="unused_glm4")
    model, start = build_model(config, seed=0), build_model(config, seed=0)
    tokens_BT = torch.arange(128).view(2, 64)
    model.loss(model(tokens_BT), tokens_BT + 1).backward()
    for each in build_optimizers(model, training(optimizer=optimizer)):
        each.step()
        each.load_state_dict(each.state_dict())
    for (name, parameter), before in zip(model.named_parameters(), start.parameters(), strict=True):
        assert torch.equal(parameter, before) == (".unused." in name), name


def test_schedule_ends_where_training_ends() -> None:
    config = training(updates=200, warmup_fraction=0.1, final_learning_rate_fraction=0.1)
    factors = [learning_rate_factor(update, config) for update in range(200)]
    assert factors[0] == pytest.approx(1 / 20)
    assert factors[19] == 1.0
    assert factors[-1] == pytest.approx(0.1)
    assert all(a < b for a, b in itertools.pairwise(factors[:20]))
    assert all(a > b for a, b in itertools.pairwise(factors[19:]))
    middle = (20 + 200) // 2 - 1
    assert factors[middle] == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 2)))


@pytest.mark.parametrize("updates", [1, 2, 3, 7])
def test_short_schedules_are_defined_everywhere(updates: int) -> None:
    factors = [learning_rate_factor(update, training(updates=updates)) for update in range(updates)]
    assert all(0 < factor <= 1 for factor in factors)
    assert factors[-1] == pytest.approx(0.1)
