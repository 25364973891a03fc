"""`budget`: the updates, tokens and windows were those scheduled, and the learning rates followed their schedule."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from analysis.schema import LEARNING_RATE, STEP, TOKENS, WARNING, Audit
from moe_models.model import MoETransformer
from moe_models.routers import Router
from trainables.config import TrainingConfig
from trainables.witness import Witness

NAME = "budget"
TOLERANCE = 1e-6
"""Of a learning rate's share, for rounding."""


def audit(
    training: TrainingConfig,
    witness: Witness,
    base_rates: Sequence[float],
    rows: Sequence[Mapping[str, Any]],
    drawn: int,
    windows: int,
) -> Audit | None:
    """Compare what was made with what was scheduled, and with what is reported.

    Args:
        training: the schedule.
        witness: of the whole run.
        base_rates: learning rate of each parameter group before the schedule's factor.
        rows: the whole curve.
        drawn: different windows that were trained on.
        windows: all there are: an epoch takes each once.
    """
    evidence = []
    if witness.updates != training.updates:
        evidence.append(f"{witness.updates:,} of {training.updates:,} scheduled updates were made")
    scheduled = training.updates * training.tokens_per_update
    if witness.tokens != scheduled:
        evidence.append(f"{witness.tokens:,} tokens were trained on where {scheduled:,} were scheduled")
    for column, made in ((STEP, witness.updates), (TOKENS, witness.tokens)):
        if rows[-1][column] != made:
            evidence.append(f"{column} is reported as {rows[-1][column]:,} where {made:,} were made")
    due = min(windows, witness.updates * training.accumulation * training.batch_size)
    if drawn != due:
        evidence.append(f"{drawn:,} different windows were trained on where {due:,} were due")
    rates = _rates(training, witness, base_rates)
    if rates is not None:
        evidence.append(rates)
    for row in rows:
        made_at, told = witness.rates[row[STEP] - 1][0], row[LEARNING_RATE]
        if not math.isclose(told, made_at, rel_tol=TOLERANCE):
            evidence.append(
                f"the learning rate of update {row[STEP]:,} is reported as {told:.3g}, and was {made_at:.3g}"
            )
            break
    return Audit(name=NAME, severity=WARNING, evidence="; ".join(evidence)) if evidence else None


def routed(model: MoETransformer, witness: Witness) -> Audit | None:
    """Compare what routers count, which balances some of them, with what was trained on: no more and no less.

    Args:
        model: as trained.
        witness: of the whole run.
    """
    routers = {name: module for name, module in model.named_modules() if isinstance(module, Router)}
    for name, router in routers.items():
        counted, due = int(witness.loads[name].sum()), witness.tokens * router.top_k
        if abs(counted - due) > TOLERANCE * due:
            evidence = f"{name} sent {counted:,} tokens to experts where {due:,} were to be in training"
            return Audit(name=NAME, severity=WARNING, evidence=evidence)
    return None


def _rates(training: TrainingConfig, witness: Witness, base_rates: Sequence[float]) -> str | None:
    """Say where a learning rate left its schedule: the last update of a run is named before any other."""
    final = _scheduled(training.updates - 1, training)
    last = _worst(witness.rates[-1], base_rates, final)
    if last is not None:
        return f"the learning rate ended at {last:.3g} of its base, not at its schedule's end, {final:.3g}"
    for update, rates in enumerate(witness.rates):
        scheduled = _scheduled(update, training)
        share = _worst(rates, base_rates, scheduled)
        if share is not None:
            return f"the learning rate was {share:.3g} of its base at update {update + 1}, not {scheduled:.3g}"
    return None


def _worst(rates: Sequence[float], base_rates: Sequence[float], scheduled: float) -> float | None:
    """Return the share of its base that is furthest from the scheduled one; None where all are that."""
    shares = [rate / base if base else 0.0 for rate, base in zip(rates, base_rates, strict=True)]
    worst = max(shares, key=lambda share: abs(share - scheduled))
    return worst if abs(worst - scheduled) > TOLERANCE else None


def _scheduled(update: int, training: TrainingConfig) -> float:
    """Return the share of the base rate at an update: linear to 1, then a cosine that ends with the last update.

    Written down a second time, so that a schedule that is computed wrongly is one that was not followed.
    """
    warmup = round(training.warmup_fraction * training.updates)
    if update < warmup:
        return (update + 1) / warmup
    progress = (update + 1 - warmup) / max(1, training.updates - warmup)
    final = training.final_learning_rate_fraction
    return final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2
