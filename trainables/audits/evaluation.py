"""`evaluation`: the validation loss is that of the whole validation split.

Shapes: N scored targets, C documents.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from analysis.schema import WARNING, Audit
from moe_models.loss import IGNORED_TARGET
from trainables.data import Split
from trainables.witness import Witness

NAME = "evaluation"


def audit(split: Split, documents_N: Tensor, witness: Witness) -> Audit | None:
    """Count what the last evaluation scored; where that is not all of the split, say how far off it may be.

    Args:
        split: what should be scored, every token but the first.
        documents_N: document of each target in the order of evaluation; more than were scored will do.
        witness: of the run.
    """
    targets_N = torch.cat([targets for targets, _ in witness.scores])
    losses_N = torch.cat([losses for _, losses in witness.scores])[targets_N != IGNORED_TARGET].double().cpu()
    available, scored = len(split.tokens) - 1, len(losses_N)
    if scored == available:
        return None
    evidence = f"{scored:,} tokens were scored where the validation split has {available:,} ({scored / available:.1%})"
    if scored <= len(documents_N):
        evidence += f"; {_error(losses_N, documents_N[:scored])}"
    return Audit(name=NAME, severity=WARNING, evidence=evidence)


def _error(losses_N: Tensor, documents_N: Tensor) -> str:
    """Return in words the standard error of the mean loss: a ratio estimator, clustered by document.

    Cochran, Sampling Techniques (1977), section 2.11: sums of losses over sums of tokens.
    """
    _, cluster_N = documents_N.unique(return_inverse=True)
    tokens_C = torch.bincount(cluster_N).double()
    clusters = len(tokens_C)
    if clusters < 2:
        return "all of one document, so the loss has no standard error"
    mean = losses_N.mean()
    residual_C = torch.bincount(cluster_N, losses_N) - mean * tokens_C
    error = math.sqrt(clusters / (clusters - 1) * residual_C.square().sum().item()) / len(losses_N)
    return f"the loss has a standard error of {error:.3f} nats over {clusters} documents"
