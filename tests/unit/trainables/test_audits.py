"""Audits: seeded mutants of model, data and loop are caught with the right severity; sound runs are left alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from analysis.schema import INVALID, NOTE, WARNING, Audit
from moe_models.activations import ACTIVATIONS
from moe_models.attention import ATTENTION, mha, mla
from moe_models.config import PLACEMENTS
from moe_models.feed_forward import FEED_FORWARD
from moe_models.feed_forward.moe import MixtureOfExpertsModule
from moe_models.model import MoETransformer, build_model
from moe_models.norms import NORM
from moe_models.norms.rmsnorm import RMSNorm
from moe_models.routers.base import Router, Routing
from moe_models.routers.deepseek import DeepSeekRouter
from moe_models.streams import Noise
from trainables import loop, optim
from trainables.audits import Auditor, causality, dead_parameters, evaluation, split_overlap
from trainables.audits import update as update_audit
from trainables.batches import EvaluationBatches, TrainingBatches, Windows
from trainables.config import DataConfig, TrialConfig
from trainables.data import Split, TokenizedCorpus, prepare_corpus
from trainables.loop import Trainer
from trainables.scales import SCALES
from trainables.witness import Batch, Witness, digest, updates_between_looks

CPU = torch.device("cpu")
SEQ_LEN = 16
Mutation = Callable[[pytest.MonkeyPatch], None]


@pytest.fixture(scope="module")
def corpus(corpus_file: Path, tmp_path_factory: pytest.TempPathFactory) -> TokenizedCorpus:
    cache = tmp_path_factory.mktemp("cache")
    return prepare_corpus(str(corpus_file), vocab_size=300, seq_len=SEQ_LEN, cache_dir=cache)


def config(corpus: TokenizedCorpus, dropout: float = 0.1, **choices: Any) -> TrialConfig:
    """A run of four updates; `choices` are slots of the model by preset, or fields of its training."""
    slots = {"attention": "mha", "norm": "rmsnorm", "feed_forward": "moe_softmax_plain", "placement": "pre"}
    training = {"updates": 4, "batch_size": 4, "seq_len": SEQ_LEN, "row_every": 2, "evaluate_every": 4}
    slots |= {name: choices.pop(name) for name in list(choices) if name in slots}
    scale = dataclasses.replace(SCALES["cpu"], vocab_size=300, dropout=dropout)
    scale = dataclasses.replace(scale, size=dataclasses.replace(scale.size, d_model=32, d_ff=48, n_experts=4))
    return TrialConfig(
        model=dataclasses.replace(scale.model(**slots), max_seq_len=SEQ_LEN),
        training=scale.with_training(**training | choices),
        data=DataConfig(corpus=corpus.name, content_hash=corpus.content_hash),
    )


def audited(setting: TrialConfig, corpus: TokenizedCorpus, seed: int = 0) -> dict[str, Audit]:
    """Train and audit as a trial does; return what was found by name."""
    trainer = Trainer(setting, seed, corpus, CPU)
    auditor = Auditor(trainer, corpus)
    auditor.before_update()
    for _ in trainer.run():
        auditor.before_update()
    return {audit.name: audit for audit in auditor.end()}


MODELS = [
    *(("attention", preset) for preset in ATTENTION.presets()),
    *(("feed_forward", preset) for preset in FEED_FORWARD.presets()),
    *(("norm", preset) for preset in NORM.presets()),
    *(("placement", placement) for placement in PLACEMENTS),
]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("slot", "preset"), MODELS)
def test_sound_runs_are_left_alone(corpus: TokenizedCorpus, slot: str, preset: str, precision: str) -> None:
    """Every registered component: nothing is invalid, and the only warning is one that is true."""
    found = audited(config(corpus, precision=precision, **{slot: preset}), corpus)
    assert {name for name, audit in found.items() if audit.severity != NOTE} == (
        {"dead_parameters"} if preset == "unused_glm4" else set()
    )
    assert set(found) <= {"dead_parameters"}


UNUSUAL: dict[str, dict[str, Any]] = {
    "one sequence": {"batch_size": 1, "accumulation": 3},
    "two tokens": {"seq_len": 2, "batch_size": 1},
    "one update": {"updates": 1, "accumulation": 2},
    "two updates": {"updates": 2},
    "hardly a step": {"muon_learning_rate": 1e-6, "adamw_learning_rate": 1e-6, "warmup_fraction": 1.0},
    "hardly a gradient": {"gradient_clip": 1e-6},
    "no learning rate at the end": {"final_learning_rate_fraction": 0.0, "row_every": 1},
    "no momentum": {"muon_momentum": 0.0},
    "AdamW in bf16": {"optimizer": "adamw", "precision": "bf16", "weight_decay": 10.0},
    "large steps": {"muon_learning_rate": 0.3, "adamw_learning_rate": 0.1, "updates": 8},
    "much dropout": {"dropout": 0.9},
    "evaluated at each update": {"evaluate_every": 1, "row_every": 1, "feed_forward": "moe_deepseek_plain"},
    "one window evaluated at a time": {"evaluation_batch_size": 1, "seq_len": 13},
}


@pytest.mark.parametrize("unusual", UNUSUAL)
def test_unusual_settings_are_left_alone(corpus: TokenizedCorpus, unusual: str) -> None:
    found = audited(config(corpus, **UNUSUAL[unusual]), corpus)
    assert {name: audit.evidence for name, audit in found.items() if audit.severity != NOTE} == {}


@pytest.mark.parametrize("drawn", ["normal", "uniform"])
def test_initial_values_as_drawn_are_left_alone(corpus: TokenizedCorpus, drawn: str) -> None:
    """Of biases too, which are drawn where matrices are uniform."""
    setting = config(corpus, attention="mha_biased_no_position", feed_forward="moe_softmax_biased_relu")
    slots = ("attention", "feed_forward") if drawn == "uniform" else ()
    setting = dataclasses.replace(setting, model=dataclasses.replace(setting.model, default_init=slots))
    assert "treatment_applied" not in audited(setting, corpus)


def test_another_order_or_place_as_configured_is_left_alone(corpus: TokenizedCorpus) -> None:
    for choice in ({"data_seed": 77}, {"place": 5}):
        assert not audited(dataclasses.replace(config(corpus), **choice), corpus, seed=3)


def test_settings_of_a_component_may_be_of_any_type(corpus: TokenizedCorpus, monkeypatch: pytest.MonkeyPatch) -> None:
    """A component in a file of its own keeps what it likes."""
    init = mha.MultiHeadAttentionModule.__init__

    def mutant(self: mha.MultiHeadAttentionModule, *arguments: Any) -> None:
        init(self, *arguments)
        self.sizes, self.by_name, self.dtype = [1, (2, [3])], {"low": {1, 2}}, torch.float32

    monkeypatch.setattr(mha.MultiHeadAttentionModule, "__init__", mutant)
    assert not audited(config(corpus), corpus)
    change = built(lambda model: model.layers[0].attention.sizes.append(4))
    change(monkeypatch)
    evidence = audited(config(corpus), corpus)["treatment_applied"].evidence
    assert "sizes is declared as [1, [2, [3]]], and [1, [2, [3]], 4] was trained" in evidence


def test_each_update_but_the_first_may_be_made_twice(corpus: TokenizedCorpus) -> None:
    setting = config(corpus, updates=5)
    looked_at = set()
    for seed in range(12):
        auditor = Auditor(Trainer(setting, seed, corpus, CPU), corpus)
        looked_at.add(auditor._drawn_update())
    assert looked_at == {1, 2, 3, 4}


# --- Mutants of the model -------------------------------------------------------------------------------------------


def masked(mask: Callable[[int], Tensor], only_in_training: bool = False) -> Mutation:
    """Replace the attention's mask: True where a query (row) does not see a key."""
    original = mha.causal_attention

    def attention(query: Tensor, key: Tensor, value: Tensor, *, scale: float, noise: Noise | None, **_: Any) -> Tensor:
        if only_in_training and noise is None:
            return original(query, key, value, scale=scale, noise=noise, dropout_rate=0.0, role="")
        query, key, value = (x.transpose(1, 2) for x in (query, key, value))
        scores = (query @ key.mT) * scale
        hidden = mask(scores.shape[-1])
        return (scores.masked_fill(hidden, float("-inf")).softmax(-1) @ value).transpose(1, 2).flatten(2)

    def mutate(patch: pytest.MonkeyPatch) -> None:
        for module in (mha, mla):
            patch.setattr(module, "causal_attention", attention)

    return mutate


def off_by_one(length: int) -> Tensor:
    return torch.ones(length, length, dtype=torch.bool).triu(2)


def no_mask(length: int) -> Tensor:
    return torch.zeros(length, length, dtype=torch.bool)


def last_sees_first_half_ahead(length: int) -> Tensor:
    """Only position 3 looks ahead."""
    mask = torch.ones(length, length, dtype=torch.bool).triu(1)
    mask[3] = False
    return mask


def routed(change: Callable[[Tensor], Tensor]) -> Mutation:
    """Change what the routers see."""
    original = Router.forward

    def forward(self: Router, x_BTD: Tensor, noise: Noise | None) -> Routing:
        return original(self, change(x_BTD), noise)

    return lambda patch: patch.setattr(Router, "forward", forward)


def expert_choice(patch: pytest.MonkeyPatch) -> None:
    """Experts choose tokens: a token's experts depend on all others, and no gradient shows it."""
    original = Router.forward

    def forward(self: Router, x_BTD: Tensor, noise: Noise | None) -> Routing:
        routing = original(self, x_BTD, noise)
        with torch.no_grad():
            scores_NE = F.linear(x_BTD, self.weight).flatten(0, 1)
            ranks_NE = scores_NE.argsort(0, descending=True).argsort(0).float()
            experts_BTK = (-ranks_NE).topk(self.top_k, dim=-1).indices.view_as(routing.experts_BTK)
        return Routing(experts_BTK, routing.weights_BTK, routing.auxiliary_loss)

    patch.setattr(Router, "forward", forward)


def normed(dims: tuple[int, ...]) -> Mutation:
    """Norms whose statistic runs over more than a token's own elements."""

    def build(self: RMSNorm, dim: int) -> torch.nn.Module:
        return WideNorm(dim, dims)

    return lambda patch: patch.setattr(RMSNorm, "build", build)


class WideNorm(torch.nn.Module):
    def __init__(self, dim: int, dims: tuple[int, ...]) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.empty(dim))
        self.dims = dims

    def forward(self, x_BTD: Tensor) -> Tensor:
        return x_BTD * (x_BTD.square().mean(self.dims, keepdim=True) + 1e-6).rsqrt() * self.weight


def whisper(patch: pytest.MonkeyPatch) -> None:
    """A leak far below rounding, as training may yet amplify it."""
    original = mla.causal_attention

    def attention(query: Tensor, key: Tensor, value: Tensor, **settings: Any) -> Tensor:
        attended = original(query, key, value, **settings)
        return attended + 1e-9 * attended.mean(1, keepdim=True)

    patch.setattr(mla, "causal_attention", attention)


LEAKS = {
    "mask that whispers": whisper,
    "mask off by one": masked(off_by_one),
    "no mask": masked(no_mask),
    "no mask in training alone": masked(no_mask, only_in_training=True),
    "one position looks ahead": masked(last_sees_first_half_ahead),
    "router sees the batch": routed(lambda x: x - x.mean(0, keepdim=True)),
    "router sees the sequence": routed(lambda x: x - x.mean(1, keepdim=True)),
    "router sees the next token": routed(lambda x: x.roll(-1, 1)),
    "experts choose tokens": expert_choice,
    "norm over time": normed((1, 2)),
    "norm over the batch": normed((0, 2)),
}


@pytest.mark.parametrize("leak", LEAKS)
def test_leaks_are_invalid(corpus: TokenizedCorpus, leak: str, monkeypatch: pytest.MonkeyPatch) -> None:
    LEAKS[leak](monkeypatch)
    found = audited(config(corpus, attention="mla" if "mask" in leak else "mha"), corpus)
    assert found["causality"].severity == INVALID
    assert "mode" in found["causality"].evidence


def test_a_leak_is_found_before_training_begins(corpus: TokenizedCorpus, monkeypatch: pytest.MonkeyPatch) -> None:
    masked(no_mask)(monkeypatch)
    auditor = Auditor(Trainer(config(corpus), 0, corpus, CPU), corpus)
    auditor.before_update()
    assert [audit.name for audit in auditor.found] == ["causality"]


def test_rounding_that_flips_tied_experts_is_no_leak(corpus: TokenizedCorpus, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three experts of equal scores; what decides between them is rounding, which depends on later tokens.

    As where sums run in another order; fp64 has none of it.
    """

    def forward(self: Router, x_BTD: Tensor, noise: Noise | None) -> Routing:
        with torch.no_grad():
            self.weight[2:] = self.weight[1]
            places_E = torch.arange(1, self.n_experts + 1)
            rounding_E = 1e-7 * (1e6 * x_BTD.mean() * places_E).sin() * (x_BTD.dtype == torch.float32)
        return self.route(F.linear(x_BTD.float(), self.weight.float()) + rounding_E.float(), None)

    monkeypatch.setattr(Router, "forward", forward)
    model = build_model(config(corpus, dropout=0.0).model, 0)
    inputs_BT, _ = TrainingBatches(corpus.train, seq_len=SEQ_LEN, batch_size=2, accumulation=1, seed=0).batch(0, 0)
    assert causality._moved(model, inputs_BT, 0, [], None) is not None, "nothing flips: the test tests nothing"
    assert causality.audit(model, inputs_BT, 0, Noise(0, 0, 0), torch.autocast("cpu", enabled=False)) is None


def no_room() -> Tensor:
    """Ask a CPU for more than there is."""
    return torch.empty(2**60)


def raising(error: Exception) -> Callable[[], Tensor]:
    def fail() -> Tensor:
        raise error

    return fail


@pytest.mark.parametrize(
    ("fail", "goes_up"),
    [
        (raising(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")), True),
        (raising(torch.AcceleratorError("CUDA error: an illegal memory access was encountered")), True),
        (raising(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")), True),
        (no_room, True),
        (raising(RuntimeError("expected scalar type Float but found Double")), False),
        (raising(NotImplementedError("\"rotate\" not implemented for 'Double'")), False),
    ],
    ids=["torch", "broken device", "cublas", "cpu", "mixed", "not implemented"],
)
def test_what_fp64_could_not_look_at_for_lack_of_memory_is_no_finding(
    corpus: TokenizedCorpus, fail: Callable[[], Tensor], goes_up: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The evidence of fp32 stands by itself only where a component cannot compute in fp64."""
    forward = WideNorm.forward

    def single(self: WideNorm, x_BTD: Tensor) -> Tensor:
        return fail() if x_BTD.dtype == torch.float64 else forward(self, x_BTD)

    LEAKS["norm over time"](monkeypatch)
    monkeypatch.setattr(WideNorm, "forward", single)
    model = build_model(config(corpus, norm="rmsnorm", dropout=0.0).model, 0)
    inputs_BT, _ = TrainingBatches(corpus.train, seq_len=SEQ_LEN, batch_size=2, accumulation=1, seed=0).batch(0, 0)
    autocast = torch.autocast("cpu", enabled=False)
    if goes_up:
        with pytest.raises(RuntimeError, match=r"memory|ALLOC_FAILED"):
            causality.audit(model, inputs_BT, 0, Noise(0, 0, 0), autocast)
    else:
        found = causality.audit(model, inputs_BT, 0, Noise(0, 0, 0), autocast)
        assert found is not None
        assert found.severity == INVALID


def test_causality_leaves_the_model_as_it_was(corpus: TokenizedCorpus) -> None:
    trainer = Trainer(config(corpus, feed_forward="moe_deepseek_plain"), 0, corpus, CPU)
    next(trainer.run())
    model = trainer.model
    model.layers[0].eval()
    before = {name: value.clone() for name, value in [*model.named_parameters(), *model.named_buffers()]}
    modes = {name: module.training for name, module in model.named_modules()}
    model.embedding.grad = torch.ones_like(model.embedding)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    inputs_BT, _ = trainer.batches.batch(0, 0)
    assert causality.audit(model, inputs_BT, 0, Noise(0, 0, 0), trainer.autocast()) is None
    assert all(torch.equal(value, before[name]) for name, value in [*model.named_parameters(), *model.named_buffers()])
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert torch.equal(model.embedding.grad, torch.ones_like(model.embedding))
    assert all(parameter.grad is None for name, parameter in model.named_parameters() if name != "embedding")
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module._forward_pre_hooks for module in model.modules())


# --- Mutants of labels ----------------------------------------------------------------------------------------------


def relabelled(place: type, relabel: Callable[[Tensor, Tensor], Tensor]) -> Mutation:
    def mutate(patch: pytest.MonkeyPatch) -> None:
        if place is TrainingBatches:
            batch = TrainingBatches.batch

            def mutant(self: TrainingBatches, update: int, micro_step: int) -> tuple[Tensor, Tensor]:
                inputs_BT, targets_BT = batch(self, update, micro_step)
                return inputs_BT, relabel(inputs_BT, targets_BT)

            patch.setattr(TrainingBatches, "batch", mutant)
        else:
            batches = EvaluationBatches.__iter__

            def mutants(self: EvaluationBatches) -> Iterator[tuple[Tensor, Tensor]]:
                return ((inputs_BT, relabel(inputs_BT, targets_BT)) for inputs_BT, targets_BT in batches(self))

            patch.setattr(EvaluationBatches, "__iter__", mutants)

    return mutate


LABELS = {
    "trained on the inputs": (relabelled(TrainingBatches, lambda inputs, targets: inputs), "are token t itself"),
    "trained two ahead": (relabelled(TrainingBatches, lambda inputs, targets: targets.roll(-1, 1)), "are token t + 2"),
    "trained one behind": (relabelled(TrainingBatches, lambda inputs, targets: inputs.roll(1, 1)), "are token t - 1"),
    "evaluated on the inputs": (relabelled(EvaluationBatches, lambda inputs, targets: inputs), "evaluated first"),
    "evaluated two ahead": (relabelled(EvaluationBatches, lambda inputs, targets: targets.roll(-1, 1)), "token t + 2"),
    "trained on the first input at the end": (
        relabelled(TrainingBatches, lambda inputs, targets: inputs.roll(-1, 1)),
        "4 of 4 sequences trained on at update 1 end with a wrong label",
    ),
    "evaluated on the first input at the end": (
        relabelled(EvaluationBatches, lambda inputs, targets: inputs.roll(-1, 1).where(targets >= 0, targets)),
        "of 64 sequences evaluated first end with a wrong label",
    ),
}


@pytest.mark.parametrize("mutant", LABELS)
def test_wrong_labels_are_invalid(corpus: TokenizedCorpus, mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mutate, words = LABELS[mutant]
    mutate(monkeypatch)
    found = audited(config(corpus), corpus)
    assert found["targets"].severity == INVALID
    assert words in found["targets"].evidence


def with_another_end(corpus: TokenizedCorpus) -> TokenizedCorpus:
    """The corpus with the numbers of tokens 0, the end of a document, and 7 exchanged."""
    number = np.arange(corpus.vocab_used, dtype=np.uint16)
    number[[0, 7]] = 7, 0
    splits = {name: getattr(corpus, name) for name in ("train", "validation", "test")}
    renumbered = {name: dataclasses.replace(split, tokens=number[split.tokens]) for name, split in splits.items()}
    return dataclasses.replace(corpus, end_of_document=7, **renumbered)


def test_padding_is_no_text(corpus: TokenizedCorpus) -> None:
    """Behind a split's last token inputs are 0, whatever token that is: such a batch is as sound as any."""
    renumbered = with_another_end(corpus)
    setting = config(renumbered, evaluation_batch_size=10_000)
    assert Trainer(setting, 0, renumbered, CPU).validation.scored_tokens % SEQ_LEN, "nothing is padded"
    assert audited(setting, renumbered) == {}


def test_labels_that_go_wrong_later_are_invalid(corpus: TokenizedCorpus, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = TrainingBatches.batch

    def mutant(self: TrainingBatches, update: int, micro_step: int) -> tuple[Tensor, Tensor]:
        inputs_BT, targets_BT = batch(self, update, micro_step)
        return inputs_BT, inputs_BT if update >= 2 else targets_BT

    monkeypatch.setattr(TrainingBatches, "batch", mutant)
    assert "at update 4" in audited(config(corpus), corpus)["targets"].evidence


@pytest.mark.parametrize("method", ["loss", "token_losses"])
def test_a_loss_that_shifts_its_labels_is_invalid(
    corpus: TokenizedCorpus, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = getattr(MoETransformer, method)
    monkeypatch.setattr(
        MoETransformer, method, lambda self, output, targets_BT: original(self, output, targets_BT.roll(1, 1))
    )
    found = audited(config(corpus), corpus)["targets"]
    assert found.severity == INVALID
    assert "cross-entropy" in found.evidence


# --- Mutants of the split -------------------------------------------------------------------------------------------


def with_training_document(corpus: TokenizedCorpus, added: np.ndarray) -> TokenizedCorpus:
    """The corpus with a further document at the end of its training split."""
    train = corpus.train
    tokens = np.concatenate([train.tokens, added.astype(train.tokens.dtype)])
    starts, names = np.append(train.document_starts, len(train.tokens)), (*train.documents, "added")
    return dataclasses.replace(corpus, train=Split(tokens, starts, names, names, train.characters))


def overlap(corpus: TokenizedCorpus, trained: Windows, scored: Windows) -> Audit | None:
    """Audit windows, with a sequence of each as what was really read."""
    texts = {"trained on": trained, "evaluated": scored}
    read = {what: (w, (torch.from_numpy(w.texts()[0][None].astype(np.int64)))) for what, w in texts.items()}
    batches = {what: (w, (text_BN[:, :-1], text_BN[:, 1:])) for what, (w, text_BN) in read.items()}
    return split_overlap.audit(corpus, trained, scored, batches)


def all_windows(split: Split, seq_len: int = 64) -> Windows:
    return Windows(split.tokens, np.arange(0, len(split.tokens) - 1, seq_len), seq_len + 1)


def test_validation_documents_in_training_are_invalid(corpus: TokenizedCorpus) -> None:
    start, end = corpus.validation.document_starts[1:3]
    copied = with_training_document(corpus, corpus.validation.tokens[start:end])
    found = audited(config(corpus), copied)["split_overlap"]
    assert found.severity == INVALID
    assert found.evidence.startswith("1 of ")
    assert corpus.validation.documents[1] in found.evidence


def test_validation_text_under_light_edits_is_invalid(corpus: TokenizedCorpus) -> None:
    """A tenth of all tokens is changed, so that no document is equal and most text is."""
    edited = corpus.validation.tokens.copy()
    edited[np.arange(len(edited)) % 200 < 20] = 299
    copied = with_training_document(corpus, edited)
    found = overlap(copied, all_windows(copied.train), all_windows(corpus.validation))
    assert found is not None
    assert found.severity == INVALID
    assert float(found.evidence.split("%")[0]) == pytest.approx(90, abs=3)


def test_short_documents_may_be_equal_by_chance(corpus: TokenizedCorpus) -> None:
    """Every validation document is in training, but each is a heading: no copies, though the overlap itself counts."""
    tokens = corpus.validation.tokens[:120]
    starts = np.arange(0, 120, 12)
    headings = Split(tokens, starts, tuple(map(str, starts)), tuple(map(str, starts)), 0)
    both = dataclasses.replace(corpus, train=headings, validation=headings)
    assert (
        split_overlap._copies(split_overlap._documents(both.train), both.validation, "validation", "training").names
        == []
    )
    longer = dataclasses.replace(headings, document_starts=starts[::2], documents=tuple("abcde"))
    assert split_overlap._copies(split_overlap._documents(longer), longer, "validation", "training").names == list(
        "abcde"
    )
    assert split_overlap._copies(split_overlap._documents(longer), headings, "validation", "training").names == []


@pytest.mark.parametrize(("copied", "severity"), [(0, None), (1, NOTE), (4, NOTE), (5, INVALID), (40, INVALID)])
def test_short_documents_count_by_their_tokens(corpus: TokenizedCorpus, copied: int, severity: str | None) -> None:
    """Forty equations a split, some of them in both: one may be by chance, more than a tenth of the text is not."""
    splits = []
    for first in (0, 40 - copied):
        texts = [np.array([10 + number // 9, 2, 30 + number % 9, 3, 0]) for number in range(first, first + 40)]
        names = tuple(map(str, range(40)))
        splits.append(Split(np.concatenate(texts).astype(np.uint16), np.arange(0, 200, 5), names, names, 0))
    train, validation = splits
    of_equations = dataclasses.replace(corpus, train=train, validation=validation)
    found = overlap(of_equations, all_windows(train), all_windows(validation))
    assert (found and found.severity) == severity
    if found is not None:
        assert found.evidence.startswith(
            f"{copied} of 40 validation documents, {copied / 40:.2%} of the tokens, are training documents of fewer "
        )


@pytest.mark.parametrize("share", [1.0, 0.05])
def test_test_documents_in_training_are_a_warning(corpus: TokenizedCorpus, share: float) -> None:
    """Beside what there is to say of validation, which decides on the run."""
    start, end = corpus.test.document_starts[1:3]
    copied = with_training_document(corpus, corpus.test.tokens[start:end])
    found = overlap(copied, all_windows(copied.train), all_windows(corpus.validation))
    assert found is not None
    assert found.severity == WARNING
    documents = f"1 of {len(corpus.test.documents)} test documents are training or validation documents"
    said = f"{documents}: {corpus.test.documents[1]}"
    assert found.evidence == f"{said}, so that not all of the final test is new"
    quoted = with_training_document(copied, corpus.validation.tokens[: int(share * len(corpus.validation.tokens))])
    also = overlap(quoted, all_windows(quoted.train), all_windows(corpus.validation))
    assert also is not None
    assert also.severity == (INVALID if share == 1 else WARNING)
    assert "that were trained on" in also.evidence


def test_runs_as_short_as_a_short_window_recur_by_chance(corpus: TokenizedCorpus) -> None:
    """Of windows of two tokens most stand somewhere in any training text."""
    found = audited(config(corpus, seq_len=2, batch_size=64, updates=12), corpus)["split_overlap"]
    assert found.severity == NOTE
    share = float(found.evidence.split("%")[0])
    assert share > 100 * split_overlap.MOST_COPIED, "nothing recurs: the test tests nothing"
    assert "lie in runs of 3 and more that were trained on" in found.evidence
    assert "runs of 13" not in found.evidence


def test_a_little_overlap_is_a_note_with_both_figures(corpus: TokenizedCorpus) -> None:
    text = corpus.validation.tokens
    quoted = with_training_document(corpus, np.concatenate([text[100:180], [299], text[300:330]]))
    found = overlap(quoted, all_windows(quoted.train), all_windows(corpus.validation))
    assert found is not None
    assert found.severity == NOTE
    assert found.evidence.startswith(f"{80 / len(text):.2%} of the {len(text):,} validation tokens")
    assert "runs of 50 and more" in found.evidence
    shorter = float(found.evidence.split("(")[1].split("%")[0])
    assert shorter >= 100 * 110 / len(text)


def test_overlap_counts_what_was_trained_on_only(corpus: TokenizedCorpus) -> None:
    """A quotation in windows that were not drawn is none."""
    scored, windows = all_windows(corpus.validation), all_windows(corpus.train)
    train = windows.tokens.copy()
    train[10 * 64 + 30 : 10 * 64 + 110] = corpus.validation.tokens[100:180]  # in windows 10 and 11
    for places, expected in (((0, 9), None), ((9, 10), None), ((10, 11), NOTE), ((11, 12), None)):
        quoting = dataclasses.replace(corpus, train=dataclasses.replace(corpus.train, tokens=train))
        found = overlap(quoting, Windows(train, windows.starts[list(places)], windows.length), scored)
        assert (found and found.severity) == expected, places


def test_overlapping_windows_split_at_random_are_invalid(corpus: TokenizedCorpus) -> None:
    tokens = corpus.train.tokens[:2_000]
    starts = np.random.default_rng(0).permutation(len(tokens) - SEQ_LEN)
    trained, held = (Windows(tokens, part, SEQ_LEN + 1) for part in np.split(starts, [len(starts) * 9 // 10]))
    found = overlap(corpus, trained, held)
    assert found is not None
    assert found.severity == INVALID
    assert found.evidence.startswith("100.00% of the 1,695")


def test_batches_that_come_from_elsewhere_are_invalid(corpus: TokenizedCorpus, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order says training windows, the batch holds validation text."""
    text = torch.from_numpy(corpus.validation.tokens[: 4 * SEQ_LEN + 1].astype(np.int64))

    def mutant(self: TrainingBatches, update: int, micro_step: int) -> tuple[Tensor, Tensor]:
        return text[:-1].view(4, SEQ_LEN), text[1:].view(4, SEQ_LEN)

    monkeypatch.setattr(TrainingBatches, "batch", mutant)
    found = audited(config(corpus), corpus)["split_overlap"]
    assert found.severity == INVALID
    assert found.evidence.startswith("4 of 4 sequences really trained on")


def validation_text(inputs_BT: Tensor, targets_BT: Tensor, text: Tensor) -> Batch:
    return text[:-1].view_as(inputs_BT), text[1:].view_as(inputs_BT)


WITHIN: dict[str, Callable[[Tensor, Tensor, Tensor], Batch]] = {
    "validation text": validation_text,
    "one label": lambda inputs, targets, text: (inputs, targets.index_fill(1, torch.tensor([5]), 7)),
    "one input": lambda inputs, targets, text: (inputs.index_fill(1, torch.tensor([5]), 7), targets),
    "sequences exchanged": lambda inputs, targets, text: (inputs.flip(0), targets),
}


@pytest.mark.parametrize("mutant", WITHIN)
@pytest.mark.parametrize("accumulation", [1, 3])
def test_batches_that_come_from_elsewhere_in_the_midst_of_a_run_are_invalid(
    corpus: TokenizedCorpus, mutant: str, accumulation: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At an update that is neither the first nor the last, of which batches are kept."""
    batch = TrainingBatches.batch
    text = torch.from_numpy(corpus.validation.tokens[: 4 * SEQ_LEN + 1].astype(np.int64))

    def mutated(self: TrainingBatches, update: int, micro_step: int) -> Batch:
        read = batch(self, update, micro_step)
        return WITHIN[mutant](*read, text) if (update, micro_step) == (1, accumulation - 1) else read

    setting = config(corpus, accumulation=accumulation)
    assert "split_overlap" not in audited(setting, corpus)
    monkeypatch.setattr(TrainingBatches, "batch", mutated)
    found = audited(setting, corpus)["split_overlap"]
    assert found.severity == INVALID
    assert found.evidence.startswith("what was trained on in 4 updates is not the text")


@settings(max_examples=150)
@given(data=st.data())
def test_overlap_equals_its_definition(data: st.DataObject) -> None:
    """Against a search through all pairs of places, on few kinds of tokens so that repeats abound."""
    n = data.draw(st.integers(1, 7))
    texts, windows = [], []
    for _ in range(2):
        tokens = np.array(data.draw(st.lists(st.integers(0, 2), min_size=2, max_size=60)), dtype=np.uint16)
        length = data.draw(st.integers(1, 12))
        places = data.draw(st.sets(st.integers(0, len(tokens) - 1), min_size=1))
        windows.append(Windows(tokens, np.array(data.draw(st.permutations(sorted(places)))), length))
        covered = np.zeros(len(tokens), dtype=bool)
        for place in places:
            covered[place : place + length] = True
        texts.append((tokens, covered))
    (train, in_train), (held, in_held) = texts

    def grams(tokens: np.ndarray, covered: np.ndarray) -> dict[int, bytes]:
        # Two windows that only touch are one text, as in the batches, whose neighbours share a token.
        places = range(len(tokens) - n + 1)
        return {place: tokens[place : place + n].tobytes() for place in places if covered[place : place + n].all()}

    known = set(grams(train, in_train).values())
    copied = np.zeros(len(held), dtype=bool)
    for place, gram in grams(held, in_held).items():
        if gram in known:
            copied[place : place + n] = True
    expected = copied[in_held].mean()
    found = split_overlap._copied(split_overlap._join(windows[1]), split_overlap._join(windows[0]), n)
    assert found == pytest.approx(expected)


# --- Mutants of training --------------------------------------------------------------------------------------------


def built(change: Callable[[MoETransformer], None]) -> Mutation:
    """Change the model after it was built and before the optimizers take its parameters."""

    def build(*arguments: Any) -> MoETransformer:
        model = build_model(*arguments)
        change(model)
        return model

    return lambda patch: patch.setattr(loop, "build_model", build)


def freeze(model: MoETransformer) -> None:
    model.layers[1].attention.requires_grad_(False)


def freeze_gain(model: MoETransformer) -> None:
    model.layers[0].attention_norm.requires_grad_(False)


def detach(patch: pytest.MonkeyPatch) -> None:
    forward = MixtureOfExpertsModule.forward

    def mutant(self: MixtureOfExpertsModule, x_BTD: Tensor, noise: Noise | None) -> tuple[Tensor, Tensor | None]:
        y_BTD, loss = forward(self, x_BTD, noise)
        return y_BTD.detach(), loss

    patch.setattr(MixtureOfExpertsModule, "forward", mutant)


def forget_gains(patch: pytest.MonkeyPatch) -> None:
    adamw = optim._adamw
    patch.setattr(optim, "_adamw", lambda params, c: adamw([p for p in params if p.ndim > 1], c))


DEAD = {
    "frozen": (built(freeze), "layers.1.attention ("),
    "frozen gain": (built(freeze_gain), "layers.0.attention_norm ("),
    "detached": (detach, "layers.0.feed_forward.experts ("),
    "in no optimizer": (forget_gains, "160 of 42,784 parameters"),
}


@pytest.mark.parametrize("mutant", DEAD)
def test_dead_parameters_are_a_warning(corpus: TokenizedCorpus, mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mutate, words = DEAD[mutant]
    mutate(monkeypatch)
    found = audited(config(corpus), corpus)["dead_parameters"]
    assert found.severity == WARNING
    assert words in found.evidence


def test_an_unused_branch_is_counted_to_the_last_parameter(corpus: TokenizedCorpus) -> None:
    setting = config(corpus, feed_forward="unused_glm4")
    trainer = Trainer(setting, 0, corpus, CPU)
    auditor = Auditor(trainer, corpus)
    assert auditor.params_dead is None
    list(trainer.run())
    found = {audit.name: audit for audit in auditor.end()}["dead_parameters"]
    model = build_model(setting.model, 0)
    dead = sum(p.numel() for name, p in model.named_parameters() if ".unused." in name)
    assert found.evidence.startswith(f"{dead:,} of {sum(p.numel() for p in model.parameters()):,} parameters")
    assert f"layers.0.feed_forward.unused ({dead // 2:,})" in found.evidence
    assert auditor.params_dead == dead


def test_an_expert_that_was_never_chosen_is_a_note(corpus: TokenizedCorpus) -> None:
    trainer = Trainer(config(corpus, feed_forward="moe_deepseek_plain"), 0, corpus, CPU)
    with torch.no_grad():
        router = trainer.model.routers()[0]
        assert isinstance(router, DeepSeekRouter)
        router.bias_E[2] = -10.0
    for _ in trainer.run():
        pass
    held = [p for o in trainer.optimizers for group in o.param_groups for p in group["params"]]
    dead = dead_parameters.find(trainer.model, trainer.witness, held)
    found = dead.audit
    assert dead.count <= 32, "an expert is only not met yet, though its row of the router may have no gradient"
    assert found is not None
    assert found.severity == NOTE
    assert "experts never chosen in 4 updates: 1 in layers.0.feed_forward.experts" in found.evidence


def held_to(update: int) -> Mutation:
    """Let gradients reach the second block's output projection and router at one update alone, counted from 1."""

    def mutate(patch: pytest.MonkeyPatch) -> None:
        step = Trainer._train_update
        now = [0]

        def mutant(self: Trainer) -> None:
            now[0] = self.update + 1
            step(self)

        def change(model: MoETransformer) -> None:
            for weight in (model.layers[1].attention.out.weight, model.layers[1].feed_forward.router.weight):
                weight.register_hook(lambda gradient: gradient * float(now[0] == update))

        built(change)(patch)
        patch.setattr(Trainer, "_train_update", mutant)

    return mutate


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
@pytest.mark.parametrize("update", [1, 2, 13, 26, 29, 30])
def test_one_gradient_in_a_whole_run_is_one(
    corpus: TokenizedCorpus, optimizer: str, update: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    held_to(update)(monkeypatch)
    setting = config(corpus, optimizer=optimizer, updates=30, row_every=10, evaluate_every=30)
    assert "dead_parameters" not in audited(setting, corpus)


def test_no_gradient_in_a_whole_run_is_none(corpus: TokenizedCorpus, monkeypatch: pytest.MonkeyPatch) -> None:
    held_to(31)(monkeypatch)
    found = audited(config(corpus, updates=30, row_every=10, evaluate_every=30), corpus)["dead_parameters"]
    assert found.severity == WARNING
    assert "in 30 updates: layers.1.attention.out (1,024), layers.1.feed_forward.router (128)" in found.evidence


@pytest.mark.parametrize("momentum", [0.0, 0.01, 0.5, 0.8, 0.95, 0.999, 1.0])
def test_no_gradient_fades_between_two_looks(momentum: float) -> None:
    between = updates_between_looks(momentum)
    assert between >= 1
    assert momentum ** (between - 1) >= 0.01
    adamw = 0.9
    assert (1 - adamw) * adamw ** (between - 1) > 10 * dead_parameters.NOTHING


def test_loads_are_counted_to_the_last_token(corpus: TokenizedCorpus) -> None:
    """In fp32 a further token is lost where there are 2^24 already."""
    trainer = Trainer(config(corpus), 0, corpus, CPU)
    for tokens in (2.0**24, 1.0, 1.0):
        trainer.witness.row_made(trainer.model, [torch.full((4,), tokens) for _ in trainer.model.routers()])
    assert [load_E.tolist() for load_E in trainer.witness.loads.values()] == [[2**24 + 2] * 4] * 2


def test_an_expert_that_was_chosen_once_was_chosen(corpus: TokenizedCorpus) -> None:
    """At an update far from any row of the curve."""
    setting = config(corpus, feed_forward="moe_deepseek_plain", updates=12, row_every=12, evaluate_every=12)
    trainer = Trainer(setting, 0, corpus, CPU)
    router = trainer.model.routers()[0]
    assert isinstance(router, DeepSeekRouter)
    progress = trainer.run()
    for update in range(12):
        with torch.no_grad():
            router.bias_E[2] = 10.0 if update == 5 else -10.0
        next(progress)
    held = [p for o in trainer.optimizers for group in o.param_groups for p in group["params"]]
    assert dead_parameters.find(trainer.model, trainer.witness, held).audit is None
    tokens = 12 * 4 * SEQ_LEN
    assert [load_E.sum() for load_E in trainer.witness.loads.values()] == [2 * tokens, 2 * tokens]
    assert trainer.witness.loads["layers.0.feed_forward.router"][2] == tokens / 12


def stop_early(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Trainer, "finished", property(lambda self: self.update >= self.config.training.updates // 2))


def stretch(patch: pytest.MonkeyPatch) -> None:
    factor = loop.learning_rate_factor
    patch.setattr(
        loop,
        "learning_rate_factor",
        lambda update, training: factor(update, dataclasses.replace(training, updates=4 * training.updates)),
    )


def skip_micro_steps(patch: pytest.MonkeyPatch) -> None:
    batch = TrainingBatches.batch

    def mutant(self: TrainingBatches, update: int, micro_step: int) -> tuple[Tensor, Tensor]:
        inputs_BT, targets_BT = batch(self, update, micro_step)
        return inputs_BT[:2], targets_BT[:2]

    patch.setattr(TrainingBatches, "batch", mutant)


def freeze_rate(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Trainer, "_set_learning_rates", lambda self, factor: None)


BUDGETS = {
    "schedule cut short": (stop_early, "2 of 4 scheduled updates were made"),
    "horizon in micro-steps": (stretch, "the learning rate ended at 0.9"),
    "half of each batch": (skip_micro_steps, "128 tokens were trained on where 256 were scheduled"),
    "constant learning rate": (freeze_rate, "ended at 1 of its base"),
}


@pytest.mark.parametrize("mutant", BUDGETS)
def test_a_budget_not_kept_is_a_warning(corpus: TokenizedCorpus, mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mutate, words = BUDGETS[mutant]
    mutate(monkeypatch)
    found = audited(config(corpus, evaluate_every=2), corpus)["budget"]
    assert found.severity == WARNING
    assert words in found.evidence


@pytest.mark.parametrize("warmup", [0.0, 0.9, 1.0])
def test_a_schedule_of_warm_up_alone_was_kept(corpus: TokenizedCorpus, warmup: float) -> None:
    assert audited(config(corpus, warmup_fraction=warmup), corpus) == {}


def train_the_baseline(patch: pytest.MonkeyPatch) -> None:
    def build(config: Any, *arguments: Any) -> MoETransformer:
        return build_model(dataclasses.replace(config, attention=BASELINE_ATTENTION), *arguments)

    patch.setattr(loop, "build_model", build)


BASELINE_ATTENTION = mha.MultiHeadAttention(n_heads=4)


def swap_one_layer(model: MoETransformer) -> None:
    model.layers[1].attention = BASELINE_ATTENTION.build(32, dropout=0.1, role="layers.1.attention")
    for parameter in model.layers[1].attention.parameters():
        torch.nn.init.normal_(parameter, std=0.02)


def post_norm(model: MoETransformer) -> None:
    for layer in model.layers:
        layer.is_pre_norm = False


def other_positions(model: MoETransformer) -> None:
    rotary = model.layers[0].attention.rotary
    rotary.config = dataclasses.replace(rotary.config, base=500.0)


def other_activation(model: MoETransformer) -> None:
    model.layers[0].feed_forward.experts.activation = ACTIVATIONS["relu"]


def claim_more(patch: pytest.MonkeyPatch) -> None:
    count = loop.count
    patch.setattr(
        loop, "count", lambda config: dataclasses.replace(count(config), params_total=count(config).params_total + 1)
    )


WRONG = {
    "the baseline": (train_the_baseline, "modules are not the declared ones, such as layers.0.attention"),
    "one layer of the baseline": (built(swap_one_layer), "such as layers.1.attention"),
    "norms elsewhere": (built(post_norm), "is_pre_norm is declared as True, and False was trained"),
    "other positions": (built(other_positions), "rotary is declared as"),
    "other activation": (built(other_activation), "activation is declared as silu, and relu was trained"),
    "counts of a twin": (claim_more, "params_total is reported as"),
}


@pytest.mark.parametrize("mutant", WRONG)
def test_another_model_than_declared_is_invalid(
    corpus: TokenizedCorpus, mutant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutate, words = WRONG[mutant]
    mutate(monkeypatch)
    found = audited(config(corpus, attention="mla"), corpus)["treatment_applied"]
    assert found.severity == INVALID
    assert words in found.evidence


def test_a_truncated_evaluation_is_a_warning_with_its_error(corpus: TokenizedCorpus) -> None:
    trainer = Trainer(config(corpus, evaluation_batch_size=32, evaluation_batches=2), 0, corpus, CPU)
    auditor = Auditor(trainer, corpus)
    for _ in trainer.run():
        pass
    found = {audit.name: audit for audit in auditor.end()}["evaluation"]
    assert found.severity == WARNING
    scored = 2 * 32 * SEQ_LEN
    available = len(corpus.validation.tokens) - 1
    assert found.evidence.startswith(f"{scored:,} tokens were scored where the validation split has {available:,}")
    losses = np.concatenate([losses_N.numpy() for _, losses_N in trainer.witness.scores])
    documents = corpus.validation.document_of_token()[1 : scored + 1]
    sums = [(losses[documents == d].sum(), (documents == d).sum()) for d in np.unique(documents)]
    residuals = [total - losses.mean() * count for total, count in sums]
    error = np.sqrt(len(sums) / (len(sums) - 1) * np.sum(np.square(residuals))) / scored
    assert f"standard error of {error:.3f} nats over {len(sums)} documents" in found.evidence


def first_again(batches: list[Batch]) -> list[Batch]:
    """All but the last are the first."""
    return [*batches[:1] * (len(batches) - 1), batches[-1]]


@pytest.mark.parametrize("some", [first_again, lambda batches: [batches[0], *batches[-2:0:-1], batches[-1]]])
def test_an_evaluation_of_other_text_of_the_same_length_is_invalid(
    corpus: TokenizedCorpus, some: Callable[[list[Batch]], list[Batch]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the count nor the first and the last batch tell; in another order losses are of the wrong documents."""
    batches = EvaluationBatches.__iter__
    monkeypatch.setattr(EvaluationBatches, "__iter__", lambda self: iter(some(list(batches(self)))))
    found = audited(config(corpus, evaluation_batch_size=16), corpus)
    assert found["evaluation"].severity == INVALID
    assert "labels scored are not the" in found["evaluation"].evidence


def test_the_last_evaluation_is_kept_by_document_and_group(corpus: TokenizedCorpus) -> None:
    places = range(len(corpus.validation.documents))
    groups = tuple(f"book {place // 2 % 3}" for place in places)
    corpus = dataclasses.replace(corpus, validation=dataclasses.replace(corpus.validation, groups=groups))
    trainer = Trainer(config(corpus, evaluation_batch_size=3), 0, corpus, CPU)
    auditor = Auditor(trainer, corpus)
    assert auditor.scores is None
    for _ in trainer.run():
        pass
    auditor.end()
    scores = auditor.scores
    assert scores is not None
    assert scores.documents == list(places)
    assert scores.clusters == [place // 2 % 3 for place in places]
    losses, document = np.concatenate([losses_N.numpy() for _, losses_N in trainer.witness.scores]), 0
    sums, tokens = [0.0 for _ in places], [0 for _ in places]
    for place in range(1, len(corpus.validation.tokens)):  # the first token is no target
        while document + 1 < len(places) and place >= corpus.validation.document_starts[document + 1]:
            document += 1
        sums[document] += float(losses[place - 1])
        tokens[document] += 1
    assert scores.tokens == tokens
    assert scores.losses == sums, "fp64 sums in the order of the tokens, rounded nowhere"
    assert sum(sums) / sum(tokens) == pytest.approx(trainer.rows[-1]["val_loss"], rel=1e-12)


def test_more_tokens_scored_than_the_split_has_are_no_share_of_it(corpus: TokenizedCorpus) -> None:
    overlapping = config(corpus)
    overlapping = dataclasses.replace(overlapping, data=dataclasses.replace(overlapping.data, overlapping_windows=True))
    found = audited(overlapping, corpus)["evaluation"]
    assert found.severity == WARNING
    assert ": some are not its own, or count repeatedly" in found.evidence
    assert "%" not in found.evidence


def test_no_document_is_scored_by_more_losses_than_there_are(corpus: TokenizedCorpus) -> None:
    trainer = Trainer(config(corpus), 0, corpus, CPU)
    trainer.evaluate()
    assert evaluation.by_document(trainer.validation, trainer.witness) is not None
    trainer.witness.scores *= 2
    scores = evaluation.by_document(trainer.validation, trainer.witness)
    assert scores is None
    assert evaluation.audit(corpus.validation, scores, trainer.witness) is not None


# --- What a run's twin is told by -----------------------------------------------------------------------------------


def digest_of(setting: TrialConfig, corpus: TokenizedCorpus, seed: int = 0) -> str:
    trainer = Trainer(setting, seed, corpus, CPU)
    list(trainer.run())
    return trainer.witness.digest


def test_equal_models_and_seeds_have_one_digest_and_no_others_have(corpus: TokenizedCorpus) -> None:
    setting = config(corpus)
    assert digest_of(setting, corpus) == digest_of(setting, corpus) != ""
    longer = dataclasses.replace(setting, training=dataclasses.replace(setting.training, evaluate_every=2))
    assert digest_of(longer, corpus) == digest_of(setting, corpus), "evaluating changes nothing"
    assert digest_of(config(corpus, updates=2, evaluate_every=2), corpus) == "", "too short to have one"
    digests = [
        digest_of(config(corpus, **{slot: preset}), corpus)
        for slot, preset in MODELS
        if (slot, preset) not in (("attention", "mha"), ("feed_forward", "moe_softmax_plain"), ("placement", "pre"))
    ]
    assert len(set(digests)) >= len(digests) - 1, "all but the two RMSNorms, which are one function"
    assert digest_of(setting, corpus, seed=1) not in {*digests, digest_of(setting, corpus)}


@given(st.data())
@settings(max_examples=50)
def test_one_changed_bit_anywhere_is_another_digest(data: st.DataObject) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Linear(5, 3))
    names = {name for name, _ in model.named_parameters()}
    name = data.draw(st.sampled_from(sorted(names)))
    before, without = digest(model, names), digest(model, names - {name})
    values = model.get_parameter(name).data.view(-1).view(torch.int32)
    place = data.draw(st.integers(0, len(values) - 1))
    values[place] ^= 1 << data.draw(st.integers(0, 30))
    assert digest(model, names) != before
    assert digest(model, names - {name}) == without, "a parameter that never trains is no part of the model"


# --- The trial ------------------------------------------------------------------------------------------------------


def rows(trainer: Trainer) -> list[dict[str, Any]]:
    timed = ("train_seconds", "evaluation_seconds", "tokens_per_second", "peak_memory_bytes")
    return [{name: value for name, value in row.items() if name not in timed} for row in trainer.rows]


@pytest.mark.parametrize("feed_forward", ["moe_deepseek_gated", "moe_softmax_plain"])
def test_audits_change_nothing(corpus: TokenizedCorpus, feed_forward: str, monkeypatch: pytest.MonkeyPatch) -> None:
    setting = config(corpus, feed_forward=feed_forward, updates=6, evaluate_every=2)
    watched = Trainer(setting, 0, corpus, CPU)
    auditor = Auditor(watched, corpus)
    auditor.before_update()
    for _ in watched.run():
        auditor.before_update()
        auditor._causality()
    auditor.end()
    for name in ("batch", "begins", "gradients", "row_made", "scored", "update_made"):
        monkeypatch.setattr(Witness, name, lambda self, *arguments: None)
    alone = Trainer(setting, 0, corpus, CPU)
    for _ in alone.run():
        pass
    assert rows(watched) == rows(alone)
    state = alone.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in watched.model.state_dict().items())


def test_a_resumed_run_finds_what_an_uninterrupted_one_does(corpus: TokenizedCorpus) -> None:
    setting = config(corpus, feed_forward="unused_glm4")
    trainer = Trainer(setting, 0, corpus, CPU)
    auditor = Auditor(trainer, corpus)
    auditor.before_update()
    list(trainer.run())
    whole, whole_scores = {audit.name: audit for audit in auditor.end()}, auditor.scores
    assert whole_scores is not None
    first = Trainer(setting, 0, corpus, CPU)
    progress = first.run()
    next(progress), next(progress)
    second = Trainer(setting, 0, corpus, CPU)
    second.load_state_dict(first.state_dict())
    auditor = Auditor(second, corpus)
    auditor.before_update()
    for _ in second.run():
        auditor.before_update()
    assert auditor.ran[1] == "update"
    assert {audit.name: audit for audit in auditor.end()} == whole
    assert set(whole) == {"dead_parameters"}
    assert auditor.scores == whole_scores
    assert second.witness.digest == trainer.witness.digest != ""


@pytest.mark.parametrize("lost", [0, 1])
def test_an_optimizer_that_forgets_where_a_run_goes_on_is_invalid(corpus: TokenizedCorpus, lost: int) -> None:
    first = Trainer(config(corpus), 0, corpus, CPU)
    progress = first.run()
    next(progress), next(progress)
    second = Trainer(config(corpus), 0, corpus, CPU)
    second.load_state_dict(first.state_dict())
    second.optimizers[lost].state.clear()
    auditor = Auditor(second, corpus)
    auditor.before_update()
    for _ in second.run():
        auditor.before_update()
    (found,) = auditor.end()
    assert (found.name, found.severity) == ("update", INVALID)
    assert f"{['Muon', 'AdamW'][lost]} has counted 2 updates where 4 were made" in found.evidence


@pytest.mark.parametrize("seed", [0, 1])
def test_models_that_are_lost_have_no_digest(corpus: TokenizedCorpus, seed: int) -> None:
    """All weights are NaN after three updates, whatever the seed: that is a divergence, and no run counted twice."""
    rates = {"muon_learning_rate": 1e30, "adamw_learning_rate": 1e30, "warmup_fraction": 0.0}
    trainer = Trainer(config(corpus, row_every=4, **rates), seed, corpus, CPU)
    auditor = Auditor(trainer, corpus)
    auditor.before_update()
    with suppress(loop.Divergence):
        for _ in trainer.run():
            auditor.before_update()
    assert auditor.end() == []
    assert trainer.rows[-1]["train_loss"] is None
    assert trainer.witness.updates == 4
    assert trainer.witness.digest == ""


def test_what_others_wait_for_on_a_device_is_time_of_training(
    corpus: TokenizedCorpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device works while nobody waits, as a GPU does: by a clock that stands still but for waiting, 1 s an update."""
    now, queued = [0.0], [0.0]
    train, begin = Trainer._train_update, update_audit.begin

    def wait(*_: Any) -> None:
        now[0] += queued[0]
        queued[0] = 0.0

    def queue(self: Trainer) -> None:
        train(self)
        queued[0] += 1.0

    def waiting_begin(*arguments: Any) -> update_audit.Begun:
        wait()
        return begin(*arguments)

    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(Trainer, "_train_update", queue)
    monkeypatch.setattr(Trainer, "_synchronise", wait)
    monkeypatch.setattr(update_audit, "begin", waiting_begin)
    trainer = Trainer(config(corpus, updates=12, row_every=12), 0, corpus, CPU)
    auditor = Auditor(trainer, corpus)
    auditor.before_update()
    for _ in trainer.run():
        auditor.before_update()
        if trainer.update == 10:
            assert trainer.state_dict()["train_seconds"] == 10
            wait()  # for what is written
    assert "update" in auditor.ran
    assert trainer.rows[-1]["train_seconds"] == 12


def test_a_diverged_run_keeps_what_was_found_before(corpus: TokenizedCorpus, monkeypatch: pytest.MonkeyPatch) -> None:
    masked(no_mask)(monkeypatch)
    trainer = Trainer(config(corpus, attention="mla"), 0, corpus, CPU)
    auditor = Auditor(trainer, corpus)
    auditor.before_update()
    with torch.no_grad():
        trainer.model.embedding.fill_(float("nan"))
    with pytest.raises(loop.Divergence):
        list(trainer.run())
    assert [(audit.name, audit.severity) for audit in auditor.end()] == [("causality", INVALID)]
    assert auditor.ran == ["causality", "treatment_applied"]
