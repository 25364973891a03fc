"""What is seen of a run while it trains: the evidence that `trainables.audits` judges.

A witness looks at what passes through the loop and changes none of it. What it sees over the whole run is part of the
run's checkpoint; what it keeps of single batches is this process's alone.

Shapes: M batches, B sequences, T tokens, N scored targets of an evaluation or tokens of a batch, R rows of a parameter,
E experts, S sampled elements.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from analysis.schema import DIGEST_UPDATES
from moe_models.loss import IGNORED_TARGET
from moe_models.routers import Router
from trainables.optim import averaged_gradients

SAMPLE = 64
"""Elements of a parameter, evenly spread, by which it is seen to move."""
MOST_BETWEEN_LOOKS = 50
"""Updates between two looks at what the optimizers remember, at most: of what is so old AdamW's average keeps 0.5 %,
which is far from nothing (`dead_parameters.NOTHING`)."""
FADED = 0.01
"""Share of a gradient's part in Muon's momentum below which the next look would come too late."""
READ_AT_ONCE = 16
"""Batches: so many are kept until their checksum is taken, which for each alone would take several times as long."""
MULTIPLIER = 6_364_136_223_846_793_005
"""Of a checksum: Knuth's, odd and without a pattern."""

Batch = tuple[Tensor, Tensor]
"""inputs_BT and targets_BT as the model got them."""


class Witness:
    """Notes batches, gradients and scored losses of one run.

    Attributes:
        updates: optimizer updates made.
        tokens: tokens trained on.
        loss_sum: of all training losses, each a mean over a micro-batch: a scalar, fp64.
        losses: that sum at each row of the curve, by update.
        trained: the first and the latest training batch of this process, by the update that they belong to.
        evaluated: the first and the latest batch of the last evaluation.
        scores: of the last evaluation, each batch's targets and their losses (N,), in order.
        right: targets that it counted as predicted right: a scalar.
        evaluations: of each evaluation, by update: the checksum of all its batches, in order, a scalar, int64, and the
            sum of its losses, a scalar, fp64.
        tested: likewise of the final test, if there was one, and how many targets it counted as predicted right.
        digest: of the parameters after DIGEST_UPDATES updates; empty before.
        largest: for each parameter that got a gradient and whose optimizer used it, the largest magnitude that the
            average of its gradients reached in each row (last dimension), (R,); of a vector in each element. The
            averages, which the optimizers keep, are looked at before a gradient fades: they hold those of all updates.
        initial: elements of each parameter before the first update, (S,).
        loads: for each router the tokens that each expert got while training, up to the latest row, (E,).
        rates: learning rates of all parameter groups at each update.
    """

    def __init__(self) -> None:
        self.updates = 0
        self.tokens = 0
        self.loss_sum = torch.zeros((), dtype=torch.float64)
        self.losses: dict[int, Tensor] = {}
        self._read = torch.zeros((), dtype=torch.int64)
        self._unread: list[Batch] = []
        self.trained: dict[int, Batch] = {}
        self.evaluated: list[Batch] = []
        self.scores: list[tuple[Tensor, Tensor]] = []
        self.right = torch.zeros((), dtype=torch.int64)
        self.evaluations: dict[int, tuple[Tensor, Tensor]] = {}
        self.tested: tuple[Tensor, Tensor, Tensor] | None = None
        self.digest = ""
        self.largest: dict[str, Tensor] = {}
        self.initial: dict[str, Tensor] = {}
        self.loads: dict[str, Tensor] = {}
        self.rates: list[list[float]] = []

    def batch(self, inputs_BT: Tensor, targets_BT: Tensor, loss: Tensor) -> None:
        """A micro-batch is trained on, and has this loss."""
        for update in list(self.trained)[1:]:
            del self.trained[update]
        self.trained[self.updates] = (inputs_BT, targets_BT)
        self.tokens += inputs_BT.numel()
        self.loss_sum = loss.detach().double() + self.loss_sum
        self._unread.append((inputs_BT, targets_BT))
        if len(self._unread) == READ_AT_ONCE:
            self._read_on()

    @property
    def read(self) -> Tensor:
        """Checksum of all batches that were trained on, in order: a scalar, int64."""
        self._read_on()
        return self._read

    def _read_on(self) -> None:
        if self._unread:
            self._read = read_on(self._read, *(torch.stack(parts_BT) for parts_BT in zip(*self._unread, strict=True)))
            self._unread = []

    def begins(self, model: nn.Module) -> None:
        """The first update is about to be made."""
        self.initial = {name: sample(parameter).clone() for name, parameter in model.named_parameters()}

    @torch.no_grad()
    def gradients(self, model: nn.Module, optimizers: Iterable[torch.optim.Optimizer]) -> None:
        """Look at the gradients that the optimizers remember: of all updates, in so far as they have not faded."""
        averages = {parameter: average for one in optimizers for parameter, average in averaged_gradients(one)}
        for name, parameter in model.named_parameters():
            average = averages.get(parameter)
            if average is None:
                continue
            rows = average.flatten(0, -2) if average.ndim > 1 else average.unsqueeze(-1)
            largest_R = torch.linalg.vector_norm(rows, float("inf"), dim=-1)
            before_R = self.largest.get(name)
            self.largest[name] = largest_R if before_R is None else torch.maximum(before_R, largest_R)

    @torch.no_grad()
    def row_made(self, model: nn.Module, loads: Sequence[Tensor]) -> None:
        """A row was made: so many tokens went to each expert of each router, first layer first, since the last one."""
        self.losses[self.updates] = self.loss_sum
        routers = [name for name, module in model.named_modules() if isinstance(module, Router)]
        for name, load_E in zip(routers, loads, strict=True):
            self.loads[name] = load_E.double() + self.loads.get(name, 0.0)

    def update_made(self, model: nn.Module, rates: list[float]) -> None:
        """The optimizers have made an update, at these learning rates, and the routers theirs."""
        self.updates += 1
        self.rates.append(rates)
        if self.updates == DIGEST_UPDATES:
            self.digest = digest(model, self.largest)

    def evaluation_begins(self) -> None:
        """Forget the evaluation before."""
        self.evaluated, self.scores = [], []
        self.right = torch.zeros((), dtype=torch.int64)
        self.evaluations[self.updates] = torch.zeros((), dtype=torch.int64), torch.zeros((), dtype=torch.float64)

    def scored(self, inputs_BT: Tensor, targets_BT: Tensor, losses_N: Tensor, correct_N: Tensor) -> None:
        """A batch was evaluated: each target's loss, 0 where it is not scored, and whether it was predicted right."""
        self.evaluated = [*self.evaluated[:1], (inputs_BT, targets_BT)]
        self.scores.append((targets_BT.flatten(), losses_N))
        self.right = correct_N.sum() + self.right
        read, total = self.evaluations[self.updates]
        read = read_on(read, inputs_BT.unsqueeze(0), targets_BT.unsqueeze(0))
        self.evaluations[self.updates] = read, losses_N.double().sum() + total

    def test_begins(self) -> None:
        """The final test is about to be made."""
        none, nothing = torch.zeros((), dtype=torch.int64), torch.zeros((), dtype=torch.float64)
        self.tested = none, nothing, none

    def test_scored(self, inputs_BT: Tensor, targets_BT: Tensor, losses_N: Tensor, correct_N: Tensor) -> None:
        """A batch of the final test was scored, as one of an evaluation is."""
        assert self.tested is not None, "a test begins before it scores"
        read, total, right = self.tested
        read = read_on(read, inputs_BT.unsqueeze(0), targets_BT.unsqueeze(0))
        self.tested = read, losses_N.double().sum() + total, correct_N.sum() + right

    def state_dict(self) -> dict[str, Any]:
        """Return what was seen over the whole run, as tensors and plain data."""
        return {
            "updates": self.updates,
            "tokens": self.tokens,
            "read": self.read,
            "loss_sum": self.loss_sum,
            "losses": self.losses,
            "evaluations": self.evaluations,
            "digest": self.digest,
            "largest": self.largest,
            "initial": self.initial,
            "loads": self.loads,
            "rates": self.rates,
        }

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Go on from `state_dict`'s output."""
        self.updates, self.tokens, self._read = state["updates"], state["tokens"], state["read"].to(device)
        self.digest, self.loss_sum = state["digest"], state["loss_sum"].to(device)
        for seen in ("largest", "initial", "loads", "losses"):
            setattr(self, seen, {key: tensor.to(device) for key, tensor in state[seen].items()})
        for update, (read, total) in state["evaluations"].items():
            self.evaluations[update] = read.to(device), total.to(device)
        self.rates = list(state["rates"])


def sequences(batch: Batch, dtype: np.dtype) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the inputs and the targets of each sequence of a batch without its padding, as tokens of a type."""
    for inputs_T, targets_T in zip(*(part_BT.cpu().numpy() for part_BT in batch), strict=True):
        length = int((targets_T != IGNORED_TARGET).cumsum().argmax()) + 1  # up to the last target that is scored
        yield inputs_T[:length].astype(dtype), targets_T[:length].astype(dtype)


def read_on(read: Tensor, inputs_MBT: Tensor, targets_MBT: Tensor) -> Tensor:
    """Return the checksum of a row of batches, modulo 2^64, with further ones at its end: a scalar, int64."""
    tokens_MN = torch.add(targets_MBT, inputs_MBT, alpha=MULTIPLIER).flatten(1)
    places_N = torch.arange(1, 2 * tokens_MN.shape[1], 2, device=tokens_MN.device)
    for total in (tokens_MN * places_N).sum(-1):
        read = torch.add(total, read, alpha=MULTIPLIER)
    return read


def updates_between_looks(momentum: float) -> int:
    """Return how often to look at the averages of gradients so that none has faded, by the weight of Muon's past."""
    if not 0 < momentum < 1:
        return MOST_BETWEEN_LOOKS if momentum else 1
    return min(MOST_BETWEEN_LOOKS, 1 + int(math.log(FADED) / math.log(momentum)))


def sample(parameter: Tensor, of: int | None = None) -> Tensor:
    """Return about SAMPLE elements of a parameter, or all that it has (S,): the step is odd, so of many columns.

    Args:
        parameter: or its beginning.
        of: elements that all of it has.
    """
    return parameter.detach().flatten()[:: (of or parameter.numel()) // SAMPLE | 1]


@torch.no_grad()
def digest(model: nn.Module, trained: Collection[str]) -> str:
    """Return 16 hex digits of what a model has learned: equal to the last bit, equal digest.

    Of the parameters that training reaches and of the buffers that it keeps. Their names and order do not count, so
    that one model in other words is one. What is summed are integers: neither order nor device decides. Empty where a
    value is not finite: lost models are alike, whatever they were.

    Args:
        model: whose values count.
        trained: names of the parameters that had a gradient.
    """
    unused = {name for name, _ in model.named_parameters()} - set(trained)
    kept = [value for name, value in model.state_dict().items() if name not in unused]
    if not all(value.isfinite().all() for value in kept):
        return ""
    sums = torch.stack([_checksum(value) for value in kept]).tolist()
    parts = sorted((list(value.shape), total) for value, total in zip(kept, sums, strict=True))
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _checksum(value: Tensor) -> Tensor:
    """Return the sum of a tensor's 32-bit words, each times another odd number, modulo 2^64: a scalar, int64."""
    words_M = value.detach().flatten().view(torch.int32).long()
    return (words_M * torch.arange(1, 2 * len(words_M), 2, device=value.device)).sum()
