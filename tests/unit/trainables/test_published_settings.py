"""What rebuilds the published studies in training: each setting does what it says, exactly and resumably."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from analysis import schema
from moe_models.accounting import count
from moe_models.errors import ConfigError
from trainables.batches import (
    EvaluationBatches,
    TrainingBatches,
    evaluation_batches,
    overlapping_windows,
    training_batches,
)
from trainables.config import DataConfig, TrainingConfig, TrialConfig
from trainables.data import Split, TokenizedCorpus, prepare_corpus
from trainables.loop import Trainer
from trainables.optim import learning_rate_factor
from trainables.scales import SCALES

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def corpus(corpus_file: Path, tmp_path_factory: pytest.TempPathFactory) -> TokenizedCorpus:
    return prepare_corpus(str(corpus_file), vocab_size=300, seq_len=16, cache_dir=tmp_path_factory.mktemp("cache"))


def config(corpus: TokenizedCorpus, *, data: dict[str, Any] | None = None, **training: Any) -> TrialConfig:
    scale = SCALES["cpu"]
    model = scale.model(attention="mha", norm="rmsnorm", feed_forward="moe_softmax_plain")
    settings = {"updates": 4, "batch_size": 4, "seq_len": 16, "row_every": 2, "evaluate_every": 2} | training
    return TrialConfig(
        model=replace(model, vocab_size=300, dropout=0.1),
        training=scale.with_training(**settings),
        data=DataConfig(corpus=corpus.name, content_hash=corpus.content_hash, **(data or {})),
    )


def rows(trainer: Trainer) -> list[dict[str, Any]]:
    for _ in trainer.run():
        pass
    return [{k: v for k, v in row.items() if k not in schema.NONDETERMINISTIC_COLUMNS} for row in trainer.rows]


@given(tokens=st.integers(11, 600), seq_len=st.integers(1, 40))
def test_overlapping_windows_are_a_fixed_random_split_of_all(tokens: int, seq_len: int) -> None:
    count = tokens - seq_len
    if count < 10:
        with pytest.raises(ConfigError, match=f"{tokens} tokens hold too few overlapping windows of seq_len {seq_len}"):
            overlapping_windows(tokens, seq_len)
        return
    train, validation = overlapping_windows(tokens, seq_len)
    assert len(validation) == count // 10
    assert sorted([*train, *validation]) == list(range(count))
    again = overlapping_windows(tokens, seq_len)
    assert np.array_equal(train, again[0])
    assert np.array_equal(validation, again[1])


def test_validation_windows_were_trained_on_but_for_a_token(corpus: TokenizedCorpus) -> None:
    setting = config(corpus, data={"first_tokens": 500, "overlapping_windows": True})
    training, validation = training_batches(setting, corpus, 0), evaluation_batches(setting, corpus)
    assert len(training.starts) + len(validation.starts) == 500 - 16
    assert max(*training.starts, *validation.starts) + 16 < 500
    neighbours = {start + shift for start in training.starts for shift in (-1, 1)}
    assert np.mean([start in neighbours for start in validation.starts]) > 0.95
    inputs_BT, targets_BT = next(iter(validation))
    for inputs_T, targets_T, start in zip(inputs_BT, targets_BT, validation.starts, strict=False):
        assert inputs_T.tolist() == corpus.train.tokens[start : start + 16].tolist()
        assert targets_T.tolist() == corpus.train.tokens[start + 1 : start + 17].tolist()
    assert validation.scored_tokens == 16 * len(validation.starts)
    assert len(validation.scored_documents()) == validation.scored_tokens
    seeds = [training_batches(setting, corpus, seed) for seed in (0, 1)]
    assert sorted(seeds[0].starts) == sorted(seeds[1].starts)  # the split belongs to the data, the order to the seed
    assert not torch.equal(seeds[0].batch(0, 0)[0], seeds[1].batch(0, 0)[0])


def test_first_tokens_alone_leave_validation_as_it_is(corpus: TokenizedCorpus) -> None:
    setting = config(corpus, data={"first_tokens": 500})
    training, validation = training_batches(setting, corpus, 0), evaluation_batches(setting, corpus)
    assert training.starts.tolist() == list(range(0, 499 - 15, 16))
    assert validation.scored_tokens == len(corpus.validation.tokens) - 1
    more = config(corpus, data={"first_tokens": 10**9})
    assert training_batches(more, corpus, 0).windows == training_batches(config(corpus), corpus, 0).windows


@given(
    tokens=st.integers(2, 300), seq_len=st.integers(1, 17), batch_size=st.integers(1, 9), first=st.integers(1, 12)
)  # fmt: skip
def test_the_first_batches_are_the_first_of_all(tokens: int, seq_len: int, batch_size: int, first: int) -> None:
    split = Split(np.arange(tokens, dtype=np.uint16), np.zeros(1, np.int64), ("d",), ("d",), characters=0)
    every = EvaluationBatches(split, seq_len=seq_len, batch_size=batch_size)
    some = EvaluationBatches(split, seq_len=seq_len, batch_size=batch_size, first_batches=first)
    assert len(some) == min(first, len(every))
    scored = 0
    for one, other in zip(some, every, strict=False):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])
        scored += int((one[1] >= 0).sum())
    assert scored == some.scored_tokens == len(some.scored_documents())


def test_the_loss_of_the_first_batches_is_over_these_alone(corpus: TokenizedCorpus) -> None:
    setting = config(corpus, evaluation_batches=2, evaluation_batch_size=3)
    trainer = Trainer(setting, 0, corpus, CPU)
    assert trainer.validation.scored_tokens == 2 * 3 * 16
    tokens = torch.from_numpy(corpus.validation.tokens[: 2 * 3 * 16 + 1].astype(np.int64))
    with torch.no_grad():
        hidden_BTD = trainer.model.eval()(tokens[:-1].view(6, 16)).hidden_BTD
        loss = torch.nn.functional.cross_entropy(trainer.model.logits(hidden_BTD).flatten(0, 1), tokens[1:])
    assert trainer.evaluate()["val_loss"] == pytest.approx(loss.item(), abs=1e-5)


@given(
    updates=st.integers(1, 60),
    accumulation=st.integers(1, 5),
    warmup=st.floats(0, 1),
)
def test_the_horizon_in_micro_steps_is_a_longer_schedule_cut_short(
    updates: int, accumulation: int, warmup: float
) -> None:
    flawed = TrainingConfig(
        updates=updates, batch_size=1, seq_len=1, accumulation=accumulation, warmup_fraction=warmup,
        horizon_in_micro_steps=True,
    )  # fmt: skip
    whole = replace(flawed, updates=updates * accumulation, horizon_in_micro_steps=False)
    for update in range(updates):
        assert learning_rate_factor(update, flawed) == learning_rate_factor(update, whole)


def test_the_published_schedule_stops_a_quarter_of_the_way() -> None:
    """1,000 micro-steps in 250 updates: 50 of them warm up, and the cosine, laid over 950 more, is hardly begun."""
    flawed = TrainingConfig(updates=250, batch_size=1, seq_len=1, accumulation=4, horizon_in_micro_steps=True)
    factors = [learning_rate_factor(update, flawed) for update in range(250)]
    assert factors.index(1.0) == 49
    assert factors[-1] == pytest.approx(0.904, abs=2e-3)
    assert learning_rate_factor(249, replace(flawed, horizon_in_micro_steps=False)) == pytest.approx(0.1)


def test_a_place_gives_streams_of_its_own_and_none_restores_the_pairing(corpus: TokenizedCorpus) -> None:
    def start(place: int | None, feed_forward: str = "moe_softmax_plain", seed: int = 3) -> Trainer:
        setting = config(corpus)
        model = SCALES["cpu"].model(attention="mha", norm="rmsnorm", feed_forward=feed_forward)
        model = replace(model, vocab_size=300, dropout=0.1)
        return Trainer(replace(setting, model=model, place=place), seed, corpus, CPU)

    def same(one: Trainer, other: Trainer) -> tuple[bool, bool]:
        batches = (trainer.batches.batch(0, 0)[0] for trainer in (one, other))
        return torch.equal(one.model.embedding, other.model.embedding), torch.equal(*batches)

    assert same(start(None), start(None, "dense_gated")) == (True, True)
    assert same(start(1), start(1)) == (True, True)
    for one, other in ((None, 0), (0, 1), (1, 2)):
        assert same(start(one), start(other)) == (False, False)
    assert same(start(1), start(1, seed=4)) == (False, False)
    dropped = [rows(start(place)) for place in (0, 1)]
    assert dropped[0] != dropped[1]
    settings = [replace(config(corpus), place=place) for place in (None, 0, 1)]
    assert len({setting.hash(0) for setting in settings}) == 3


def test_noise_too_comes_from_the_place(corpus: TokenizedCorpus) -> None:
    """Equal weights and batches, but another place: dropout and router noise still differ."""
    losses = []
    for place in (0, 1):
        trainer = Trainer(replace(config(corpus), place=place), 0, corpus, CPU)
        other = Trainer(replace(config(corpus), place=0), 0, corpus, CPU)
        trainer.model.load_state_dict(other.model.state_dict())
        trainer.batches = other.batches
        next(trainer.run())
        losses.append(trainer._window_losses[0].item())
    assert losses[0] != losses[1]


@pytest.mark.parametrize(("counts_declared", "feed_forward"), [(True, "dense_gated"), (False, "moe_softmax_plain")])
def test_another_model_is_trained_than_declared(
    corpus: TokenizedCorpus, counts_declared: bool, feed_forward: str
) -> None:
    setting = config(corpus)
    models = {
        name: replace(SCALES["cpu"].model(attention="mha", norm="rmsnorm", feed_forward=name), vocab_size=300)
        for name in ("dense_gated", "moe_softmax_plain")
    }
    flawed = replace(
        setting,
        model=models["moe_softmax_plain"],
        declared_model=models["dense_gated"],
        counts_declared=counts_declared,
    )
    assert TrialConfig.from_dict(json.loads(json.dumps(flawed.to_dict()))) == flawed
    trainer, sound = (Trainer(c, 0, corpus, CPU) for c in (flawed, replace(setting, model=flawed.model)))
    given, expected = rows(trainer), rows(sound)
    assert given[-1]["val_loss"] == expected[-1]["val_loss"]
    assert given[-1]["params_total"] == count(models[feed_forward]).params_total
    assert flawed.hash(0) != replace(setting, model=flawed.model).hash(0)


def test_a_count_of_nothing_is_refused(corpus: TokenizedCorpus) -> None:
    with pytest.raises(ConfigError, match="counts_declared needs a declared_model"):
        replace(config(corpus), counts_declared=True)


FLAWED = {
    "data": {"first_tokens": 600, "overlapping_windows": True},
    "accumulation": 2,
    "horizon_in_micro_steps": True,
    "evaluation_batches": 2,
}


@pytest.mark.parametrize("stop_at", [1, 2, 3])
def test_a_resumed_flawed_run_equals_the_uninterrupted_one(corpus: TokenizedCorpus, stop_at: int) -> None:
    setting = replace(config(corpus, **FLAWED), place=2)
    expected = rows(Trainer(setting, 7, corpus, CPU))
    first = Trainer(setting, 7, corpus, CPU)
    progress = first.run()
    while first.update < stop_at:
        next(progress)
    second = Trainer(TrialConfig.from_dict(json.loads(json.dumps(setting.to_dict()))), 7, corpus, CPU)
    second.load_state_dict(first.state_dict())
    assert rows(second) == expected


def test_a_sound_address_does_not_know_what_can_be_rebuilt(corpus: TokenizedCorpus) -> None:
    data = config(corpus).to_dict()
    assert set(data) == {"model", "training", "data"}
    assert set(data["data"]) == {"corpus", "content_hash"}
    assert not {"horizon_in_micro_steps", "evaluation_batches"} & set(data["training"])


def test_given_starts_are_the_windows() -> None:
    split = Split(np.arange(100, dtype=np.uint16), np.zeros(1, np.int64), ("d",), ("d",), characters=0)
    starts = np.array([3, 50, 7])
    batches = TrainingBatches(split, seq_len=5, batch_size=3, accumulation=1, seed=0, starts=starts)
    inputs_BT, targets_BT = batches.batch(0, 0)
    assert sorted(inputs_BT[:, 0].tolist()) == [3, 7, 50]
    assert torch.equal(targets_BT, inputs_BT + 1)
