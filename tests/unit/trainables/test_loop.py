"""The training loop on a small real corpus: exactness of resumption, schedule, accumulation, evaluation, divergence."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from analysis import schema
from trainables.checkpoint import load_checkpoint, save_checkpoint
from trainables.config import DataConfig, TrialConfig
from trainables.data import TokenizedCorpus, prepare_corpus
from trainables.loop import Divergence, Trainer
from trainables.scales import SCALES
from trainables.store import Folder

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> TokenizedCorpus:
    folder = tmp_path_factory.mktemp("corpus")
    words = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta"]
    paragraphs = [" ".join(words[(i * j + j * j) % len(words)] for j in range(40)) + f" number {i}" for i in range(60)]
    (folder / "text.txt").write_text("\n\n".join(paragraphs))
    return prepare_corpus(str(folder / "text.txt"), vocab_size=300, seq_len=16, cache_dir=folder / "cache")


def config(corpus: TokenizedCorpus, feed_forward: str = "moe_deepseek_plain", **training: Any) -> TrialConfig:
    scale = SCALES["cpu"]
    model = scale.model(attention="mha", norm="rmsnorm", feed_forward=feed_forward)
    settings = {"updates": 6, "batch_size": 4, "seq_len": 16, "row_every": 2, "evaluate_every": 3} | training
    return TrialConfig(
        model=dataclasses.replace(model, vocab_size=300, dropout=0.1),
        training=scale.with_training(**settings),
        data=DataConfig(corpus=corpus.name, content_hash=corpus.content_hash),
    )


def rows(trainer: Trainer) -> list[dict[str, Any]]:
    for _ in trainer.run():
        pass
    return deterministic(trainer.rows)


def deterministic(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k not in schema.NONDETERMINISTIC_COLUMNS} for row in rows]


def test_rows_have_the_schemas_columns_at_the_scheduled_updates(corpus: TokenizedCorpus) -> None:
    trainer = Trainer(config(corpus), 0, corpus, CPU)
    result = rows(trainer)
    assert [row["step"] for row in result] == [2, 3, 4, 6]
    assert [row["val_loss"] is not None for row in result] == [False, True, False, True]
    assert all(set(row) == set(schema.CURVE_COLUMNS) for row in trainer.rows)
    last = trainer.rows[-1]
    assert last["tokens"] == 6 * 4 * 16
    assert last["val_perplexity"] == pytest.approx(math.exp(last["val_loss"]))
    assert 0 < last["val_accuracy"] < 1
    assert last["learning_rate"] == pytest.approx(0.1 * 0.01)
    assert last["load_imbalance"] >= 1
    assert trainer.train_seconds > 0


def test_training_learns(corpus: TokenizedCorpus) -> None:
    result = rows(Trainer(config(corpus, updates=40, row_every=20, evaluate_every=20), 0, corpus, CPU))
    assert result[-1]["val_loss"] < 0.7 * math.log(300)


@pytest.mark.parametrize("feed_forward", ["moe_deepseek_plain", "moe_softmax_gated", "dense_gated"])
@pytest.mark.parametrize("stop_at", [1, 3, 5])
def test_a_resumed_run_equals_the_uninterrupted_one(
    corpus: TokenizedCorpus, feed_forward: str, stop_at: int, tmp_path: Path
) -> None:
    setting = config(corpus, feed_forward, accumulation=2)
    whole = Trainer(setting, 7, corpus, CPU)
    expected = rows(whole)
    first = Trainer(setting, 7, corpus, CPU)
    progress = first.run()
    while first.update < stop_at:
        next(progress)
    save_checkpoint(Folder(tmp_path), "c.pt", first.state_dict())
    torch.rand(10)  # the global generator must not matter
    second = Trainer(setting, 7, corpus, CPU)
    state = load_checkpoint(Folder(tmp_path), "c.pt")
    assert state is not None
    second.load_state_dict(state)
    assert rows(second) == expected
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name


def test_a_checkpoint_of_another_run_is_refused(corpus: TokenizedCorpus) -> None:
    state = Trainer(config(corpus), 0, corpus, CPU).state_dict()
    with pytest.raises(ValueError, match="belongs to run"):
        Trainer(config(corpus), 1, corpus, CPU).load_state_dict(state)


def test_seeds_repeat_and_differ_and_share_nothing_global(corpus: TokenizedCorpus) -> None:
    torch.manual_seed(1)
    first = rows(Trainer(config(corpus), 3, corpus, CPU))
    torch.manual_seed(2)
    assert rows(Trainer(config(corpus), 3, corpus, CPU)) == first
    assert rows(Trainer(config(corpus), 4, corpus, CPU)) != first


def test_evaluation_changes_nothing(corpus: TokenizedCorpus) -> None:
    often = rows(Trainer(config(corpus, evaluate_every=1), 0, corpus, CPU))
    seldom = rows(Trainer(config(corpus, evaluate_every=6), 0, corpus, CPU))
    assert often[-1]["val_loss"] == seldom[-1]["val_loss"]
    trainer = Trainer(config(corpus), 0, corpus, CPU)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    assert trainer.evaluate() == trainer.evaluate()
    assert all(torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())


def test_further_evaluations_make_rows_and_change_nothing_else(corpus: TokenizedCorpus) -> None:
    settings = config(corpus, evaluate_every=6)
    plain, further = (Trainer(settings, 0, corpus, CPU) for _ in range(2))
    further.evaluate_at = frozenset({1, 5})
    losses = [{row["step"]: row[schema.VAL_LOSS] for row in rows(trainer)} for trainer in (plain, further)]
    evaluated = [{step: loss for step, loss in found.items() if loss is not None} for found in losses]
    assert evaluated[1].keys() - evaluated[0].keys() == {1, 5}
    assert {step: evaluated[1][step] for step in evaluated[0]} == evaluated[0]


def test_evaluation_batches_do_not_matter(corpus: TokenizedCorpus) -> None:
    one, other = (Trainer(config(corpus, evaluation_batch_size=size), 0, corpus, CPU).evaluate() for size in (1, 32))
    assert one["val_loss"] == pytest.approx(other["val_loss"], abs=1e-6)


def test_accumulated_gradients_are_those_of_the_whole_batch(corpus: TokenizedCorpus) -> None:
    """Two micro-batches of 4 hold the sequences of one batch of 8; without noise the updates agree."""
    model = dataclasses.replace(config(corpus, "dense_gated").model, dropout=0.0)
    split, whole = (
        Trainer(
            dataclasses.replace(config(corpus, "dense_gated", batch_size=batch, accumulation=parts), model=model),
            0, corpus, CPU,
        )
        for batch, parts in ((4, 2), (8, 1))
    )  # fmt: skip
    assert rows(split)[-1]["val_loss"] == pytest.approx(rows(whole)[-1]["val_loss"], abs=2e-4)


def test_cells_see_the_same_data_in_the_same_order(corpus: TokenizedCorpus) -> None:
    one = Trainer(config(corpus, "dense_gated"), 5, corpus, CPU)
    other = Trainer(config(corpus, "moe_softmax_plain"), 5, corpus, CPU)
    for update in range(6):
        assert all(
            torch.equal(a, b) for a, b in zip(one.batches.batch(update, 0), other.batches.batch(update, 0), strict=True)
        )


def test_a_nan_loss_is_a_divergence_with_a_row(corpus: TokenizedCorpus) -> None:
    trainer = Trainer(config(corpus), 0, corpus, CPU)
    with torch.no_grad():
        trainer.model.embedding[0, 0] = math.nan
    with pytest.raises(Divergence, match="train_loss became nan by update 2"):
        rows(trainer)
    assert trainer.rows[-1]["train_loss"] is None
    assert trainer.rows[-1]["val_loss"] is None


def test_gradients_are_clipped(corpus: TokenizedCorpus) -> None:
    trainer = Trainer(config(corpus, optimizer="adamw", gradient_clip=1e-9, weight_decay=0.0), 0, corpus, CPU)
    norms = []
    step = trainer.optimizers[0].step

    def watch() -> None:
        grads = [p.grad for p in trainer.model.parameters() if p.grad is not None]
        norms.append(torch.cat([g.flatten() for g in grads]).norm().item())
        step()

    trainer.optimizers[0].step = watch  # type: ignore[assignment]
    rows(trainer)
    assert len(norms) == 6
    assert max(norms) < 1.1e-9


def test_the_test_split_is_scored_as_a_whole_and_leaves_no_trace(corpus: TokenizedCorpus) -> None:
    plain, tested = (Trainer(config(corpus), 3, corpus, CPU) for _ in range(2))
    expected = rows(plain)
    rows(tested)
    before = {name: value.clone() for name, value in tested.model.state_dict().items()}
    scores, rows_before = tested.witness.scores, list(tested.rows)
    result = tested.evaluate_test()
    assert result == tested.evaluate_test()
    assert set(result) == {"test_loss", "test_accuracy"}
    assert (tested.witness.scores, tested.rows) == (scores, rows_before)
    assert deterministic(tested.rows) == expected
    assert all(torch.equal(value, before[name]) for name, value in tested.model.state_dict().items())
    tokens = torch.from_numpy(corpus.test.tokens.astype("int64"))
    losses = []
    for start in range(0, len(tokens) - 1, 16):
        piece = tokens[start : start + 17]
        with torch.no_grad():
            logits = tested.model.logits(tested.model(piece[None, :-1]).hidden_BTD)[0]
        losses.append(torch.nn.functional.cross_entropy(logits.double(), piece[1:], reduction="sum").item())
    assert result["test_loss"] == pytest.approx(sum(losses) / (len(tokens) - 1), abs=1e-5)
    assert result["test_loss"] != tested.rows[-1]["val_loss"]
