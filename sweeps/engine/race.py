"""Races: what a study with several looks trains next, read off its records.

Nothing is kept beside the records: `analysis.comparing.racing` makes every look that they allow. So an interrupted race
goes on to the same decisions, and no run is asked for twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from analysis.study.registered import REGISTERED
from moe_models.errors import require
from sweeps.engine.plan import Plan, PlannedRun

if TYPE_CHECKING:
    from analysis.comparing.racing import Race

ANOTHER = "or use another --output"


def standing(plan: Plan) -> Race:
    """Return where the race of a plan stands."""
    from analysis.comparing.racing import Race, race
    from analysis.loading.load import load_results

    if all(map(plan.has_record, _first_runs(plan, {cell.name: plan.looks[0] for cell in plan.cells}))):
        found = race(load_results(plan.folder))
        assert found is not None, "a plan with several looks is a race"
        return found
    baselines = plan.baselines()
    contenders = {cell.name: baselines[cell.name] for cell in plan.cells if baselines[cell.name] != cell.name}
    return Race(plan.looks, contenders, {}, plan.looks[0])


def asked_runs(plan: Plan, race: Race) -> list[PlannedRun]:
    """Return the runs up to the next look that have no record yet, in the plan's order."""
    return [run for run in _first_runs(plan, race.asked()) if not plan.has_record(run)]


def open_runs(plan: Plan) -> list[PlannedRun]:
    """Return the runs that are to be trained; of a race those of comparisons that are still open.

    Of a race it is the most that it may ask for, should nothing more be decided before the last look.
    """
    runs = [run for run in plan.runs() if plan.is_open(run)]
    if not runs or not plan.is_race:
        return runs
    race = standing(plan)
    cells = {*race.running, *(race.baselines[cell] for cell in race.running)}
    return [run for run in runs if run.cell.name in cells]


def news(before: Race, after: Race) -> list[str]:
    """Say what the looks between two standings of a race came to."""
    lines = [
        f"look at {stop.n} seeds, {cell} against {after.baselines[cell]}: {stop.why}"
        for cell, stop in after.stops.items()
        if cell not in before.stops
    ]
    if after.next_look not in (None, before.next_look):
        last = after.looks[after.looks.index(after.next_look) - 1]
        lines += [
            f"look at {last} seeds, {cell} against {after.baselines[cell]}: open, goes on to {after.next_look} seeds"
            for cell in after.running
        ]
    if after.next_look is None and before.next_look is not None:
        lines.append(f"the race is over: {after.runs} runs instead of {after.fixed_runs}")
    return lines


def require_same_looks(plan: Plan) -> None:
    """Refuse to make a race of another study, or another race of one: looks and contenders are declared beforehand."""
    if not plan.existing:
        return
    wanted, looks = plan.study.looks, plan.looks
    if not plan.is_race:
        require(
            len(wanted) < 2,
            f"the study in {plan.folder} is no race, it has one look: leave --until-decided out, {ANOTHER}",
        )
        return
    shown = ", ".join(map(str, looks))
    race = f"the study in {plan.folder} is a race with looks at {shown} seeds"
    require(len(wanted) > 1, f"{race}: add --until-decided, {ANOTHER}")
    require(wanted == looks, f"{race}: its looks are declared beforehand, so --seeds must stay {looks[-1]}, {ANOTHER}")
    registered = plan.existing[REGISTERED]
    cells = [cell.name for cell in plan.cells]
    require(
        sorted(cells) == sorted(registered["cells"]),
        f"{race} between {', '.join(registered['cells'])}: name the same variants, {ANOTHER}",
    )
    margin = registered["equivalence_margin"]
    require(
        margin == plan.study.equivalence_margin,
        f"{race} with {'no --difference' if margin is None else f'--difference {margin:g}'}: keep that, {ANOTHER}",
    )


def _first_runs(plan: Plan, seeds: dict[str, int]) -> list[PlannedRun]:
    """Return the plan's runs of the first seeds of each cell, so many as `seeds` says."""
    place = {seed: place for place, seed in enumerate(plan.seeds)}
    return [run for run in plan.runs() if place[run.seed] < seeds.get(run.cell.name, 0)]
