"""Batches: which windows of the tokens are trained on, and how a whole split is evaluated.

Shapes: B sequences a batch, T tokens a sequence. The target of a token is the next one, so a window of T inputs takes
T + 1 tokens; neither inputs nor targets of different windows overlap.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from moe_models.errors import require
from moe_models.loss import IGNORED_TARGET
from moe_models.streams import generator
from trainables.data import Split


@dataclass(frozen=True)
class Windows:
    """Pieces of equal length of a row of tokens, as a run reads them: inputs and the last target."""

    tokens: np.ndarray
    """The row (N,)."""
    starts: np.ndarray
    """Place of each piece's first token (W,), int64."""
    length: int
    """Tokens a piece; one that starts too late for that ends with the row."""


class TrainingBatches:
    """Random access to the batches of a training run.

    Window i covers the tokens from i*T to i*T + T. Each epoch takes every window once, in an order drawn from
    (seed, epoch); what is left of the split after the last whole window is not trained on. The sequences of all
    batches form one endless row of epochs, so a batch may straddle two. A batch is a function of (seed, update,
    micro_step) alone: a resumed run needs no position.

    Attributes:
        windows: number of windows, which is the number of sequences an epoch.
    """

    def __init__(self, split: Split, *, seq_len: int, batch_size: int, accumulation: int, seed: int) -> None:
        self.windows = (len(split.tokens) - 1) // seq_len
        require(self.windows >= 1, f"{len(split.tokens):,} tokens hold no window of seq_len {seq_len:,}")
        # (windows, T + 1): a view into the memory map, not a copy.
        self._windows = np.lib.stride_tricks.sliding_window_view(split.tokens, seq_len + 1)[::seq_len]
        self._tokens, self._seq_len = split.tokens, seq_len
        self._batch_size = batch_size
        self._accumulation = accumulation
        self._seed = seed
        self._epoch = -1
        self._order = np.empty(0, dtype=np.int64)

    def window_indices(self, update: int, micro_step: int) -> np.ndarray:
        """Return which windows make up one micro-batch (B,), int64."""
        first = (update * self._accumulation + micro_step) * self._batch_size
        epochs, places = np.divmod(np.arange(first, first + self._batch_size), self.windows)
        return np.concatenate([self._epoch_order(epoch)[places[epochs == epoch]] for epoch in np.unique(epochs)])

    def batch(self, update: int, micro_step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return inputs_BT and targets_BT (int64) of one micro-batch; both counts start at 0."""
        block = self._windows[self.window_indices(update, micro_step)].astype(np.int64)
        return torch.from_numpy(block[:, :-1].copy()), torch.from_numpy(block[:, 1:].copy())

    def drawn(self, updates: int) -> Windows:
        """Return the windows that the first so many updates train on, each once."""
        places = [self.window_indices(u, m) for u in range(updates) for m in range(self._accumulation)]
        starts = np.unique(np.concatenate([np.empty(0, dtype=np.int64), *places])) * self._seq_len
        return Windows(self._tokens, starts, self._seq_len + 1)

    def _epoch_order(self, epoch: int) -> np.ndarray:
        if epoch != self._epoch:
            stream = generator(self._seed, "data_order", int(epoch))
            self._order = torch.randperm(self.windows, generator=stream).numpy()
            self._epoch = epoch
        return self._order


class EvaluationBatches:
    """A whole split in order: every token but the first is a target exactly once.

    The last window is padded (inputs 0, targets -100), the last batch may have fewer sequences. Flattened and
    without ignored targets, the batches' targets are `split.tokens[1:]`.

    Attributes:
        scored_tokens: number of targets.
    """

    def __init__(self, split: Split, *, seq_len: int, batch_size: int) -> None:
        require(len(split.tokens) >= 2, "a split of fewer than 2 tokens has nothing to evaluate")
        self.scored_tokens = len(split.tokens) - 1
        self._split = split
        self._seq_len = seq_len
        self._tokens_a_batch = seq_len * batch_size

    def __len__(self) -> int:
        return -(-self.scored_tokens // self._tokens_a_batch)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield inputs_BT and targets_BT (int64)."""
        for start in range(0, self.scored_tokens, self._tokens_a_batch):
            block = self._split.tokens[start : start + self._tokens_a_batch + 1].astype(np.int64)
            padding = -(len(block) - 1) % self._seq_len
            inputs = np.pad(block[:-1], (0, padding), constant_values=0)
            targets = np.pad(block[1:], (0, padding), constant_values=IGNORED_TARGET)
            shape = (-1, self._seq_len)
            yield torch.from_numpy(inputs.reshape(shape)), torch.from_numpy(targets.reshape(shape))

    def scored(self) -> Windows:
        """Return the windows that an evaluation scores."""
        starts = np.arange(0, self.scored_tokens, self._seq_len)
        return Windows(self._split.tokens, starts, self._seq_len + 1)

    def scored_documents(self) -> torch.Tensor:
        """Return the index of each target's document (scored_tokens,), int64, in the order of evaluation.

        With the losses in the same order, `torch.bincount(documents, losses)` sums the losses of each document.
        """
        return torch.from_numpy(self._split.document_of_token()[1:])
