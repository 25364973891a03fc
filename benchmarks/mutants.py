"""Mutants: the real code with one thing wrong in it, each with the audit that has to find it.

A mutant is put in force at run time, in the code that trains: a line of a function's source is replaced, or a function
by another one, and all else runs as it is. `benchmarks/flaws_and_mutants.py` trains them.
"""

from __future__ import annotations
import __future__

import dataclasses
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import FunctionType, ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from analysis.schema import INVALID, WARNING
from moe_models import dropout as dropout_module
from moe_models import loss as loss_module
from moe_models import model as model_module
from moe_models.activations import ACTIVATIONS
from moe_models.attention import base as attention_base
from moe_models.attention.mha import MultiHeadAttention, MultiHeadAttentionModule
from moe_models.feed_forward.moe import MixtureOfExpertsModule
from moe_models.model import MoETransformer, build_model
from moe_models.norms.rmsnorm import RMSNorm
from moe_models.routers.base import Router, Routing
from moe_models.routers.deepseek import DeepSeekRouter
from moe_models.routers.softmax_topk import SoftmaxTopKRouter
from moe_models.streams import Noise
from trainables import batches as batches_module
from trainables import loop, optim
from trainables.batches import EvaluationBatches, TrainingBatches
from trainables.data import Split, TokenizedCorpus
from trainables.loop import Trainer

PACKAGES = ("moe_models.", "trainables.")

Replace = Callable[[Any, str, Any], None]
"""Sets an attribute of a module or class until the mutant is undone."""
Patch = Callable[[Replace], None]


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """One thing that is wrong."""

    name: str
    audit: str
    """Which must find it."""
    severity: str
    patch: Patch = lambda replace: None
    corpus: Callable[[TokenizedCorpus], TokenizedCorpus] = lambda corpus: corpus
    """What becomes of the text."""
    setting: Mapping[str, Any] = field(default_factory=dict)
    """What the run has to be like for it to matter: slots of the model, fields of its training."""


@contextmanager
def mutated(patch: Patch) -> Iterator[None]:
    """Put a mutant in force."""
    with ExitStack() as stack:
        patch(lambda owner, name, new: stack.enter_context(mock.patch.object(owner, name, new)))
        yield


def edited(function: Callable[..., Any], *changes: tuple[str, str]) -> Callable[..., Any]:
    """Return a function whose source has each first text, which must occur once, replaced by the second."""
    source = textwrap.dedent(inspect.getsource(function))
    for old, new in changes:
        assert source.count(old) == 1, f"{function.__qualname__} has {source.count(old)} times: {old}"
        source = source.replace(old, new)
    made: dict[str, Any] = {}
    code = compile(source, f"<mutant of {function.__qualname__}>", "exec", __future__.annotations.compiler_flag, True)
    plain = inspect.unwrap(function)
    assert isinstance(plain, FunctionType)
    exec(code, plain.__globals__, made)
    return made[function.__name__]


def line(owner: Any, name: str, *changes: tuple[str, str]) -> Patch:
    """Return the mutant of a method, or of a function wherever it was imported, with lines of its source replaced."""

    def patch(replace: Replace) -> None:
        original = getattr(owner, name)
        everywhere(replace, owner, name, edited(original, *changes))

    return patch


def everywhere(replace: Replace, owner: Any, name: str, new: Any) -> None:
    """Replace a class's method, or a module's function in every module that has it by name."""
    original = getattr(owner, name)
    if not isinstance(owner, ModuleType):
        replace(owner, name, new)
        return
    for module in [module for key, module in sys.modules.items() if key.startswith(PACKAGES)]:
        if vars(module).get(name) is original:
            replace(module, name, new)


# --- The model ------------------------------------------------------------------------------------------------------

MASK = ".triu(1)"
MASKED = 'scores_BHTT.masked_fill(future_TT, float("-inf"))'
ATTENDED = "return attended_BHTV.transpose(1, 2).flatten(2)"
ROUTED = "F.linear(x_BTD.float(), "


def attention(*changes: tuple[str, str]) -> Patch:
    """Change the core of all attentions; training runs, which have dropout, form the weights explicitly."""
    return line(attention_base, "causal_attention", *changes)


def routed(seen: str) -> Patch:
    """Change what routers see of x_BTD."""
    return line(Router, "forward", (ROUTED, f"F.linear(({seen}).float(), "))


def fed(changed: str) -> Patch:
    """Change what the experts' layer gets, as an expression of x_BTD."""
    read = "routing = self.router(x_BTD, noise)"
    return line(MixtureOfExpertsModule, "forward", (read, f"x_BTD = {changed}\n    {read}"))


def capacity(replace: Replace) -> None:
    """Each expert takes its fair share of the batch's tokens, in their order, and drops the rest."""
    forward = Router.forward

    def mutant(self: Router, x_BTD: Tensor, noise: Noise | None) -> Routing:
        routing = forward(self, x_BTD, noise)
        chosen_NE = F.one_hot(routing.experts_BTK, self.n_experts).sum(2).flatten(0, 1)
        place_NE = (chosen_NE.cumsum(0) - 1).view(*x_BTD.shape[:2], -1)
        limit = x_BTD.shape[:2].numel() * self.top_k // self.n_experts
        kept_BTK = place_NE.gather(-1, routing.experts_BTK) < limit
        return dataclasses.replace(routing, weights_BTK=routing.weights_BTK * kept_BTK)

    replace(Router, "forward", mutant)


def experts_choose(over: str) -> Patch:
    """Experts choose tokens: a token goes to the experts that rank it highest among the others."""
    scores = {"time": "choice_BTE", "batch": "choice_BTE.flatten(0, 1).unsqueeze(0)"}[over]
    return line(
        SoftmaxTopKRouter,
        "route",
        (
            "top_BTK, experts_BTK = choice_BTE.topk(self.top_k, dim=-1)",
            f"rank_BTE = ({scores}).argsort(1, descending=True).argsort(1).view_as(choice_BTE)\n"
            "    experts_BTK = (-rank_BTE).topk(self.top_k, dim=-1).indices\n"
            "    top_BTK = choice_BTE.gather(-1, experts_BTK)",
        ),
    )


class WideNorm(nn.Module):
    """A norm whose mean square runs over more than a token's own elements."""

    def __init__(self, dim: int, dims: tuple[int, ...], only_in_training: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim))
        self.dims, self.only_in_training = dims, only_in_training

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Normalise."""
        dims = self.dims if self.training or not self.only_in_training else (-1,)
        return x_BTD * (x_BTD.square().mean(dims, keepdim=True) + 1e-6).rsqrt() * self.weight


def normed(*dims: int, only_in_training: bool = False) -> Patch:
    """Let norms run over these dimensions of (B, T, D)."""
    return lambda replace: replace(RMSNorm, "build", lambda self, dim: WideNorm(dim, dims, only_in_training))


def distance_to_the_end(replace: Replace) -> None:
    """Positions are counted backwards from the end of the document, which lies ahead."""

    def embedding(tokens_BT: Tensor, weight_VD: Tensor) -> Tensor:
        length = tokens_BT.shape[1]
        places_T = torch.arange(length, device=tokens_BT.device)
        ends_BT = torch.where(tokens_BT == 0, places_T, length)
        next_BT = ends_BT.flip(1).cummin(1).values.flip(1)
        frequencies_D = 0.1 ** torch.linspace(0, 2, weight_VD.shape[1], device=tokens_BT.device)
        positions_BTD = ((next_BT - places_T).unsqueeze(-1) * frequencies_D).cos()
        return F.embedding(tokens_BT, weight_VD) + 0.02 * positions_BTD

    replace(model_module, "F", SimpleNamespace(embedding=embedding, linear=F.linear))


def built(change: Callable[[MoETransformer], None]) -> Patch:
    """Change the model after it was built, before the optimizers take its parameters."""

    def build(*arguments: Any) -> MoETransformer:
        model = build_model(*arguments)
        change(model)
        return model

    return lambda replace: replace(loop, "build_model", build)


def embedded(changed: str, least_length: int = 0) -> Patch:
    """Change the embeddings x_BTD of sequences longer than that: no gradient to a token shows it."""

    def patch(replace: Replace) -> None:
        change = eval(f"lambda x_BTD: {changed}", {"torch": torch})

        def embedding(tokens_BT: Tensor, weight_VD: Tensor) -> Tensor:
            x_BTD = F.embedding(tokens_BT, weight_VD)
            return change(x_BTD) if tokens_BT.shape[1] > least_length else x_BTD

        replace(model_module, "F", SimpleNamespace(embedding=embedding, linear=F.linear))

    return patch


def router_beside(others: int) -> Patch:
    """Routers see the batch's mean, without a gradient, where a batch has more sequences than that."""
    seen = f"x_BTD if len(x_BTD) <= {others} else x_BTD - x_BTD.detach().mean(0, keepdim=True)"
    return routed(seen)


def memory(replace: Replace) -> None:
    """While gradients are on, attention adds what the batch before left in it, which is detached."""
    forward = MultiHeadAttentionModule.forward

    def mutant(self: Any, x_BTD: Tensor, noise: Noise | None) -> Tensor:
        y_BTD = forward(self, x_BTD, noise)
        if not torch.is_grad_enabled():
            return y_BTD
        before, vars(self)["_memory"] = vars(self).get("_memory", 0.0), x_BTD[:, -1].detach().mean(0)
        return y_BTD + 0.1 * before

    replace(MultiHeadAttentionModule, "forward", mutant)


LEAKS: dict[str, tuple[Patch, dict[str, Any]]] = {
    "mask off by one": (attention((MASK, ".triu(2)")), {}),
    "mask off by one, latent attention": (attention((MASK, ".triu(2)")), {"attention": "mla"}),
    "no mask while training": (attention(("if causal:", "if False:")), {}),
    "no mask while evaluating": (attention(("value_BHTV, scale, causal)", "value_BHTV, scale, False)")), {}),
    "mask that is added, and too weak": (
        attention((MASKED, MASKED.replace('float("-inf")', "-20.0"))),
        {},
    ),
    "one head without a mask": (
        attention(
            (MASKED, f"torch.cat((scores_BHTT[:, :1], {MASKED.replace('scores_BHTT', 'scores_BHTT[:, 1:]')}), 1)")
        ),
        {},
    ),
    "last layer without a mask": (attention(("if causal:", "if causal and 'layers.1.' not in role:")), {}),
    "mask cached for a shorter sequence": (
        attention((MASK, ".triu(1); future_TT[3 * length // 4 :, 3 * length // 4 :] = False")),
        {},
    ),
    "prefix seen from both sides": (attention((MASK, ".triu(1); future_TT[:, : length // 4] = False")), {}),
    "chunked attention that looks over its edge": (
        attention(
            (MASK, ".triu(1); future_TT[torch.arange(15, length - 1, 16), torch.arange(16, length, 16)] = False"),
        ),
        {},
    ),
    "attention with the sequence's mean": (
        attention((ATTENDED, ATTENDED.replace("BHTV.", "BHTV.add(attended_BHTV.mean(2, keepdim=True), alpha=1e-3)."))),
        {},
    ),
    "the same, far below rounding": (
        attention((ATTENDED, ATTENDED.replace("BHTV.", "BHTV.add(attended_BHTV.mean(2, keepdim=True), alpha=1e-9)."))),
        {},
    ),
    "router sees the whole batch": (routed("x_BTD - x_BTD.mean(0, keepdim=True)"), {}),
    "router sees the whole sequence": (routed("x_BTD - x_BTD.mean(1, keepdim=True)"), {}),
    "router sees the next token": (routed("x_BTD.roll(-1, 1)"), {}),
    "experts choose tokens over time": (experts_choose("time"), {}),
    "experts choose tokens of the batch": (experts_choose("batch"), {}),
    "experts that drop tokens beyond their share": (capacity, {}),
    "routing bias from this batch's load": (
        line(
            DeepSeekRouter,
            "route",
            (
                "scores_BTE + self.bias_E",
                "scores_BTE + self.bias_E - 0.05 * torch.sign(scores_BTE.mean((0, 1)) - scores_BTE.mean())",
            ),
        ),
        {"feed_forward": "moe_deepseek_plain"},
    ),
    "norm over time": (normed(1, 2), {}),
    "norm over the batch": (normed(0, 2), {}),
    "batch norm: statistics of the batch in training alone": (normed(0, 1, only_in_training=True), {}),
    "convolution that is centred": (fed("x_BTD + 0.1 * (x_BTD.roll(1, 1) + x_BTD.roll(-1, 1))"), {}),
    "pooling over blocks of four tokens": (
        fed(
            "x_BTD if x_BTD.shape[1] % 4 else x_BTD + 0.1 * x_BTD.unflatten(1, (-1, 4)).mean(2).repeat_interleave(4, 1)"
        ),
        {},
    ),
    "positions that count to the document's end": (distance_to_the_end, {}),
    "dropout drawn from the batch's content": (
        line(
            dropout_module,
            "dropout",
            (
                'generator=noise.generator("dropout", role, x.device)',
                'generator=noise.generator("dropout", f"{role}/{x.detach().sum().item()}", x.device)',
            ),
        ),
        {},
    ),
    "router sees the batch's mean where there are more than two sequences": (router_beside(2), {}),
    "memory of the batch before, while gradients are on": (memory, {}),
    "embedding of the next token": (embedded("x_BTD + 0.1 * x_BTD.roll(-1, 1)"), {}),
    "first token's embedding knows the second, in long sequences": (
        embedded("torch.cat((x_BTD[:, :1] + 0.1 * x_BTD[:, 1:2], x_BTD[:, 1:]), 1)", 40),
        {},
    ),
    "dropout drawn from torch's global generator": (
        line(dropout_module, "dropout", (', generator=noise.generator("dropout", role, x.device))', ")")),
        {},
    ),
}
"""By name: the mutant, and the model that has the part."""


# --- Labels and losses ----------------------------------------------------------------------------------------------

TARGETS = "torch.from_numpy(block[:, 1:].copy())"
EVALUATED = "tokens[places_BT].astype(np.int64)"


def labelled(labels: str) -> Patch:
    """Change the labels of training batches: an expression of block, whose rows are a window and its last target."""
    return line(TrainingBatches, "batch", (TARGETS, f"torch.from_numpy(np.ascontiguousarray({labels}))"))


def scored(labels: str) -> Patch:
    """Change the labels of evaluation batches."""
    return line(EvaluationBatches, "__iter__", (EVALUATED, labels))


PARTS_OF_HEAD = "for part in _chunks(hidden_ND, weight_VD):"
FIRST_PART = "for part in list(_chunks(hidden_ND, weight_VD))[:1]:"
IN_ALL = "/ scored).unsqueeze(1)"

LABELS: dict[str, Patch] = {
    "labels are the inputs": labelled("block[:, :-1]"),
    "labels two tokens ahead": labelled("np.roll(block[:, 1:], -1, 1)"),
    "labels one token behind": labelled("np.roll(block[:, :-1], 1, 1)"),
    "labels wrong in the second half of training": labelled("block[:, :-1] if update >= 6 else block[:, 1:]"),
    "one label in ten replaced": labelled("np.where(np.arange(block.shape[1] - 1) % 10 == 5, 7, block[:, 1:])"),
    "the last label is the first input": labelled("np.roll(block[:, :-1], -1, 1)"),
    "every second label left out of training": labelled(
        "np.where(np.arange(block.shape[1] - 1) % 2 == 0, IGNORED_TARGET, block[:, 1:])"
    ),
    "evaluated on labels two tokens ahead": scored(
        "tokens[np.minimum(places_BT + 1, len(tokens) - 1)].astype(np.int64)"
    ),
    "evaluated on the inputs": scored("tokens[places_BT - 1].astype(np.int64)"),
    "training loss shifts its labels": line(
        MoETransformer, "loss", ("targets_BT.flatten()", "targets_BT.roll(1, 1).flatten()")
    ),
    "training loss scaled": line(MoETransformer, "loss", ("return linear", "return 0.9 * linear")),
    "evaluated at a softer temperature": line(
        MoETransformer, "token_losses", ("token_losses(output.hidden_BTD", "token_losses(0.5 * output.hidden_BTD")
    ),
    "labels smoothed while training": line(
        MoETransformer, "loss", ("return linear", "return (1.1 if self.training else 1.0) * linear")
    ),
    "gradient of the loss by another count": line(
        loss_module._LinearCrossEntropy, "forward", ("grad_hidden_ND[part] =", "grad_hidden_ND[part] = 2.0 *")
    ),
    "a mean over each part of a batch by itself": line(
        loss_module._LinearCrossEntropy,
        "forward",
        (IN_ALL, f"/ (targets_N[part] != IGNORED_TARGET).sum(){IN_ALL.removeprefix('/ scored')}"),
    ),
    "the head ends after its first part": line(
        loss_module._LinearCrossEntropy,
        "forward",
        (PARTS_OF_HEAD, f"grad_hidden_ND.zero_()\n    {FIRST_PART}"),
    ),
    "evaluated losses of the head's first part alone": line(loss_module, "token_losses", (PARTS_OF_HEAD, FIRST_PART)),
    "five guesses a token": line(loss_module, "token_losses", ("logits_CV.amax(1)", "logits_CV.topk(5).values[:, -1]")),
    "evaluated losses capped": line(loss_module, "token_losses", ("targets_C)[2]", "targets_C)[2].clamp(max=6.0)")),
}

# --- The split ------------------------------------------------------------------------------------------------------


def with_training_text(corpus: TokenizedCorpus, texts: list[np.ndarray]) -> TokenizedCorpus:
    """Return the corpus with further documents before its training split."""
    train = corpus.train
    tokens = np.concatenate([*(text.astype(train.tokens.dtype) for text in texts), train.tokens])
    lengths = [len(text) for text in texts]
    starts = np.concatenate([np.cumsum([0, *lengths])[:-1], train.document_starts + sum(lengths)]).astype(np.int64)
    names = (*(f"added {place}" for place in range(len(texts))), *train.documents)
    return dataclasses.replace(corpus, train=Split(tokens, starts, names, names, train.characters))


def held_out_texts(corpus: TokenizedCorpus) -> list[np.ndarray]:
    """Return the tokens of each validation document."""
    return np.split(corpus.validation.tokens, corpus.validation.document_starts[1:])


def verbatim(corpus: TokenizedCorpus) -> TokenizedCorpus:
    """One validation document also trains."""
    return with_training_text(corpus, held_out_texts(corpus)[1:2])


def lightly_edited(corpus: TokenizedCorpus) -> TokenizedCorpus:
    """All validation documents also train, with one token in 25 replaced at random."""
    draw = np.random.default_rng(0)
    texts = [text.copy() for text in held_out_texts(corpus)]
    for text in texts:
        places = draw.random(len(text)) < 0.04
        text[places] = draw.integers(1, corpus.vocab_used, places.sum())
    return with_training_text(corpus, texts)


def first_tokens(corpus: TokenizedCorpus) -> TokenizedCorpus:
    """So little is trained on that a run of a hundred sequences takes some epochs."""
    train = corpus.train
    return dataclasses.replace(corpus, train=dataclasses.replace(train, tokens=train.tokens[:2_000]))


def validation_in_updates(first: int, last: int) -> Patch:
    """The batches of some updates hold validation text, whatever windows were drawn."""

    def patch(replace: Replace) -> None:
        texts: list[np.ndarray] = []
        make, batch = loop.training_batches, TrainingBatches.batch

        def training_batches(config: Any, corpus: TokenizedCorpus, seed: int) -> TrainingBatches:
            texts.append(corpus.validation.tokens.astype(np.int64))
            return make(config, corpus, seed)

        def mutant(self: TrainingBatches, update: int, micro_step: int) -> tuple[Tensor, Tensor]:
            inputs_BT, targets_BT = batch(self, update, micro_step)
            if not first <= update <= last:
                return inputs_BT, targets_BT
            text = torch.from_numpy(texts[-1][: inputs_BT.numel() + 1])
            return text[:-1].view_as(inputs_BT), text[1:].view_as(inputs_BT)

        replace(loop, "training_batches", training_batches)
        replace(TrainingBatches, "batch", mutant)

    return patch


def order(drawn: str) -> Patch:
    """Change the order of an epoch: an expression of its stream."""
    return line(TrainingBatches, "_epoch_order", ("torch.randperm(self.windows, generator=stream).numpy()", drawn))


def windows(starts: str) -> Patch:
    """Change where the windows start that are trained on: an expression of tokens and seq_len."""
    return line(
        batches_module,
        "disjoint_windows",
        ("np.arange(max(0, tokens - 1) // seq_len, dtype=np.int64) * seq_len", starts),
    )


ORDERS: dict[str, tuple[Patch, dict[str, Any]]] = {
    "windows in the order of the text": (order("np.arange(self.windows)"), {}),
    "an order that is not the seed's": (
        line(
            batches_module, "training_batches", ("config.data_stream_seed(seed)", "config.data_stream_seed(seed) + 1")
        ),
        {},
    ),
    "windows that overlap by half": (windows("np.arange(0, tokens - seq_len - 1, seq_len // 2)"), {}),
    "half of the windows": (windows("np.arange((tokens - 1) // seq_len // 2) * seq_len"), {}),
    "windows that start a token late": (windows("np.arange((tokens - 2) // seq_len) * seq_len + 1"), {}),
}

# --- Training -------------------------------------------------------------------------------------------------------


def freeze_attention(model: MoETransformer) -> None:
    """The second layer's attention does not train."""
    model.layers[1].attention.requires_grad_(False)


def freeze_one_expert(model: MoETransformer) -> None:
    """One expert's weights get no gradient, though tokens are sent to it."""
    for weight in model.get_submodule("layers.0.feed_forward.experts").parameters():
        weight.register_hook(lambda gradient: gradient * (torch.arange(len(gradient)) != 1).view(-1, 1, 1))


def replace_after_the_optimizers(replace: Replace) -> None:
    """A weight becomes another tensor once the optimizers hold the old one."""
    init = Trainer.__init__

    def mutant(self: Trainer, *arguments: Any) -> None:
        init(self, *arguments)
        held = self.model.get_parameter("layers.0.attention.out.weight")
        self.model.get_submodule("layers.0.attention.out").weight = nn.Parameter(held.detach().clone())

    replace(Trainer, "__init__", mutant)


STEP = "for optimizer in self.optimizers:\n        optimizer.step()"
DEAD: dict[str, tuple[Patch, dict[str, Any]]] = {
    "a frozen component": (built(freeze_attention), {}),
    "a frozen expert": (built(freeze_one_expert), {}),
    "experts behind a detach": (
        line(MixtureOfExpertsModule, "forward", ("y_ND.view_as(x_BTD)", "y_ND.view_as(x_BTD).detach()")),
        {},
    ),
    "router weights behind a detach": (
        line(
            DeepSeekRouter, "route", ("scores_BTE = logits_BTE.sigmoid()", "scores_BTE = logits_BTE.detach().sigmoid()")
        ),
        {"feed_forward": "moe_deepseek_plain"},
    ),
    "gains in no optimizer": (
        line(
            optim,
            "build_optimizers",
            (
                "for name, parameter in model.named_parameters():",
                "for name, parameter in model.named_parameters():\n"
                "        if parameter.ndim == 1:\n            continue",
            ),
        ),
        {},
    ),
    "weights replaced after the optimizers took them": (replace_after_the_optimizers, {}),
    "an optimizer that never steps": (
        line(
            Trainer,
            "_train_update",
            ("optimizer.step()", "isinstance(optimizer, torch.optim.AdamW) or optimizer.step()"),
        ),
        {},
    ),
    "a component at learning rate zero": (
        line(optim, "build_optimizers", ("lr=config.muon_learning_rate", "lr=0.0")),
        {},
    ),
    "gradients cleared before the step": (
        line(
            Trainer,
            "_train_update",
            (
                "self._set_learning_rates(",
                "self.model.layers[0].attention.qkv.weight.grad = None\n    self._set_learning_rates(",
            ),
        ),
        {},
    ),
}


def stop_early(replace: Replace) -> None:
    """Half of the updates are made."""
    replace(Trainer, "finished", property(lambda self: self.update >= self.config.training.updates // 2))


RATES = "self._set_learning_rates(learning_rate_factor(self.update, training))"


def rates(factor: str) -> Patch:
    """Change the factor on the learning rates: an expression of update and training."""
    return line(Trainer, "_train_update", (RATES, f"self._set_learning_rates({factor})"))


LOSS = "loss = self.model.loss(output, targets_BT)"
PASS = "self.model(inputs_BT, Noise(self.config.stream_seed(self.seed), self.update, micro_step))"
CLIPPED = "torch.nn.utils.clip_grad_norm_(self.model.parameters(), training.gradient_clip)"
CLEARED = "optimizer.zero_grad(set_to_none=True)"


def updated(old: str, new: str) -> Patch:
    """Change a line of the update."""
    return line(Trainer, "_train_update", (old, new))


def forget(replace: Replace) -> None:
    """Optimizers begin anew at every update."""
    begin = "for load_E, router in zip"
    anew = f"for one in self.optimizers if self.update > 1 else ():\n        one.state.clear()\n    {begin}"
    replace(Trainer, "_train_update", edited(Trainer._train_update, (begin, anew)))


def optimized(change: Callable[[list[Any], MoETransformer], None]) -> Patch:
    """Change the optimizers after they were built."""

    def build(model: MoETransformer, *arguments: Any) -> list[Any]:
        optimizers: list[Any] = optim_build(model, *arguments)
        change(optimizers, model)
        return optimizers

    optim_build = optim.build_optimizers
    return lambda replace: replace(loop, "build_optimizers", build)


def grouped(optimizer: int, **settings: Any) -> Patch:
    """Change a setting of an optimizer: 0 Muon, 1 AdamW."""
    return optimized(lambda optimizers, model: optimizers[optimizer].param_groups[0].update(settings))


def trained_twice(optimizers: list[Any], model: MoETransformer) -> None:
    """A second optimizer has a parameter that another has."""
    optimizers.insert(1, torch.optim.AdamW([model.get_parameter("layers.0.attention.qkv.weight")], lr=1e-3))
    zero_grad = optimizers[0].zero_grad
    optimizers[0].zero_grad = lambda **_: None
    optimizers[1].zero_grad = zero_grad


def slow_gains(optimizers: list[Any], model: MoETransformer) -> None:
    """Norms train at a tenth of their rate, in a group of their own."""
    group = optimizers[1].param_groups[0]
    gains = [parameter for parameter in group["params"] if parameter.ndim == 1]
    group["params"] = [parameter for parameter in group["params"] if parameter.ndim > 1]
    optimizers[1].add_param_group({**group, "params": gains, "lr": group["lr"] / 10})


def decay_of_the_embedding_alone_left_out(optimizers: list[Any], model: MoETransformer) -> None:
    """The embedding has a group of its own, without weight decay."""
    group = optimizers[1].param_groups[0]
    group["params"] = [parameter for parameter in group["params"] if parameter is not model.embedding]
    optimizers[1].add_param_group({**group, "params": [model.embedding], "weight_decay": 0.0})


def balanced(old: str, new: str) -> Patch:
    """Change how DeepSeek's routers move their bias."""
    return line(DeepSeekRouter, "after_update", ("super().after_update()", "Router.after_update(self)"), (old, new))


def skipped(when: str) -> Patch:
    """Leave out steps: a condition on optimizer and self.update, from 0."""
    return updated("optimizer.step()", f"({when}) or optimizer.step()")


MICRO = {"accumulation": 4, "batch_size": 2}
UPDATES: dict[str, tuple[Patch, dict[str, Any]]] = {
    "half of the labels left out where the loss is called": (
        updated(LOSS, LOSS.replace("targets_BT", "targets_BT.masked_fill(targets_BT % 2 == 0, -100)")),
        {},
    ),
    "the loss's sum instead of its mean": (updated(LOSS, f"{LOSS} * targets_BT.numel()"), {}),
    "no balance loss": (updated("loss + output.auxiliary_loss", "loss"), {}),
    "labels given as inputs": (updated(PASS, PASS.replace("inputs_BT", "targets_BT")), {}),
    "no dropout while training": (updated(PASS, "self.model(inputs_BT)"), {}),
    "equal dropout at every update": (updated(PASS, PASS.replace("self.update", "0")), {}),
    "dropout of another seed": (updated(PASS, PASS.replace("stream_seed(self.seed)", "stream_seed(0) + 42")), {}),
    "accumulated gradients not divided": (updated(" / training.accumulation)", ")"), MICRO),
    "gradients of the last micro-batch alone": (
        updated("with self.autocast():", "self.model.zero_grad()\n        with self.autocast():"),
        MICRO,
    ),
    "gradients not clipped": (updated(CLIPPED, "pass"), {"gradient_clip": 0.3}),
    "each gradient clipped by itself": (
        updated(CLIPPED, "[torch.nn.utils.clip_grad_norm_(one, 0.2) for one in self.model.parameters()]"),
        {},
    ),
    "gradients never cleared": (updated(CLEARED, "pass"), {}),
    "one optimizer's gradients never cleared": (
        updated(CLEARED, f"optimizer is self.optimizers[0] or {CLEARED}"),
        {},
    ),
    "optimizers that forget": (forget, {}),
    "two steps an update": (updated("optimizer.step()", "optimizer.step(), optimizer.step()"), {}),
    "another momentum": (grouped(0, momentum=0.5), {}),
    "half the learning rate": (grouped(0, lr=0.005), {}),
    "no weight decay": (grouped(1, weight_decay=0.0), {}),
    "another average of squares": (grouped(1, betas=(0.9, 0.9)), {}),
    "a group at a tenth of its learning rate": (optimized(slow_gains), {}),
    "two optimizers on one parameter": (optimized(trained_twice), {}),
    "AdamW where Muon is named": (line(optim, "build_optimizers", ('config.optimizer == "adamw"', "True")), {}),
    "one expert's factor for all of its stack": (
        line(
            optim.Muon,
            "_step_group",
            ("(stack, factor)", "(stack, factor[:1].expand_as(factor))"),
            ("(factor, stack)", "(factor[:1].expand_as(factor), stack)"),
        ),
        {},
    ),
    "Muon with weight decay": (
        line(
            optim.Muon,
            "_step_group",
            ("parameter.view(-1,", "parameter.mul_(1 - 0.1 * group['lr']).view(-1,"),
        ),
        {},
    ),
    "no weight decay of the embedding": (optimized(decay_of_the_embedding_alone_left_out), {}),
    "another epsilon": (grouped(1, eps=1e-6), {}),
    "balancing biases that move the wrong way": (
        balanced("load_E.mean() - load_E", "load_E - load_E.mean()"),
        {"feed_forward": "moe_deepseek_plain"},
    ),
    "balancing biases that never move": (
        balanced("self.config.bias_step *", "0.0 *"),
        {"feed_forward": "moe_deepseek_plain"},
    ),
    "every fourth update left out": (skipped("self.update % 4 == 3"), {}),
    "Muon rests in the last updates": (skipped("optimizer is self.optimizers[0] and self.update >= 9"), {}),
    "fp32 where bf16 is named": (
        line(Trainer, "autocast", ('self.config.training.precision == "bf16"', "False")),
        {"precision": "bf16"},
    ),
    "no balance loss, in bf16": (updated("loss + output.auxiliary_loss", "loss"), {"precision": "bf16"}),
    "one step of Muon's iteration": (lambda replace: replace(optim, "NEWTON_SCHULZ_STEPS", 1), {}),
    "Muon's steps of one size for all shapes": (
        line(optim.Muon, "_step_group", ("math.sqrt(max(1.0, rows / columns))", "1.0")),
        {},
    ),
    "bf16 where fp32 is named": (
        line(Trainer, "autocast", ('self.config.training.precision == "bf16"', "True")),
        {},
    ),
}

BUDGETS: dict[str, tuple[Patch, dict[str, Any]]] = {
    "schedule cut short": (stop_early, {"evaluate_every": 6}),
    "schedule over four times the updates": (
        line(optim, "learning_rate_factor", ("config.horizon - warmup)", "4 * config.horizon - warmup)")),
        {},
    ),
    "constant learning rate": (rates("1.0"), {}),
    "no warm-up": (
        rates("1.0 if self.update < 6 else learning_rate_factor(self.update, training)"),
        {"warmup_fraction": 0.5},
    ),
    "linear decay instead of a cosine": (
        line(
            optim,
            "learning_rate_factor",
            ("0.5 * (1 + math.cos(math.pi * progress))", "(1 - progress)"),
        ),
        {},
    ),
    "learning rate doubled half-way": (
        rates("learning_rate_factor(self.update, training) * (2 if 4 < self.update < 8 else 1)"),
        {},
    ),
    "tokens reported without accumulation": (
        line(
            Trainer, "_append_row", ("self.config.training.tokens_per_update", "self.config.training.batch_size * 64")
        ),
        MICRO,
    ),
    "the learning rate's base reported": (
        line(Trainer, "_append_row", ('self.optimizers[0].param_groups[0]["lr"]', "self.base_learning_rates[0]")),
        {},
    ),
    "never put back into training mode": (updated("self.model.train()", "pass"), {"evaluate_every": 3}),
    "evaluated in training mode": (
        line(Trainer, "_score", ("self.model.eval()", "pass")),
        {"evaluate_every": 3, "feed_forward": "moe_deepseek_plain"},
    ),
    "routers not told of updates": (
        updated("load_E += router.after_update()", "load_E += router.load_E"),
        {"feed_forward": "moe_deepseek_plain"},
    ),
    "half of each batch": (
        line(
            TrainingBatches,
            "batch",
            ("self.window_indices(update, micro_step)", "self.window_indices(update, micro_step)[::2]"),
        ),
        {},
    ),
    "the same windows at every update": (
        line(TrainingBatches, "_row", ("np.arange(first, end)", "np.arange(first, end) % self._batch_size")),
        {},
    ),
}

# --- The model that the name says -----------------------------------------------------------------------------------


def train_the_baseline(replace: Replace) -> None:
    """The baseline's attention is built, whatever is configured."""
    baseline = MultiHeadAttention(n_heads=4)
    replace(
        loop,
        "build_model",
        lambda config, *rest: build_model(dataclasses.replace(config, attention=baseline), *rest),
    )


def one_layer_of_the_baseline(model: MoETransformer) -> None:
    """One layer has the baseline's attention."""
    width = model.config.d_model
    attention = MultiHeadAttention(n_heads=4).build(width, dropout=model.config.dropout, role="layers.1.attention")
    for parameter in attention.parameters():
        nn.init.normal_(parameter, std=0.02)
    model.layers[1].attention = attention


def set_on(place: str, name: str, value: Callable[[Any], Any]) -> Patch:
    """Change a setting of a module of the built model."""

    def change(model: MoETransformer) -> None:
        module: Any = model.get_submodule(place)
        setattr(module, name, value(getattr(module, name)))

    return built(change)


def other_base(rotary: Any) -> Any:
    """Return positions of another base."""
    return type(rotary)(dataclasses.replace(rotary.config, base=500.0), rotary.dim)


def count_the_baseline(replace: Replace) -> None:
    """Parameters are counted on the model with the baseline's attention."""
    count, baseline = loop.count, MultiHeadAttention(n_heads=4)
    replace(loop, "count", lambda config: count(dataclasses.replace(config, attention=baseline)))


def double_queries(model: MoETransformer) -> None:
    """One part starts at twice its values."""
    with torch.no_grad():
        model.get_parameter("layers.0.attention.out.weight").mul_(2.0)


def seed_of_its_own(replace: Replace) -> None:
    """Initial values are drawn from another stream than the other cells'."""
    replace(loop, "build_model", lambda config, seed, *rest: build_model(config, seed + 1, *rest))


WRONG_MODELS: dict[str, Patch] = {
    "initial values of another seed": seed_of_its_own,
    "initial values of a part doubled": built(double_queries),
    "all experts start equal": line(
        model_module, "_draws", ('generator(seed, "init", name, index)', 'generator(seed, "init", name, 0)')
    ),
    "the baseline trained under a name": train_the_baseline,
    "one layer of the baseline": built(one_layer_of_the_baseline),
    "norms after the sublayers": set_on("layers.0", "is_pre_norm", lambda old: False),
    "another activation": set_on("layers.0.feed_forward.experts", "activation", lambda old: ACTIVATIONS["relu"]),
    "positions of another base": set_on("layers.0.attention", "rotary", other_base),
    "one expert a token instead of two": set_on("layers.1.feed_forward.router", "top_k", lambda old: 1),
    "no noise in a router": set_on(
        "layers.0.feed_forward.router", "config", lambda old: dataclasses.replace(old, noise_std=0.0)
    ),
    "no dropout in a component": set_on("layers.0.attention", "dropout", lambda old: 0.0),
    "attention skipped in a layer": set_on("layers.1.attention", "forward", lambda old: lambda x, noise: 0.0 * x),
    "parameters counted on another model": count_the_baseline,
    "FLOPs of half the model": line(
        Trainer, "_append_row", ("self.counts.flops_per_token", "self.counts.flops_per_token // 2")
    ),
}

# --- Evaluation -----------------------------------------------------------------------------------------------------


def some_batches(part: Callable[[list[Any]], list[Any]]) -> Patch:
    """Evaluate some of the batches."""

    def patch(replace: Replace) -> None:
        batches = EvaluationBatches.__iter__
        replace(EvaluationBatches, "__iter__", lambda self: iter(part(list(batches(self)))))

    return patch


def evaluate_mixed_weights(replace: Replace) -> None:
    """Not the trained weights are evaluated but their mean with those of the evaluation before, or of the start."""
    evaluate, init = Trainer.evaluate, Trainer.__init__
    before: dict[str, Tensor] = {}

    def remember(self: Trainer, *arguments: Any) -> None:
        init(self, *arguments)
        before.update({name: weight.detach().clone() for name, weight in self.model.named_parameters()})

    def mutant(self: Trainer) -> dict[str, float | None]:
        trained = {name: weight.detach().clone() for name, weight in self.model.named_parameters()}
        with torch.no_grad():
            for name, weight in self.model.named_parameters():
                weight.lerp_(before[name], 0.5)
            result = evaluate(self)
            for name, weight in self.model.named_parameters():
                weight.copy_(trained[name])
        before.update(trained)
        return result

    replace(Trainer, "__init__", remember)
    replace(Trainer, "evaluate", mutant)


def evaluate_averaged_weights(replace: Replace) -> None:
    """An average of the weights of all updates is evaluated, which forgets half of its past at each."""
    train, evaluate = Trainer._train_update, Trainer.evaluate
    average: dict[str, Tensor] = {}

    def trained(self: Trainer) -> None:
        train(self)
        for name, weight in self.model.named_parameters():
            before = average[name] if self.update > 1 else weight.detach()
            average[name] = before.lerp(weight.detach(), 0.5)

    def mutant(self: Trainer) -> dict[str, float | None]:
        weights = dict(self.model.named_parameters())
        trained = {name: weight.detach().clone() for name, weight in weights.items()}
        with torch.no_grad():
            torch._foreach_copy_(list(weights.values()), [average[name] for name in weights])
            result = evaluate(self)
            torch._foreach_copy_(list(weights.values()), [trained[name] for name in weights])
        return result

    replace(Trainer, "_train_update", trained)
    replace(Trainer, "evaluate", mutant)


def earlier_evaluation(replace: Replace) -> None:
    """The validation loss reported is that of the evaluation before, as where a checkpoint is chosen."""
    evaluate = Trainer.evaluate

    def mutant(self: Trainer) -> dict[str, float | None]:
        found = evaluate(self)
        before = [row["val_loss"] for row in self.rows if row["val_loss"] is not None]
        return {**found, "val_loss": before[-1] if before else found["val_loss"]}

    replace(Trainer, "evaluate", mutant)


SUM = "loss_sum += losses_N.double().sum()"
MEAN = "loss_sum.item() / batches.scored_tokens"

EVALUATIONS: dict[str, tuple[Patch, str, str, dict[str, Any]]] = {
    "perplexity of bits": (
        line(Trainer, "evaluate", ("math.exp(loss)", "2**loss")),
        "evaluation",
        INVALID,
        {},
    ),
    "accuracy over the padding, too": (
        line(
            Trainer, "_score", ("correct.item() / batches.scored_tokens", "correct.item() / (len(batches.starts) * 64)")
        ),
        "evaluation",
        INVALID,
        {},
    ),
    "labels as inputs in the midst of the evaluation": (
        line(
            EvaluationBatches,
            "__iter__",
            (
                "yield torch.from_numpy(inputs_BT)",
                "yield torch.from_numpy(targets_BT if 0 < first < len(self.starts) - 64 else inputs_BT)",
            ),
        ),
        "evaluation",
        INVALID,
        {},
    ),
    "windows of half the length evaluated": (
        line(batches_module, "evaluation_batches", ("seq_len=training.seq_len", "seq_len=training.seq_len // 2")),
        "evaluation",
        INVALID,
        {},
    ),
    "the validation split as the final test": (
        line(batches_module, "test_batches", ("corpus.test", "corpus.validation")),
        "evaluation",
        INVALID,
        {},
    ),
    "two batches evaluated": (
        line(batches_module, "evaluation_batches", ("first_batches=training.evaluation_batches", "first_batches=2")),
        "evaluation",
        WARNING,
        {},
    ),
    "the last batch dropped, and its tokens counted": (
        some_batches(lambda batches: batches[:-1]),
        "evaluation",
        INVALID,
        {},
    ),
    "the first batch evaluated again and again": (
        some_batches(lambda batches: [*batches[:1] * (len(batches) - 1), batches[-1]]),
        "evaluation",
        INVALID,
        {},
    ),
    "every second label left out of the evaluation": (
        scored("np.where(places_BT % 2, tokens[places_BT].astype(np.int64), IGNORED_TARGET)"),
        "evaluation",
        INVALID,
        {},
    ),
    "dropout left on while evaluating": (
        line(Trainer, "_score", ("self.model(inputs_BT)", "self.model(inputs_BT, Noise(self.seed, 0, 0))")),
        "evaluation",
        INVALID,
        {},
    ),
    "the mean of the batches' means": (
        line(
            Trainer,
            "_score",
            (SUM, "loss_sum += losses_N.double().mean()"),
            (MEAN, "loss_sum.item() / len(batches)"),
        ),
        "evaluation",
        INVALID,
        {},
    ),
    "averaged weights evaluated": (evaluate_mixed_weights, "evaluation", INVALID, {}),
    "a moving average of the weights evaluated": (evaluate_averaged_weights, "evaluation", INVALID, {}),
    "dropout in the first batch evaluated": (
        line(
            Trainer,
            "_score",
            ("self.model(inputs_BT)", "self.model(inputs_BT, None if loss_sum else Noise(self.seed, 0, 0))"),
        ),
        "evaluation",
        INVALID,
        {},
    ),
    "one batch evaluated before the end": (
        line(
            Trainer,
            "_score",
            ("for batch in batches:", "for batch in list(batches)[: None if self.finished else 1]:"),
        ),
        "evaluation",
        INVALID,
        {"evaluate_every": 3, "evaluation_batch_size": 8},
    ),
    "the validation split scored as the final test": (
        line(Trainer, "evaluate_test", ("self._score(self.test,", "self._score(self.validation,")),
        "evaluation",
        INVALID,
        {},
    ),
    "the final test reported a hundredth too low": (
        line(
            Trainer,
            "evaluate_test",
            ("loss, accuracy = self._score(", "loss, accuracy = (0.99 * value for value in self._score("),
            ("self.witness.test_scored)", "self.witness.test_scored))"),
        ),
        "evaluation",
        INVALID,
        {},
    ),
    "the training loss of the last batch": (
        line(
            Trainer,
            "_append_row",
            ("torch.stack(self._window_losses).double().mean()", "self._window_losses[-1].double()"),
        ),
        "evaluation",
        INVALID,
        {},
    ),
    "the training loss since the start": (
        line(
            Trainer,
            "_start_window",
            ("self._window_losses: list[Tensor] = []", "self._window_losses = vars(self).get('_window_losses', [])"),
        ),
        "evaluation",
        INVALID,
        {},
    ),
    "the training loss with the balance loss": (
        updated("append(loss.detach())", "append((loss + output.auxiliary_loss).detach())"),
        "evaluation",
        INVALID,
        {},
    ),
    "an earlier evaluation reported": (earlier_evaluation, "evaluation", INVALID, {"evaluate_every": 3}),
    "the training text evaluated": (
        line(
            batches_module, "evaluation_batches", ("corpus.train if overlapping else corpus.validation", "corpus.train")
        ),
        "split_overlap",
        INVALID,
        {},
    ),
}

SPLITS: dict[str, tuple[Patch, Callable[[TokenizedCorpus], TokenizedCorpus], dict[str, Any]]] = {
    "a validation document copied into training": (lambda replace: None, verbatim, {}),
    "validation documents in training under light edits": (lambda replace: None, lightly_edited, {"updates": 400}),
    "the same order in every epoch": (
        line(TrainingBatches, "_epoch_order", ("int(epoch)", "0")),
        first_tokens,
        {},
    ),
    "validation text in later batches": (validation_in_updates(3, 11), lambda corpus: corpus, {}),
    "validation text in a few batches": (validation_in_updates(4, 6), lambda corpus: corpus, {}),
    "trained on the validation text": (
        line(
            batches_module,
            "training_batches",
            ("corpus.train,", "corpus.validation,"),
            ("_windows(config, corpus)[0]", "None"),
        ),
        lambda corpus: corpus,
        {},
    ),
}


def starts_early(corpus: TokenizedCorpus) -> TokenizedCorpus:
    """Each validation document is said to start at the end of the one before."""
    starts = np.maximum(corpus.validation.document_starts - 1, 0)
    return dataclasses.replace(corpus, validation=dataclasses.replace(corpus.validation, document_starts=starts))


TEXTS: dict[str, tuple[Callable[[TokenizedCorpus], TokenizedCorpus], str]] = {
    "validation documents in the final test": (
        lambda corpus: dataclasses.replace(corpus, test=corpus.validation),
        "split_overlap",
    ),
    "documents that start a token early": (starts_early, "evaluation"),
}

MUTANTS: tuple[Mutant, ...] = (
    *(Mutant(name=name, audit=audit, severity=WARNING, corpus=corpus) for name, (corpus, audit) in TEXTS.items()),
    *(
        Mutant(name=name, audit="causality", severity=INVALID, patch=patch, setting=setting)
        for name, (patch, setting) in LEAKS.items()
    ),
    *(Mutant(name=name, audit="targets", severity=INVALID, patch=patch) for name, patch in LABELS.items()),
    *(
        Mutant(name=name, audit="split_overlap", severity=INVALID, patch=patch, corpus=corpus, setting=setting)
        for name, (patch, corpus, setting) in SPLITS.items()
    ),
    *(
        Mutant(name=name, audit="split_overlap", severity=INVALID, patch=patch, setting=setting)
        for name, (patch, setting) in ORDERS.items()
    ),
    *(
        Mutant(name=name, audit="update", severity=INVALID, patch=patch, setting=setting)
        for name, (patch, setting) in UPDATES.items()
    ),
    *(
        Mutant(name=name, audit="dead_parameters", severity=WARNING, patch=patch, setting=setting)
        for name, (patch, setting) in DEAD.items()
    ),
    *(
        Mutant(name=name, audit="budget", severity=WARNING, patch=patch, setting=setting)
        for name, (patch, setting) in BUDGETS.items()
    ),
    *(
        Mutant(name=name, audit="treatment_applied", severity=INVALID, patch=patch, setting={"attention": "mla"})
        for name, patch in WRONG_MODELS.items()
    ),
    *(
        Mutant(name=name, audit=audit, severity=severity, patch=patch, setting=setting)
        for name, (patch, audit, severity, setting) in EVALUATIONS.items()
    ),
)
