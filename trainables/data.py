"""Tokens: a corpus is read, split and tokenized once, cached by content, and memory-mapped by every trial.

`prepare_corpus` does it in the driver; workers only `open_corpus`, which loads neither `datasets` nor
`tokenizers`. Batches of these tokens are made in `trainables.batches`.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import re
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.schema import write_json
from moe_models.errors import ConfigError, require
from trainables import compressor
from trainables.config import stable_hash
from trainables.corpora import END_OF_DOCUMENT, Source, file_hash, find_source, one_line
from trainables.splits import SPLITS
from trainables.tokenization import SMALLEST_VOCABULARY, Tokenization, tokenize, without_special_text

if TYPE_CHECKING:  # slow to import, and workers never need it
    from tokenizers import Tokenizer

FORMAT_VERSION = 1
"""To be raised when reading, splitting or tokenizing changes: older cache entries are then not used."""
CACHE_VARIABLE = "ABLATUNE_CACHE"
META_FILE = "meta.json"
COMPRESSOR_FILE = "compressor.json"
TOKENIZER_FILE = "tokenizer.json"


@dataclass(frozen=True)
class Split:
    """The tokens of one split: its documents one after the other, each ended by the end-of-document token."""

    tokens: np.ndarray
    """Token ids (N,), uint16 or uint32, memory-mapped."""
    document_starts: np.ndarray
    """Place of each document's first token (D,), int64."""
    documents: tuple[str, ...]
    """Name of each document."""
    groups: tuple[str, ...]
    """Group (for `web` the book) of each document."""
    characters: int
    """Length of the text."""
    log_probabilities: np.ndarray | None = None
    """Of a generated corpus: of each token given those before it in its document, under the generator (N,), nats,
    float64, memory-mapped."""

    def document_of_token(self) -> np.ndarray:
        """Return the index of each token's document (N,), int64; an end belongs to the document it ends."""
        lengths = np.diff(self.document_starts, append=len(self.tokens))
        return np.repeat(np.arange(len(lengths)), lengths)


@dataclass(frozen=True)
class TokenizedCorpus:
    """A corpus ready for training: memory-mapped tokens in a folder of the cache."""

    directory: Path
    """What `open_corpus` opens."""
    name: str
    """`web`, `smollm`, or the file's name."""
    content_hash: str
    """16 hex digits over the tokens of all splits and the vocabulary: equal data, equal hash."""
    vocab_size: int
    """Entries that were asked for: the model's vocabulary."""
    vocab_used: int
    """Entries that the tokenizer has: fewer where a small corpus ran out of merges."""
    end_of_document: int
    """Id of the end-of-document token."""
    entropy: float | None
    """Of the generator that the documents are drawn from, in nats per token; None where people wrote them."""
    compressor_loss: float | None
    """Of text, what a general compressor needs for the validation split, in nats per token (`trainables.compressor`);
    None where the corpus is generated."""
    notes: tuple[str, ...]
    """What a reader of results should know about the data, in words."""
    train: Split
    validation: Split
    test: Split

    def tokenizer(self) -> Tokenizer:
        """Load the tokenizer that made the tokens."""
        from tokenizers import Tokenizer

        return without_special_text(Tokenizer.from_file(str(self.directory / TOKENIZER_FILE)))


def prepare_corpus(spec: str, *, vocab_size: int, seq_len: int, cache_dir: Path | None = None) -> TokenizedCorpus:
    """Return a corpus as tokens: from the cache, or read, split, tokenized and put there.

    Args:
        spec: `web`, `smollm`, `smollm:DOCUMENTS`, the name of a generated language, or the path of a .txt, .jsonl
            or .parquet file.
        vocab_size: entries of the byte-level BPE, which is trained on the training documents only. For a corpus
            with a published tokenizer, entries of the model's embedding: not fewer than the tokenizer has.
        seq_len: tokens a window; each split must hold at least one.
        cache_dir: where tokens are kept; by default $ABLATUNE_CACHE, or ~/.cache/ablatune.

    Raises:
        ConfigError: the corpus is unknown, missing, empty, not text or too small, the Hub cannot be reached, or the
            cache cannot be written.
    """
    return prepare_source(find_source(spec), vocab_size=vocab_size, seq_len=seq_len, cache_dir=cache_dir)


def prepare_source(source: Source, *, vocab_size: int, seq_len: int, cache_dir: Path | None = None) -> TokenizedCorpus:
    """Do what `prepare_corpus` does, for a source that has no spec (a mirror of a Hub data set, say)."""
    require(seq_len >= 1, f"seq_len must be 1 or more but got {seq_len}")
    require(
        vocab_size >= SMALLEST_VOCABULARY,
        f"vocab_size must be {SMALLEST_VOCABULARY} or more (all bytes and the end-of-document token) "
        f"but got {vocab_size}",
    )
    key = stable_hash({"format": FORMAT_VERSION, "vocab_size": vocab_size, **source.fingerprint()})
    directory = _cache_root(cache_dir) / f"{re.sub(r'[^A-Za-z0-9._-]', '_', source.name)}-{key}"
    corpus = _open_if_sound(directory)
    if corpus is None:
        corpus = _store(directory, source.name, vocab_size, tokenize(source, vocab_size))
    corpus = _with_compressor(corpus)
    for name in SPLITS:
        count = len(getattr(corpus, name).tokens)
        require(
            count > seq_len,
            f"corpus '{corpus.name}' is too short: its {name} split has {count:,} tokens, and one window of "
            f"seq_len {seq_len:,} takes {seq_len + 1:,}; use a longer corpus or a shorter seq_len",
        )
    return corpus


def open_corpus(directory: Path) -> TokenizedCorpus:
    """Open tokens that `prepare_corpus` made, without reading them.

    Raises:
        ConfigError: the folder is not a prepared corpus, or a file is missing or not of its size.
    """
    try:
        meta = json.loads((directory / META_FILE).read_text())
        checksum = meta.pop("checksum")
        if checksum != stable_hash(meta):
            raise ValueError(f"{META_FILE} was changed")
        named = ("name", "content_hash", "vocab_size", "vocab_used", "end_of_document")
        fields: dict[str, Any] = {key: meta[key] for key in named}
        fields |= {name: _open_split(directory, name, meta) for name in SPLITS}
        measured = directory / COMPRESSOR_FILE
        loss = json.loads(measured.read_text())["nats_per_token"] if measured.exists() else None
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise ConfigError(f"{directory} is not a prepared corpus: {one_line(error)}") from error
    notes, entropy = tuple(meta["notes"]), meta.get("entropy")
    return TokenizedCorpus(directory=directory, notes=notes, entropy=entropy, compressor_loss=loss, **fields)


def _with_compressor(corpus: TokenizedCorpus) -> TokenizedCorpus:
    """Measure the compressor once, into a file beside the tokens, and open the corpus with it."""
    if corpus.entropy is not None or corpus.compressor_loss is not None:
        return corpus
    tokenizer, scored = corpus.tokenizer(), corpus.validation.tokens
    training, validation = (
        tokenizer.decode(tokens.tolist()).encode() for tokens in (corpus.train.tokens[-compressor.BLOCK :], scored)
    )
    bits = compressor.bits_per_byte(training, validation)
    loss = bits * math.log(2) * len(validation) / len(scored)
    try:
        write_json(corpus.directory / COMPRESSOR_FILE, {"bits_per_byte": bits, "nats_per_token": loss})
    except OSError as error:
        raise _unwritable(corpus.directory.parent, error) from error
    return replace(corpus, compressor_loss=loss)


def _open_split(directory: Path, name: str, meta: Mapping[str, Any]) -> Split:
    split = meta["splits"][name]
    tokens = _open_array(directory / f"{name}.bin", np.dtype(meta["dtype"]), split["tokens"])
    starts = np.array(split["document_starts"], dtype=np.int64)
    known = "entropy" in meta
    logs = _open_array(directory / _log_file(name), np.dtype(np.float64), split["tokens"]) if known else None
    return Split(tokens, starts, tuple(split["documents"]), tuple(split["groups"]), split["characters"], logs)


def _log_file(split: str) -> str:
    return f"{split}-log-probabilities.bin"


def _open_array(path: Path, dtype: np.dtype, count: int) -> np.ndarray:
    size, expected = path.stat().st_size, count * dtype.itemsize
    if size != expected:
        raise ValueError(f"{path.name} has {size:,} bytes instead of {expected:,}")
    # A plain view of the memory map: indexing np.memmap itself is several times slower.
    return np.asarray(np.memmap(path, dtype=dtype, mode="r"))


def _cache_root(cache_dir: Path | None) -> Path:
    if cache_dir is None:
        cache_dir = Path(os.environ.get(CACHE_VARIABLE) or "~/.cache/ablatune").expanduser()
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(cache_dir, error) from error
    return cache_dir.resolve()


def _unwritable(cache_dir: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"cache folder {cache_dir} cannot be written: {one_line(error)}; set {CACHE_VARIABLE} to one that can"
    )


def _open_if_sound(directory: Path) -> TokenizedCorpus | None:
    """Open a cache entry; None where there is none, or a file in it is not the one that was written."""
    try:
        corpus = open_corpus(directory)
        hashes = json.loads((directory / META_FILE).read_text())["files"]
        sound = all(file_hash(directory / name) == expected for name, expected in hashes.items())
    except (ConfigError, OSError, KeyError):
        return None
    return corpus if sound else None


def _store(directory: Path, name: str, vocab_size: int, made: Tokenization) -> TokenizedCorpus:
    """Write a cache entry beside its place, move it there as a whole, and open it."""
    try:
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=directory.parent) as workspace:
            partial = Path(workspace, "corpus")
            partial.mkdir()
            _write_entry(partial, name, vocab_size, made)
            _publish(partial, directory, Path(workspace))
    except OSError as error:
        raise _unwritable(directory.parent, error) from error
    return open_corpus(directory)


def _write_entry(folder: Path, name: str, vocab_size: int, made: Tokenization) -> None:
    tokens = {split: np.concatenate(pieces) for split, pieces in made.tokens.items()}
    for split, ids in tokens.items():
        ids.tofile(folder / f"{split}.bin")
        if made.entropy is not None:
            logs = np.concatenate([np.asarray(document.log_probabilities) for document in made.documents[split]])
            assert len(logs) == len(ids), "a generated corpus has a probability for each token"
            logs.tofile(folder / _log_file(split))
    made.tokenizer.save(str(folder / TOKENIZER_FILE))
    meta = {
        "name": name,
        "content_hash": _content_hash(tokens, made.tokenizer.get_vocab(), vocab_size),
        "vocab_size": vocab_size,
        "vocab_used": made.tokenizer.get_vocab_size(),
        "end_of_document": made.tokenizer.token_to_id(END_OF_DOCUMENT),
        "dtype": tokens["train"].dtype.str,
        "notes": made.notes,
        **({} if made.entropy is None else {"entropy": made.entropy}),
        "files": {path.name: file_hash(path) for path in sorted(folder.iterdir())},
        "splits": {
            split: {
                "tokens": len(tokens[split]),
                "characters": sum(len(document.text) for document in documents),
                "document_starts": np.cumsum([0, *map(len, made.tokens[split][:-1])]).tolist(),
                "documents": [document.name for document in documents],
                "groups": [document.group for document in documents],
            }
            for split, documents in made.documents.items()
        },
    }
    write_json(folder / META_FILE, {**meta, "checksum": stable_hash(meta)})


def _publish(partial: Path, directory: Path, workspace: Path) -> None:
    """Move a whole entry to its place. A broken one there goes; a sound one, of another process, stays."""
    for attempt in itertools.count():
        try:
            os.rename(partial, directory)
            return
        except OSError:
            if attempt == 9:
                raise
        if _open_if_sound(directory) is not None:
            return
        with suppress(FileNotFoundError):  # another process may just have moved it away
            os.rename(directory, workspace / f"broken-{attempt}")


def _content_hash(tokens: Mapping[str, np.ndarray], vocabulary: Mapping[str, int], vocab_size: int) -> str:
    digest = hashlib.sha256(json.dumps([vocab_size, sorted(vocabulary.items())]).encode())
    for split in SPLITS:
        digest.update(f"/{split}/{tokens[split].dtype.str}/{len(tokens[split])}/".encode())
        digest.update(np.ascontiguousarray(tokens[split]).data)
    return digest.hexdigest()[:16]
