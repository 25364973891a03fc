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
