"""Moving tokens to their experts and back, and the matrix products of each expert.

Rows are permuted, never scattered with atomics, so that forward and backward are deterministic; each backward pass
is a gather. Shapes: N tokens, K chosen experts a token, A = N·K assignments, M rows, E experts, I inputs, O outputs,
D width, H hidden width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from moe_models.activations import Activation

HAS_GROUPED_MM = hasattr(F, "grouped_mm")


BF16_ROW_MULTIPLE = 32
"""On a CPU, bf16 products go through kernels that are compiled for each new shape: few row counts, few kernels."""


@dataclass(frozen=True)
class ExpertRows:
    """Where the A = N·K assignments of tokens to experts lie in a matrix of M rows sorted by expert.

    M is A, or more where each expert's rows are padded to a multiple: padding repeats some token, and nothing reads it.
    """

    sources_M: Tensor
    """Assignment (token · K + choice) of each row."""
    places_A: Tensor
    """Row of each assignment."""
    counts_E: Tensor
    """Rows of each expert, padding included."""
    top_k: int


def arrange_by_expert(experts_NK: Tensor, n_experts: int, multiple: int = 1) -> ExpertRows:
    """Sort assignments by expert, stably, each expert's rows padded to a multiple."""
    experts_A = experts_NK.flatten()
    order_A = experts_A.argsort(stable=True)
    counts_E = torch.bincount(experts_A, minlength=n_experts)
    sorted_places_A = torch.arange(order_A.numel(), device=order_A.device)
    sources_M = order_A
    if multiple > 1:
        padded_E = (counts_E + multiple - 1) // multiple * multiple
        shift_E = (padded_E.cumsum(0) - padded_E) - (counts_E.cumsum(0) - counts_E)
        sorted_places_A = sorted_places_A + shift_E[experts_A[order_A]]
        sources_M = order_A.new_zeros(int(padded_E.sum())).index_copy(0, sorted_places_A, order_A)
        counts_E = padded_E
    places_A = torch.empty_like(order_A).index_copy(0, order_A, sorted_places_A)
    return ExpertRows(sources_M, places_A, counts_E, experts_NK.shape[1])


def row_multiple(device: torch.device) -> int:
    """Return to what the rows of an expert are best padded on a device under the autocast now in force."""
    if device.type == "cpu" and torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16:
        return BF16_ROW_MULTIPLE
    return 1


def dispatch(x_NI: Tensor, rows: ExpertRows) -> Tensor:
    """Copy each token's row to its K places: (N, I) to (M, I)."""
    return _Dispatch.apply(x_NI, rows)


def combine(y_MI: Tensor, weights_NK: Tensor, rows: ExpertRows) -> Tensor:
    """Bring rows back to their tokens and sum them with weights: (M, I) to (N, I)."""
    y_NKI = _Unpermute.apply(y_MI, rows).view(*weights_NK.shape, -1)
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
        y_MO = F.grouped_mm(x_MI, _WhereUsed.apply(weight_EOI, counts_E).mT, offs=counts_E.cumsum(0).int())
    else:
        y_MO = _GroupedLinear.apply(x_MI, weight_EOI, counts_E.tolist())
    return y_MO if bias_EO is None else y_MO + _Repeat.apply(bias_EO.to(y_MO.dtype), counts_E.tolist())


def grouped_mlp(
    x_MD: Tensor,
    up_EHD: Tensor,
    gate_EHD: Tensor | None,
    down_EDH: Tensor,
    activation: Activation,
    counts_E: Tensor,
) -> Tensor:
    """Put each expert's rows through its layer, plain or gated, without biases or dropout: (M, D) to (M, D).

    What `grouped_linear` and the activation give, forward and backward, to the last bit where widths fill the
    processor's vectors. On a CPU one expert's hidden values fit into the cache, all experts' do not: so each expert is
    done before the next begins.
    """
    return _GroupedMLP.apply(x_MD, up_EHD, gate_EHD, down_EDH, activation, counts_E.tolist())


class _Dispatch(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_NI: Tensor, rows: ExpertRows) -> Tensor:
        ctx.rows = rows
        return x_NI.index_select(0, rows.sources_M // rows.top_k)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        grad_AI = grads[0].index_select(0, ctx.rows.places_A)
        return grad_AI.unflatten(0, (-1, ctx.rows.top_k)).sum(1), None


class _Unpermute(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y_MI: Tensor, rows: ExpertRows) -> Tensor:
        ctx.rows = rows
        return y_MI.index_select(0, rows.places_A)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        # Padding gets a gradient of zero, and so adds nothing to that of a weight.
        grad_MI = grads[0].new_zeros(len(ctx.rows.sources_M), grads[0].shape[1])
        return grad_MI.index_copy_(0, ctx.rows.places_A, grads[0]), None


class _WhereUsed(torch.autograd.Function):
    """Weights (E, O, I) as they are; the gradient of an expert that has no rows is zero, whatever comes.

    On Blackwell torch's product leaves there what it finds in memory: https://github.com/pytorch/pytorch/issues/172439.
    """

    @staticmethod
    def forward(ctx: Any, weight_EOI: Tensor, counts_E: Tensor) -> Tensor:
        ctx.save_for_backward(counts_E)
        return weight_EOI.view_as(weight_EOI)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (counts_E,) = ctx.saved_tensors
        return grads[0].masked_fill((counts_E == 0)[:, None, None], 0.0), None


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


class _GroupedMLP(torch.autograd.Function):
    """Hidden values before the activation are kept for the backward pass, those behind it are formed again."""

    @staticmethod
    def forward(
        ctx: Any,
        x_MD: Tensor,
        up_EHD: Tensor,
        gate_EHD: Tensor | None,
        down_EDH: Tensor,
        activation: Activation,
        counts: list[int],
    ) -> Tensor:
        hidden_MH = x_MD.new_empty(x_MD.shape[0], up_EHD.shape[1])
        gated_MH = None if gate_EHD is None else torch.empty_like(hidden_MH)
        y_MD = torch.empty_like(x_MD)
        for expert, rows in enumerate(_rows(counts)):
            torch.mm(x_MD[rows], up_EHD[expert].T, out=hidden_MH[rows])
            if gate_EHD is None or gated_MH is None:
                active_H = activation.value(hidden_MH[rows])
            else:
                torch.mm(x_MD[rows], gate_EHD[expert].T, out=gated_MH[rows])
                active_H = activation.value(gated_MH[rows]).mul_(hidden_MH[rows])
            torch.mm(active_H, down_EDH[expert].T, out=y_MD[rows])
        ctx.save_for_backward(x_MD, up_EHD, gate_EHD, down_EDH, hidden_MH, gated_MH)
        ctx.activation, ctx.counts = activation, counts
        return y_MD

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_MD, up_EHD, gate_EHD, down_EDH, hidden_MH, gated_MH = ctx.saved_tensors
        value, gradient = ctx.activation.value, ctx.activation.gradient
        grad_MD = grads[0].contiguous()
        grad_x_MD, grad_up_EHD, grad_down_EDH = (torch.empty_like(x) for x in (x_MD, up_EHD, down_EDH))
        grad_gate_EHD = None if gate_EHD is None else torch.empty_like(gate_EHD)
        for expert, rows in enumerate(_rows(ctx.counts)):
            x_D, hidden_H, grad_D, grad_x_D = x_MD[rows], hidden_MH[rows], grad_MD[rows], grad_x_MD[rows]
            grad_active_H = grad_D @ down_EDH[expert]
            if grad_gate_EHD is None:
                torch.mm(grad_D.T, value(hidden_H), out=grad_down_EDH[expert])
                grad_hidden_H = gradient(grad_active_H, hidden_H)
                torch.mm(grad_hidden_H, up_EHD[expert], out=grad_x_D)
            else:
                gated_H = gated_MH[rows]
                opening_H = value(gated_H)
                torch.mm(grad_D.T, opening_H * hidden_H, out=grad_down_EDH[expert])
                grad_hidden_H = opening_H.mul_(grad_active_H)
                grad_gated_H = gradient(grad_active_H.mul_(hidden_H), gated_H)
                torch.mm(grad_gated_H.T, x_D, out=grad_gate_EHD[expert])
                torch.mm(grad_hidden_H, up_EHD[expert], out=grad_x_D)
                grad_x_D += grad_gated_H @ gate_EHD[expert]
            torch.mm(grad_hidden_H.T, x_D, out=grad_up_EHD[expert])
        return grad_x_MD, grad_up_EHD, grad_gate_EHD, grad_down_EDH, None, None


def _rows(counts: list[int]) -> Iterator[slice]:
    """Yield each expert's rows."""
    first = 0
    for count in counts:
        yield slice(first, first + count)
        first += count


class _Repeat(torch.autograd.Function):
    """Each expert's row as often as it has rows: (E, O) to (M, O); the gradient is summed expert by expert."""

    @staticmethod
    def forward(ctx: Any, bias_EO: Tensor, counts: list[int]) -> Tensor:
        ctx.counts = counts
        return torch.cat([bias_O.expand(count, -1) for bias_O, count in zip(bias_EO, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return torch.stack([grad_O.sum(0) for grad_O in grads[0].split(ctx.counts)]), None
