"""Batches: which windows of the tokens are trained on, and how a whole split is evaluated.

Shapes: B sequences a batch, T tokens a sequence. The target of a token is the next one, so a window of T inputs takes
T + 1 tokens; neither inputs nor targets of different windows overlap, unless a published flaw is rebuilt. A window is
known by its start, the place of its first token.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from moe_models.errors import require
from moe_models.loss import IGNORED_TARGET
from moe_models.streams import generator
from trainables.config import TrialConfig
from trainables.data import Split, TokenizedCorpus

OVERLAP_VALIDATION_SHARE = 10
"""One in so many of the overlapping windows is for validation."""
OVERLAP_SEED = 42
"""Fixed, as published: the random split of overlapping windows belongs to the data, not to a run."""

MICRO_BATCHES_AT_ONCE = 64
"""So many are gone through at a time where a whole run's are: fewer steps, and little memory."""


def training_batches(config: TrialConfig, corpus: TokenizedCorpus, seed: int) -> TrainingBatches:
    """Return the batches that a run trains on."""
    training = config.training
    return TrainingBatches(
        corpus.train,
        seq_len=training.seq_len,
        batch_size=training.batch_size,
        accumulation=training.accumulation,
        seed=config.data_stream_seed(seed),
        starts=_windows(config, corpus)[0],
    )


def evaluation_batches(config: TrialConfig, corpus: TokenizedCorpus) -> EvaluationBatches:
    """Return what a run is evaluated on: the validation split, or what a published flaw makes of it."""
    training, overlapping = config.training, config.data.overlapping_windows
    return EvaluationBatches(
        corpus.train if overlapping else corpus.validation,
        seq_len=training.seq_len,
        batch_size=training.evaluation_batch_size,
        starts=_windows(config, corpus)[1] if overlapping else None,
        first_batches=training.evaluation_batches,
    )


def test_batches(config: TrialConfig, corpus: TokenizedCorpus) -> EvaluationBatches:
    """Return the whole test split, whatever a run is evaluated on while it trains."""
    training = config.training
    return EvaluationBatches(corpus.test, seq_len=training.seq_len, batch_size=training.evaluation_batch_size)


def epochs(config: TrialConfig, corpus: TokenizedCorpus) -> float:
    """Return how often a run sees each token of its training text, in the mean: overlapping windows share theirs."""
    training = config.training
    starts = _windows(config, corpus)[0]
    text = int(starts.max() - starts.min()) + training.seq_len
    return training.updates * training.accumulation * training.batch_size * training.seq_len / text


def _windows(config: TrialConfig, corpus: TokenizedCorpus) -> tuple[np.ndarray, np.ndarray]:
    """Return the windows of the training tokens that are trained on, and those that are kept for validation."""
    tokens, seq_len = len(corpus.train.tokens), config.training.seq_len
    if config.data.first_tokens is not None:
        tokens = min(tokens, config.data.first_tokens)
    if config.data.overlapping_windows:
        return overlapping_windows(tokens, seq_len)
    return disjoint_windows(tokens, seq_len), np.empty(0, dtype=np.int64)


def disjoint_windows(tokens: int, seq_len: int) -> np.ndarray:
    """Return the starts of all windows that lie end to end in so many tokens (W,), int64, rising."""
    return np.arange(max(0, tokens - 1) // seq_len, dtype=np.int64) * seq_len


def overlapping_windows(tokens: int, seq_len: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the starts of a window at every token, split at random: for training and, a tenth, for validation.

    Both int64, in the order of the draw, which is fixed. Rebuilds a published flaw: nearly every token of a validation
    window also stands in many training windows.
    """
    count = max(0, tokens - seq_len)
    held_out = count // OVERLAP_VALIDATION_SHARE
    require(held_out >= 1, f"{tokens:,} tokens hold too few overlapping windows of seq_len {seq_len:,} to split")
    order = torch.randperm(count, generator=generator(OVERLAP_SEED, "overlapping_windows")).numpy()
    return order[:-held_out], order[-held_out:]


@dataclass(frozen=True)
class Windows:
    """Pieces of equal length of a row of tokens, as a run reads them: inputs and the last target."""

    tokens: np.ndarray
    """The row (N,)."""
    starts: np.ndarray
    """Place of each piece's first token (W,), int64."""
    length: int
    """Tokens a piece; one that starts too late for that ends with the row."""

    def texts(self) -> list[np.ndarray]:
        """Return the tokens of each piece."""
        return [self.tokens[start : start + self.length] for start in self.starts]


class TrainingBatches:
    """Random access to the batches of a training run.

    Window i covers the tokens from i*T to i*T + T, unless other starts are given. Each epoch takes every window once,
    in an order drawn from (seed, epoch); what is left of the split after the last whole window is not trained on. The
    sequences of all batches form one endless row of epochs, so a batch may straddle two. A batch is a function of
    (seed, update, micro_step) alone: a resumed run needs no position.

    Attributes:
        starts: first token of each window (W,), int64.
        windows: number of windows, which is the number of sequences an epoch.
    """

    def __init__(
        self,
        split: Split,
        *,
        seq_len: int,
        batch_size: int,
        accumulation: int,
        seed: int,
        starts: np.ndarray | None = None,
    ) -> None:
        self.starts = disjoint_windows(len(split.tokens), seq_len) if starts is None else starts
        self.windows = len(self.starts)
        require(self.windows >= 1, f"{len(split.tokens):,} tokens hold no window of seq_len {seq_len:,}")
        # (tokens - T, T + 1), a window at every token: a view into the memory map, not a copy.
        self._view = np.lib.stride_tricks.sliding_window_view(split.tokens, seq_len + 1)
        self._tokens, self._seq_len = split.tokens, seq_len
        self._batch_size = batch_size
        self._accumulation = accumulation
        self._seed = seed
        self._epoch = -1
        self._order = np.empty(0, dtype=np.int64)

    def window_indices(self, update: int, micro_step: int) -> np.ndarray:
        """Return which windows make up one micro-batch (B,), int64."""
        first = (update * self._accumulation + micro_step) * self._batch_size
        return self._row(first, first + self._batch_size)

    def batch(self, update: int, micro_step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return inputs_BT and targets_BT (int64) of one micro-batch; both counts start at 0."""
        block = self._view[self.starts[self.window_indices(update, micro_step)]].astype(np.int64)
        return torch.from_numpy(block[:, :-1].copy()), torch.from_numpy(block[:, 1:].copy())

    def drawn(self, updates: int) -> Windows:
        """Return the windows that the first so many updates train on, each once."""
        sequences, step = updates * self._accumulation * self._batch_size, MICRO_BATCHES_AT_ONCE * self._batch_size
        parts = [self._row(first, min(first + step, sequences)) for first in range(0, sequences, step)]
        return self._read(np.unique(np.concatenate([np.empty(0, dtype=np.int64), *parts])))

    def windows_of(self, update: int, micro_step: int) -> Windows:
        """Return the windows that make up one micro-batch."""
        return self._read(self.window_indices(update, micro_step))

    def _row(self, first: int, end: int) -> np.ndarray:
        """Return which windows make up a part of the endless row, int64."""
        epochs, places = np.divmod(np.arange(first, end), self.windows)
        return np.concatenate([self._epoch_order(epoch)[places[epochs == epoch]] for epoch in np.unique(epochs)])

    def _read(self, indices: np.ndarray) -> Windows:
        return Windows(self._tokens, self.starts[indices], self._seq_len + 1)

    def _epoch_order(self, epoch: int) -> np.ndarray:
        if epoch != self._epoch:
            stream = generator(self._seed, "data_order", int(epoch))
            self._order = torch.randperm(self.windows, generator=stream).numpy()
            self._epoch = epoch
        return self._order


class EvaluationBatches:
    """A whole split in order: every token but the first is a target exactly once.

    A window that reaches beyond the split is padded (inputs 0, targets -100), the last batch may have fewer sequences.
    Flattened and without ignored targets, the batches' targets are `split.tokens[1:]`. With other starts, or the first
    batches alone, both of which rebuild published flaws, the targets are those of these windows.

    Attributes:
        starts: first token of each window (W,), int64.
        scored_tokens: number of targets.
    """

    def __init__(
        self,
        split: Split,
        *,
        seq_len: int,
        batch_size: int,
        starts: np.ndarray | None = None,
        first_batches: int | None = None,
    ) -> None:
        require(len(split.tokens) >= 2, "a split of fewer than 2 tokens has nothing to evaluate")
        every = np.arange(0, len(split.tokens) - 1, seq_len) if starts is None else starts
        self.starts = every if first_batches is None else every[: first_batches * batch_size]
        self.scored_tokens = int(np.minimum(seq_len, len(split.tokens) - 1 - self.starts).sum())
        self._split = split
        self._seq_len = seq_len
        self._batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.starts) // self._batch_size)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield inputs_BT and targets_BT (int64)."""
        tokens = self._split.tokens
        for first in range(0, len(self.starts), self._batch_size):
            places_BT = self._target_places(self.starts[first : first + self._batch_size])
            is_scored_BT = places_BT < len(tokens)
            places_BT = np.minimum(places_BT, len(tokens) - 1)
            inputs_BT = np.where(is_scored_BT, tokens[places_BT - 1], 0).astype(np.int64)
            targets_BT = np.where(is_scored_BT, tokens[places_BT].astype(np.int64), IGNORED_TARGET)
            yield torch.from_numpy(inputs_BT), torch.from_numpy(targets_BT)

    def scored(self) -> Windows:
        """Return the windows that an evaluation scores."""
        return Windows(self._split.tokens, self.starts, self._seq_len + 1)

    def windows_of(self, batch: int) -> Windows:
        """Return the windows that make up one batch."""
        first = batch * self._batch_size
        return Windows(self._split.tokens, self.starts[first : first + self._batch_size], self._seq_len + 1)

    def scored_targets(self) -> np.ndarray:
        """Return the targets (scored_tokens,) in the order of evaluation."""
        return self._split.tokens[self._scored_places()]

    def scored_documents(self) -> torch.Tensor:
        """Return the index of each target's document (scored_tokens,), int64, in the order of evaluation.

        With the losses in the same order, `torch.bincount(documents, losses)` sums the losses of each document.
        """
        return torch.from_numpy(self._split.document_of_token()[self._scored_places()])

    def scored_log_probabilities(self) -> np.ndarray | None:
        """Return each target's log-probability under the corpus's generator (scored_tokens,), in the same order.

        None where the corpus is not generated.
        """
        known = self._split.log_probabilities
        return None if known is None else known[self._scored_places()]

    def _scored_places(self) -> np.ndarray:
        places = self._target_places(self.starts).ravel()
        return places[places < len(self._split.tokens)]

    def clusters(self) -> np.ndarray:
        """Return the number of each document's group (D,), int64, counted over the split."""
        numbers: dict[str, int] = {}
        return np.array([numbers.setdefault(group, len(numbers)) for group in self._split.groups], dtype=np.int64)

    def _target_places(self, starts_W: np.ndarray) -> np.ndarray:
        """Return where the targets of windows stand (W, T), beyond the split's end included."""
        return starts_W[:, None] + np.arange(1, self._seq_len + 1)
