"""Our kernels beside the obvious way, interleaved in one run: median time and ratio at the sizes of both scales.

    python benchmarks/kernels.py

One thread, as a trial has on a CPU. The results of each pair are compared before they are timed.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.command import run
from moe_models.activations import ACTIVATIONS
from moe_models.grouped import arrange_by_expert, combine, dispatch, grouped_linear, grouped_mlp
from moe_models.loss import linear_cross_entropy
from trainables.optim import NEWTON_SCHULZ_COEFFICIENTS, NEWTON_SCHULZ_STEPS, newton_schulz_factor

REPEATS = 15
SIZES = {"cpu": (1_024, 64, 256, 1_024), "paper_256d": (4_096, 256, 1_024, 49_152)}
"""Tokens a micro-batch, width, feed-forward width, vocabulary."""
EXPERTS, TOP_K, LAYERS = 8, 2, 2

Way = Callable[[], list[Tensor]]


def with_gradients(output: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    """Return the output and the gradients of its sum of squares."""
    return [output.detach(), *torch.autograd.grad(output.square().sum(), inputs)]


def loss_ways(size: tuple[int, int, int, int]) -> tuple[Way, Way]:
    """Head and cross-entropy: fused in chunks, and torch's on the whole logits."""
    tokens, width, _, vocabulary = size
    stream = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, width, generator=stream, requires_grad=True)
    weight = torch.randn(vocabulary, width, generator=stream).mul_(0.1).requires_grad_()
    targets = torch.randint(0, vocabulary, (tokens,), generator=stream)
    return (
        lambda: with_gradients(linear_cross_entropy(hidden, weight, targets), [hidden, weight]),
        lambda: with_gradients(F.cross_entropy(F.linear(hidden, weight), targets), [hidden, weight]),
    )


def expert_ways(size: tuple[int, int, int, int]) -> tuple[Way, Way]:
    """Plain experts: sorted rows, one expert after another, and a loop over experts with masks."""
    tokens, width, d_ff, _ = size
    stream = torch.Generator().manual_seed(0)
    x = torch.randn(tokens, width, generator=stream, requires_grad=True)
    up = torch.randn(EXPERTS, d_ff, width, generator=stream).mul_(0.1).requires_grad_()
    down = torch.randn(EXPERTS, width, d_ff, generator=stream).mul_(0.1).requires_grad_()
    scores = torch.rand(tokens, EXPERTS, generator=stream)
    weights, experts = scores.topk(TOP_K, dim=-1)
    rows = arrange_by_expert(experts, EXPERTS)

    def ours() -> list[Tensor]:
        y = grouped_mlp(dispatch(x, rows), up, None, down, ACTIVATIONS["silu"], rows.counts_E)
        return with_gradients(combine(y, weights, rows), [x, up, down])

    def loop() -> list[Tensor]:
        y = torch.zeros_like(x)
        for expert in range(EXPERTS):
            token, slot = torch.where(experts == expert)
            part = F.linear(F.silu(F.linear(x[token], up[expert])), down[expert])
            y = y.index_add(0, token, part * weights[token, slot].unsqueeze(1))
        return with_gradients(y, [x, up, down])

    return ours, loop


def gated_ways(size: tuple[int, int, int, int]) -> tuple[Way, Way]:
    """Gated experts on sorted rows: one expert after another, and one product of all experts after another."""
    tokens, width, d_ff, _ = size
    stream = torch.Generator().manual_seed(0)
    x = torch.randn(tokens * TOP_K, width, generator=stream, requires_grad=True)
    up, gate = (torch.randn(EXPERTS, d_ff, width, generator=stream).mul_(0.1).requires_grad_() for _ in range(2))
    down = torch.randn(EXPERTS, width, d_ff, generator=stream).mul_(0.1).requires_grad_()
    counts = torch.full((EXPERTS,), tokens * TOP_K // EXPERTS)

    def by_product() -> list[Tensor]:
        hidden = F.silu(grouped_linear(x, gate, None, counts)) * grouped_linear(x, up, None, counts)
        return with_gradients(grouped_linear(hidden, down, None, counts), [x, up, gate, down])

    def by_expert() -> list[Tensor]:
        return with_gradients(grouped_mlp(x, up, gate, down, ACTIVATIONS["silu"], counts), [x, up, gate, down])

    return by_expert, by_product


def muon_ways(size: tuple[int, int, int, int]) -> tuple[Way, Way]:
    """Orthogonalising the experts' matrices: by the product of polynomials, and by iterating the matrices."""
    _, width, d_ff, _ = size
    matrices = torch.randn(2 * LAYERS * EXPERTS, width, d_ff, generator=torch.Generator().manual_seed(0))

    def definition() -> list[Tensor]:
        a, b, c = NEWTON_SCHULZ_COEFFICIENTS
        x = matrices / matrices.norm(dim=(-2, -1), keepdim=True)
        for _ in range(NEWTON_SCHULZ_STEPS):
            gram = x @ x.mT
            x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
        return [x]

    return lambda: [newton_schulz_factor(matrices @ matrices.mT) @ matrices], definition


def compare(ours: Way, theirs: Way) -> tuple[float, float]:
    """Check that two ways agree; return their median seconds, timed in turn."""
    for one, other in zip(ours(), theirs(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4 * max(1.0, other.abs().max().item()))
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(REPEATS):
        for way, times in zip((ours, theirs), seconds, strict=True):
            started = time.perf_counter()
            way()
            times.append(time.perf_counter() - started)
    return statistics.median(seconds[0]), statistics.median(seconds[1])


def main() -> int:
    """Compare and time all pairs, and print the table."""
    torch.set_num_threads(1)
    table = Table("kernel", "scale", "ours, ms", "obvious way, ms", "ratio")
    kernels = {
        "head and loss": loss_ways,
        "experts": expert_ways,
        "gated experts": gated_ways,
        "Newton-Schulz": muon_ways,
    }
    for kernel, ways in kernels.items():
        for scale, size in SIZES.items():
            ours, theirs = compare(*ways(size))
            table.add_row(kernel, scale, f"{ours * 1e3:.1f}", f"{theirs * 1e3:.1f}", f"{theirs / ours:.2f}")
    Console().print(table)
    return 0


if __name__ == "__main__":
    run(main)
