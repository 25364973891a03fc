"""Head and cross-entropy, fused: the logits of a chunk of tokens live only until they have served.

Shapes: N tokens, C tokens of one chunk, D model width, V vocabulary. N·V elements become C·V (idea: Hsu et al., Liger
Kernel, https://arxiv.org/abs/2410.10989); on a CPU a chunk also stays in the cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

IGNORED_TARGET = -100
"""A target that is not scored (padding)."""

CHUNK_ELEMENTS = {"cpu": 2**18, "cuda": 2**26}
"""Logits held at a time, by device type."""


def linear_cross_entropy(hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
    """Return the mean cross-entropy in nats of softmax(hidden · weightᵀ) over the scored targets.

    Equal to `F.cross_entropy(F.linear(hidden, weight).float(), targets, ignore_index=IGNORED_TARGET)` up to rounding.
    Under autocast the matrix products run in its dtype; softmax and loss are always fp32. Gradients are formed in the
    forward pass, so it costs as much where none is wanted: score with `token_losses` then.
    """
    dtype = _matmul_dtype(hidden_ND)
    with torch.autocast(hidden_ND.device.type, enabled=False):
        return _LinearCrossEntropy.apply(hidden_ND, weight_VD, targets_N, dtype)


@torch.no_grad()
def token_losses(hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
    """Return each token's cross-entropy in nats (N,), and whether its most likely prediction is right (N,).

    Everything is fp32, under autocast too: what is reported is not rounded to bf16. A target that ties with another for
    the largest logit counts as right. Tokens that are not scored have loss 0 and are never right.
    """
    losses_N = torch.zeros(targets_N.shape, dtype=torch.float32, device=targets_N.device)
    correct_N = torch.zeros_like(targets_N, dtype=torch.bool)
    with torch.autocast(hidden_ND.device.type, enabled=False):
        for part in _chunks(hidden_ND, weight_VD):
            logits_CV = _logits(hidden_ND[part], weight_VD.float())
            targets_C = targets_N[part]
            is_scored_C = targets_C != IGNORED_TARGET
            # Compared before the logits are overwritten; half the time of argmax.
            correct_N[part] = (logits_CV.gather(1, _index(targets_C)).squeeze(1) >= logits_CV.amax(1)) & is_scored_C
            losses_N[part] = _softmax_and_losses(logits_CV, targets_C)[2]
    return losses_N, correct_N


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, dtype: torch.dtype) -> Tensor:
        scored = (targets_N != IGNORED_TARGET).sum()
        matmul_weight_VD = weight_VD.to(dtype)
        grad_hidden_ND, grad_weight_VD = torch.empty_like(hidden_ND), torch.zeros_like(weight_VD)
        loss = torch.zeros((), dtype=torch.float64, device=hidden_ND.device)
        for part in _chunks(hidden_ND, weight_VD):
            logits_CV = _logits(hidden_ND[part], matmul_weight_VD)
            shares_CV, total_C1, losses_C = _softmax_and_losses(logits_CV, targets_N[part])
            loss += losses_C.double().sum()
            # d loss / d logit = (softmax - one-hot) / scored; zero where the target is not scored.
            scale_C1 = ((targets_N[part] != IGNORED_TARGET) / scored).unsqueeze(1)
            grad_logits_CV = shares_CV.mul_(scale_C1 / total_C1)
            grad_logits_CV.scatter_add_(1, _index(targets_N[part]), -scale_C1)
            grad_logits_CV = grad_logits_CV.to(dtype)
            grad_hidden_ND[part] = grad_logits_CV @ matmul_weight_VD
            grad_weight_VD += grad_logits_CV.T @ hidden_ND[part].to(dtype)
        ctx.save_for_backward(grad_hidden_ND, grad_weight_VD)
        return (loss / scored).float()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        grad_hidden_ND, grad_weight_VD = ctx.saved_tensors
        return grad_hidden_ND * grads[0], grad_weight_VD * grads[0], None, None


def _matmul_dtype(x: Tensor) -> torch.dtype:
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def _chunks(hidden_ND: Tensor, weight_VD: Tensor) -> Iterator[slice]:
    rows = max(1, CHUNK_ELEMENTS[hidden_ND.device.type] // weight_VD.shape[0])
    return (slice(start, start + rows) for start in range(0, hidden_ND.shape[0], rows))


def _logits(hidden_CD: Tensor, weight_VD: Tensor) -> Tensor:
    return (hidden_CD.to(weight_VD.dtype) @ weight_VD.T).float()


def _index(targets_C: Tensor) -> Tensor:
    return targets_C.clamp(min=0).unsqueeze(1)


def _softmax_and_losses(logits_CV: Tensor, targets_C: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return unnormalised shares (C, V; in place of the logits), their totals (C, 1) and the losses (C,)."""
    peak_C1 = logits_CV.amax(1, keepdim=True)
    target_logit_C1 = logits_CV.gather(1, _index(targets_C)) - peak_C1
    shares_CV = logits_CV.sub_(peak_C1).exp_()
    total_C1 = shares_CV.sum(1, keepdim=True)
    losses_C = (total_C1.log() - target_logit_C1).squeeze(1)
    return shares_CV, total_C1, losses_C.where(targets_C != IGNORED_TARGET, 0.0)
