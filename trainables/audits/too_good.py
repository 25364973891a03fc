"""`too_good`: the validation loss is one that a model can have.

A generated corpus knows the probability p of each token under its generator. A model that has not seen the validation
documents and sees only what came before gives each token a probability q, and its loss is the generator's or more, on
average. On the documents at hand it may be less by chance. Two things must hold before a run is called invalid:

- The mean of log(q / p) is more than four of its standard errors: paired by token, clustered by document.
- So is the sum: q / p of all tokens together has an expected value of 1, whatever the model, so it exceeds a million
  with a probability of at most one in a million (Markov's inequality). This bound needs no normal distribution and no
  number of documents. Four standard errors alone do: a model that bets against rare tokens wins a little in each
  document until one of them comes, and has a tiny standard error until then.

On text nobody knows the best possible loss. A note says where a model needs less than half of what a general
compressor needs.

Shapes: N scored tokens, C documents.
"""

from __future__ import annotations

import math

import numpy as np

from analysis.schema import INVALID, NOTE, Audit, DocumentScores
from trainables.audits.evaluation import standard_error
from trainables.batches import EvaluationBatches
from trainables.data import TokenizedCorpus

NAME = "too_good"
STANDARD_ERRORS = 4
CHANCE = 1e-6
"""Largest probability with which a model that does not cheat is found to."""
COMPRESSOR_SHARE = 0.5
"""Of the compressor's loss, below which a model's is noted. Sound runs of 300 and 400 updates are at 1.21 and above,
runs without a mask at 0.18 and below: `docs/trust.md`."""


def audit(corpus: TokenizedCorpus, validation: EvaluationBatches, scores: DocumentScores | None) -> Audit | None:
    """Compare the last evaluation with the corpus's generator, or with a compressor where people wrote the text.

    Args:
        corpus: what was evaluated on.
        validation: how.
        scores: the losses by document; None where more was scored than there is, which `evaluation` says.
    """
    if scores is None:
        return None
    losses_C, tokens_C = np.array(scores.losses), np.array(scores.tokens)
    logs_N = validation.scored_log_probabilities()
    if logs_N is not None:
        documents_N = validation.scored_documents().numpy()
        scored = tokens_C.sum()
        generator_C = -np.bincount(documents_N[:scored], logs_N[:scored])[scores.documents]
        return against_generator(losses_C, generator_C, tokens_C)
    best = corpus.compressor_loss
    loss = losses_C.sum() / tokens_C.sum()
    if best is None or loss >= COMPRESSOR_SHARE * best:
        return None
    evidence = (
        f"the validation loss, {loss:.4f} nats a token, is {loss / best:.2f} of what bzip2 needs with training text "
        f"before it ({best:.4f}): either a remarkable model, or one that sees what it predicts"
    )
    return Audit(name=NAME, severity=NOTE, evidence=evidence)


def against_generator(losses_C: np.ndarray, generator_C: np.ndarray, tokens_C: np.ndarray) -> Audit | None:
    """Judge a model's summed losses of documents by those of the generator on the same tokens, in nats."""
    if len(tokens_C) < 2:
        return None
    gain = (generator_C - losses_C).sum()
    error = standard_error(generator_C - losses_C, tokens_C) * tokens_C.sum()
    if gain <= STANDARD_ERRORS * error or gain <= -math.log(CHANCE):
        return None
    tokens = tokens_C.sum()
    errors = f"{gain / error:.0f}" if error > 0 else "infinitely many"
    evidence = (
        f"the validation loss, {losses_C.sum() / tokens:.4f} nats a token, is {gain / tokens:.4f} below that of the "
        f"generator of these tokens ({generator_C.sum() / tokens:.4f}): {errors} standard errors over "
        f"{len(tokens_C)} documents; a model that sees only what came before is above it"
    )
    return Audit(name=NAME, severity=INVALID, evidence=evidence)
