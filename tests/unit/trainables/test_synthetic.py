"""Generated corpora: probabilities are probabilities, stored likelihoods are exact, entropies are met."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_models.errors import ConfigError
from trainables.corpora import GeneratedSource, find_source
from trainables.data import SPLITS, TokenizedCorpus, open_corpus, prepare_source
from trainables.synthetic import LANGUAGES, draw_document, log_probabilities, topics
from trainables.synthetic.base import END, entropy_of

ALL = {name: make() for name, make in LANGUAGES.items()}
SMALL = 20_000
"""Tokens of a small corpus."""
HASHES = {
    "copy": "71e2826db4a9f5fb",
    "modular": "ef9f8d4f11f85e6f",
    "recall": "8013c43b7c7341b8",
    "synthetic": "f23083f2f0c01c9d",
}
"""Content hash of the small corpus."""


def generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def prepare(name: str, cache: Path) -> TokenizedCorpus:
    return prepare_source(GeneratedSource(ALL[name], SMALL), vocab_size=300, seq_len=16, cache_dir=cache)


@pytest.fixture(scope="module", params=sorted(ALL))
def corpus(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TokenizedCorpus:
    return prepare(request.param, tmp_path_factory.mktemp("cache"))


@pytest.mark.parametrize("name", sorted(ALL))
@settings(max_examples=15)
@given(seed=st.integers(0, 2**32))
def test_probabilities_sum_to_one_after_every_beginning(name: str, seed: int) -> None:
    symbols, logs = draw_document(ALL[name], generator(seed))
    reader = ALL[name].reader()
    for symbol, log in zip(symbols, logs, strict=True):
        probabilities = reader.probabilities()
        assert probabilities.shape == (len(ALL[name].symbols) + 1,)
        assert probabilities.min() >= 0
        assert probabilities.sum() == pytest.approx(1, abs=1e-12)
        assert math.log(probabilities[symbol]) == log
        reader.read(symbol)
    assert list(symbols).index(END) == len(symbols) - 1


@pytest.mark.parametrize("name", sorted(ALL))
def test_the_generators_own_loss_converges_to_its_entropy(name: str) -> None:
    """Within 3.5 standard errors over documents, which is two percent of it."""
    logs = [draw_document(ALL[name], generator(seed))[1] for seed in range(400)]
    losses, tokens = -np.array([log.sum() for log in logs]), np.array([len(log) for log in logs])
    mean = losses.sum() / tokens.sum()
    error = (losses - mean * tokens).std() * math.sqrt(len(tokens)) / tokens.sum()
    assert error < 0.02 * mean
    assert abs(mean - ALL[name].entropy()) <= 3.5 * error + 1e-9


# --- The log-likelihood of a document, worked out from the description of its language ------------------------------


def topics_likelihood(language: topics.Topics, text: Sequence[str]) -> float:
    """Of a document of `synthetic`, from its written symbols and the tables of words alone."""
    total = math.log(1 / 8)
    topic = int(text[0].removeprefix("topic"))
    words = [int(token.removeprefix("word")) for token in text if token.startswith("word")]
    total += math.log(language.first_KW[topic, words[0]])
    total += sum(math.log(language.words_KWW[topic, a, b]) for a, b in itertools.pairwise(words))
    names = [token for token in text if token.startswith("name")]
    for place, name in enumerate(names):
        before = list(dict.fromkeys(reversed(names[:place])))  # the latest first
        new = 1 / (1 + len(before)) if len(before) < 8 else 0
        if name in before:
            total += math.log((1 - new) * 2.0 ** -(before.index(name) + 1) / (1 - 2.0 ** -len(before)))
        else:
            total += math.log(new / (32 - len(before)))
    for place in range(2, len(text) + 1):
        depth = sum(t.startswith("open") - t.startswith("close") for t in text[:place])
        last = text[place - 1]
        token = text[place] if place < len(text) else "end"
        kind = next(kind for kind in ("word", "name", "open", "close", "stop", "end") if token.startswith(kind))
        if kind in ("close", "stop"):
            assert (kind == "close") == (depth > 0)
            kind = "exit"
        shares = {"word": 0.5, "name": 0.2, "open": 0.1, "exit": 0.2}
        if last == "stop" or last.startswith("open"):
            shares = {"word": 0.6, "name": 0.3, "open": 0.1}
        if depth == 3:
            shares["word"] += shares.pop("open")
        if last == "stop":
            shares = {name: 0.92 * share for name, share in shares.items()} | {"end": 0.08}
        total += math.log(shares[kind]) - (math.log(4) if kind == "open" else 0)
    return total


def recall_likelihood(language: object, text: Sequence[str]) -> float:
    """Of a document of `recall`; the answers must be right."""
    shown, asked = text[:12], text[13:]
    assert text[12] == "ask"
    value_of = dict(zip(shown[::2], shown[1::2], strict=True))
    assert len(value_of) == 6
    assert len(asked) == 36
    assert all(value_of[key] == value for key, value in zip(asked[::2], asked[1::2], strict=True))
    return -sum(math.log(keys) for keys in (32, 31, 30, 29, 28, 27)) - 6 * math.log(16) - 18 * math.log(6)


def copy_likelihood(language: object, text: Sequence[str]) -> float:
    """Of a document of `copy`."""
    assert text[24] == "copy"
    assert text[:24] == text[25:]
    return -24 * math.log(16)


def modular_likelihood(language: object, text: Sequence[str]) -> float:
    """Of a document of `modular`; the sums must be right."""
    sums, added = ([int(re.sub("[a-z]+", "", token)) for token in text[first::2]] for first in (0, 1))
    assert (len(sums), len(added)) == (25, 24)
    assert sums == [number % 13 for number in itertools.accumulate(added, initial=sums[0])]
    return -25 * math.log(13)


ORACLES: dict[str, Callable[..., float]] = {
    "copy": copy_likelihood,
    "modular": modular_likelihood,
    "recall": recall_likelihood,
    "synthetic": topics_likelihood,
}


@pytest.mark.parametrize("name", sorted(ALL))
@settings(max_examples=15)
@given(seed=st.integers(0, 2**32))
def test_likelihood_of_a_document_by_hand(name: str, seed: int) -> None:
    symbols, logs = draw_document(ALL[name], generator(seed))
    text = [ALL[name].symbols[symbol - 1] for symbol in symbols[:-1]]
    assert logs.sum() == pytest.approx(ORACLES[name](ALL[name], text), rel=1e-12)


# --- As corpora ----------------------------------------------------------------------------------------------------


def test_stored_likelihoods_are_those_of_the_stored_tokens(corpus: TokenizedCorpus) -> None:
    language = ALL[corpus.name]
    for name in SPLITS:
        split = getattr(corpus, name)
        assert isinstance(split.log_probabilities.base, np.memmap)
        documents = np.split(split.tokens, split.document_starts[1:])
        expected = np.concatenate([log_probabilities(language, document) for document in documents])
        assert np.array_equal(split.log_probabilities, expected)
    assert corpus.entropy == language.entropy()
    assert f"its entropy is {corpus.entropy:.4f} nats" in corpus.notes[-1]


def test_tokens_are_symbols(corpus: TokenizedCorpus) -> None:
    language = ALL[corpus.name]
    assert (corpus.end_of_document, corpus.vocab_used) == (END, len(language.symbols) + 1)
    first = corpus.train.tokens[: corpus.train.document_starts[1] - 1]
    assert corpus.tokenizer().decode(first.tolist()) == " ".join(language.symbols[token - 1] for token in first)


def test_documents_are_whole_and_in_one_split(corpus: TokenizedCorpus) -> None:
    seen = set()
    for name in SPLITS:
        split = getattr(corpus, name)
        texts = {document.tobytes() for document in np.split(split.tokens, split.document_starts[1:])}
        assert all(split.tokens[split.document_starts[1:] - 1] == END)
        assert split.tokens[-1] == END
        assert not texts & seen
        seen |= texts
    assert len(corpus.validation.documents) >= 8


def test_the_corpus_is_always_the_same(corpus: TokenizedCorpus, tmp_path: Path) -> None:
    assert corpus.content_hash == prepare(corpus.name, tmp_path).content_hash == HASHES[corpus.name]


@pytest.mark.parametrize("name", sorted(ALL))
def test_fewer_tokens_are_the_beginning_of_more(name: str) -> None:
    few, more = (list(GeneratedSource(ALL[name], tokens).rows()) for tokens in (500, 1500))
    assert few == more[: len(few)]
    assert len(more) > len(few)


def test_a_damaged_file_of_likelihoods_is_made_again(tmp_path: Path) -> None:
    corpus = prepare("synthetic", tmp_path / "cache")
    path = corpus.directory / "validation-log-probabilities.bin"
    sound = path.read_bytes()
    path.unlink()
    path.write_bytes(sound[:-8])
    with pytest.raises(ConfigError, match=r"validation-log-probabilities\.bin has .* bytes instead of"):
        open_corpus(corpus.directory)
    del corpus
    prepare("synthetic", tmp_path / "cache")
    assert path.read_bytes() == sound


def test_names() -> None:
    for name in LANGUAGES:
        assert find_source(name).fingerprint()["name"] == name
    with pytest.raises(ConfigError, match="unknown corpus 'syntetic': did you mean 'synthetic'"):
        find_source("syntetic")


def test_entropy_of_known_distributions() -> None:
    assert entropy_of(np.array([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])) == pytest.approx([math.log(2), 0.0])
