"""Moving tokens to their experts and back, and one matrix product for each expert.

Rows are permuted, never scattered with atomics, so that forward and backward are deterministic; each backward pass is
a gather. Shapes: N tokens, K chosen experts a token, M = N·K assignments, E experts, I inputs, O outputs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

HAS_GROUPED_MM = hasattr(F, "grouped_mm")


def dispatch(x_NI: Tensor, order_M: Tensor, top_k: int) -> Tensor:
    """Copy each token's row to its K places in expert order: (N, I) to (M, I)."""
    return _Dispatch.apply(x_NI, order_M, top_k)


def combine(y_MI: Tensor, weights_NK: Tensor, order_M: Tensor) -> Tensor:
    """Bring rows in expert order back to their tokens and sum them with weights: (M, I) to (N, I)."""
    y_NKI = _Unpermute.apply(y_MI, order_M).view(*weights_NK.shape, -1)
    return (y_NKI * weights_NK.to(y_NKI.dtype).unsqueeze(-1)).sum(1)


def grouped_linear(x_MI: Tensor, weight_EOI: Tensor, bias_EO: Tensor | None, counts_E: Tensor) -> Tensor:
    """Put each expert's rows through its linear map: (M, I) to (M, O); the first counts[0] rows are expert 0's.

    Under autocast the operands are cast as `F.linear` would cast them.
    """
    device = x_MI.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        x_MI, weight_EOI = x_MI.to(dtype), weight_EOI.to(dtype)
    if device == "cuda" and HAS_GROUPED_MM and x_MI.dtype == torch.bfloat16:
        y_MO = F.grouped_mm(x_MI, weight_EOI.mT, offs=counts_E.cumsum(0).int())
    else:
        y_MO = _GroupedLinear.apply(x_MI, weight_EOI, counts_E.tolist())
    return y_MO if bias_EO is None else y_MO + _Repeat.apply(bias_EO.to(y_MO.dtype), counts_E.tolist())


class _Dispatch(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_NI: Tensor, order_M: Tensor, top_k: int) -> Tensor:
        ctx.save_for_backward(order_M)
        ctx.top_k = top_k
        return x_NI.index_select(0, order_M // top_k)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (order_M,) = ctx.saved_tensors
        grad_MI = grads[0].index_select(0, _inverse(order_M))
        return grad_MI.unflatten(0, (-1, ctx.top_k)).sum(1), None, None


class _Unpermute(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y_MI: Tensor, order_M: Tensor) -> Tensor:
        ctx.save_for_backward(order_M)
        return y_MI.index_select(0, _inverse(order_M))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (order_M,) = ctx.saved_tensors
        return grads[0].index_select(0, order_M), None


def _inverse(order_M: Tensor) -> Tensor:
    inverse_M = torch.empty_like(order_M)
    inverse_M[order_M] = torch.arange(order_M.numel(), device=order_M.device)
    return inverse_M


class _GroupedLinear(torch.autograd.Function):
    """A loop of matrix products into slices: no copies, no per-expert autograd nodes."""

    @staticmethod
    def forward(ctx: Any, x_MI: Tensor, weight_EOI: Tensor, counts: list[int]) -> Tensor:
        ctx.save_for_backward(x_MI, weight_EOI)
        ctx.counts = counts
        y_MO = x_MI.new_empty(x_MI.shape[0], weight_EOI.shape[1])
        for weight_OI, x_I, y_O in zip(weight_EOI, x_MI.split(counts), y_MO.split(counts), strict=True):
            torch.mm(x_I, weight_OI.T, out=y_O)
        return y_MO

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        x_MI, weight_EOI = ctx.saved_tensors
        grad_MO = grads[0].contiguous()
        grad_x_MI, grad_weight_EOI = torch.empty_like(x_MI), torch.empty_like(weight_EOI)
        rows = zip(weight_EOI, grad_weight_EOI, x_MI.split(ctx.counts), strict=True)
        outs = zip(grad_MO.split(ctx.counts), grad_x_MI.split(ctx.counts), strict=True)
        for (weight_OI, grad_weight_OI, x_I), (grad_O, grad_x_I) in zip(rows, outs, strict=True):
            torch.mm(grad_O, weight_OI, out=grad_x_I)
            torch.mm(grad_O.T, x_I, out=grad_weight_OI)
        return grad_x_MI, grad_weight_EOI, None


class _Repeat(torch.autograd.Function):
    """Each expert's row as often as it has rows: (E, O) to (M, O); the gradient is summed expert by expert."""

    @staticmethod
    def forward(ctx: Any, bias_EO: Tensor, counts: list[int]) -> Tensor:
        ctx.counts = counts
        return torch.cat([bias_O.expand(count, -1) for bias_O, count in zip(bias_EO, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return torch.stack([grad_O.sum(0) for grad_O in grads[0].split(ctx.counts)]), None
