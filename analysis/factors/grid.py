"""The complete grids of a study: what effects of whole factors, Shapley values and interactions are computed on."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from analysis import schema
from analysis.comparing.comparisons import negative_control
from analysis.statistics.design import Fraction
from analysis.statistics.joint import one_model
from analysis.study.registered import WHOLE_FACTORS, registration
from analysis.study.results import Results

OFF, ON, NEITHER = "off", "on", "neither"
FEED_FORWARD = "feed_forward"
"""Name of the factor that plan["feed_forward_levels"] joins."""
SHOWN = 4
"""Most cells named in one note."""


@dataclass(frozen=True)
class Grid:
    """The cells of one scale, crossed as the plan's design says, with the seeds that finished in all of them."""

    scale: str
    levels: pd.DataFrame
    """Cells x factors: `off` or `on`, or a level of the joined factor by name."""
    values: pd.DataFrame
    """The metric, cells x seeds, complete."""
    models: pd.Series
    """Of each cell the first that is the same model (`joint.one_model`)."""
    fraction: Fraction | None
    """Which cells of the 2^k grid these are, where they are not all of it."""

    @property
    def joined(self) -> bool:
        """Whether some factors together are one of several levels, so that 2^k effects mean nothing."""
        return FEED_FORWARD in self.levels.columns


def complete_grids(results: Results) -> tuple[list[Grid], tuple[str, ...]]:
    """Return the grid of each scale, where the plan's design makes one, and notes in words.

    Seeds in which a cell did not finish are left out and counted; where a run diverged, or a cell is missing, there is
    no grid: effects of the survivors would mean something else. A plan that was registered without these effects, as of
    a few cells of a grid, has no note on why they are not there.
    """
    joined = tuple((results.plan.get("feed_forward_levels") or {}).get("factors", ()))
    fraction = Fraction.from_json(results.plan["fraction"]) if results.plan.get("fraction") else None
    if not (results.plan.get("factorial") or joined):
        return [], ()
    values = results.finished(results.metric)
    models = pd.Series(one_model(values, negative_control(results)))
    plan = registration(results.plan)
    wanted = plan is None or any(family.name == WHOLE_FACTORS for family in plan.registered.families)
    notes: list[str] = []
    grids = []
    for scale in results.scales.unique():
        where = f" at scale {scale}" if scale else ""
        levels = _levels(results, results.scales.index[results.scales == scale], joined)
        problem = _incomplete(results, levels, joined, fraction)
        if problem:
            notes += [f"no effects of whole factors{where}: {problem}"] if wanted else []
            continue
        by_seed = values.loc[levels.index]
        complete = by_seed.dropna(axis=1)
        if complete.shape[1] < by_seed.shape[1]:
            notes.append(
                f"effects of whole factors{where} use the {complete.shape[1]} of {by_seed.shape[1]} seeds that "
                f"finished in all {len(levels)} cells"
            )
        grids.append(Grid(scale, levels, complete, models[levels.index], fraction))
    return grids, tuple(notes)


def _levels(results: Results, cells: pd.Index, joined: tuple[str, ...]) -> pd.DataFrame:
    """Return the level of each factor (columns) in each cell: `off`, `on`, or the joined factors' level by name.

    A third level of a factor keeps its own text, so that the grid is seen not to be 2^k.
    """
    factors = [f for f in results.factors if f != schema.SCALE]
    levels = results.cells.loc[cells, factors]
    grid = pd.DataFrame(index=cells)
    for factor in factors:
        off = results.off_level(factor, results.scales[cells[0]])
        others = [level for level in levels[factor].unique() if level != off]
        names = {off: OFF} | ({others[0]: ON} if len(others) == 1 else {level: str(level) for level in others})
        grid[factor] = levels[factor].map(names)
    if joined:
        on = (grid[list(joined)] == ON).to_numpy()
        grid = grid.drop(columns=list(joined))
        grid[FEED_FORWARD] = [_combination(list(itertools.compress(joined, row)), joined) for row in on]
    return grid


def _combination(names: Sequence[str], joined: Sequence[str]) -> str:
    if not names:
        return NEITHER
    return "both" if len(names) == len(joined) == 2 else " + ".join(names)


def _incomplete(results: Results, grid: pd.DataFrame, joined: tuple[str, ...], fraction: Fraction | None) -> str:
    """Return why the grid does not allow contrasts, or empty text."""
    levels = {factor: [OFF, ON] for factor in grid.columns}
    if joined:
        subsets = itertools.product((False, True), repeat=len(joined))
        levels[FEED_FORWARD] = [_combination(list(itertools.compress(joined, on)), joined) for on in subsets]
    for factor, names in levels.items():
        found = dict.fromkeys(grid[factor])
        if not set(found) <= set(names):
            return f"factor {factor} needs two levels but has {len(found)}"
    there = set(grid.itertuples(index=False, name=None))
    if len(there) < len(grid):
        return "two cells have the same levels of all factors"
    wanted: list[tuple[str, ...]] = list(itertools.product(*levels.values()))
    if fraction is not None:
        if set(fraction.factors) != set(grid.columns):
            return f"the plan's fraction is of the factors {', '.join(fraction.factors)}"
        wanted = [tuple(ON if level[factor] else OFF for factor in grid.columns) for level in fraction.cells()]
        if not there <= set(wanted):
            return "a cell is outside the plan's fraction"
    absent = [combination for combination in wanted if combination not in there]
    if absent:
        named = "; ".join(
            ", ".join(f"{f} {level}" for f, level in zip(levels, row, strict=True)) for row in absent[:SHOWN]
        )
        more = f" and {len(absent) - SHOWN} more" if len(absent) > SHOWN else ""
        return f"they need the complete grid, and {len(absent)} of its cells are missing ({named}{more})"
    diverged = results.count(schema.DIVERGED).loc[grid.index]
    if diverged.any():
        return f"runs diverged in {', '.join(diverged.index[diverged > 0][:SHOWN])}"
    unfinished = grid.index[results.count(schema.FINISHED).loc[grid.index] == 0]
    if len(unfinished):
        return f"no valid run finished in {', '.join(unfinished[:SHOWN])}"
    if not results.finished(results.metric).loc[grid.index].notna().all().any():
        return "no seed finished in all of the grid's cells"
    return ""
