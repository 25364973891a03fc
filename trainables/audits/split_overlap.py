"""`split_overlap`: how much of what an evaluation scores, or the final test, was trained on.

Shapes: M tokens of joined windows, n tokens a gram, G grams.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from analysis.schema import INVALID, NOTE, WARNING, Audit
from moe_models.streams import generator
from trainables.batches import MICRO_BATCHES_AT_ONCE, Windows, overlapping_windows
from trainables.config import TrialConfig
from trainables.data import Split, TokenizedCorpus
from trainables.witness import Batch, Witness, read_on, sequences

NAME = "split_overlap"
LONG_RUN = 50
"""Tokens a run that counts as copied: Lee et al., section 4.1 of https://arxiv.org/abs/2107.06499."""
SHORT_RUN = 13
"""Tokens a run of the older measure: Brown et al., appendix C of https://arxiv.org/abs/2005.14165."""
MOST_COPIED = 0.1
"""Share of copied tokens above which a validation loss measures memory."""
SHORTEST_DOCUMENT = SHORT_RUN
"""Tokens, the end counted, below which two documents may be equal by chance: headings, single words. One such is no
finding; what they make of the text is."""
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
MASK = (1 << 64) - 1


def audit(
    corpus: TokenizedCorpus, trained: Windows, scored: Windows, read: Mapping[str, tuple[Windows, Batch]]
) -> Audit | None:
    """Look for validation tokens in runs that stand in the tokens trained on, and for documents in two splits.

    What the validation split has of the training text can make a run invalid; what the test split has of either is a
    warning, since comparisons are made on validation. A document of `SHORTEST_DOCUMENT` tokens or more that is in both
    is a copy. Shorter ones recur innocently ("Yes.") and count by the tokens that they are: where a split is made of
    them, its loss measures memory.

    Args:
        corpus: where the documents are.
        trained: the windows that the run trained on.
        scored: the windows that its evaluation scored.
        read: batches by what was done with them: windows, and the batch that was really read, each sequence of which
            must be one of them.
    """
    for what, (windows, batch) in read.items():
        strays = _strays(windows, batch)
        if strays:
            evidence = f"{strays} of {len(batch[0])} sequences really {what} are none of the windows drawn for it"
            return Audit(name=NAME, severity=INVALID, evidence=evidence)
    texts = _documents(corpus.train)
    copies = _copies(texts, corpus.validation, "validation", "training")
    of_test = _copies([*texts, *_documents(corpus.validation)], corpus.test, "test", "training or validation")
    if copies.too_many:
        return Audit(name=NAME, severity=INVALID, evidence=copies.evidence)
    found = _runs(corpus, trained, scored, copies)
    if not of_test.too_many or (found is not None and found.severity == INVALID):
        return found
    of_final_test = f"{of_test.evidence}, so that not all of the final test is new"
    said = of_final_test if found is None else f"{of_final_test}; {found.evidence}"
    return Audit(name=NAME, severity=WARNING, evidence=said)


def _runs(corpus: TokenizedCorpus, trained: Windows, scored: Windows, copies: _Copies) -> Audit | None:
    """Judge the runs of validation tokens that were trained on, and say what there is of short documents."""
    train, validation = _join(trained), _join(scored)
    run = min(LONG_RUN, scored.length)  # of a shorter window, the whole
    copied = _copied(validation, train, run)
    is_memory = copied > MOST_COPIED and run >= SHORT_RUN  # what is shorter recurs by chance, as short documents do
    for what, windows, split in (("trained on", trained, corpus.train), ("evaluated", scored, corpus.validation)):
        if not is_memory and not np.array_equal(windows.tokens, split.tokens):
            evidence = f"the text {what} is not that of its split"
            return Audit(name=NAME, severity=INVALID, evidence=evidence)
    by_chance = f"{copies.evidence}, as short ones may be by chance"
    if copied == 0:
        return Audit(name=NAME, severity=NOTE, evidence=by_chance) if copies.short else None
    evidence = f"{copied:.2%} of the {len(validation.tokens):,} validation tokens lie in runs of {run} and more"
    if is_memory:
        return Audit(name=NAME, severity=INVALID, evidence=f"{evidence} that were trained on")
    evidence += " that were trained on"
    if run > SHORT_RUN:
        evidence += f" ({_copied(validation, train, SHORT_RUN):.2%} in runs of {SHORT_RUN})"
    if copies.short:
        evidence += f"; {by_chance}"
    return Audit(name=NAME, severity=NOTE, evidence=evidence)


def every_batch(config: TrialConfig, seed: int, split: Split, witness: Witness) -> Audit | None:
    """Compare all that was trained on, inputs and labels in their order, with the windows due.

    These are drawn a second time, from the configuration and the seed alone: windows that lie end to end, each once an
    epoch, in an order of the epoch's own.

    Args:
        config: of the run.
        seed: of the run.
        split: what was to be trained on.
        witness: of the whole run.
    """
    training, due = config.training, torch.zeros((), dtype=torch.int64)
    places = np.arange(training.seq_len + 1)
    for starts in _starts_due(config, seed, split, witness.updates * training.accumulation * training.batch_size):
        texts = torch.from_numpy(split.tokens[starts[:, None] + places].astype(np.int64))
        texts = texts.unflatten(0, (-1, training.batch_size))
        due = read_on(due, texts[..., :-1], texts[..., 1:])
    if due.item() == witness.read.item():
        return None
    evidence = f"what was trained on in {witness.updates:,} updates is not the text of the windows due, in order"
    return Audit(name=NAME, severity=INVALID, evidence=evidence)


def _starts_due(config: TrialConfig, seed: int, split: Split, sequences: int) -> Iterator[np.ndarray]:
    """Yield where the windows of a run start that has so many sequences, those of whole micro-batches at a time."""
    length, first = config.training.seq_len, config.data.first_tokens
    tokens = len(split.tokens) if first is None else min(first, len(split.tokens))
    starts = np.arange(0, tokens - length, length)
    if config.data.overlapping_windows:
        starts = overlapping_windows(tokens, length)[0]
    step, waiting, epoch = MICRO_BATCHES_AT_ONCE * config.training.batch_size, np.empty(0, dtype=np.int64), 0
    while sequences > 0:
        while len(waiting) < min(step, sequences):
            stream = generator(config.data_stream_seed(seed), "data_order", epoch)
            waiting = np.append(waiting, starts[torch.randperm(len(starts), generator=stream).numpy()])
            epoch += 1
        yield waiting[: min(step, sequences)]
        waiting, sequences = waiting[step:], sequences - step


def _strays(windows: Windows, batch: Batch) -> int:
    """Return how many sequences are none of the windows: those of a batch end with the token that is a label alone."""
    known = {text[:-1].tobytes() for text in windows.texts()}
    return sum(inputs.tobytes() not in known for inputs, _ in sequences(batch, windows.tokens.dtype))


@dataclass(frozen=True)
class _Copies:
    """Documents of a split that are training documents, token by token."""

    split: str
    of: str
    """Whose documents they are."""
    documents: int
    """In the split."""

    names: list[str]
    """Of those that are too long to be equal by chance."""
    short: int
    """Number of the others."""
    share: float
    """What the others are of the split's tokens."""

    @property
    def too_many(self) -> bool:
        """Whether they are more than chance makes of a sound split."""
        return bool(self.names) or self.share > MOST_COPIED

    @property
    def evidence(self) -> str:
        """What there is: of the short ones alone, where there are no others."""
        if self.names:
            shown = f"{', '.join(self.names[:3])}{' …' if len(self.names) > 3 else ''}"
            return f"{len(self.names)} of {self.documents} {self.split} documents are {self.of} documents: {shown}"
        short = f"{self.short:,} of {self.documents:,} {self.split} documents, {self.share:.2%} of the tokens,"
        return f"{short} are {self.of} documents of fewer than {SHORTEST_DOCUMENT} tokens"


def _documents(split: Split) -> list[np.ndarray]:
    return np.split(split.tokens, split.document_starts[1:])


def _copies(texts: list[np.ndarray], held_out: Split, name: str, of: str) -> _Copies:
    """Compare a split's documents with others."""
    held = _documents(held_out)
    lengths = {len(text) for text in held}
    known = {text.tobytes() for text in texts if len(text) in lengths}
    copies = {place: len(text) for place, text in enumerate(held) if text.tobytes() in known}
    names = [held_out.documents[place] for place, tokens in copies.items() if tokens >= SHORTEST_DOCUMENT]
    short = [tokens for tokens in copies.values() if tokens < SHORTEST_DOCUMENT]
    return _Copies(name, of, len(held), names, len(short), sum(short) / len(held_out.tokens))


@dataclass(frozen=True)
class _Text:
    """Windows joined where they touch or overlap, each token once."""

    tokens: np.ndarray
    """(M,), uint64."""
    ends: np.ndarray
    """For each token, where the stretch of text that it belongs to ends (M,)."""

    def whole(self, n: int) -> np.ndarray:
        """Return whether the n tokens from each on belong together (M - n + 1,)."""
        places = np.arange(max(0, len(self.tokens) - n + 1))
        return places + n <= self.ends[: len(places)]


def _join(windows: Windows) -> _Text:
    starts = np.sort(windows.starts)
    ends = np.minimum(starts + windows.length, len(windows.tokens))
    new = np.flatnonzero(starts[1:] > ends[:-1]) + 1
    firsts, lasts = starts[np.append(0, new)], ends[np.append(new - 1, -1)]
    pieces = [windows.tokens[first:last] for first, last in zip(firsts, lasts, strict=True)]
    lengths = lasts - firsts
    return _Text(np.concatenate(pieces).astype(np.uint64), np.repeat(np.cumsum(lengths), lengths))


def _copied(validation: _Text, train: _Text, n: int) -> float:
    """Return the share of validation tokens in runs of n tokens or more that the training text has."""
    grams, trained = _hashes(validation.tokens, n), _hashes(train.tokens, n)
    # A table of the grams' leading bits rules nearly all of the training text out.
    bits = max(1, len(grams)).bit_length() + 4
    table = np.zeros(1 << bits, dtype=bool)
    shift = np.uint64(64 - bits)
    table[grams >> shift] = True
    places = np.flatnonzero(table[trained >> shift] & train.whole(n))
    known, first = np.unique(trained[places], return_index=True)
    if len(known) == 0:
        return 0.0
    guess = np.searchsorted(known, grams).clip(max=len(known) - 1)
    hits = np.flatnonzero((known[guess] == grams) & validation.whole(n))
    twins = places[first[guess[hits]]]
    same = np.ones(len(hits), dtype=bool)
    for offset in range(n):  # equal hashes are a guess, equal tokens the proof
        same &= validation.tokens[hits + offset] == train.tokens[twins + offset]
    depth = np.zeros(len(validation.tokens) + 1, dtype=np.int64)
    np.add.at(depth, hits[same], 1)
    np.add.at(depth, hits[same] + n, -1)
    return float((depth.cumsum()[:-1] > 0).mean())


def _hashes(tokens: np.ndarray, n: int) -> np.ndarray:
    """Return a hash of the n tokens from each on, polynomial modulo 2^64 and mixed upwards (G,), uint64.

    Made from hashes of 1, 2, 4, ... tokens: as many passes as n has bits, not n.
    """
    count = max(0, len(tokens) - n + 1)
    hashes, made = np.zeros(len(tokens), dtype=np.uint64), 0
    block, width = tokens + np.uint64(1), 1
    while True:
        power = np.uint64(pow(int(MULTIPLIER), width, MASK + 1))
        if n & width:
            hashes = hashes[: max(0, len(tokens) - made - width + 1)] * power
            hashes += block[made : made + len(hashes)]
            made += width
        if made == n:
            break
        later = block[width:]
        block = block[: len(later)] * power + later
        width *= 2
    hashes = hashes[:count] * MULTIPLIER
    return (hashes ^ (hashes >> np.uint64(29))) * MULTIPLIER
