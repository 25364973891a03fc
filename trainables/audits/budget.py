"""`budget`: the updates and tokens were those scheduled, and the learning rate ended where its schedule ends."""

from __future__ import annotations

from collections.abc import Sequence

from torch.optim import Optimizer

from analysis.schema import WARNING, Audit
from trainables.config import TrainingConfig
from trainables.witness import Witness

NAME = "budget"
TOLERANCE = 1e-6
"""Of a learning rate's share, for rounding."""


def audit(
    training: TrainingConfig, witness: Witness, optimizers: Sequence[Optimizer], base_rates: Sequence[float]
) -> Audit | None:
    """Compare what was made with what was scheduled.

    Args:
        training: the schedule.
        witness: of the whole run.
        optimizers: as the last update left them.
        base_rates: learning rate of each of their groups before the schedule's factor.
    """
    evidence = []
    if witness.updates != training.updates:
        evidence.append(f"{witness.updates:,} of {training.updates:,} scheduled updates were made")
    scheduled = training.updates * training.tokens_per_update
    if witness.tokens != scheduled:
        evidence.append(f"{witness.tokens:,} tokens were trained on where {scheduled:,} were scheduled")
    groups = (group for optimizer in optimizers for group in optimizer.param_groups)
    shares = [group["lr"] / base for group, base in zip(groups, base_rates, strict=True)]
    final = training.final_learning_rate_fraction
    worst = max(shares, key=lambda share: abs(share - final))
    if abs(worst - final) > TOLERANCE:
        evidence.append(f"the learning rate ended at {worst:.3g} of its base, not at its schedule's end, {final:.3g}")
    return Audit(name=NAME, severity=WARNING, evidence="; ".join(evidence)) if evidence else None
