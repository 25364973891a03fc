"""The plan against the analysis: what was registered before the first trial, what was done, and whether the two agree.

The rule on what was added later is one sentence: **the primary comparison is tested on the registered seeds alone, so
its 5 % hold whatever is added; everything else that the plan does not name, or that holds a seed added after results
were known, is exploratory, and those that were added last are tested by themselves.** What was added while no run had
ended yet could not depend on a result and counts as planned.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis import schema, text
from analysis.statistics.effects import MIN_PAIRS
from analysis.study.registered import (
    CELLS,
    HASH,
    SCALE_CHANGES,
    SEEDS,
    WHOLE_FACTORS,
    Comparison,
    Registration,
    registration,
)
from analysis.study.results import Results

PRIMARY, PLANNED, EXPLORATORY = "primary", "planned", "exploratory"
NOT_NAMED = "not in the plan"
EARLY = "tested after"
ADDED_SEEDS = "seeds were added after the plan"
PLAN_MEANING = (
    "'primary' (the one comparison tested alone at 5 %, on the registered seeds), 'planned' (in a registered family) "
    "or 'exploratory' and why; empty where no plan was registered"
)
PLAN_CHECK_COLUMNS = {
    "item": "what the plan fixes before the first trial",
    "planned": "what was registered",
    "done": "what this analysis does",
    "agrees": "'yes', or 'no' where the two differ",
}
YES, NO = "yes", "no"
NO_PLAN = (
    "no plan is known: nothing says that these tests were chosen before the results, so all of them are exploratory "
    "unless you know of a plan; without one there is no primary comparison, no negative control and no word on "
    "learning rates (a study's folder has its plan: report the folder)"
)
"""Of a table, whoever's it is."""


def is_exploratory(standing: str) -> bool:
    """Return whether a value of the column `plan` says so."""
    return standing.startswith(EXPLORATORY)


def is_early(standing: str) -> bool:
    """Return whether a value of the column `plan` says that planned seeds are still to come."""
    return standing.startswith(f"{EXPLORATORY}: {EARLY}")


def planned_seeds(found: Registration) -> set[int]:
    """Return the seeds that were registered, or added while nothing had ended."""
    return {*found.registered.seeds, *_added(found, SEEDS)}


def late_seeds(results: Results) -> list[int]:
    """Return the seeds that were added after results were known, without a look that the plan foresaw; sorted.

    Where a plan has several looks, what lies beyond the last one is in no difference: see looks.py.
    """
    found = registration(results.plan)
    if found is None or len(found.registered.looks) > 1:
        return []
    return sorted(set(results.runs[schema.SEED]) - planned_seeds(found))


def additions(results: Results, seeds: pd.Index) -> np.ndarray:
    """Return for each seed with which addition it came: -1 as planned, 0 with the first of `late_seeds`, and so on.

    A seed that no amendment names counts as added last.
    """
    found, late = registration(results.plan), set(late_seeds(results))
    if found is None or not late:
        return np.full(len(seeds), -1)
    named = [set(entry["added"]) for entry in found.amendments if entry["what"] == SEEDS and entry["ended"]]
    places = {seed: place for place, group in enumerate(named) for seed in group}
    return np.array([places.get(seed, len(named)) if seed in late else -1 for seed in seeds], dtype=int)


def tested_seeds(ran: np.ndarray, added: np.ndarray) -> np.ndarray:
    """Return which seeds tests rest on: of a row with seeds that were added late, those of its last addition alone.

    Whether seeds were added depends on what all earlier ones had shown, so a test of these, too, does not hold its
    level.

    Args:
        ran: rows x seeds, whether there is a run.
        added: `additions` of the seeds.
    """
    last = np.where(ran, added, -1).max(axis=1, initial=-1, keepdims=True)
    return (last < 0) | (added == last)


def of_added_seeds(values: pd.DataFrame, results: Results) -> pd.DataFrame:
    """Return rows of values (or differences) over seeds as tests take them: `tested_seeds` alone."""
    return values.where(tested_seeds(values.notna().to_numpy(), additions(results, values.columns)))


def _added(found: Registration, what: str, *, late: bool = False) -> list:
    """Return what amendments added before any result was known, or after."""
    return [
        item
        for amendment in found.amendments
        if amendment["what"] == what and bool(amendment["ended"]) == late
        for item in amendment["added"]
    ]


def standing(results: Results, pairs: Mapping[str, str]) -> pd.Series:
    """Return for each compared cell what the plan says of its comparison: the column `plan` (see PLAN_MEANING).

    Args:
        results: the study.
        pairs: cell -> the cell it is compared with.
    """
    found = registration(results.plan)
    if found is None:
        return pd.Series("", index=list(pairs), dtype=object)
    reason = _whole_study(results, found)
    said = [f"{EXPLORATORY}: {reason}" if reason else _of_pair(results, found, *pair) for pair in pairs.items()]
    return pd.Series(said, index=list(pairs), dtype=object)


def standing_of(results: Results, name: str, tests: Sequence[Sequence[str]]) -> list[str]:
    """Return what the plan says of each test of a family that is not of comparisons.

    None is as planned before the seeds planned of all cells have ended: the family would be smaller than registered.

    Args:
        results: the study.
        name: WHOLE_FACTORS or SCALE_CHANGES.
        tests: the cells that each is made of.
    """
    found = registration(results.plan)
    if found is None:
        return [""] * len(tests)
    reason = _whole_study(results, found)
    if not reason and all(family.name != name for family in found.registered.families):
        reason = NOT_NAMED
    reason = reason or _seeds(results, found, found.registered.cells, primary=False)
    reasons = [reason or _seeds(results, found, cells, primary=False) for cells in tests]
    return [f"{EXPLORATORY}: {reason}" if reason else PLANNED for reason in reasons]


def standing_beyond(results: Results) -> str:
    """Return what the plan says of tables that it never names; empty where none was registered."""
    return f"{EXPLORATORY}: {NOT_NAMED}" if registration(results.plan) else ""


def _whole_study(results: Results, found: Registration) -> str:
    """Return why nothing of the analysis is as planned, or empty text."""
    if not intact(results, found):
        return "the registered plan was changed"
    if (results.metric, results.direction) != (found.registered.metric, found.registered.direction):
        return "another metric than the plan's"
    return ""


def _of_pair(results: Results, found: Registration, cell: str, baseline: str) -> str:
    pair = Comparison(cell=cell, baseline=baseline)
    registered = found.registered
    is_primary = pair == registered.primary
    in_family = any(pair in family.comparisons for family in registered.families)
    declared = {entry["name"]: entry["baseline"] for entry in results.plan.get("cells", ())}
    early = cell in _added(found, CELLS) and declared.get(cell) == baseline
    if not (is_primary or in_family or early):
        reason = NOT_NAMED
    elif not registered.takes_invalid and any(
        mark.startswith("audit.") for name in (cell, baseline) for mark in results.marks.get(name, ())
    ):
        reason = "runs that an audit found invalid are included"
    else:
        reason = _seeds(results, found, [cell, baseline], primary=is_primary)
    if reason:
        return f"{EXPLORATORY}: {reason}"
    return PRIMARY if is_primary else PLANNED


def _seeds(results: Results, found: Registration, cells: Sequence[str], *, primary: bool) -> str:
    """Return why tests on the seeds of these cells are none that was planned, or empty text.

    A fixed design has one look, when all planned seeds have ended. With several, the analysis takes the last that was
    reached (`looks.py`), and leaves later seeds out.
    """
    ended = {cell: set(results.runs.loc[results.runs[schema.CELL] == cell, schema.SEED]) for cell in cells}
    planned = planned_seeds(found)
    looks = found.registered.looks
    first = len(planned) if len(looks) == 1 else looks[0]
    common = set.intersection(*ended.values())
    reached = sum(seed in common for seed in sorted(planned)[:first])
    if reached < first:
        return f"{EARLY} {reached} of the {first} seeds planned"
    if not primary and len(looks) == 1 and common - planned:
        return ADDED_SEEDS
    return ""


def intact(results: Results, found: Registration) -> bool:
    """Return whether the registered section is the one that was hashed, and under which every run was trained."""
    recorded = str(results.plan.get("environment", {}).get(HASH, found.sha256))
    return found.intact and recorded == found.sha256


def of_registered_seeds(differences: pd.DataFrame, plan: pd.Series, results: Results) -> pd.DataFrame:
    """Return differences (comparisons x seeds) with the primary comparison's on the planned seeds alone."""
    found = registration(results.plan)
    if found is None:
        return differences
    planned = planned_seeds(found)
    later = [seed for seed in differences.columns if seed not in planned]
    differences = differences.copy()
    differences.loc[plan == PRIMARY, later] = float("nan")
    return differences


def check_plan(
    results: Results, comparisons: pd.DataFrame, effects: pd.DataFrame, growth: pd.DataFrame
) -> pd.DataFrame:
    """Set what was registered beside what this analysis does.

    Args:
        results: the study.
        comparisons: `comparisons.compare`, with its column `plan`.
        effects: `factorial.main_effects`, with its column `plan`.
        growth: the second table of `scaling.scaling`, with its column `plan`.

    Returns:
        PLAN_CHECK_COLUMNS, one row an item; empty where no plan was registered.
    """
    found = registration(results.plan)
    rows = [] if found is None else list(_items(results, found, comparisons, effects, growth))
    table = pd.DataFrame(rows, columns=["item", "planned", "done", "agrees"], dtype=object)
    return table.assign(agrees=table["agrees"].map({True: YES, False: NO}))


def _items(
    results: Results, found: Registration, comparisons: pd.DataFrame, effects: pd.DataFrame, growth: pd.DataFrame
) -> Iterator[tuple[str, str, str, bool]]:
    registered = found.registered
    same = intact(results, found)
    yield "registered plan", f"SHA-256 {found.sha256[:16]}\u2026", "unchanged" if same else "CHANGED", same
    metric = _metric(registered.metric, registered.direction)
    yield "metric", metric, (now := _metric(results.metric, results.direction)), now == metric
    yield from _tests(found, comparisons, {WHOLE_FACTORS: effects, SCALE_CHANGES: growth})
    yield from _runs(results, found)
    margin, used = registered.equivalence_margin, results.plan.get("equivalence_margin")
    done = "as planned" if used in (None, margin) else f"the plan's file says {used:g} nats: not used"
    yield "equivalence margin", _nats(margin), done, used in (None, margin)
    yield "divergence limit", _limits(registered.divergence_limit), "applied by each run at its end", True
    invalid = bool((results.runs[schema.INVALID] != "").any())
    left_out = f"{text.counted(int(results.left_out.sum()), 'run')} left out as invalid"
    done = "runs found invalid are included" if invalid and results.include_invalid else left_out
    agrees = not invalid or results.include_invalid == registered.takes_invalid
    yield "exclusions", "; ".join(registered.exclusions), done, agrees
    rates = "tuned for each cell" if registered.tuned else "one for all cells, not tuned"
    yield "learning rates", rates, "as planned", True


def _tests(
    found: Registration, comparisons: pd.DataFrame, contrasts: Mapping[str, pd.DataFrame]
) -> Iterator[tuple[str, str, str, bool]]:
    registered = found.registered
    primary = comparisons[comparisons["plan"] == PRIMARY]
    if registered.primary is None:
        yield "primary comparison", "none declared", "none made", True
    else:
        planned = f"{registered.primary.cell} against {registered.primary.baseline}, alone at 5 %"
        row = comparisons[comparisons["cell"] == registered.primary.cell]
        done = "not made" if row.empty else str(row.iloc[0]["plan"])
        done = f"alone, n = {primary.iloc[0]['n']}" if len(primary) else done
        yield "primary comparison", planned, done, len(primary) > 0
    for family in registered.families:
        table = contrasts.get(family.name, comparisons)
        own = table[table["plan"] == PLANNED]
        made, named = int(own["p"].notna().sum()), len(own)
        unmade = f", {named - made} not made for the reason in the table" if named > made else ""
        done = f"{text.counted(made, 'test')}{unmade}"
        yield f"family: {family.name}", f"{text.counted(family.size, 'test')}, Holm", done, named == family.size
    extra = sum(is_exploratory(row) for table in (comparisons, *contrasts.values()) for row in table["plan"])
    done = text.counted(extra, "exploratory row") if extra else "nothing"
    yield "anything else", "nothing", done, not extra


def _runs(results: Results, found: Registration) -> Iterator[tuple[str, str, str, bool]]:
    registered, planned = found.registered, planned_seeds(found)
    late = _added(found, CELLS, late=True)
    cells = f"{len(registered.cells)} cells"
    done = f"{len(late)} added after results were known: {', '.join(late)}" if late else "no others"
    yield "cells", cells, done, not late
    seeds = sorted(set(results.runs[schema.SEED]))
    beyond = [seed for seed in seeds if seed not in planned]
    done = f"{len(seeds) - len(beyond)}" + (f", and {len(beyond)} added after results were known" if beyond else "")
    raced = len(registered.looks) > 1
    done = f"up to {done}, as the looks decide" if raced else done
    yield "seeds a cell", f"{len(planned)}", done, not beyond and (raced or len(seeds) == len(planned))
    undeclared = len([a for a in found.amendments if a["what"] == SEEDS and a["ended"]])
    extra = f"{undeclared} undeclared: seeds were added" if undeclared else "no others"
    yield "looks", f"tests at {text.at_seeds(registered.looks)}", extra, not undeclared


def notes(results: Results, comparisons: pd.DataFrame) -> list[str]:
    """Return what a reader must know of the plan: that there is none, what was added, and what was not tuned."""
    found = registration(results.plan)
    if found is None:
        words = "no plan was registered: nothing says that these tests were chosen before the results"
        return [words, *_untuned(results)] if results.plan.get("cells") else [NO_PLAN] * (not comparisons.empty)
    late = [amendment for amendment in found.amendments if amendment["ended"]]
    of_seeds = [amendment for amendment in late if amendment["what"] == SEEDS]
    said = [
        f"{_added_words(amendment)} added to the plan on {str(amendment['when'])[:10]}, after "
        f"{text.counted(amendment['ended'], 'run')} had ended: {_consequence(amendment, of_seeds)}"
        for amendment in late
    ]
    primary = comparisons[comparisons["plan"] == PRIMARY]
    if len(primary) and any(seed not in planned_seeds(found) for seed in results.runs[schema.SEED]):
        n = text.whole(primary.iloc[0]["n"])
        said.append(f"the primary comparison is of the registered seeds alone (n = {n}); other estimates are of all")
    return [*said, *_untuned(results)]


def _added_words(amendment: Mapping[str, Any]) -> str:
    count = int(amendment["count"])
    return f"{text.counted(count, str(amendment['what'])[:-1])} {'was' if count == 1 else 'were'}"


def _consequence(amendment: Mapping[str, Any], of_seeds: Sequence[Mapping[str, Any]]) -> str:
    if amendment["what"] != SEEDS:
        return "their comparisons are exploratory"
    if amendment is not of_seeds[-1]:
        return "a look that was not declared; tests rest on seeds that were added later, of cells with any"
    shown = "estimates and intervals are of all"
    return f"a look that was not declared; of cells with {MIN_PAIRS} or more of them tests rest on these alone; {shown}"


def _untuned(results: Results) -> list[str]:
    if tuned(results):
        return []
    return [
        "one learning rate for all cells, tuned for none: differences are between these settings, not claims about "
        "components; at its own best learning rate another cell may win"
    ]


def tuned(results: Results) -> bool:
    """Return whether the plan says that learning rates were tuned: only then is a difference a component's."""
    found = registration(results.plan)
    return found is not None and found.registered.tuned


def _metric(metric: str, direction: str) -> str:
    return f"{metric}, {'lower' if direction == 'min' else 'higher'} is better"


def _limits(limits: Mapping[str, float] | None) -> str:
    if not limits:
        return "NaN or infinity alone"
    return ", ".join(f"{limit:g} nats" + (f" ({scale})" if len(limits) > 1 else "") for scale, limit in limits.items())


def _nats(value: float | None) -> str:
    return "none: \u201cno difference\u201d is no finding" if value is None else f"{value:g} nats"
