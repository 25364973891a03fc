"""Experts' products: the cache-sized way gives what the plain way gives, bit for bit."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moe_models.activations import ACTIVATIONS
from moe_models.grouped import _WhereUsed, grouped_linear, grouped_mlp


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_s_gradient_is_its_own(name: str) -> None:
    x = torch.linspace(-4, 4, 33, dtype=torch.float64, requires_grad=True)
    grad = torch.linspace(1, 2, 33, dtype=torch.float64)
    activation = ACTIVATIONS[name]
    (expected,) = torch.autograd.grad(activation.value(x), x, grad)
    torch.testing.assert_close(activation.gradient(grad, x.detach()), expected, rtol=0, atol=0)
    assert str(activation) == name


@settings(max_examples=60)
@given(
    counts=st.lists(st.integers(0, 9), min_size=1, max_size=4).filter(any),
    gated=st.booleans(),
    name=st.sampled_from(sorted(ACTIVATIONS)),
    seed=st.integers(0, 2**31),
)
def test_grouped_mlp_is_the_composition_bit_for_bit(counts: list[int], gated: bool, name: str, seed: int) -> None:
    stream = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=stream).requires_grad_()

    width, hidden, experts = 16, 64, len(counts)  # whole vectors: elsewhere the last bit may differ
    x, up, down = normal(sum(counts), width), normal(experts, hidden, width), normal(experts, width, hidden)
    gate = normal(experts, hidden, width) if gated else None
    inputs = [x, up, down, *([gate] if gate is not None else [])]
    activation, rows = ACTIVATIONS[name], torch.tensor(counts)

    def composed() -> Tensor:
        h = grouped_linear(x, up, None, rows)
        h = activation.value(h) if gate is None else activation.value(grouped_linear(x, gate, None, rows)) * h
        return grouped_linear(h, down, None, rows)

    one, other = grouped_mlp(x, up, gate, down, activation, rows), composed()
    grad = torch.randn(one.shape, generator=stream)
    assert torch.equal(one, other)
    for ours, theirs in zip(
        torch.autograd.grad(one, inputs, grad), torch.autograd.grad(other, inputs, grad), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_an_expert_without_rows_has_no_gradient_whatever_a_kernel_leaves_there() -> None:
    weight = torch.ones(3, 2, 4, requires_grad=True)
    left = torch.tensor([1.0, float("nan"), 3.0])[:, None, None].expand_as(weight)
    passed = _WhereUsed.apply(weight, torch.tensor([2, 0, 1]))
    assert torch.equal(passed, weight)
    (gradient,) = torch.autograd.grad(passed, weight, left)
    assert gradient[:, 0, 0].tolist() == [1.0, 0.0, 3.0]
