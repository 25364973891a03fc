"""Every component at its own best hyperparameters: an equal search for each cell of a study, then fresh seeds.

    python sweeps/tune.py --variants baseline,attention

Each cell of the study (`--study`, the grid of exp6 by default) gets the same search: the same space, number of trials,
rungs and tokens at most. Trials are chosen by the tree-structured Parzen estimator (Optuna) and stopped early by
successive halving (ASHA), one bracket a cell. They see the validation split alone, and one seed. Then each cell's best
is trained on fresh seeds, and that is an ordinary study of this engine, whose comparisons are of tuned components.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis import text
from analysis.schema import FAILED
from analysis.tuning_records import RANDOM, SEARCH, SWEEP, is_learning_rate, planned_trials
from moe_models.errors import ConfigError, require
from sweeps.engine import cli, shown
from sweeps.engine.options import Options, flag_of, read
from sweeps.engine.space import DEFAULT_SPACE, LOG, Space, parse_space, space_to_json
from sweeps.engine.study import Study, find_study

if TYPE_CHECKING:
    from rich.console import Console

    from analysis.tuning_records import TuningRecord
    from sweeps.engine.optuna_copy import OptunaCopy
    from sweeps.engine.plan import Plan, PlannedCell
    from sweeps.engine.resources import Resources
    from sweeps.engine.search import Arm, Budget


class FailedTrialsError(ConfigError):
    """An error ended some trials: an unequal search compares nothing."""


@dataclass(frozen=True, kw_only=True)
class TuneOptions(Options):
    """What the user asked for; `--seeds` are those of the confirmation."""

    study: str = "exp6_grid"
    """The study whose cells are tuned: a script's name under sweeps/."""
    trials: int = 16
    """Trials of each cell's search."""
    space: str = DEFAULT_SPACE
    """What is searched: name=lowest:highest, separated by commas. Learning rates and weight_decay are drawn on a log
    scale, warmup_fraction on a linear one."""
    rungs: int = 2
    """Points at which poor trials are stopped; 0 trains all to the end."""
    reduction: int = 3
    """At a rung one trial of so many goes on, so many times as far as before."""
    max_tokens: int | None = None
    """Most training tokens of a cell's search; by default as many as its trials take."""
    random: int = 0
    """Independent draws besides, all trained to the end: from these the best loss is estimated against the budget, and
    the importance of the hyperparameters."""
    sweep: int = 5
    """Learning rates, from end to end of each one's range and all else at the cell's best, from which the sensitivity
    to it is measured; 0 for none."""
    search_seed: int = 1000
    """Seed of all draws and of all trials of the search; the confirmation's seeds are others."""
    optuna_storage: str | None = None
    """Where the searches are copied for optuna-dashboard: a database URL; by default a SQLite file in the study's
    folder. A URL with a password belongs into the environment variable ABLATUNE_OPTUNA_STORAGE."""

    def check(self, study: Study) -> None:
        """Refuse, before anything slow is imported, what can be seen to be wrong."""
        super().check(study)
        require(self.protocol == "sound", "a published protocol has its own learning rates: leave --protocol out")
        for name in ("random", "search_seed"):
            require(getattr(self, name) >= 0, f"{flag_of(name)} must be 0 or more but got {getattr(self, name)}")
        require(self.sweep == 0 or self.sweep >= 3, f"--sweep must be 0, or 3 or more, but got {self.sweep}")
        require(
            self.search_seed >= self.seeds,
            f"--search-seed {self.search_seed} is one of the confirmation's seeds (0 to {self.seeds - 1}), which must "
            "be fresh",
        )
        require(
            all(cell.data_seed is None for cell in study.designs[self.design].cells),
            f"--study {self.study} trains a model on several orders of the data: each searched for itself, they would "
            "differ by more than these",
        )
        parse_space(self.space)


def main(argv: Sequence[str] | None = None, trainable: Any = None) -> int:
    """Run the command line; return the process's exit code. `trainable` stands in for TuningTrainable in tests."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        options = read(TuneOptions, arguments, "tune", __doc__ or "")
        study = find_study(options.study)
        options.check(study)
        return _run(study, options, trainable)
    except KeyboardInterrupt:
        print("interrupted: the same command continues the search", file=sys.stderr)
        return cli.EXIT_INTERRUPTED
    except Exception as error:
        code = cli.failed(error, "--debug" in arguments)
        return cli.EXIT_FAILURES if isinstance(error, FailedTrialsError) else code


def tuned_study(study: Study, space: Space) -> Study:
    """Return the study that confirms what a search over a space found: the same cells, each at its hyperparameters."""
    return dataclasses.replace(
        study,
        script=f"tune_{study.script}",
        title=f"{study.title}; each cell at its own tuned hyperparameters",
        # Tuned apart, the control's two levels may be trained differently, or alike: then they are one model.
        negative_control=study.negative_control and dataclasses.replace(study.negative_control, tolerance_nats=None),
        published=None,
        # A claim about components takes every learning rate: matrices have one, all else has another.
        tuned=set(filter(is_learning_rate, LOG)) <= {axis.name for axis in space},
        notes=(
            *study.notes,
            "Each cell was trained at the best hyperparameters of its own search, on seeds that the search did not "
            "use: tuning.md says what was searched and spent.",
        ),
    )


def _run(study: Study, options: TuneOptions, trainable: Any) -> int:
    from sweeps.engine.declaration import exchange, kept_choices
    from sweeps.engine.forecast import forecast
    from sweeps.engine.optuna_copy import storage_url
    from sweeps.engine.planning import require_same_configurations, resolve
    from sweeps.engine.race import open_runs
    from sweeps.engine.search import open_trials, require_same_trials

    console, space = shown.console_of(options), parse_space(options.space)

    def make() -> Plan:
        return resolve(tuned_study(study, space), options, resources, kept=kept_choices)

    with cli.workplace(options) as resources:
        plan = cli.planned(make)
        budget = make_budget(plan, options)
        declared = declare(plan, space, budget, options)
        # What the storage has is brought later: until then all trials count.
        known = [] if plan.storage.apart else read_trials(plan.folder)
        require_same_trials(plan.cells, known, budget, options.search_seed)
        trials = open_trials(plan.cells, known, planned_trials(declared), budget, options.search_seed)
        runs = [*trials, *open_runs(plan)]
        storage_url(options.optuna_storage, plan.folder)  # refuses one that cannot be shown
        _print_search(plan, declared, budget, console)
        if options.dry_run:
            expected = forecast(plan, cli.pack(plan, resources, options, console, runs), runs)
            whole = "search and confirmation, were no trial stopped: " if trials else "confirmation: "
            shown.saying(console)(f"{whole}{expected.line()}")
            console.print("dry run: nothing was trained")
            if options.json:
                facts = {"folder": str(plan.folder), "runs_left": expected.runs}
                print(json.dumps({**declared, **facts, **expected.to_json()}))
            return 0
        with cli.driving(plan, resources, options, console, runs) as resources:
            plan = cli.renewed(plan, make)
            if exchange(plan.storage, plan.known_cells()):
                plan = make()
            declared = declare(plan, space, budget, options)
            plan.storage.exchange_trials(cell.name for cell in plan.cells)
            from sweeps.engine.ray_session import ray_session

            search = Search(plan, declared, space, budget, options, resources, console, trainable)
            require_same_trials(plan.cells, search.earlier, budget, options.search_seed)
            left = open_trials(plan.cells, search.earlier, planned_trials(declared), budget, options.search_seed)
            with ray_session(resources) if left else nullcontext():
                if not search.run():
                    print("interrupted: the same command continues the search", file=sys.stderr)
                    return cli.EXIT_INTERRUPTED
                confirmation = search.confirmation()
                require_same_configurations(confirmation)
                facts = {"search": search.usage.to_json(resources.cost_unit)}
                return cli.train(confirmation, resources, options, console, facts)


def read_trials(folder: Path) -> list[TuningRecord]:
    """Return the records of the searches in a study's folder.

    Raises:
        ConfigError: a file among them is none.
    """
    from analysis.tuning_records import read_tuning_records

    try:
        return read_tuning_records(folder)
    except ValueError as error:
        raise ConfigError(f"{error}; delete it, in a storage, too: what then lacks a trial trains it again") from error


def make_budget(plan: Plan, options: TuneOptions) -> Budget:
    """Return what every cell's search may spend; ConfigError where no trial could finish."""
    from sweeps.engine.search import Budget

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


def declare(plan: Plan, space: Space, budget: Budget, options: TuneOptions) -> dict[str, Any]:
    """Return the search's declaration, which `tuning.json` holds.

    Raises:
        ConfigError: the folder has a search that was declared otherwise.
    """
    from sweeps.engine.declaration import continued

    whole = plan.to_json()
    declared: dict[str, Any] = {
        **{name: whole[name] for name in ("study", "script", "title", "data_hash", "protocol", "flaws")},
        "cells": [cell.name for cell in plan.cells],
        "space": space_to_json(space),
        "trials": budget.trials,
        "random": options.random,
        "sweep": options.sweep,
        "rungs": list(budget.milestones),
        "reduction": budget.reduction,
        "updates": budget.updates,
        "trial_tokens": budget.trial_tokens,
        "max_tokens": budget.tokens,
        "seed": options.search_seed,
        "guess_loss": math.log(plan.cells[0].config.model.vocab_size),
        "choices": dict(plan.choices),
    }
    return continued(declared, plan.storage, plan.known_cells())


def _print_search(plan: Plan, declared: Mapping[str, Any], budget: Budget, console: Console) -> None:
    ranges = [
        f"{name} {axis['low']:g} to {axis['high']:g} ({'log' if axis['log'] else 'linear'})"
        for name, axis in declared["space"].items()
    ]
    arms = planned_trials(declared)
    full = arms[RANDOM] + arms[SWEEP]
    most = min(budget.tokens or math.inf, budget.trials * budget.trial_tokens)
    say = shown.saying(console)
    for line in (
        f"search {plan.name}",
        f"  {plan.why_scale}",
        f"  {text.counted(len(plan.cells), 'cell')}, for each: {text.counted(budget.trials, 'trial')} of up to "
        f"{budget.updates} updates, seed {declared['seed']}; over {', '.join(ranges)}",
        f"  rungs at updates {', '.join(map(str, budget.milestones))}: 1 trial of {budget.reduction} goes on"
        if budget.milestones
        else "  no rungs: all trials are trained to the end",
        f"  at most {most:,} tokens for a cell's search, and {full * budget.trial_tokens:,} for {declared['random']} "
        f"independent draws and {declared['sweep']} points a learning rate",
        f"  then {len(plan.seeds)} fresh seeds of each cell's best",
    ):
        say(line)


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
        from sweeps.engine.optuna_copy import OptunaCopy, storage_url
        from sweeps.engine.usage import Usage
        from trainables.environment import describe_environment
        from trainables.tuning_trainable import TuningTrainable

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
        self.optuna: OptunaCopy = OptunaCopy(url, space, declared, self._say)
        self.arms: list[Arm] = []
        self.ended = 0

    def _say(self, line: str) -> None:
        shown.saying(self.console)(line)

    def run(self) -> bool:
        """Train all trials and write the report of the search; return False where a signal came first."""
        from analysis.tracking.searches import TuningTracker
        from analysis.tracking.tracker import MlflowTracker
        from analysis.tracking.uris import tracking_uri
        from analysis.tuning.report import write_tuning_report

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
        from sweeps.engine.declaration import write

        write(self.declared, self.plan.storage)

    def _arm(self, cell: PlannedCell, arm: str, planned: Sequence[tuple[str, Mapping[str, float]]] = ()) -> Arm:
        from analysis.tuning_records import of_arm
        from sweeps.engine.search import Arm

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
        from sweeps.engine.search import sweep_of

        return self._arm(cell, SWEEP, sweep_of(self.best(cell.name).hyperparameters, self.space, self.options.sweep))

    def _train(self, arms: Sequence[Arm]) -> bool:
        """Train what arms have left; return False where a signal came first."""
        from sweeps.engine.tuning import line_of, run_arms

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
        from analysis.tuning_records import best_of

        (arm,) = (arm for arm in self.arms if (arm.cell.name, arm.arm) == (cell, SEARCH))
        best = best_of(arm.records.values())
        if best is None:
            counts = [record.status for record in arm.records.values()]
            said = ", ".join(f"{counts.count(status)} {status}" for status in sorted(set(counts)))
            raise ConfigError(f"no trial of '{cell}' finished ({said}): search lower learning rates or more trials")
        return best

    def _measure_importance(self) -> None:
        from sweeps.engine.importance import importance

        found = {
            arm.cell.name: importance(self.space, list(arm.records.values()), self.declared["guess_loss"])
            for arm in self.arms
            if arm.arm == RANDOM
        }
        self.declared["importance"] = {**self.declared.get("importance", {}), **found}
        self._write_declared()

    def confirmation(self) -> Plan:
        """Return the plan of the study that confirms each cell's best, and print what was chosen and spent."""
        from sweeps.engine.search import tuned

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
        from analysis.tuning.findings import at_edge
        from analysis.tuning_records import tokens_spent

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


if __name__ == "__main__":
    sys.exit(main())
