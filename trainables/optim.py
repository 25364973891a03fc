"""Optimizers and the learning-rate schedule.

Muon: Jordan et al., https://kellerjordan.github.io/posts/muon/; used on the matrices of the blocks, AdamW on the rest.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from moe_models.parameters import is_matrix
from trainables.config import TrainingConfig

NEWTON_SCHULZ_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5
NEWTON_SCHULZ_EPS = 1e-7


@contextmanager
def full_precision() -> Iterator[None]:
    """Keep fp32 products of matrices from TF32, which some GPU images turn on for all of torch.

    Newton and Schulz's iteration makes its rounding much larger: a good part of a step would be rounding.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def newton_schulz_factor(gram_NRR: Tensor) -> Tensor:
    """Return P with P·X the matrix X, its singular values pushed towards 1 (roughly into 0.7 to 1.2), given XXᵀ; fp32.

    Five steps of the quintic iteration X <- B·X, B = a + bA + cA², A = XXᵀ, from X scaled to Frobenius norm 1. All B
    are polynomials of the same symmetric matrix and commute: A <- BAB and P <- BP need X itself never. For wide X that
    is half the work of the definition, and no copy of X is made.
    """
    a, b, c = NEWTON_SCHULZ_COEFFICIENTS
    squared_norm = gram_NRR.diagonal(dim1=-2, dim2=-1).sum(-1).clamp(min=NEWTON_SCHULZ_EPS**2)[:, None, None]
    gram = gram_NRR / squared_norm
    product = factor = _polynomial(gram, a, b, c)
    for _ in range(NEWTON_SCHULZ_STEPS - 1):
        gram = factor @ gram @ factor
        factor = _polynomial(gram, a, b, c)
        product = factor @ product
    return product / squared_norm.sqrt()


def _polynomial(gram_NRR: Tensor, a: float, b: float, c: float) -> Tensor:
    """Return a + b·gram + c·gram² for N symmetric matrices."""
    result = torch.baddbmm(gram_NRR, gram_NRR, gram_NRR, beta=b, alpha=c)
    result.diagonal(dim1=-2, dim2=-1).add_(a)
    return result


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised: p <- p - lr · sqrt(max(1, rows / columns)) · newton_schulz(Nesterov momentum).

    A parameter of three dimensions is a stack of matrices (experts), each orthogonalised by itself. All matrices of
    one smaller side go through the iteration as one batch. No weight decay. Updates are counted, as AdamW does.

    Args:
        params: matrices or stacks of matrices.
        lr: learning rate.
        momentum: weight of the past in the exponential average of gradients.
    """

    def __init__(self, params: Iterable[Tensor], *, lr: float, momentum: float) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update all parameters that have a gradient."""
        assert closure is None, "Muon evaluates no closure"
        with full_precision():
            for group in self.param_groups:
                self._step_group(group)

    def _step_group(self, group: dict[str, Any]) -> None:
        parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
        if not parameters:
            return
        gradients = [parameter.grad for parameter in parameters]
        momenta = [self._momentum(parameter) for parameter in parameters]
        for parameter in parameters:
            self.state[parameter]["step"] += 1
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        updates = torch._foreach_lerp(gradients, momenta, group["momentum"])

        stacks = [update.reshape(-1, *update.shape[-2:]) for update in updates]
        by_size: dict[int, list[int]] = defaultdict(list)
        grams = [stack.mT @ stack if _is_tall(stack) else stack @ stack.mT for stack in stacks]
        for index, gram in enumerate(grams):
            by_size[gram.shape[-1]].append(index)
        for indices in by_size.values():
            factors = newton_schulz_factor(torch.cat([grams[index] for index in indices]))
            parts = factors.split([len(grams[index]) for index in indices])
            for index, factor in zip(indices, parts, strict=True):
                stack, parameter = stacks[index], parameters[index]
                rows, columns = parameter.shape[-2:]
                product = (stack, factor) if _is_tall(stack) else (factor, stack)
                step = -group["lr"] * math.sqrt(max(1.0, rows / columns))
                parameter.view(-1, rows, columns).baddbmm_(*product, alpha=step)

    def _momentum(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if not state:
            state |= {"momentum": torch.zeros_like(parameter), "step": 0}
        return state["momentum"]


def _is_tall(stack_NRC: Tensor) -> bool:
    return stack_NRC.shape[-2] > stack_NRC.shape[-1]


def build_optimizers(model: nn.Module, config: TrainingConfig) -> list[torch.optim.Optimizer]:
    """Return the optimizers of a model; the first one's learning rate is the one reported.

    `muon`: Muon on the blocks' matrices, AdamW on embedding (and tied head), gains and biases. `adamw`: AdamW alone.
    """
    matrices: list[Tensor] = []
    rest: list[Tensor] = []
    for name, parameter in model.named_parameters():
        (matrices if name.startswith("layers.") and is_matrix(name, parameter) else rest).append(parameter)
    if config.optimizer == "adamw":
        return [_adamw([*matrices, *rest], config)]
    muon = Muon(matrices, lr=config.muon_learning_rate, momentum=config.muon_momentum)
    return [muon, _adamw(rest, config)]


def _adamw(params: Sequence[Tensor], config: TrainingConfig) -> torch.optim.AdamW:
    return torch.optim.AdamW(params, lr=config.adamw_learning_rate, weight_decay=config.weight_decay, fused=True)


def averaged_gradients(optimizer: torch.optim.Optimizer) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the parameters that an optimizer has updated, each with the average of gradients that it keeps."""
    name = "momentum" if isinstance(optimizer, Muon) else "exp_avg"
    for parameter, state in optimizer.state.items():
        yield parameter, state[name]


def learning_rate_factor(update: int, config: TrainingConfig) -> float:
    """Return the factor on the base learning rates at an update (from 0): linear warm-up, then a cosine.

    The last update of the horizon, number `horizon - 1`, runs at exactly `final_learning_rate_fraction`, unless the
    warm-up takes all updates: then at 1.
    """
    warmup = round(config.warmup_fraction * config.horizon)
    if update < warmup:
        return (update + 1) / warmup
    progress = (update + 1 - warmup) / max(1, config.horizon - warmup)
    final = config.final_learning_rate_fraction
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))
