"""What a search for hyperparameters showed: budgets, edges, sensitivity to the learning rate, best loss by budget.

Losses are nats per token on the validation split, after the whole schedule. A trial that diverged counts as the loss of
guessing uniformly (ln of the vocabulary), and so does any that ended above it: a figure of this module never depends on
how badly something failed (arXiv:2309.14322 does the same with the loss at the start).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from analysis.errors import AnalysisError
from analysis.schema import FAILED
from analysis.tuning_records import (
    ARMS,
    RANDOM,
    RUNNING,
    SEARCH,
    SWEEP,
    TuningRecord,
    best_of,
    is_learning_rate,
    of_arm,
    parse_tuning,
    place_in,
    read_tuning_records,
    tokens_spent,
)

EDGE_SHARE = 0.1
"""A best within this outermost share of a range (of its logarithm, on a log scale) may lie beyond the range."""
CONFIDENCE = 0.95
LEAST_SWEEP = 3
"""Learning rates below which a sweep says nothing about a range."""


@dataclass(frozen=True)
class Best:
    """The best of `draws` independent draws."""

    draws: int
    expected: float
    """Unbiased estimate of the expected loss."""
    median: float
    """Estimate of the loss that the best is below with probability one half."""
    low: float | None
    """Of the median's 95 % interval; None where so few draws bound it on no side."""
    high: float | None


@dataclass(frozen=True)
class Sensitivity:
    """How much a wrong learning rate costs one cell."""

    cell: str
    hyperparameter: str
    rates: tuple[float, ...]
    """Rising."""
    losses: tuple[float, ...]
    """Those of the sweep, limited to the loss of guessing."""
    deviation: float
    """Mean loss above the sweep's lowest, over the logarithm of the rate across its whole range, in nats."""

    @property
    def decades(self) -> float:
        """How wide the range is."""
        return math.log10(self.rates[-1] / self.rates[0])


@dataclass(frozen=True)
class CellTuning:
    """What was tried for one cell, and what was found."""

    cell: str
    counts: Mapping[str, Mapping[str, int]]
    """By arm: trials by status."""
    tokens: Mapping[str, int]
    """By arm: training tokens spent."""
    best: TuningRecord | None
    edge: tuple[str, ...]
    """Hyperparameters whose best value lies at the edge of its range."""


@dataclass(frozen=True)
class Tuning:
    """A search, analysed."""

    declared: Mapping[str, Any]
    records: tuple[TuningRecord, ...]
    cells: tuple[CellTuning, ...]
    sensitivities: tuple[Sensitivity, ...]
    expected_best: Mapping[str, tuple[Best, ...]]
    """By cell; from the random arm alone."""

    @property
    def learning_rates(self) -> list[str]:
        """Hyperparameters of the space that are learning rates."""
        return [name for name in self.declared["space"] if is_learning_rate(name)]


def load_tuning(folder: Path) -> Tuning:
    """Read and analyse the search in a study's folder.

    Raises:
        AnalysisError: the folder has no search, or a record cannot be read.
    """
    try:
        declared, records = parse_tuning(folder), read_tuning_records(folder)
    except ValueError as error:
        raise AnalysisError(str(error)) from error
    return analyse_tuning(declared, [record for record in records if record.cell in declared["cells"]])


def analyse_tuning(declared: Mapping[str, Any], records: Sequence[TuningRecord]) -> Tuning:
    """Return every figure of the tuning report."""
    cells, space, guess = declared["cells"], declared["space"], declared["guess_loss"]
    random = {cell: draws(of_arm(records, cell, RANDOM), guess) for cell in cells}
    return Tuning(
        declared=declared,
        records=tuple(records),
        cells=tuple(_cell(cell, space, records) for cell in cells),
        sensitivities=tuple(
            found
            for name in space
            if is_learning_rate(name)
            for cell in cells
            if (found := sensitivity(cell, name, of_arm(records, cell, SWEEP), guess)) is not None
        ),
        expected_best={cell: tuple(best_by_budget(losses)) for cell, losses in random.items() if losses},
    )


def _cell(cell: str, space: Mapping[str, Any], records: Sequence[TuningRecord]) -> CellTuning:
    arms = {arm: of_arm(records, cell, arm) for arm in ARMS}
    best = best_of(arms[SEARCH])
    return CellTuning(
        cell=cell,
        counts={
            arm: {status: sum(r.status == status for r in found) for status in sorted({r.status for r in found})}
            for arm, found in arms.items()
        },
        tokens={arm: tokens_spent(found) for arm, found in arms.items()},
        best=best,
        edge=() if best is None else at_edge(best.hyperparameters, space),
    )


def at_edge(values: Mapping[str, float], space: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """Return the hyperparameters whose value lies in the outermost EDGE_SHARE of its range, on either side.

    Args:
        values: by hyperparameter.
        space: by hyperparameter: `low`, `high`, and `log` where its logarithm is drawn uniformly.
    """
    found = []
    for name, value in values.items():
        share = place_in(space[name]["low"], space[name]["high"], value, log=space[name]["log"])
        # 0 of a range that begins there (no weight decay) is no edge, nor is all of a fraction: nothing lies beyond
        whole = name.endswith("fraction") and space[name]["high"] == 1
        if (share > 1 - EDGE_SHARE and not whole) or (share < EDGE_SHARE and space[name]["low"] > 0):
            found.append(name)
    return tuple(found)


def limited(record: TuningRecord, guess: float) -> float:
    """Return a trial's loss, at most that of guessing, which a diverged trial has."""
    return guess if record.loss is None else min(record.loss, guess)


def draws(records: Sequence[TuningRecord], guess: float) -> list[float]:
    """Return the losses of independent draws; none while one of them has not ended or has failed.

    Leaving a draw out because of what became of it would bias whatever is made of the others.
    """
    if any(record.status in (RUNNING, FAILED) for record in records):
        return []
    return [limited(record, guess) for record in records]


def expected_best(losses: Sequence[float], number: int) -> float:
    """Return the unbiased estimate of the expected lowest of `number` independent draws.

    It is the mean of the lowest over all subsets of that size (Tang et al. 2020, arXiv:2010.02903). The estimate of
    Dodge et al. 2019, which draws with replacement, is too good where `number` is near the number of draws.

    Args:
        losses: independent draws.
        number: 1 to the number of draws.
    """
    ordered, n = np.sort(np.asarray(losses, dtype=float)), len(losses)
    assert 1 <= number <= n, f"{number} of {n} draws"
    subsets = math.comb(n, number)
    weights = [math.comb(n - place - 1, number - 1) / subsets for place in range(n)]
    return float(np.dot(weights, ordered))


def best_by_budget(losses: Sequence[float]) -> list[Best]:
    """Return the best of 1, 2, ... draws, as far as there are draws.

    The interval is the exact one of a quantile (order statistics of the draws), whatever the losses' distribution: the
    lowest of k draws is below the quantile 1 - 0.5^(1/k) of one draw with probability one half. Beyond a fifth of the
    draws no interval has a lower end: the draws cannot say how good those are that were not made.
    """
    ordered, n = np.sort(np.asarray(losses, dtype=float)), len(losses)
    found = []
    for number in range(1, n + 1):
        share = -math.expm1(math.log(0.5) / number)
        low, high = _order_statistics(n, share)
        found.append(
            Best(
                draws=number,
                expected=expected_best(losses, number),
                median=float(np.quantile(ordered, share, method="median_unbiased")),
                low=None if low is None else float(ordered[low]),
                high=None if high is None else float(ordered[high]),
            )
        )
    return found


@cache
def _order_statistics(n: int, share: float) -> tuple[int | None, int | None]:
    """Return the places (from 0) of the order statistics that bound a quantile with CONFIDENCE, equally on each side.

    None on a side where even the outermost draw does not: it misses too often.
    """
    tail = (1 - CONFIDENCE) / 2
    below = stats.binom.cdf(np.arange(n), n, share)  # P(the draw at this place lies above the quantile)
    low = int(np.searchsorted(below, tail, side="right")) - 1
    over = stats.binom.sf(np.arange(n), n, share)  # P(the draw at this place lies at or below the quantile)
    high = next((place for place in range(n) if over[place] <= tail), None)
    return (low if low >= 0 else None), high


def sensitivity(cell: str, hyperparameter: str, records: Sequence[TuningRecord], guess: float) -> Sensitivity | None:
    """Return the expected deviation from the optimum over a learning rate's range (arXiv:2309.14322, equation 1).

    The mean over the logarithm of the rate, by the trapezoid rule, of the loss above the lowest of the sweep. None
    where there is no whole sweep of this learning rate.

    Args:
        cell: whose sweep it is.
        hyperparameter: the learning rate that the sweep varies.
        records: trials of the cell's sweeps.
        guess: loss of guessing uniformly, to which losses are limited.
    """
    line = [record for record in records if record.varied == hyperparameter]
    if len(line) < LEAST_SWEEP or any(record.status in (RUNNING, FAILED) for record in line):
        return None
    line = sorted(line, key=lambda record: record.hyperparameters[hyperparameter])
    rates = np.array([record.hyperparameters[hyperparameter] for record in line])
    losses = np.array([limited(record, guess) for record in line])
    place = np.log(rates)
    deviation = np.trapezoid(losses - losses.min(), place) / (place[-1] - place[0])
    return Sensitivity(cell, hyperparameter, tuple(rates.tolist()), tuple(losses.tolist()), float(deviation))
