"""`causality`: no logit may depend on a later token, or on another sequence of its batch.

Changes are followed up to the head, which makes each position's logits of that position's input alone (`targets` checks
the losses against them): all logits of a sequence would take more memory than training does.

Shapes: B sequences, T tokens, V vocabulary, D model width.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from analysis.schema import INVALID, Audit
from moe_models.model import MoETransformer
from moe_models.streams import Noise
from trainables.audits.undisturbed import undisturbed
from trainables.memory import breaks_process, lacks_memory

NAME = "causality"
SEQUENCES = 5
"""Most sequences looked at: gradients are followed from a place of each."""
TOLERANCES = {torch.float32: 1e-5, torch.float64: 1e-6}
"""Largest movement of an output that can be rounding, as a share of the largest output.

In fp64 what is left is the single precision that routers and rotations keep. Movement above the first but not the
second is rounding, in the end that of two nearly tied experts changing places: no leak.
"""


def audit(
    model: MoETransformer, tokens_BT: Tensor, end_of_document: int, noise: Noise, autocast: torch.autocast
) -> Audit | None:
    """Change later tokens and other sequences, and follow gradients, in evaluation and in training mode.

    The model is left as it was: mode, buffers and gradients.

    Args:
        model: the one that trains.
        tokens_BT: real tokens, two sequences or more.
        end_of_document: the token that stands between documents: what a model may treat apart.
        noise: of the passes in training mode; equal noise in all of them. It also draws the places looked at, so that
            another run, and the end of this one, looks at others.
        autocast: what the run trains under. Gradients are followed under it; outputs are compared in fp32, and in fp64
            where that does not decide.

    Raises:
        RuntimeError: fp32 does not decide, and there is no memory for fp64 or the device has failed.
    """
    sequences, length = tokens_BT.shape
    stream = noise.generator("audit", NAME, torch.device("cpu"))
    places = torch.randperm(length, generator=stream).tolist()
    with undisturbed(model):
        for given in (None, noise):
            model.train(given is not None)
            seen_BT = tokens_BT[:2] if given is None else tokens_BT
            evidence = _moved(model, seen_BT, end_of_document, places, given)
            if evidence is not None:
                try:
                    evidence = _moved(copy.deepcopy(model).double(), seen_BT, end_of_document, places, given)
                except RuntimeError as error:  # a component that cannot compute in fp64: what fp32 says stands
                    if lacks_memory(error) or breaks_process(error):  # that fp64 was not tried says nothing
                        raise
            if evidence is None:
                with autocast:
                    evidence = _gradients(model, tokens_BT, places, given)
                places = places[sequences - 1 :] + places[: sequences - 1]
            if evidence is not None:
                mode = "evaluation" if given is None else "training"
                return Audit(name=NAME, severity=INVALID, evidence=f"{evidence}, in {mode} mode")
    return None


def _moved(
    model: MoETransformer, tokens_BT: Tensor, end_of_document: int, drawn: list[int], noise: Noise | None
) -> str | None:
    """Say which change of tokens moved an output that it must not reach, and how far.

    One pass changes all sequences, each from a place of its own on, where a document ends then, or no longer: what
    any says before its place has to stay, whatever comes after it and whatever stands beside it. Only where it does
    not is told which of the two it was. Passes in training mode keep their graph, as training's do.

    Args:
        model: in the mode looked at.
        tokens_BT: two sequences or more; of a part of their length the first two are looked at.
        end_of_document: as `audit` has it.
        drawn: places of the sequences after the third.
        noise: as `audit` has it.
    """
    length = tokens_BT.shape[1]
    half = length // 2 + 1
    changed_BT = (tokens_BT + 1) % model.config.vocab_size
    ended_BT = torch.where(tokens_BT == end_of_document, changed_BT, end_of_document)
    whole, part_of_it = (length // 3, length - 1, 1, *drawn)[: len(tokens_BT)], (half // 2, 1)
    for part, places in ((length, whole), (half, part_of_it)):
        before_BT = tokens_BT[: len(places), :part]
        after = [
            torch.cat((tokens_BT[i, :place], ended_BT[i, place : place + 1], changed_BT[i, place + 1 : part]))
            for i, place in enumerate(places)
        ]
        after_BT = torch.stack(after)
        before_BTD, after_BTD = (_outputs(model, all_BT, noise) for all_BT in (before_BT, after_BT))
        for index, place in enumerate(places):
            moved = _share_moved(before_BTD, after_BTD, index, place)
            if moved is None:
                continue
            alone_BT = before_BT.clone()
            alone_BT[index] = after_BT[index]
            moved_alone = _share_moved(before_BTD, _outputs(model, alone_BT, noise), index, place)
            if moved_alone is None:
                return f"changing another sequence of the batch moved a sequence's outputs by {moved} of the largest"
            late = f"the last {part - place} of {part} tokens"
            return f"changing {late} moved outputs before them by {moved_alone} of the largest"
    return None


def _outputs(model: MoETransformer, tokens_BT: Tensor, noise: Noise | None) -> Tensor:
    with torch.set_grad_enabled(noise is not None):
        return model(tokens_BT, noise).hidden_BTD.detach()


def _share_moved(before_BTD: Tensor, after_BTD: Tensor, index: int, place: int) -> str | None:
    """Say by how much a sequence's outputs before a place moved, as a share of the largest output."""
    if place == 0:
        return None
    moved = (after_BTD[index, :place] - before_BTD[index, :place]).abs().max()
    share = (moved / before_BTD.abs().max().clamp(min=1e-30)).item()
    return f"{share:.2g}" if share > TOLERANCES[before_BTD.dtype] else None


def _gradients(model: MoETransformer, tokens_BT: Tensor, places: list[int], noise: Noise | None) -> str | None:
    """Say which inputs of the first block the logits of some places have a gradient to, but must not.

    A masked score has a gradient of exactly zero, so there is no tolerance. One backward pass follows each sequence but
    the first from a place of its own; the first has to stay without any gradient.
    """
    embedded_BTD: list[Tensor] = []

    def catch(block: torch.nn.Module, inputs: tuple[Tensor, Noise | None]) -> tuple[Tensor, Noise | None]:
        embedded_BTD.append(inputs[0].detach().requires_grad_())
        return embedded_BTD[0], inputs[1]

    hook = model.layers[0].register_forward_pre_hook(catch)
    followed = range(1, 1 + min(len(places), len(tokens_BT) - 1))
    try:
        with torch.enable_grad():
            hidden_BTD = model(tokens_BT, noise).hidden_BTD
            logits_BV = model.logits(torch.stack([hidden_BTD[index, places[index - 1]] for index in followed])).float()
            # Any weights will do, but none that a norm makes the sum blind to.
            weights_V = torch.arange(logits_BV.shape[1], device=logits_BV.device).cos()
            (gradient_BTD,) = torch.autograd.grad((logits_BV * weights_V).sum(), embedded_BTD)
    finally:
        hook.remove()
    largest = gradient_BTD.abs().max().item()
    parts = [
        (f"at token {places[index - 1]}", "later tokens", gradient_BTD[index, places[index - 1] + 1 :])
        for index in followed
    ]
    for where, what, part in (("of other sequences", "a sequence", gradient_BTD[0]), *parts):
        if part.numel() and part.abs().max() > 0:
            return (
                f"the logits {where} have a gradient to {what}, {part.abs().max().item() / largest:.2g} of the largest"
            )
    return None
