"""The searches of a study's cells, all together: their trials, and the plan that confirms each cell's best."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from analysis import text
from analysis.schema import FAILED
from analysis.tracking.searches import TuningTracker
from analysis.tracking.tracker import MlflowTracker
from analysis.tracking.uris import tracking_uri
from analysis.tuning.findings import at_edge
from analysis.tuning.report import write_tuning_report
from analysis.tuning_records import RANDOM, SEARCH, SWEEP, TuningRecord, best_of, of_arm, tokens_spent
from moe_models.errors import ConfigError
from sweeps.engine import cli, shown
from sweeps.engine.declaration import write
from sweeps.engine.importance import importance
from sweeps.engine.optuna_copy import OptunaCopy, storage_url
from sweeps.engine.plan import Plan, PlannedCell
from sweeps.engine.resources import Resources
from sweeps.engine.search import Arm, Budget, read_trials, sweep_of, tuned
from sweeps.engine.search_options import FailedTrialsError, TuneOptions
from sweeps.engine.space import Space
from sweeps.engine.tuning import line_of, run_arms
from sweeps.engine.usage import Usage
from trainables.environment import describe_environment
from trainables.tuning_trainable import TuningTrainable


class Search:
    """The searches of a study's cells, from the first trial to the plan that confirms their best."""

    def __init__(
        self,
        plan: Plan,
        declared: dict[str, Any],
        space: Space,
        budget: Budget,
        options: TuneOptions,
        resources: Resources,
        console: Console,
        trainable: Any,
    ) -> None:
        self.plan = plan
        self.declared = declared
        self.space = space
        self.budget = budget
        self.options = options
        self.resources = resources
        self.console = console
        self.trainable = trainable or TuningTrainable
        self.environment = describe_environment(resources.hardware)
        self.earlier = read_trials(plan.folder)
        self.usage = Usage()
        url = storage_url(options.optuna_storage, plan.folder)
        self.optuna = OptunaCopy(url, space, declared, self._say)
        self.arms: list[Arm] = []
        self.ended = 0

    def _say(self, line: str) -> None:
        shown.saying(self.console)(line)

    def run(self) -> bool:
        """Train all trials and write the report of the search; return False where a signal came first."""
        tracker = MlflowTracker(
            self.plan.to_json(), self.environment, tracking_uri(), warn=self._say, required=not self.plan.has_begun
        )
        self.tracker = TuningTracker(tracker)
        complete = False
        self._write_declared()
        self._copy(self.earlier)
        try:
            self.arms = [self._arm(cell, arm) for arm in (SEARCH, RANDOM) for cell in self.plan.cells]
            complete = self._train(self.arms)
            if complete:
                sweeps = [self._sweep(cell) for cell in self.plan.cells] if self.options.sweep else []
                self.arms += sweeps
                complete = self._train(sweeps)
            if complete:
                self._measure_importance()
                self._say(f"tuning: {write_tuning_report(self.plan.folder)}")
        finally:
            self._copy([record for arm in self.arms for record in arm.records.values()])
            cli.close(tracker, self.plan, complete)
        return complete

    def _copy(self, records: Sequence[TuningRecord]) -> None:
        """Bring the copies up to date: what an earlier driver, or a store that failed, left out."""
        self.tracker.copy(records)
        self.optuna.copy(records)

    def _write_declared(self) -> None:
        write(self.declared, self.plan.storage)

    def _arm(self, cell: PlannedCell, arm: str, planned: Sequence[tuple[str, Mapping[str, float]]] = ()) -> Arm:
        trials = {SEARCH: self.options.trials, RANDOM: self.options.random, SWEEP: len(planned)}
        return Arm(
            cell,
            arm,
            self.space,
            self.budget,
            self.options.search_seed,
            self.plan.storage,
            self.environment,
            trials=trials[arm],
            planned=planned,
            earlier=of_arm(self.earlier, cell.name, arm),
        )

    def _sweep(self, cell: PlannedCell) -> Arm:
        return self._arm(cell, SWEEP, sweep_of(self.best(cell.name).hyperparameters, self.space, self.options.sweep))

    def _train(self, arms: Sequence[Arm]) -> bool:
        """Train what arms have left; return False where a signal came first."""
        total = sum(arm.left for arm in arms)
        self.ended = 0

        def ended(arm: Arm, record: TuningRecord) -> None:
            self.ended += 1
            self._say(f"[{self.ended}/{total}] {line_of(record)}")
            self.tracker.ended(record)
            self.optuna.copy([record])

        interrupted = run_arms(
            self.plan,
            arms,
            self.resources,
            environment=self.environment,
            trainable=self.trainable,
            usage=self.usage,
            ended=ended,
            say=self._say,
        )
        for arm in arms:
            arm.drop_checkpoints()
        failed = [record for arm in arms for record in arm.records.values() if record.status == FAILED]
        if failed and not interrupted:
            raise FailedTrialsError(
                f"{text.counted(len(failed), 'trial')} failed ({failed[0].cell}, {failed[0].arm} {failed[0].number}: "
                f"{failed[0].error}); an unequal search compares nothing: the same command tries again what failed"
            )
        open_arms = [arm for arm in arms if not arm.complete]
        if open_arms and not interrupted:
            left = ", ".join(f"{arm.left} ({arm.cell.name}, {arm.arm})" for arm in open_arms)
            raise FailedTrialsError(f"trials have not ended: {left}; the same command trains them")
        return not interrupted

    def best(self, cell: str) -> TuningRecord:
        """Return the best trial of a cell's search; ConfigError where none has finished."""
        (arm,) = (arm for arm in self.arms if (arm.cell.name, arm.arm) == (cell, SEARCH))
        best = best_of(arm.records.values())
        if best is None:
            counts = [record.status for record in arm.records.values()]
            said = ", ".join(f"{counts.count(status)} {status}" for status in sorted(set(counts)))
            raise ConfigError(f"no trial of '{cell}' finished ({said}): search lower learning rates or more trials")
        return best

    def _measure_importance(self) -> None:
        found = {
            arm.cell.name: importance(self.space, list(arm.records.values()), self.declared["guess_loss"])
            for arm in self.arms
            if arm.arm == RANDOM
        }
        self.declared["importance"] = {**self.declared.get("importance", {}), **found}
        self._write_declared()

    def confirmation(self) -> Plan:
        """Return the plan of the study that confirms each cell's best, and print what was chosen and spent."""
        cells, tuning = [], {}
        for cell in self.plan.cells:
            best = self.best(cell.name)
            cells.append(dataclasses.replace(cell, config=tuned(cell.config, best.hyperparameters)))
            tuning[cell.name] = self._summary(cell.name, best)
        edges = {name: entry["edge"] for name, entry in tuning.items() if entry["edge"]}
        for name, edge in edges.items():
            self._say(
                f"warning: the best {' and '.join(edge)} of '{name}' lies at the edge of its range: widen --space"
            )
        self._say(f"search: {self.usage.line(self.resources.cost_unit, 'trial')}")
        self.console.print(f"trials: {self.optuna.dashboard_command()}", soft_wrap=True, markup=False)
        return dataclasses.replace(self.plan, cells=tuple(cells), tuning=tuning)

    def _summary(self, cell: str, best: TuningRecord) -> dict[str, Any]:
        spent = {
            arm.arm: tokens_spent(arm.records.values()) for arm in self.arms if arm.cell.name == cell and arm.records
        }
        values = ", ".join(f"{name} {value:.3g}" for name, value in best.hyperparameters.items())
        said = ", ".join(f"{tokens:,} ({arm})" for arm, tokens in spent.items())
        self._say(f"{cell}: best {values}; tokens spent: {said}")
        return {
            "trials": self.options.trials,
            "space": self.declared["space"],
            "tokens": spent[SEARCH],
            "max_tokens": self.budget.tokens,
            "trial_tokens": self.budget.trial_tokens,
            "rungs": list(self.budget.milestones),
            "reduction": self.budget.reduction,
            "seed": self.options.search_seed,
            "best": best.hyperparameters,
            "edge": list(at_edge(best.hyperparameters, self.declared["space"])),
        }
