"""`too_good`: leaks fall below the generator's loss and are invalid; honest models, even lucky ones, are left alone."""

from __future__ import annotations

import bz2
import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from analysis.schema import INVALID, NOTE
from moe_models.model import MoETransformer
from trainables import compressor
from trainables.audits import Auditor, too_good
from trainables.audits.evaluation import standard_error
from trainables.audits.too_good import against_generator
from trainables.config import DataConfig, TrialConfig
from trainables.corpora import FileSource, GeneratedSource, Source
from trainables.data import prepare_source
from trainables.loop import Trainer
from trainables.scales import SCALES
from trainables.synthetic import LANGUAGES

DRAW_SEED = 5


def documents(draw: np.random.Generator, count: int, length: int, rare: float) -> np.ndarray:
    """Draw from a generator of two tokens, one of them rare: how many rare ones each document has (C,)."""
    return draw.binomial(length, rare, size=count)


def losses(rare_C: np.ndarray, length: int, believed: float) -> np.ndarray:
    """Return the loss of each document under a belief about the rare token's probability (C,)."""
    return -rare_C * math.log(believed) - (length - rare_C) * math.log1p(-believed)


@pytest.mark.parametrize("count", [8, 40, 200])
def test_a_bet_against_rare_tokens_is_no_finding(count: int) -> None:
    """A model that leaves a rare token out is better than the generator wherever none comes, with a tiny error.

    Four standard errors alone would call it invalid in many corpora; the bound on the sum does in none.
    """
    draw, length, rare = np.random.default_rng(DRAW_SEED), 100, 0.5 / (100 * count)
    tokens_C = np.full(count, length)
    by_errors = found = 0
    for _ in range(2000):
        rare_C = documents(draw, count, length, rare)
        model_C, generator_C = losses(rare_C, length, rare / 100), losses(rare_C, length, rare)
        gain = (generator_C - model_C).sum()
        by_errors += gain > 4 * standard_error(generator_C - model_C, tokens_C) * tokens_C.sum()
        found += against_generator(model_C, generator_C, tokens_C) is not None
    assert by_errors > 400
    assert found == 0


@pytest.mark.parametrize("sharpness", [0.9, 0.99, 1.0, 1.01, 1.1])
def test_models_as_good_as_the_generator_are_no_finding(sharpness: float) -> None:
    """Beliefs near the truth: half of them beat the generator on the documents at hand, by chance."""
    draw, count, length, rare = np.random.default_rng(DRAW_SEED), 30, 100, 0.3
    better = 0
    for _ in range(2000):
        rare_C = documents(draw, count, length, rare)
        model_C, generator_C = losses(rare_C, length, rare * sharpness), losses(rare_C, length, rare)
        better += model_C.sum() < generator_C.sum()
        assert against_generator(model_C, generator_C, np.full(count, length)) is None
    assert sharpness == 1.0 or better > 10


def test_what_sees_its_tokens_is_found() -> None:
    """A model that is told one token in ten gains 0.1 H a token."""
    draw, count, length, rare = np.random.default_rng(DRAW_SEED), 30, 100, 0.3
    rare_C = documents(draw, count, length, rare)
    told_C = draw.hypergeometric(rare_C, length - rare_C, length // 10)
    generator_C = losses(rare_C, length, rare)
    model_C = generator_C - losses(told_C, length // 10, rare)
    found = against_generator(model_C, generator_C, np.full(count, length))
    assert found is not None
    assert found.severity == INVALID
    assert f"{model_C.sum() / 3000:.4f} nats a token" in found.evidence
    assert "over 30 documents" in found.evidence


def test_both_conditions_are_needed() -> None:
    tokens_C = np.full(10, 100)
    zero_C = np.zeros(10)
    assert against_generator(zero_C - 1.38, zero_C, tokens_C) is None  # 13.80 nats in all: chance is above 1e-6
    assert against_generator(zero_C - 1.39, zero_C, tokens_C) is not None  # 13.90, the same in each document
    uneven_C = np.where(np.arange(10) == 0, 50.0, 0.0)
    assert against_generator(zero_C - uneven_C, zero_C, tokens_C) is None  # 50 nats, all from one document
    assert against_generator(np.array([-900.0]), np.array([0.0]), np.array([100])) is None  # one document has no error


def test_compressor_is_bzip2_after_the_training_text() -> None:
    draw = np.random.default_rng(DRAW_SEED)
    words = [bytes(draw.integers(97, 123, size=6, dtype=np.uint8)) for _ in range(300)]

    def text(count: int) -> bytes:
        return b" ".join(words[place] for place in draw.integers(0, 300, size=count))

    training, validation = text(20_000), text(2_000)
    with_training = compressor.bits_per_byte(training, validation)
    assert with_training == 8 * (len(bz2.compress(training + validation)) - len(bz2.compress(training))) / len(
        validation
    )
    ideal = 8 / 7 * math.log2(300) / 8  # a word and its space take log2(300) bits
    assert ideal < with_training < compressor.bits_per_byte(b"", validation)
    long = text(200_000)
    assert compressor.bits_per_byte(long, long) == compressor.bits_per_byte(
        long[-(compressor.BLOCK - compressor.LONGEST) :], long[: compressor.LONGEST]
    )


def audited(source: Source, cache: Path) -> dict[str, tuple[str, str]]:
    """Train ten updates of a tiny model and audit it as a trial does; return severity and evidence by name."""
    corpus = prepare_source(source, vocab_size=300, seq_len=32, cache_dir=cache)
    scale = dataclasses.replace(SCALES["cpu"], vocab_size=300)
    scale = dataclasses.replace(scale, size=dataclasses.replace(scale.size, d_model=32, d_ff=48, n_experts=4))
    model = scale.model(attention="mha", norm="rmsnorm", feed_forward="moe_softmax_plain")
    training = scale.with_training(updates=10, batch_size=8, seq_len=32)
    data = DataConfig(corpus=corpus.name, content_hash=corpus.content_hash)
    trainer = Trainer(TrialConfig(model=model, training=training, data=data), 0, corpus, torch.device("cpu"))
    auditor = Auditor(trainer, corpus)
    for _ in trainer.run():
        pass
    return {audit.name: (audit.severity, audit.evidence) for audit in auditor.end()}


def scaled_losses(patch: pytest.MonkeyPatch, share: float) -> None:
    """Make the evaluation report a share of each loss, as a wrong unit or a wrong count would."""
    original = MoETransformer.token_losses

    def token_losses(self: MoETransformer, output: object, targets_BT: Tensor) -> tuple[Tensor, Tensor]:
        losses_N, correct_N = original(self, output, targets_BT)  # type: ignore[arg-type]
        return losses_N * share, correct_N

    patch.setattr(MoETransformer, "token_losses", token_losses)


@pytest.mark.parametrize("name", sorted(LANGUAGES))
def test_runs_on_generated_corpora(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = GeneratedSource(LANGUAGES[name](), 20_000)
    assert too_good.NAME not in audited(source, tmp_path)
    scaled_losses(monkeypatch, 0.1)
    severity, evidence = audited(source, tmp_path)[too_good.NAME]
    assert severity == INVALID
    assert "below that of the generator of these tokens" in evidence


def test_runs_on_text(corpus_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert too_good.NAME not in audited(FileSource(corpus_file), tmp_path)
    scaled_losses(monkeypatch, 0.05)
    severity, evidence = audited(FileSource(corpus_file), tmp_path)[too_good.NAME]
    assert severity == NOTE
    assert "of what bzip2 needs" in evidence
