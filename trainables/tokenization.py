"""From a corpus to tokens, in memory: read, split, train the tokenizer on the training documents, encode."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from moe_models.errors import require
from trainables.corpora import END_OF_DOCUMENT, Document, Source, read_documents
from trainables.splits import split_documents

if TYPE_CHECKING:  # slow to import, and workers never need it
    from tokenizers import Tokenizer

SMALLEST_VOCABULARY = 257
"""All bytes and the end-of-document token."""


@dataclass(frozen=True)
class Tokenization:
    """All documents of a corpus as tokens."""

    tokenizer: Tokenizer
    documents: dict[str, list[Document]]
    """The documents of each split."""
    tokens: dict[str, list[np.ndarray]]
    """For each of them its ids and the end-of-document token, uint16 or uint32."""
    entropy: float | None
    """Of the generator that the documents are drawn from, in nats per token; None where people wrote them."""
    notes: list[str]
    """What a reader of results should know about the data."""


def tokenize(source: Source, vocab_size: int) -> Tokenization:
    """Read, split and encode a corpus.

    Raises:
        ConfigError: see `trainables.data.prepare_corpus`.
    """
    tokenizer = source.published_tokenizer()
    if tokenizer is not None:
        _check_published(tokenizer, source.name, vocab_size)
    documents, empty = read_documents(source)
    splits = split_documents(documents, source.name)
    if tokenizer is None:
        tokenizer = train_tokenizer((document.text for document in splits["train"]), vocab_size)
    tokenizer = without_special_text(tokenizer)
    used, end = tokenizer.get_vocab_size(), tokenizer.token_to_id(END_OF_DOCUMENT)
    dtype = np.uint16 if used <= 2**16 else np.uint32
    tokens = {}
    for split, members in splits.items():
        texts = [document.text for document in members]
        encodings = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        tokens[split] = [np.array([*encoding.ids, end], dtype=dtype) for encoding in encodings]

    notes = []
    if used < vocab_size:
        notes.append(
            f"corpus '{source.name}': the tokenizer has {used:,} entries of the {vocab_size:,} asked for; "
            f"{vocab_size - used:,} rows of the embedding are no token's: all that they learn is not to be predicted"
        )
    if empty:
        notes.append(f"corpus '{source.name}': {empty:,} empty document{'s' * (empty != 1)} left out")
    entropy = None if source.language is None else source.language.entropy()
    if entropy is not None:
        notes.append(
            f"corpus '{source.name}' is generated: its entropy is {entropy:.4f} nats a token, and no lower loss is "
            "to be expected of any model"
        )
    return Tokenization(tokenizer, splits, tokens, entropy, notes)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train a byte-level BPE (arXiv:1508.07909, on bytes as in GPT-2); equal texts give equal merges."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_DOCUMENT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def without_special_text(tokenizer: Tokenizer) -> Tokenizer:
    """Make "<|endoftext|>" inside a document ordinary text: it must not end there."""
    tokenizer.encode_special_tokens = True
    return tokenizer


def _check_published(tokenizer: Tokenizer, corpus: str, vocab_size: int) -> None:
    used = tokenizer.get_vocab_size()
    require(
        vocab_size >= used,
        f"corpus '{corpus}' has a published tokenizer of {used:,} entries: vocab_size must be at least that "
        f"but got {vocab_size:,}; take a larger scale, or --corpus web",
    )
    known = tokenizer.token_to_id(END_OF_DOCUMENT) is not None
    require(known, f"the published tokenizer of corpus '{corpus}' has no token {END_OF_DOCUMENT}")
