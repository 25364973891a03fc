import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moe_models.errors import ConfigError
from moe_models.loss import IGNORED_TARGET
from trainables.batches import EvaluationBatches, TrainingBatches
from trainables.data import Split


def split_of(lengths: list[int]) -> Split:
    """Make a split of documents of these lengths whose token at place i is i."""
    starts = np.cumsum([0, *lengths[:-1]])
    names = tuple(f"d{i}" for i in range(len(lengths)))
    return Split(np.arange(sum(lengths), dtype=np.uint16), starts, names, names, characters=0)


sizes = {
    "tokens": st.integers(2, 400),
    "seq_len": st.integers(1, 17),
    "batch_size": st.integers(1, 9),
    "accumulation": st.integers(1, 4),
    "seed": st.integers(0, 2**40),
}


class TestTraining:
    @given(**sizes)
    def test_windows_do_not_overlap_and_labels_follow(self, tokens, seq_len, batch_size, accumulation, seed):
        if tokens <= seq_len:
            return
        batches = TrainingBatches(
            split_of([tokens]), seq_len=seq_len, batch_size=batch_size, accumulation=accumulation, seed=seed
        )
        inputs_BT, targets_BT = batches.batch(3, accumulation - 1)
        assert inputs_BT.shape == targets_BT.shape == (batch_size, seq_len)
        assert inputs_BT.dtype == targets_BT.dtype == torch.int64
        assert inputs_BT.is_contiguous()
        assert targets_BT.is_contiguous()
        assert (inputs_BT[:, 0] % seq_len == 0).all()
        assert torch.equal(inputs_BT, inputs_BT[:, :1] + torch.arange(seq_len))
        assert torch.equal(targets_BT, inputs_BT + 1)

    @given(**sizes)
    def test_every_epoch_uses_every_window_once(self, tokens, seq_len, batch_size, accumulation, seed):
        if tokens <= seq_len:
            return
        batches = TrainingBatches(
            split_of([tokens]), seq_len=seq_len, batch_size=batch_size, accumulation=accumulation, seed=seed
        )
        assert batches.windows == (tokens - 1) // seq_len
        updates = 1 + 3 * batches.windows // (batch_size * accumulation)
        used = np.concatenate([batches.window_indices(u, m) for u in range(updates) for m in range(accumulation)])
        for epoch in range(3):
            of_epoch = used[epoch * batches.windows : (epoch + 1) * batches.windows]
            assert sorted(of_epoch) == list(range(batches.windows))

    @given(**sizes, visits=st.lists(st.integers(0, 50), min_size=1, max_size=6))
    def test_a_batch_is_a_function_of_the_step(self, tokens, seq_len, batch_size, accumulation, seed, visits):
        if tokens <= seq_len:
            return

        def fresh() -> TrainingBatches:
            return TrainingBatches(
                split_of([tokens]), seq_len=seq_len, batch_size=batch_size, accumulation=accumulation, seed=seed
            )

        torch.manual_seed(len(visits))  # the global generator is irrelevant
        wandering = fresh()
        for update in visits:
            inputs_BT, _ = wandering.batch(update, 0)
            assert torch.equal(inputs_BT, fresh().batch(update, 0)[0])

    @given(**sizes, updates=st.integers(1, 12))
    def test_the_windows_drawn_are_those_of_the_batches(self, tokens, seq_len, batch_size, accumulation, seed, updates):
        if tokens <= seq_len:
            return
        split = split_of([tokens])
        batches = TrainingBatches(split, seq_len=seq_len, batch_size=batch_size, accumulation=accumulation, seed=seed)
        drawn = batches.drawn(updates)
        read = [batches.batch(u, m) for u in range(updates) for m in range(accumulation)]
        firsts = {int(inputs_T[0]) for inputs_BT, _ in read for inputs_T in inputs_BT}
        lasts = {int(targets_T[-1]) for _, targets_BT in read for targets_T in targets_BT}
        assert drawn.starts.tolist() == sorted(firsts)
        assert {int(start) + drawn.length - 1 for start in drawn.starts} == lasts
        assert drawn.tokens is split.tokens

    def test_accumulation_only_divides_the_same_sequences(self):
        split = split_of([1000])
        whole = TrainingBatches(split, seq_len=8, batch_size=12, accumulation=1, seed=5)
        parts = TrainingBatches(split, seq_len=8, batch_size=4, accumulation=3, seed=5)
        for update in range(25):
            together = torch.cat([parts.batch(update, m)[0] for m in range(3)])
            assert torch.equal(whole.batch(update, 0)[0], together)

    def test_epochs_and_seeds_differ_in_order(self):
        split = split_of([6401])
        orders = [
            tuple(TrainingBatches(split, seq_len=64, batch_size=100, accumulation=1, seed=s).window_indices(e, 0))
            for s in (0, 1)
            for e in (0, 1)
        ]
        assert len(set(orders)) == 4
        assert tuple(range(100)) not in orders

    def test_no_window_is_an_error(self):
        with pytest.raises(ConfigError, match="8 tokens hold no window of seq_len 8"):
            TrainingBatches(split_of([8]), seq_len=8, batch_size=1, accumulation=1, seed=0)

    def test_the_order_of_an_epoch_is_drawn_once(self, monkeypatch):
        drawn = []
        draw = torch.randperm
        monkeypatch.setattr(torch, "randperm", lambda *args, **kwargs: drawn.append(args) or draw(*args, **kwargs))
        batches = TrainingBatches(split_of([641]), seq_len=64, batch_size=2, accumulation=1, seed=0)
        for update in range(10):
            batches.batch(update, 0)
        assert drawn == [(10,), (10,)]


class TestEvaluation:
    @given(tokens=st.integers(2, 400), seq_len=st.integers(1, 17), batch_size=st.integers(1, 9))
    def test_every_token_but_the_first_is_scored_once(self, tokens, seq_len, batch_size):
        evaluation = EvaluationBatches(split_of([tokens]), seq_len=seq_len, batch_size=batch_size)
        scored = []
        batches = list(evaluation)
        assert len(batches) == len(evaluation)
        for inputs_BT, targets_BT in batches:
            assert inputs_BT.shape == targets_BT.shape
            assert inputs_BT.shape[0] <= batch_size
            assert inputs_BT.shape[1] == seq_len
            assert inputs_BT.dtype == targets_BT.dtype == torch.int64
            real = targets_BT != IGNORED_TARGET
            assert torch.equal(inputs_BT[real] + 1, targets_BT[real])
            scored.append(targets_BT[real])
        assert torch.equal(torch.cat(scored), torch.arange(1, tokens))
        assert evaluation.scored_tokens == tokens - 1
        windows = evaluation.scored()
        assert windows.starts.tolist() == [int(inputs_T[0]) for inputs_BT, _ in batches for inputs_T in inputs_BT]
        assert windows.length == seq_len + 1

    @given(st.lists(st.integers(1, 30), min_size=1, max_size=12).filter(lambda lengths: sum(lengths) > 1))
    def test_documents_of_the_scored_tokens(self, lengths):
        evaluation = EvaluationBatches(split_of(lengths), seq_len=7, batch_size=3)
        documents = evaluation.scored_documents()
        scored = torch.cat([targets[targets != IGNORED_TARGET] for _, targets in evaluation])
        expected = np.searchsorted(np.cumsum(lengths), scored.numpy(), side="right")
        assert documents.tolist() == expected.tolist()

    def test_ignored_target_is_torchs(self):
        assert torch.nn.CrossEntropyLoss().ignore_index == IGNORED_TARGET

    def test_nothing_to_score_is_an_error(self):
        with pytest.raises(ConfigError, match="nothing to evaluate"):
            EvaluationBatches(split_of([1]), seq_len=4, batch_size=1)
