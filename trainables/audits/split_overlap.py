"""`split_overlap`: how much of what an evaluation scores was trained on.

Shapes: M tokens of joined windows, n tokens a gram, G grams.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from analysis.schema import INVALID, NOTE, Audit
from trainables.batches import Windows
from trainables.data import Split, TokenizedCorpus

NAME = "split_overlap"
LONG_RUN = 50
"""Tokens a run that counts as copied: Lee et al., section 4.1 of https://arxiv.org/abs/2107.06499."""
SHORT_RUN = 13
"""Tokens a run of the older measure: Brown et al., appendix C of https://arxiv.org/abs/2005.14165."""
MOST_COPIED = 0.1
"""Share of copied tokens above which a validation loss measures memory."""
SHORTEST_DOCUMENT = SHORT_RUN
"""Tokens below which two documents may be equal by chance: headings, single words."""
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
MASK = (1 << 64) - 1


def audit(
    corpus: TokenizedCorpus, trained: Windows, scored: Windows, read: Mapping[str, tuple[Windows, Tensor]]
) -> Audit | None:
    """Look for validation tokens in runs that stand in the tokens trained on, and for documents in both splits.

    Args:
        corpus: where the documents are.
        trained: the windows that the run trained on.
        scored: the windows that its evaluation scored.
        read: batches by what was done with them: windows, and the inputs (B, T) that were really read, each of which
            must be one of them.
    """
    for what, (windows, inputs_BT) in read.items():
        strays = _strays(windows, inputs_BT.cpu().numpy())
        if strays:
            evidence = f"{strays} of {len(inputs_BT)} sequences really {what} are none of the windows drawn for it"
            return Audit(name=NAME, severity=INVALID, evidence=evidence)
    copies = _copies(corpus.train, corpus.validation)
    if copies:
        evidence = (
            f"{len(copies)} of {len(corpus.validation.documents)} validation documents are training documents: "
            f"{', '.join(copies[:3])}{' …' if len(copies) > 3 else ''}"
        )
        return Audit(name=NAME, severity=INVALID, evidence=evidence)
    train, validation = _join(trained), _join(scored)
    run = min(LONG_RUN, scored.length)  # of a shorter window, the whole
    copied = _copied(validation, train, run)
    for what, windows, split in (("trained on", trained, corpus.train), ("evaluated", scored, corpus.validation)):
        if copied <= MOST_COPIED and not np.array_equal(windows.tokens, split.tokens):
            evidence = f"the text {what} is not that of its split"
            return Audit(name=NAME, severity=INVALID, evidence=evidence)
    if copied == 0:
        return None
    evidence = f"{copied:.2%} of the {len(validation.tokens):,} validation tokens lie in runs of {run} and more"
    if copied > MOST_COPIED:
        return Audit(name=NAME, severity=INVALID, evidence=f"{evidence} that were trained on")
    shorter = _copied(validation, train, min(SHORT_RUN, run))
    evidence = f"{evidence} that were trained on ({shorter:.2%} in runs of {SHORT_RUN})"
    return Audit(name=NAME, severity=NOTE, evidence=evidence)


def _strays(windows: Windows, inputs_BT: np.ndarray) -> int:
    """Return how many sequences are none of the windows."""
    length = inputs_BT.shape[1]
    texts = [windows.tokens[start : start + length] for start in windows.starts]
    whole = {text.tobytes() for text in texts}
    cut = [text for text in texts if len(text) < length]  # the last window of an evaluation is padded
    return sum(
        inputs_T.tobytes() not in whole and not any(np.array_equal(inputs_T[: len(text)], text) for text in cut)
        for inputs_T in inputs_BT.astype(windows.tokens.dtype)
    )


def _copies(train: Split, validation: Split) -> list[str]:
    """Return the names of validation documents that are training documents, token by token."""
    texts, held = (np.split(split.tokens, split.document_starts[1:]) for split in (train, validation))
    lengths = {len(text) for text in held if len(text) >= SHORTEST_DOCUMENT}
    known = {text.tobytes() for text in texts if len(text) in lengths}
    return [name for text, name in zip(held, validation.documents, strict=True) if text.tobytes() in known]


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
