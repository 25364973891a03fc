"""Effects of whole factors over a complete grid: one contrast per seed, tested over seeds."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pandas as pd
from scipy import stats

from analysis import schema, text
from analysis.comparing import equivalence, outcomes
from analysis.comparing.comparisons import WITHOUT
from analysis.comparing.paired import WITHIN_TOLERANCE, paired_table, rounding
from analysis.factors.grid import FEED_FORWARD, NEITHER, ON, Grid, complete_grids
from analysis.statistics.design import pair_sum
from analysis.statistics.joint import pooled_residual
from analysis.statistics.looks import at_look
from analysis.statistics.significance import LEVEL
from analysis.study.results import Results
from analysis.study.runs import records

MAIN_EFFECT, INTERACTION, TIMES = "main effect", "interaction", " x "
LEVEL_EFFECT = "level"
ALIASED = "aliased interactions"

MAIN_EFFECT_COLUMNS = {
    "scale": "scale of the model; empty where scale is no factor of the study",
    "effect": "what is contrasted: 'attention', 'feed_forward: mlp vs neither', 'attention x mlp'",
    "kind": "'main effect' (on - off), 'level' (of a factor with several), 'interaction' (difference of "
    "differences) or 'aliased interactions' (a sum of these that a fraction of the grid cannot tell apart)",
    "n": "seeds that finished in every cell of the grid",
    "n_tested": "of these what p and verdict rest on: all, save where seeds were added after results were known",
    "difference": "mean over seeds of the contrast, averaged over all other factors (nats for losses)",
    "difference_low": "95 % t interval over seeds, lower end",
    "difference_high": "upper end",
    "percent": "the difference in percent of perplexity",
    "percent_low": "lower end of its 95 % interval",
    "percent_high": "upper end",
    "pooled_low": "95 % interval from one model of all cells and seeds, its residual pooled: assumes no factor x seed "
    "interaction (and equal variances); lower end, null where no test is made",
    "pooled_high": "upper end",
    "pooled_df": "degrees of freedom of its pooled residual, (models - 1) (n - 1)",
    **equivalence.EQUIVALENCE_COLUMNS,
    "p": "one-sample t test of the per-seed contrasts, two-sided; null where no test is made (see verdict)",
    "p_holm": "p, Holm-corrected over the family",
    "family": "contrasts in the family: all that are tested in this table",
    "detectable": "smallest true |effect| found with 80 % power at this n, sd and alpha = 5 % / family",
    "verdict": "in words",
}


def main_effects(results: Results) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Contrast whole factors within each scale, where the plan's design gives that a meaning.

    - plan["factorial"]: main effects and two-way interactions over the full 2^k grid; with plan["fraction"] over that
      part of it, where two-way interactions that cannot be told apart are one contrast;
    - plan["feed_forward_levels"]: those factors together are one factor with levels neither, each alone and both, each
      contrasted with neither; the remaining factors, crossed with everything, have main effects.

    A contrast is a number per seed (a weighted mean over all cells of the grid), so its interval and test are over
    seeds. Beside it stands the interval from one model of cells and seeds, whose residual is pooled over all contrasts.

    Returns:
        MAIN_EFFECT_COLUMNS (one Holm family over all scales) and notes in words.
    """
    grids, notes = complete_grids(results)
    seeds = results.finished(results.metric).columns
    labels: list[tuple[str, str, str]] = []
    rows: list[pd.Series] = []
    pooled: list[tuple[float, int]] = []
    for grid in grids:
        for effect, kind, weights in _contrasts(grid):
            rows.append(contrast(results, grid, weights).reindex(seeds))
            labels.append((grid.scale, effect, kind))
            pooled.append(_pooled_error(grid, weights))
    if not rows:
        return pd.DataFrame(columns=list(MAIN_EFFECT_COLUMNS)), notes
    differences = at_look(pd.DataFrame(rows).reset_index(drop=True), results.looks)
    table = paired_table(differences, _no_test(results, differences, [effect for _, effect, _ in labels]), results)
    table[["scale", "effect", "kind"]] = labels
    tested = table["estimated"]
    error, df = np.array(pooled, dtype=float).T
    # It is of all seeds at once: none is made for several looks.
    half = np.where(tested & (not results.looks), stats.t.ppf((1 + LEVEL) / 2, df) * error, np.nan)
    table["pooled_low"], table["pooled_high"] = table["difference"] - half, table["difference"] + half
    table["pooled_df"] = np.where(np.isnan(half), np.nan, df)
    margin = equivalence.margin(results)
    table = table.join(equivalence.equivalence(table, margin, results.looks))
    words = {"better": "better together than the sum", "worse": "worse together than the sum"}
    table["verdict"] = table["verdict"].mask(table["kind"] == INTERACTION, table["verdict"].replace(words))
    sums = {word: f"{word} together than the sum: one or more of these" for word in words}
    table["verdict"] = table["verdict"].mask(table["kind"] == ALIASED, table["verdict"].replace(sums))
    # A sum near zero says nothing of its interactions: they may cancel.
    shown = pd.Series([equivalence.verdict(row, margin) for row in records(table)], index=table.index, dtype=object)
    table["verdict"] = shown.where(table["kind"] != ALIASED, table["verdict"])
    return table[list(MAIN_EFFECT_COLUMNS)], notes


def contrast(results: Results, grid: Grid, weights: np.ndarray) -> pd.Series:
    """Return the weighted sum over the grid's cells, by seed."""
    found = grid.values.mul(weights, axis=0).sum()
    # What cancels on paper may leave rounding: it is no difference.
    return found.mask(found.abs() <= rounding(results), 0.0)


def _pooled_error(grid: Grid, weights: np.ndarray) -> tuple[float, int]:
    """Return the contrast's standard error from the residual of one model of cells and seeds, and its df.

    Cells that are one model count once, with the sum of their weights. NaN where the residual does not exist.
    """
    distinct = grid.values[(grid.models == grid.models.index).to_numpy()]
    if min(distinct.shape) < 2:
        return float("nan"), 1
    variance, df = pooled_residual(distinct.to_numpy())
    squares = float((pd.Series(weights).groupby(grid.models.to_numpy()).sum() ** 2).sum())
    return (float(np.sqrt(variance * squares / distinct.shape[1])) if variance > 0 else float("nan")), df


def disagreements(comparisons: pd.DataFrame, contributions: pd.DataFrame, effects: pd.DataFrame) -> list[str]:
    """Return a warning for each factor whose effect alone and over the whole grid contradict each other.

    They do where both are resolved with different signs, or their simultaneous intervals have nothing in common.

    Args:
        comparisons: `comparisons.compare`.
        contributions: `comparisons.contributions`, the cells with one factor on.
        effects: `main_effects`.
    """
    together = comparisons.set_index("cell")
    whole_factors = effects[effects["kind"].isin((MAIN_EFFECT, LEVEL_EFFECT))].set_index(["scale", "effect"])
    lines = []
    for alone in records(contributions):
        factor = alone["factor"].removeprefix(WITHOUT)
        sign = 1 if factor == alone["factor"] else -1  # the grid's contrast is of what is there, less what is not
        # A factor that is one of the feed-forward part's is averaged as its level.
        effects_of = (factor, _against_neither(factor)) if sign > 0 else (factor,)
        keys = [(alone["scale"], effect) for effect in effects_of]
        key = next((key for key in keys if key in whole_factors.index), None)
        if key is None:
            continue
        whole, compared = whole_factors.loc[key], together.loc[alone["cell"]]
        resolved = all(outcomes.outcome(row["verdict"]) in (outcomes.BETTER, outcomes.WORSE) for row in (alone, whole))
        reasons = []
        average = sign * whole["difference"]
        average_low, average_high = sorted(sign * whole[end] for end in ("simultaneous_low", "simultaneous_high"))
        if resolved and (alone["difference"] < 0) != (average < 0):
            reasons.append("both are resolved, with different signs")
        low, high = compared["simultaneous_low"], compared["simultaneous_high"]
        if average_high < low or high < average_low:
            reasons.append("their simultaneous intervals do not overlap")
        if reasons:
            one = text.estimate(alone["difference"], low, high, sign=True)
            all_ = text.estimate(average, average_low, average_high, sign=True)
            where = f" at scale {alone['scale']}" if alone["scale"] else ""
            lines.append(
                f"WARNING: {alone['factor']}{where} alone against the baseline ({one}) and averaged over the grid "
                f"({all_}) disagree: {' and '.join(reasons)}; what it does depends on the other components"
            )
    return lines


def _no_test(results: Results, contrasts: pd.DataFrame, effects: list[str]) -> pd.Series:
    """Return for each contrast why it is not to be tested, or empty text: the control's within rounding are not."""
    control = results.plan.get("negative_control")
    reasons = pd.Series("", index=contrasts.index, dtype=object)
    if control and control["tolerance_nats"] is not None and results.metric == schema.VAL_LOSS:
        tolerance, largest = float(control["tolerance_nats"]), contrasts.abs().max(axis=1)
        of_control = pd.Series([control["factor"] in effect.split(TIMES) for effect in effects], index=contrasts.index)
        rounded = of_control & (largest > 0) & (largest <= tolerance)
        reasons = reasons.mask(rounded, WITHIN_TOLERANCE.format(tolerance))
    return reasons


def _against_neither(level: str) -> str:
    """Return the name of the effect of a level of the feed-forward part."""
    return f"{FEED_FORWARD}: {level} vs {NEITHER}"


def _contrasts(grid: Grid) -> Iterator[tuple[str, str, np.ndarray]]:
    """Yield each effect's name, kind and weights over the grid's cells."""
    levels = grid.levels
    signs = {f: np.where(levels[f] == ON, 1.0, -1.0) for f in levels.columns if f != FEED_FORWARD}
    for factor, sign in signs.items():
        yield factor, MAIN_EFFECT, sign / (len(levels) / 2)
    if grid.joined:
        of_pair = levels[FEED_FORWARD]
        reference = (of_pair == NEITHER) / (of_pair == NEITHER).sum()
        for level in [name for name in dict.fromkeys(of_pair) if name != NEITHER]:
            weights = (of_pair == level) / (of_pair == level).sum() - reference
            yield _against_neither(level), LEVEL_EFFECT, weights.to_numpy()
    if grid.fraction is not None:
        for group in grid.fraction.aliased_pairs():
            (a, b), _ = group[0]
            kind = INTERACTION if len(group) == 1 else ALIASED
            yield pair_sum(group), kind, signs[a] * signs[b] / (len(levels) / 4)
    elif not grid.joined:
        for (a, sign_a), (b, sign_b) in itertools.combinations(signs.items(), 2):
            yield f"{a}{TIMES}{b}", INTERACTION, sign_a * sign_b / (len(levels) / 4)
