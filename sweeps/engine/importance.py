"""Which hyperparameters a loss depends on: fANOVA (Hutter et al. 2014) over independent draws of a space."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from analysis.tuning.findings import draws
from analysis.tuning_records import TuningRecord
from sweeps.engine.space import Space

LEAST_DRAWS = 10
"""Below this a forest sees nothing but chance."""
SEED = 0
"""Of the forest."""


def importance(space: Space, records: Sequence[TuningRecord], guess: float) -> dict[str, Any]:
    """Return `n`, the `shares` of variance that each hyperparameter explains alone, and where there are none, why.

    Args:
        space: what was drawn from.
        records: the random arm of one cell.
        guess: loss of guessing uniformly, which diverged draws count as.
    """
    losses = draws(records, guess)
    missing = {"n": len(losses), "shares": {}}
    if not records:
        return {**missing, "reason": "there are no independent draws (`--random N`)"}
    if not losses:
        return {**missing, "reason": "some draws have not ended or have failed"}
    if len(space) < 2:
        return {**missing, "reason": "there is one hyperparameter alone"}
    if len(losses) < LEAST_DRAWS:
        return {**missing, "reason": f"{len(losses)} independent draws are too few ({LEAST_DRAWS} are needed)"}
    if min(losses) == max(losses):
        return {**missing, "reason": "all draws have one loss"}
    return {"n": len(losses), "shares": _shares(space, records, losses), "reason": None}


def _shares(space: Space, records: Sequence[TuningRecord], losses: Sequence[float]) -> dict[str, float]:
    """Return fANOVA's shares, over the scale that each hyperparameter is drawn on.

    Optuna's takes the values themselves, log scale or not: nine tenths of a learning rate's weight would lie on its
    last decade. So it is given the place in each range.
    """
    import optuna
    from optuna.distributions import BaseDistribution, FloatDistribution

    logging.getLogger("optuna").setLevel(logging.WARNING)
    study = optuna.create_study(direction="minimize")
    places: dict[str, BaseDistribution] = {axis.name: FloatDistribution(0.0, 1.0) for axis in space}
    study.add_trials(
        [
            optuna.trial.create_trial(
                value=loss,
                params={axis.name: axis.share(record.hyperparameters[axis.name]) for axis in space},
                distributions=places,
            )
            for record, loss in zip(records, losses, strict=True)
        ]
    )
    found = optuna.importance.FanovaImportanceEvaluator(seed=SEED).evaluate(study)
    return {axis.name: float(found[axis.name]) for axis in space}
