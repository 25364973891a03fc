"""`targets`: on the batches really trained and evaluated, label t is token t + 1, and the loss compares the two.

Shapes: B sequences, T tokens, V vocabulary, N = B·T targets, K copies of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from analysis.schema import INVALID, Audit
from moe_models.loss import CHUNK_ELEMENTS, IGNORED_TARGET
from moe_models.model import MoETransformer
from trainables.audits.undisturbed import undisturbed
from trainables.batches import Windows
from trainables.witness import Batch, sequences

NAME = "targets"
SHIFTS = (0, 2, -1)
"""What a wrong label is looked for at, relative to its input."""
TRAINED = "trained on at update"
TOLERANCE = 1e-4
"""Largest relative difference of two ways to compute a loss that can be rounding."""
GRADIENT_TOLERANCE = 1e-3
"""Likewise of its gradient."""
TIE = 1e-3
"""Of logits: what is closer together may be a tie, or none."""


def audit(model: MoETransformer, read: Mapping[str, tuple[Windows, Batch]]) -> Audit | None:
    """Judge batches that were read, and the model's losses on the first.

    Args:
        model: as trained.
        read: by what was done with them (`TRAINED` and an update, first of all): windows of tokens, and the batch.
    """
    evidence = [labels for what, (w, batch) in read.items() if (labels := _labels(what, w, batch)) is not None]
    if not evidence:
        _, (inputs_BT, _) = next(iter(read.values()))
        evidence = [loss for loss in (_losses(model, inputs_BT[:2]),) if loss is not None]
    return Audit(name=NAME, severity=INVALID, evidence=evidence[0]) if evidence else None


def _labels(what: str, windows: Windows, batch: Batch) -> str | None:
    """Say what the labels of a batch are where they are not the next tokens.

    The last label of a sequence is no input: only the window that the sequence is tells what it has to be.
    """
    inputs_BT, targets_BT = batch
    scored_BT = targets_BT != IGNORED_TARGET
    if not scored_BT.any():
        return f"no label of the batch {what} is scored"
    if what.startswith(TRAINED) and not scored_BT.all():
        return f"{(~scored_BT).double().mean():.0%} of the labels of the batch {what} are not scored"
    wrong = 1 - _share_equal(inputs_BT, targets_BT, 1)
    if wrong == 0:
        astray = _astray(windows, batch)
        return f"{astray} of {len(inputs_BT)} sequences {what} end with a wrong label" if astray else None
    shares = {shift: _share_equal(inputs_BT, targets_BT, shift) for shift in SHIFTS}
    shift = max(shares, key=lambda shift: shares[shift])
    place = {0: "token t itself", 2: "token t + 2", -1: "token t - 1"}[shift]
    return f"{wrong:.0%} of the labels of the batch {what} are not token t + 1; {shares[shift]:.0%} are {place}"


def _share_equal(inputs_BT: Tensor, targets_BT: Tensor, shift: int) -> float:
    """Return the share of scored labels t that are input t + shift, among those where there is one, no padding."""
    length = inputs_BT.shape[1]
    first, last = max(0, -shift), min(length, length - shift)
    labels_BT, tokens_BT = targets_BT[:, first:last], inputs_BT[:, first + shift : last + shift]
    scored_BT = (labels_BT != IGNORED_TARGET) & (targets_BT[:, first + shift : last + shift] != IGNORED_TARGET)
    return (labels_BT == tokens_BT)[scored_BT].double().mean().item() if scored_BT.any() else float(shift == 1)


def _astray(windows: Windows, batch: Batch) -> int:
    """Return how many sequences have a window's inputs, and other labels."""
    due = {(text[:-1].tobytes(), text[1:].tobytes()) for text in windows.texts()}
    read = [(inputs.tobytes(), labels.tobytes()) for inputs, labels in sequences(batch, windows.tokens.dtype)]
    known = {inputs for inputs, _ in due}
    return sum(inputs in known and (inputs, labels) not in due for inputs, labels in read)


def _losses(model: MoETransformer, inputs_BT: Tensor) -> str | None:
    """Say where the losses that train and that evaluate differ from the cross-entropy of logits t with token t + 1.

    The head takes some tokens at a time. It gets so many copies of the same that it has to take more than once.
    """
    if inputs_BT.shape[1] < 2:
        return None
    with undisturbed(model):
        model.eval()
        with torch.no_grad():
            output = model(inputs_BT)
        targets_BT = F.pad(inputs_BT[:, 1:], (0, 1), value=IGNORED_TARGET)
        hidden_BTD = output.hidden_BTD.requires_grad_()
        logits_NV = model.logits(hidden_BTD).float().flatten(0, 1)
        expected_N = F.cross_entropy(logits_NV, targets_BT.flatten(), ignore_index=IGNORED_TARGET, reduction="none")
        expected = expected_N.sum() / int((targets_BT != IGNORED_TARGET).sum())
        copies = CHUNK_ELEMENTS[inputs_BT.device.type] // (model.config.vocab_size * inputs_BT.numel()) + 1
        many, many_BT = replace(output, hidden_BTD=hidden_BTD.repeat(copies, 1, 1)), targets_BT.repeat(copies, 1)
        model.train()
        loss = model.loss(many, many_BT)
        due_BTD, trained_BTD = (torch.autograd.grad(value, hidden_BTD)[0] for value in (expected, loss))
        model.eval()
        evaluated_N, correct_N = model.token_losses(many, many_BT)
    if abs(loss.item() - expected.item()) > TOLERANCE * expected.item():
        return (
            f"the loss that trains is {loss.item():.4f} where the next token's cross-entropy is {expected.item():.4f}"
        )
    apart = (torch.linalg.vector_norm(trained_BTD - due_BTD) / torch.linalg.vector_norm(due_BTD)).item()
    if apart > GRADIENT_TOLERANCE:
        return f"the gradient of the loss that trains is {apart:.2g} of its size away from the cross-entropy's"
    expected_N, logits_NV = expected_N.detach(), logits_NV.detach()
    evaluated_KN, correct_KN = evaluated_N.view(copies, -1), correct_N.view(copies, -1)
    apart_KN = (evaluated_KN - expected_N).abs()
    if apart_KN.max().item() > TOLERANCE * expected_N.max().item():
        copy, token = divmod(int(apart_KN.argmax()), len(expected_N))
        return (
            f"a token's evaluated loss is {evaluated_KN[copy, token]:.4f} where its cross-entropy is "
            f"{expected_N[token]:.4f}"
        )
    wrong = _miscounted(logits_NV, targets_BT.flatten(), correct_KN)
    return f"{wrong} of {len(correct_N)} predictions are counted as right or as wrong and are not" if wrong else None


def _miscounted(logits_NV: Tensor, targets_N: Tensor, correct_KN: Tensor) -> int:
    """Return how many scored predictions, in all copies, are said to be right that are not, or not to be that are."""
    target_N1 = targets_N.clamp(min=0).unsqueeze(1)
    others_N = logits_NV.scatter(1, target_N1, float("-inf")).amax(1)
    lead_N = logits_NV.gather(1, target_N1).squeeze(1) - others_N
    is_clear_N = (lead_N.abs() > TIE) & (targets_N != IGNORED_TARGET)
    return int(((lead_N > 0) != correct_KN)[:, is_clear_N].sum())
