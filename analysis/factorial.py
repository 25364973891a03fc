"""Effects of whole factors over a complete grid: one contrast per seed, tested over seeds."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from analysis import schema
from analysis.looks import at_look
from analysis.paired import WITHIN_TOLERANCE, paired_table, rounding
from analysis.results import Results

OFF, ON, NEITHER = "off", "on", "neither"
FEED_FORWARD = "feed_forward"
"""Name of the factor that plan["feed_forward_levels"] joins."""
INTERACTION, TIMES = "interaction", " x "
SHOWN = 4
"""Most cells named in one note."""

MAIN_EFFECT_COLUMNS = {
    "scale": "scale of the model; empty where scale is no factor of the study",
    "effect": "what is contrasted: 'attention', 'feed_forward: mlp vs neither', 'attention x mlp'",
    "kind": "'main effect' (on - off), 'level' (of a factor with several) or 'interaction' (difference of differences)",
    "n": "seeds that finished in every cell of the grid",
    "difference": "mean over seeds of the contrast, averaged over all other factors (nats for losses)",
    "difference_low": "95 % t interval over seeds, lower end",
    "difference_high": "upper end",
    "percent": "the difference in percent of perplexity",
    "percent_low": "lower end of its 95 % interval",
    "percent_high": "upper end",
    "p": "one-sample t test of the per-seed contrasts, two-sided; null where no test is made (see verdict)",
    "p_holm": "p, Holm-corrected over the family",
    "family": "contrasts in the family: all that are tested in this table",
    "detectable": "smallest true |effect| found with 80 % power at this n, sd and alpha = 5 % / family",
    "verdict": "in words",
}


def main_effects(results: Results) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Contrast whole factors within each scale, where the plan's design gives that a meaning.

    - plan["factorial"]: main effects and two-way interactions over the full 2^k grid;
    - plan["feed_forward_levels"]: those factors together are one factor with levels neither, each alone and both, each
      contrasted with neither; the remaining factors, crossed with everything, have main effects.

    A contrast is a number per seed (a weighted mean over all cells of the grid), so its interval and test are over
    seeds. Seeds in which a cell did not finish are left out and counted; where a run diverged, or a cell is missing,
    there are no effects: those of the survivors would mean something else.

    Returns:
        MAIN_EFFECT_COLUMNS (one Holm family over all scales) and notes in words.
    """
    empty = pd.DataFrame(columns=list(MAIN_EFFECT_COLUMNS))
    joined = tuple((results.plan.get("feed_forward_levels") or {}).get("factors", ()))
    if not (results.plan.get("factorial") or joined):
        return empty, ()
    values = results.finished(results.metric)
    notes: list[str] = []
    labels: list[tuple[str, str, str]] = []
    rows: list[pd.Series] = []
    for scale in results.scales.unique():
        where = f" at scale {scale}" if scale else ""
        grid = _grid(results, results.scales.index[results.scales == scale], joined)
        problem = _incomplete(results, grid, joined)
        if problem:
            notes.append(f"no effects of whole factors{where}: {problem}")
            continue
        by_seed = values.loc[grid.index]
        complete = by_seed.dropna(axis=1)
        if complete.shape[1] < by_seed.shape[1]:
            notes.append(
                f"effects of whole factors{where} use the {complete.shape[1]} of {by_seed.shape[1]} seeds that "
                f"finished in all {len(grid)} cells"
            )
        for effect, kind, weights in _contrasts(grid, with_interactions=not joined):
            contrast = complete.mul(weights, axis=0).sum()
            # What cancels on paper may leave rounding: it is no difference.
            rows.append(contrast.mask(contrast.abs() <= rounding(results), 0.0).reindex(values.columns))
            labels.append((scale, effect, kind))
    if not rows:
        return empty, tuple(notes)
    differences = at_look(pd.DataFrame(rows).reset_index(drop=True), results.looks)
    table = paired_table(differences, _no_test(results, differences, [effect for _, effect, _ in labels]), results)
    table[["scale", "effect", "kind"]] = labels
    words = {"better": "better together than the sum", "worse": "worse together than the sum"}
    interactions = table["kind"] == INTERACTION
    table["verdict"] = table["verdict"].mask(interactions, table["verdict"].replace(words))
    return table[list(MAIN_EFFECT_COLUMNS)], tuple(notes)


def _no_test(results: Results, contrasts: pd.DataFrame, effects: list[str]) -> pd.Series:
    """Return for each contrast why it is not to be tested, or empty text: the control's within rounding are not."""
    control = results.plan.get("negative_control")
    reasons = pd.Series("", index=contrasts.index, dtype=object)
    if control and results.metric == schema.VAL_LOSS:
        tolerance, largest = float(control["tolerance_nats"]), contrasts.abs().max(axis=1)
        of_control = pd.Series([control["factor"] in effect.split(TIMES) for effect in effects], index=contrasts.index)
        rounded = of_control & (largest > 0) & (largest <= tolerance)
        reasons = reasons.mask(rounded, WITHIN_TOLERANCE.format(tolerance))
    return reasons


def _grid(results: Results, cells: pd.Index, joined: tuple[str, ...]) -> pd.DataFrame:
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


def _incomplete(results: Results, grid: pd.DataFrame, joined: tuple[str, ...]) -> str:
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
    absent = [combination for combination in itertools.product(*levels.values()) if combination not in there]
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


def _contrasts(grid: pd.DataFrame, with_interactions: bool) -> Iterator[tuple[str, str, np.ndarray]]:
    """Yield each effect's name, kind and weights over the grid's cells."""
    signs = {f: np.where(grid[f] == ON, 1.0, -1.0) for f in grid.columns if f != FEED_FORWARD}
    for factor, sign in signs.items():
        yield factor, "main effect", sign / (len(grid) / 2)
    if FEED_FORWARD in grid.columns:
        levels = grid[FEED_FORWARD]
        reference = (levels == NEITHER) / (levels == NEITHER).sum()
        for level in [name for name in dict.fromkeys(levels) if name != NEITHER]:
            weights = (levels == level) / (levels == level).sum() - reference
            yield f"{FEED_FORWARD}: {level} vs {NEITHER}", "level", weights.to_numpy()
    if with_interactions:
        for (a, sign_a), (b, sign_b) in itertools.combinations(signs.items(), 2):
            yield f"{a}{TIMES}{b}", INTERACTION, sign_a * sign_b / (len(grid) / 4)
