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
from typing import TYPE_CHECKING, Any

from analysis import text
from analysis.tuning_records import RANDOM, SWEEP, is_learning_rate, planned_trials
from sweeps.engine import cli, shown
from sweeps.engine.options import read
from sweeps.engine.search_options import FailedTrialsError, TuneOptions
from sweeps.engine.space import LOG, Space, parse_space
from sweeps.engine.study import Study, find_study

if TYPE_CHECKING:
    from rich.console import Console

    from sweeps.engine.plan import Plan
    from sweeps.engine.search import Budget


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
    from sweeps.engine.declaration import declare, exchange, kept_choices
    from sweeps.engine.forecast import forecast
    from sweeps.engine.optuna_copy import storage_url
    from sweeps.engine.planning import require_same_configurations, resolve
    from sweeps.engine.race import open_runs
    from sweeps.engine.search import make_budget, open_trials, read_trials, require_same_trials

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
            from sweeps.engine.searches import Search

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


if __name__ == "__main__":
    sys.exit(main())
