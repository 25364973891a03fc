"""A search for one cell's hyperparameters, without Ray: what is tried next, who goes on at a rung, what is recorded.

The records are the search's whole state. What is suggested is a function of them, the trial's number and the seed, so
a search that was interrupted goes on as if it had not been: with one trial at a time it is the same search to the last
bit; with several, what is suggested depends on which of them have ended by then, as in any asynchronous search.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.schema import CONFIG_HASH, DIVERGED, FAILED, FINISHED, STEP, VAL_LOSS, Audit
from analysis.tuning_records import (
    RANDOM,
    RUNNING,
    SEARCH,
    STOPPED,
    TuningRecord,
    is_learning_rate,
    read_tuning_records,
    tokens_spent,
)
from moe_models.errors import ConfigError, require
from moe_models.streams import derive_seed
from sweeps.engine.plan import Plan, PlannedCell, PlannedRun, what_changed
from sweeps.engine.search_options import TuneOptions
from sweeps.engine.space import Space
from sweeps.engine.storage import Storage
from trainables.config import TrialConfig

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What every cell's search may spend."""

    trials: int
    updates: int
    """Of a trial that is not stopped."""
    rungs: int
    """How many there are."""
    reduction: int
    """At a rung one trial of so many goes on, and it lies at one in so many of the updates of the next."""
    tokens_per_update: int
    tokens: int | None
    """Most training tokens of a cell's search; None: as many as its trials take."""

    def __post_init__(self) -> None:
        require(self.trials >= 1, f"--trials must be 1 or more but got {self.trials}")
        require(self.rungs >= 0, f"--rungs must be 0 or more but got {self.rungs}")
        require(self.reduction >= 2, f"--reduction must be 2 or more but got {self.reduction}")
        least = self.reduction**self.rungs
        require(
            self.updates >= least,
            f"{self.rungs} rungs at a reduction of {self.reduction} need {least} updates or more, but a trial has "
            f"{self.updates}: raise --steps or lower --rungs",
        )
        require(
            self.tokens is None or self.tokens >= self.trial_tokens,
            f"--max-tokens {self.tokens} is too small to finish one trial, which takes {self.trial_tokens:,} tokens",
        )

    @property
    def trial_tokens(self) -> int:
        """Training tokens of a trial that is not stopped."""
        return self.updates * self.tokens_per_update

    @property
    def milestones(self) -> tuple[int, ...]:
        """The updates at which the rungs lie, each a multiple of the first."""
        first = self.updates // self.reduction**self.rungs
        return tuple(first * self.reduction**place for place in range(self.rungs))


def make_budget(plan: Plan, options: TuneOptions) -> Budget:
    """Return what every cell's search may spend; ConfigError where no trial could finish."""

    require(
        len(plan.scales) == 1, f"--scale {options.scale}: a search has one scale, since the best differ between scales"
    )
    training = plan.cells[0].config.training
    return Budget(
        trials=options.trials,
        updates=training.updates,
        rungs=options.rungs,
        reduction=options.reduction,
        tokens_per_update=training.tokens_per_update,
        tokens=options.max_tokens,
    )


def read_trials(folder: Path) -> list[TuningRecord]:
    """Return the records of the searches in a study's folder.

    Raises:
        ConfigError: a file among them is none.
    """
    try:
        return read_tuning_records(folder)
    except ValueError as error:
        raise ConfigError(f"{error}; delete it, in a storage, too: what then lacks a trial trains it again") from error


def open_trials(
    cells: Sequence[PlannedCell], records: Iterable[TuningRecord], planned: Mapping[str, int], budget: Budget, seed: int
) -> list[PlannedRun]:
    """Return the trials that searches have left, at most, as runs of their cells: not stopped, one takes as long.

    Args:
        cells: those that are searched.
        records: what was tried so far.
        planned: trials of each arm of a cell.
        budget: what each cell's search may spend.
        seed: of all trials.
    """
    ended: defaultdict[tuple[str, str], list[TuningRecord]] = defaultdict(list)
    for record in records:
        if record.status not in (RUNNING, FAILED):
            ended[record.cell, record.arm].append(record)
    left = Counter({(cell.name, arm): planned[arm] - len(ended[cell.name, arm]) for cell in cells for arm in planned})
    if budget.tokens is not None:
        for cell in cells:
            free = budget.tokens - tokens_spent(ended[cell.name, SEARCH])
            left[cell.name, SEARCH] = min(left[cell.name, SEARCH], max(0, -(-free // budget.trial_tokens)))
    turns = {cell.name: sum(max(0, left[cell.name, arm]) for arm in planned) for cell in cells}
    run_of = {cell.name: PlannedRun(cell=cell, seed=seed) for cell in cells}
    return [run_of[name] for turn in range(max(turns.values())) for name in turns if turn < turns[name]]


def require_same_trials(
    cells: Sequence[PlannedCell], records: Iterable[TuningRecord], budget: Budget, seed: int
) -> None:
    """Refuse to go on with a search whose trials were something else: their losses would not be comparable.

    Args:
        cells: those that are searched.
        records: what was tried so far.
        budget: what each cell's search may spend.
        seed: of all trials.

    Raises:
        ConfigError: a trial was of another configuration than its cell has now.
    """
    of_name = {cell.name: cell for cell in cells}
    for record in records:
        if record.cell not in of_name:
            continue
        now = trial_config(of_name[record.cell], record.hyperparameters, budget)
        if now.hash(seed) != record.config_hash:
            raise ConfigError(
                f"cell '{record.cell}' is configured differently from its trials in the search {record.study}: "
                f"{what_changed(record.config, now.to_dict()) or CONFIG_HASH}; take --output elsewhere for a new "
                "search, or the code that the search was begun with to go on"
            )


def goes_on(losses: Mapping[int, float], number: int, reduction: int) -> bool:
    """Return whether a trial goes on at a rung: ASHA's rule (arXiv:1810.05934), decided when it arrives there.

    It does when it is among the best 1/`reduction` of those that have arrived so far, itself included, and always when
    it is the best of them. Of equals the earlier one is better.

    Args:
        losses: by trial, of all that have arrived.
        number: the trial.
        reduction: of how many one goes on.
    """
    place = sorted(losses, key=lambda other: (losses[other], other)).index(number)
    return place < max(1, len(losses) // reduction)


def suggest(space: Space, records: Iterable[TuningRecord], seed: int, number: int) -> dict[str, float]:
    """Return the next hyperparameters by the tree-structured Parzen estimator (arXiv:2304.11127).

    Its first ten draws are random, and equal in all cells. All that it learns from is the order of the trials that have
    ended: cells in which that is the same are searched alike.
    """
    import optuna
    from optuna.trial import TrialState, create_trial

    logging.getLogger("optuna").setLevel(logging.WARNING)
    known = distributions(space)
    tried = sorted(records, key=lambda record: record.number)
    place_of = {record.number: place for place, record in enumerate(best_first(tried))}
    study = optuna.create_study(storage=optuna.storages.InMemoryStorage(), direction="minimize")
    for record in tried:
        if record.status == RUNNING:  # it keeps away from what is being tried
            study.add_trial(create_trial(state=TrialState.RUNNING, params=record.hyperparameters, distributions=known))
        elif record.number in place_of:
            place = float(place_of[record.number])
            study.add_trial(create_trial(value=place, params=record.hyperparameters, distributions=known))
    study.sampler = optuna.samplers.TPESampler(seed=derive_seed(seed, SEARCH, number) % 2**32)
    return dict(study.ask(known).params)


def best_first(records: Iterable[TuningRecord]) -> list[TuningRecord]:
    """Return the trials of a search that have ended in their order: by the loss after the whole schedule.

    A stopped trial is placed by what it could have had: its loss at its last rung, less the median of what the trials
    that went on from there fell by. Were it placed behind all that finished, the first trial, which always goes on,
    would count as one of the best however poor it is. Diverged trials come last, the earlier they ended the worse.
    """
    losses: dict[int, list[float]] = {}
    """By number: at each rung that was reached, and at the end."""
    ended = [record for record in records if record.status in (FINISHED, STOPPED, DIVERGED)]
    for record in ended:
        if record.status != DIVERGED:
            at_rungs = [record.rungs[rung] for rung in sorted(record.rungs, key=int)]
            losses[record.number] = at_rungs if record.loss is None else [*at_rungs, record.loss]
    points = max(map(len, losses.values()), default=0)
    falls = [
        statistics.median(its[point] - its[point + 1] for its in losses.values() if len(its) > point + 1)
        for point in range(points - 1)
    ]

    def place(record: TuningRecord) -> tuple[bool, float, int]:
        its = losses.get(record.number)
        return its is None, -record.updates if its is None else its[-1] - sum(falls[len(its) - 1 :]), record.number

    return sorted(ended, key=place)


def draw(space: Space, seed: int, number: int) -> dict[str, float]:
    """Return independent hyperparameters, uniform on each axis' scale; equal in all cells."""
    shares = np.random.default_rng(derive_seed(seed, RANDOM, number)).random(len(space))
    return {axis.name: axis.at(share) for axis, share in zip(space, shares.tolist(), strict=True)}


def distributions(space: Space) -> dict[str, optuna.distributions.BaseDistribution]:
    """Return the space as Optuna has it."""
    from optuna.distributions import FloatDistribution

    return {axis.name: FloatDistribution(axis.low, axis.high, log=axis.log) for axis in space}


class Arm:
    """One cell's trials of one kind.

    Args:
        cell: as the study plans it; a trial differs from it in its hyperparameters.
        arm: one of analysis.tuning_records.ARMS.
        space: what is searched.
        budget: what it may spend; rungs and `tokens` hold for the search alone.
        seed: of every draw and every trial.
        storage: the study's.
        environment: for the records.
        planned: the hyperparameters of each trial with the one that varies, where they are chosen beforehand.
        earlier: records that were there before.
    """

    def __init__(
        self,
        cell: PlannedCell,
        arm: str,
        space: Space,
        budget: Budget,
        seed: int,
        storage: Storage,
        environment: Mapping[str, str],
        *,
        trials: int,
        planned: Sequence[tuple[str, Mapping[str, float]]] = (),
        earlier: Iterable[TuningRecord] = (),
    ) -> None:
        self.cell = cell
        self.arm = arm
        self.space = space
        self.budget = budget
        self.seed = seed
        self.storage = storage
        self.environment = dict(environment)
        self.trials = trials
        self.planned = planned
        self.records = {record.number: record for record in earlier}
        self._again = sorted(n for n, record in self.records.items() if record.status in (RUNNING, FAILED))
        """Interrupted or failed trials, which are trained before any new one."""
        self._now: set[int] = set()
        self._later: dict[int, set[int]] = {}
        """By trial that is being trained: those with a higher number that had ended before it was asked for."""

    @property
    def milestones(self) -> tuple[int, ...]:
        """Updates at which trials may be stopped."""
        return self.budget.milestones if self.arm == SEARCH else ()

    @property
    def left(self) -> int:
        """How many trials have not ended, as far as tokens allow them."""
        return len(self._again) + len(self._now) + self._unasked

    @property
    def _unasked(self) -> int:
        left = max(0, self.trials - len(self.records))
        if self.arm != SEARCH or self.budget.tokens is None:
            return left
        # One that failed is tried again, by the next start if not by this one, and may take all of its tokens.
        ended = [record for record in self.records.values() if record.status not in (RUNNING, FAILED)]
        waiting = len(self.records) - len(ended)
        free = self.budget.tokens - tokens_spent(ended) - waiting * self.budget.trial_tokens
        return min(left, max(0, free // self.budget.trial_tokens))

    @property
    def complete(self) -> bool:
        """Whether nothing is left to ask for or to wait for."""
        return self.left == 0

    def ask(self) -> TuningRecord | None:
        """Return the next trial, recorded; None where none can begin now (or, when complete, ever).

        A trial whose record is gone comes before any new one, and knows those before it alone: with one trial at a time
        it is what it was.
        """
        if self._again:
            number = self._again.pop(0)
            record = dataclasses.replace(self.records[number], status=RUNNING, error=None, rows=[])
        elif self._unasked > 0:
            number = next(n for n in itertools.count() if n not in self.records)
            record = self._new(number)
        else:
            return None
        self._later[number] = {n for n in self.records if n > number} - self._now - {*self._again}
        self._now.add(number)
        self._keep(record)
        return record

    def resume(self) -> None:
        """What was being trained has been stopped: it is asked for again, before any new trial, in its order."""
        self._again = sorted({*self._again, *self._now})
        self._now.clear()

    def _new(self, number: int) -> TuningRecord:
        varied: str | None = None
        if self.planned:
            varied, values = self.planned[number][0], dict(self.planned[number][1])
        elif self.arm == RANDOM:
            values = draw(self.space, self.seed, number)
        else:
            before = [record for n, record in self.records.items() if n < number]
            values = suggest(self.space, before, self.seed, number)
        config = trial_config(self.cell, values, self.budget)
        return TuningRecord(
            study=self.storage.folder.name,
            cell=self.cell.name,
            arm=self.arm,
            number=number,
            hyperparameters=values,
            varied=varied,
            seed=self.seed,
            config_hash=config.hash(self.seed),
            config=config.to_dict(),
            environment=self.environment,
        )

    def reached(self, number: int, rows: Sequence[Mapping[str, Any]]) -> bool:
        """Record the rungs that a trial has reached and return whether it goes on; if not, it has ended.

        One that is trained again is compared as it was the first time: not with later ones that have ended since.

        Args:
            number: of the trial.
            rows: its curve so far.
        """
        record = self.records[number]
        by_step = {row[STEP]: row[VAL_LOSS] for row in rows if row.get(VAL_LOSS) is not None}
        for milestone in self.milestones:
            rung = str(milestone)
            if milestone not in by_step or rung in record.rungs:
                continue
            later = self._later[number]
            others = {n: it.rungs[rung] for n, it in self.records.items() if rung in it.rungs and n not in later}
            going = goes_on({**others, number: by_step[milestone]}, number, self.budget.reduction)
            record = dataclasses.replace(record, rungs={**record.rungs, rung: by_step[milestone]})
            if not going:
                part = [dict(row) for row in rows if row[STEP] <= milestone]
                self._end(dataclasses.replace(record, status=STOPPED, rows=part))
                return False
            self._keep(record)
        return True

    def end(
        self,
        number: int,
        status: str,
        rows: Sequence[Mapping[str, Any]],
        error: str | None = None,
        audits: Iterable[Audit] = (),
    ) -> None:
        """Record how a trial ended."""
        kept = [dict(row) for row in rows]
        self._end(dataclasses.replace(self.records[number], status=status, rows=kept, error=error, audits=list(audits)))

    def _end(self, record: TuningRecord) -> None:
        self._now.discard(record.number)
        self._keep(record)
        self._drop_checkpoints([record])

    def drop_checkpoints(self) -> None:
        """Remove what trials that have ended had kept.

        A trial that is stopped at a rung keeps what it has reached when its process ends, which is after its record.
        """
        self._drop_checkpoints(self.records.values())

    def _drop_checkpoints(self, records: Iterable[TuningRecord]) -> None:
        ended = [it.config_hash for it in records if it.status not in (RUNNING, FAILED)]
        with suppress(OSError):  # what is left takes room, and costs no result
            self.storage.drop_checkpoints(ended)

    def _keep(self, record: TuningRecord) -> None:
        path = record.write(self.storage.folder)
        self.storage.keep(path.relative_to(self.storage.folder).as_posix())
        self.records[record.number] = record


def trial_config(cell: PlannedCell, values: Mapping[str, float], budget: Budget) -> TrialConfig:
    """Return a trial's full configuration: the cell's, evaluated at rungs and its end alone."""
    return tuned(cell.config, {**values, "evaluate_every": budget.updates})


def tuned(config: TrialConfig, values: Mapping[str, Any]) -> TrialConfig:
    """Return a configuration with other values of training fields."""
    return dataclasses.replace(config, training=dataclasses.replace(config.training, **values))


def sweep_of(best: Mapping[str, float], space: Space, points: int) -> list[tuple[str, dict[str, float]]]:
    """Return the trials of a sweep: each learning rate over its range in equal steps, all else at the best.

    Args:
        best: hyperparameters of the search's best trial.
        space: what was searched.
        points: learning rates from the lower to the upper end of the range, both included.
    """
    return [
        (axis.name, {**best, axis.name: axis.at(place / (points - 1))})
        for axis in space
        if is_learning_rate(axis.name)
        for place in range(points)
    ]
