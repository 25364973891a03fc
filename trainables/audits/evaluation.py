"""`evaluation`: losses are those of what was due: of the whole validation split, of each of its documents, of training.

Shapes: N scored targets, C documents, D all documents of the split.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from analysis.schema import (
    INVALID,
    STEP,
    TEST_ACCURACY,
    TEST_LOSS,
    TRAIN_LOSS,
    VAL_ACCURACY,
    VAL_LOSS,
    VAL_PERPLEXITY,
    WARNING,
    Audit,
    DocumentScores,
)
from moe_models.loss import IGNORED_TARGET
from moe_models.model import MoETransformer
from trainables.audits.undisturbed import undisturbed
from trainables.batches import EvaluationBatches, Windows
from trainables.config import TrainingConfig
from trainables.data import Split
from trainables.witness import Witness, read_on

NAME = "evaluation"
SEQUENCES = 2
"""Sequences of the first and of the last batch that are scored once more."""
TOLERANCES = {"fp32": 1e-4, "bf16": 1e-3}
"""Largest difference of two passes over the same sequences that can be rounding, as a share of their mean loss: they
are of other numbers of sequences, and so may be summed in another order."""


def by_document(validation: EvaluationBatches, witness: Witness) -> DocumentScores | None:
    """Return the last evaluation's losses summed by document; None where more was scored than there is.

    Args:
        validation: what was to be scored.
        witness: what it saw of the scores.
    """
    losses_N = _losses(witness)
    documents_N = validation.scored_documents()[: len(losses_N)].numpy()
    if len(documents_N) < len(losses_N):
        return None
    documents_C, place_N = np.unique(documents_N, return_inverse=True)
    return DocumentScores(
        documents=documents_C.tolist(),
        clusters=validation.clusters()[documents_C].tolist(),
        tokens=np.bincount(place_N).tolist(),
        losses=np.bincount(place_N, losses_N.numpy()).tolist(),
    )


def documents(split: Split, end_of_document: int) -> Audit | None:
    """Say where the documents that losses are summed by are not those of the text.

    Args:
        split: what was scored.
        end_of_document: the token that each document ends with.
    """
    ends = split.tokens[np.append(split.document_starts[1:], len(split.tokens)) - 1]
    wrong = int((ends != end_of_document).sum())
    if wrong == 0:
        return None
    evidence = (
        f"{wrong:,} of {len(ends):,} validation documents do not end where the text ends one: no error over documents "
        "can be believed"
    )
    return Audit(name=NAME, severity=WARNING, evidence=evidence)


def audit(split: Split, scores: DocumentScores | None, witness: Witness) -> Audit | None:
    """Count what the last evaluation scored; where that is not all of the split, say how far off it may be.

    Args:
        split: what should be scored, every token but the first.
        scores: what was scored, by document.
        witness: of the run.
    """
    available, scored = len(split.tokens) - 1, len(_losses(witness))
    if scored == available:
        return None
    of_split = f" ({scored / available:.1%})" if scored < available else ": some are not its own, or count repeatedly"
    evidence = f"{scored:,} tokens were scored where the validation split has {available:,}{of_split}"
    if scores is not None:
        evidence += f"; {_error(np.array(scores.losses), np.array(scores.tokens))}"
    return Audit(name=NAME, severity=WARNING, evidence=evidence)


def scored(validation: EvaluationBatches, witness: Witness) -> Audit | None:
    """Compare what the last evaluation scored, label by label, with what was to be scored.

    Args:
        validation: what was to be scored.
        witness: of the run.
    """
    expected_N, labels_N = validation.scored_targets(), _labels(witness).numpy()
    if np.array_equal(labels_N, expected_N):
        return None
    evidence = (
        f"the {len(labels_N):,} labels scored are not the {len(expected_N):,} of the windows to be evaluated, in order"
    )
    return Audit(name=NAME, severity=INVALID, evidence=evidence)


def read(training: TrainingConfig, windows: Windows, witness: Witness) -> Audit | None:
    """Compare all that each evaluation read, inputs and labels batch by batch, with its windows as configured.

    Args:
        training: their length, and how many are a batch.
        windows: what was to be scored.
        witness: of the run.
    """
    due = _due(training, windows)
    for update, (seen, _) in witness.evaluations.items():
        if seen.item() != due:
            evidence = f"what was evaluated after update {update:,} is not the text of the windows due, batch by batch"
            return Audit(name=NAME, severity=INVALID, evidence=evidence)
    return None


def _due(training: TrainingConfig, windows: Windows) -> int:
    """Return the checksum of what an evaluation of windows has to read."""
    due, tokens = torch.zeros((), dtype=torch.int64), windows.tokens
    for first in range(0, len(windows.starts), training.evaluation_batch_size):
        starts_B = windows.starts[first : first + training.evaluation_batch_size]
        places_BT = starts_B[:, None] + np.arange(training.seq_len + 1)
        texts_BT = tokens[np.minimum(places_BT, len(tokens) - 1)].astype(np.int64)
        is_label_BT = places_BT[:, 1:] < len(tokens)
        parts = np.where(is_label_BT, texts_BT[:, :-1], 0), np.where(is_label_BT, texts_BT[:, 1:], IGNORED_TARGET)
        due = read_on(due, *(torch.from_numpy(part_BT).unsqueeze(0) for part_BT in parts))
    return int(due)


def curve(training: TrainingConfig, witness: Witness, rows: Sequence[Mapping[str, Any]], scored: int) -> Audit | None:
    """Compare the losses that all rows report with those of the batches and of the scored tokens.

    Args:
        training: micro-batches an update.
        witness: of the whole run.
        rows: the whole curve.
        scored: tokens that each evaluation scores.
    """
    for before, row in pairwise([{STEP: 0}, *rows]):
        first, last = before[STEP], row[STEP]
        total = witness.losses[last] - (witness.losses[first] if first else 0.0)
        due = {TRAIN_LOSS: (total / ((last - first) * training.accumulation)).item()}
        if row[VAL_LOSS] is not None:
            due[VAL_LOSS] = (witness.evaluations[last][1] / scored).item()
        for column, loss in due.items():
            if not math.isclose(row[column], loss, rel_tol=1e-6):
                reported = f"{column} is reported as {row[column]:.7g} after update {last:,}"
                return Audit(name=NAME, severity=INVALID, evidence=f"{reported} where the mean is {loss:.7g}")
    return None


def final_test(
    training: TrainingConfig, split: Split, windows: Windows, witness: Witness, test: Mapping[str, float | None]
) -> Audit | None:
    """Say where the final test scores something else than the whole test split, or reports something else.

    Nothing is said of what came out: that stays sealed.

    Args:
        training: how many windows are a batch.
        split: what should be scored.
        windows: what a run's final test scores.
        witness: of the run.
        test: what it reports; empty where there was none.
    """
    starts = np.arange(0, len(split.tokens) - 1, windows.length - 1)
    is_whole = np.array_equal(windows.tokens, split.tokens) and np.array_equal(windows.starts, starts)
    if is_whole and test and witness.tested is not None:
        seen, total, right = (value.item() for value in witness.tested)
        is_whole = seen == _due(training, windows)
        for column, summed in ((TEST_LOSS, total), (TEST_ACCURACY, right)):
            reported, due = test[column], summed / (len(split.tokens) - 1)
            if is_whole and reported is not None and not math.isclose(reported, due, rel_tol=1e-6):
                apart = f"{abs(reported / due - 1):.2g} of its size away" if due else "away"
                evidence = f"{column} is reported {apart} from that of the scored tokens"
                return Audit(name=NAME, severity=INVALID, evidence=evidence)
    if is_whole:
        return None
    return Audit(name=NAME, severity=INVALID, evidence="what the final test scores is not the whole test split")


@torch.no_grad()
def reported(
    model: MoETransformer, precision: str, witness: Witness, row: Mapping[str, Any], autocast: torch.autocast
) -> Audit | None:
    """Compare what is reported with the scores, and some sequences' scores with those of the trained model.

    Args:
        model: as trained; left as it was.
        precision: of the run.
        witness: of the run.
        row: the last row of the curve.
        autocast: what the run evaluates under.
    """
    mean = _losses(witness).mean().item()
    if not math.isclose(row[VAL_LOSS], mean, rel_tol=1e-6):
        evidence = f"the validation loss is reported as {row[VAL_LOSS]:.7g} where the scored tokens' mean is {mean:.7g}"
        return Audit(name=NAME, severity=INVALID, evidence=evidence)
    further = {VAL_PERPLEXITY: math.exp(min(mean, 700)), VAL_ACCURACY: witness.right.item() / len(_labels(witness))}
    for column, due in further.items():
        if row[column] is not None and not math.isclose(row[column], due, rel_tol=1e-5):
            evidence = f"{column} is reported as {row[column]:.7g} where that of the scored tokens is {due:.7g}"
            return Audit(name=NAME, severity=INVALID, evidence=evidence)
    first, last = (tuple(part_BT[:SEQUENCES] for part_BT in witness.evaluated[place]) for place in (0, -1))
    inputs_BT, targets_BT = (torch.cat(parts_BT) for parts_BT in zip(first, last, strict=True))
    scored_N = torch.cat([witness.scores[0][1][: first[1].numel()], witness.scores[-1][1][: last[1].numel()]])
    with undisturbed(model), autocast:
        model.eval()
        losses_N, _ = model.token_losses(model(inputs_BT), targets_BT)
    apart = (losses_N - scored_N).abs().sum().item() / losses_N.sum().item()
    if apart > TOLERANCES[precision]:
        evidence = f"the losses of text evaluated differ by {apart:.2%} from those that the trained model has on it"
        return Audit(name=NAME, severity=INVALID, evidence=evidence)
    return None


def _labels(witness: Witness) -> Tensor:
    """Return the scored targets in the order of evaluation (N,), int64 on the CPU."""
    targets_N = torch.cat([targets for targets, _ in witness.scores])
    return targets_N[targets_N != IGNORED_TARGET].cpu()


def _losses(witness: Witness) -> Tensor:
    """Return the losses of the scored targets in the order of evaluation (N,), fp64 on the CPU."""
    targets_N = torch.cat([targets for targets, _ in witness.scores])
    return torch.cat([losses for _, losses in witness.scores])[targets_N != IGNORED_TARGET].double().cpu()


def _error(losses_C: np.ndarray, tokens_C: np.ndarray) -> str:
    """Return in words the standard error of the mean loss."""
    documents = len(tokens_C)
    if documents < 2:
        return "all of one document, so the loss has no standard error"
    return f"the loss has a standard error of {standard_error(losses_C, tokens_C):.3f} nats over {documents} documents"


def standard_error(losses_C: np.ndarray, tokens_C: np.ndarray) -> float:
    """Return the standard error of the mean loss a token: a ratio estimator, clustered by document, of which 2 or more.

    Cochran, Sampling Techniques (1977), section 2.11: sums of losses over sums of tokens.
    """
    documents = len(tokens_C)
    residual_C = losses_C - losses_C.sum() / tokens_C.sum() * tokens_C
    return math.sqrt(documents / (documents - 1) * (residual_C**2).sum()) / float(tokens_C.sum())
