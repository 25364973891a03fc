"""A part of benchmarks/flaws_and_mutants.py: mutants of real source lines are caught, and undone afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.flaws_and_mutants import audited, find, part_of, short_run
from benchmarks.mutants import MUTANTS, edited, mutated
from moe_models.attention import base, mha
from trainables.data import TokenizedCorpus, prepare_corpus
from trainables.loop import Trainer

NAMES = (
    "chunked attention that looks over its edge",
    "mask that is added, and too weak",
    "experts that drop tokens beyond their share",
    "every second label left out of training",
    "validation text in later batches",
    "the training text evaluated",
    "a frozen expert",
    "an optimizer that never steps",
    "a component at learning rate zero",
    "no warm-up",
    "linear decay instead of a cosine",
    "the same windows at every update",
    "one expert a token instead of two",
    "dropout left on while evaluating",
    "averaged weights evaluated",
    "the mean of the batches' means",
    "an earlier evaluation reported",
    "router sees the batch's mean where there are more than two sequences",
    "memory of the batch before, while gradients are on",
    "first token's embedding knows the second, in long sequences",
    "gradient of the loss by another count",
    "labels smoothed while training",
    "five guesses a token",
    "a mean over each part of a batch by itself",
    "the head ends after its first part",
    "evaluated losses of the head's first part alone",
    "the same order in every epoch",
    "an order that is not the seed's",
    "windows that overlap by half",
    "no balance loss",
    "gradients of the last micro-batch alone",
    "gradients never cleared",
    "no weight decay",
    "Muon's steps of one size for all shapes",
    "one expert's factor for all of its stack",
    "Muon with weight decay",
    "no weight decay of the embedding",
    "balancing biases that move the wrong way",
    "Muon rests in the last updates",
    "fp32 where bf16 is named",
    "all experts start equal",
    "FLOPs of half the model",
    "the learning rate's base reported",
    "a moving average of the weights evaluated",
    "dropout in the first batch evaluated",
    "one batch evaluated before the end",
    "the validation split scored as the final test",
    "the final test reported a hundredth too low",
    "the training loss since the start",
    "the training loss with the balance loss",
    "AdamW where Muon is named",
    "optimizers that forget",
    "bf16 where fp32 is named",
    "tokens reported without accumulation",
    "never put back into training mode",
    "initial values of a part doubled",
    "perplexity of bits",
    "accuracy over the padding, too",
    "windows of half the length evaluated",
    "the validation split as the final test",
    "documents that start a token early",
    "validation documents in the final test",
)
"""Those that no other test has."""


@pytest.fixture(scope="module")
def corpus(corpus_file: Path, tmp_path_factory: pytest.TempPathFactory) -> TokenizedCorpus:
    cache = tmp_path_factory.mktemp("cache")
    return part_of(prepare_corpus(str(corpus_file), vocab_size=300, seq_len=64, cache_dir=cache), 60, 6)


@pytest.mark.parametrize("name", NAMES)
def test_mutants_are_caught(corpus: TokenizedCorpus, name: str) -> None:
    (mutant,) = (mutant for mutant in MUTANTS if mutant.name == name)
    found = find(mutant, corpus)
    assert found is not None
    assert found.severity == mutant.severity, found.evidence


def test_what_they_mutate_is_sound(corpus: TokenizedCorpus) -> None:
    _, auditor = audited(short_run(corpus, {}), corpus)
    assert [(audit.name, audit.severity) for audit in auditor.found if audit.severity != "note"] == []


def test_names_are_distinct_and_each_mutant_is_undone() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 20
    before = base.causal_attention, mha.causal_attention, Trainer.evaluate, Trainer.finished
    for mutant in MUTANTS:
        with mutated(mutant.patch):
            pass
    assert (base.causal_attention, mha.causal_attention, Trainer.evaluate, Trainer.finished) == before


def test_an_edit_that_fits_nowhere_is_an_error() -> None:
    with pytest.raises(AssertionError, match="causal_attention has 0 times"):
        edited(base.causal_attention, ("no such line", ""))
