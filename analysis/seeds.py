"""How many seeds a wanted difference needs, from a pilot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from rich.console import Console
from scipy import stats

from analysis import text
from analysis.comparing import marks, outcomes
from analysis.comparing.unpaired import UNPAIRED, UnpairedMoments
from analysis.errors import AnalysisError
from analysis.schema import FLAWS
from analysis.statistics.effects import MIN_PAIRS
from analysis.statistics.significance import ALPHA, LEVEL, POWER, Array, detectable_effect
from analysis.study import plan_check
from analysis.study.results import NATS, Results
from analysis.study.runs import records, unknown
from analysis.summary import analyse
from analysis.terminal import plain_table, print_table, say

BOUND = 0.8
"""A study is planned on the upper end of the one-sided interval of this level of a pilot's sd: on the estimate itself,
half of all studies would be too small."""
MOST = 10_000
"""Seeds beyond which no number is given."""
SEEDS_COLUMNS = {
    "scale": "scale of the model; empty where scale is no factor of the study",
    "cell": "name of the cell",
    "baseline": "the cell it is compared with",
    "n": "pairs of the pilot; of arms that share no seed, runs of the smaller",
    "sd_difference": "standard deviation of the pilot's paired differences; of arms that share no seed, of the "
    "difference of two runs, which pairs rarely exceed",
    "sd_planned": "upper 80 % bound of the true one (chi-squared)",
    "alpha": "level that the report tests it at: of the plan's primary comparison 5 %, else 5 % / the others (Holm's "
    "first step)",
    "seeds": "seeds of both to plan with at that level, on the bound, paired",
    "seeds_estimate": "seeds needed if the pilot's sd were the true one",
    "seeds_low": "seeds at the lower end of the 95 % interval of the sd",
    "seeds_high": "at its upper end",
}


@dataclass(frozen=True)
class SeedPlan:
    """Seeds needed for a difference, by comparison."""

    difference: float
    power: float
    comparisons: int
    """The pilot's family, without the primary comparison."""
    has_primary: bool
    """Whether a comparison is tested alone."""
    unit: str
    table: pd.DataFrame
    """SEEDS_COLUMNS and `flaws`; infinite where more than MOST seeds are needed."""


def sd_bound(sd: Array, df: Array, probability: float) -> Array:
    """Return the end below which the true sd lies with that probability, sd sqrt(df / chi-squared quantile)."""
    return np.asarray(sd * np.sqrt(df / stats.chi2.isf(probability, df)))


def seeds_needed(effect: Array, family: int = 1, power: float = POWER) -> Array:
    """Return the fewest pairs with which the two-sided t test at 5 % / family finds an effect with that power.

    Args:
        effect: true |mean difference| / sd, positive.
        family: comparisons that share the level.
        power: probability of finding it.

    Returns:
        Shape of effect, MIN_PAIRS or more; infinite beyond MOST.
    """
    effect = np.asarray(effect, dtype=float)
    few, enough = np.full(effect.shape, MIN_PAIRS - 1), np.full(effect.shape, MOST + 1)
    while np.any(enough - few > 1):  # what n pairs detect falls with n
        middle = (few + enough) // 2
        found = (middle >= MIN_PAIRS) & (detectable_effect(middle, family, power) <= effect)
        few, enough = np.where(found, few, middle), np.where(found, middle, enough)
    return np.where(enough > MOST, np.inf, enough.astype(float))


def plan_seeds(results: Results, difference: float, power: float = POWER) -> SeedPlan:
    """Return how many seeds each comparison of a pilot needs for a true difference to be found.

    Args:
        results: the pilot, with MIN_PAIRS seeds or more.
        difference: to be found, in the metric's unit (nats for losses).
        power: probability of finding it.

    Raises:
        AnalysisError: the difference or the power makes no sense, no comparison of the pilot was tested, or it is a
            race.
    """
    if not 0 < difference < math.inf:
        raise AnalysisError(f"--difference is {difference:g}: it must be a positive number, such as 0.01 (nats)")
    if not ALPHA < power < 1:
        raise AnalysisError(f"--power is {power:g}: it must lie between {ALPHA:g} and 1, such as 0.8")
    _refuse_race(results)
    table = analyse(results).comparisons
    table = table[table["cohens_d"].notna()].reset_index(drop=True)
    if table.empty:
        invalid = int(results.left_out.sum())
        why = f"; {text.counted(invalid, 'run')} found invalid by an audit are left out" if invalid else ""
        raise AnalysisError(
            f"study '{results.study}' has no comparison to plan from: a pilot needs {MIN_PAIRS} or more seeds that "
            f"finished in a cell and in its baseline{why}"
        )
    sd, df = table["sd_difference"].to_numpy(), _degrees(results, table)
    sds = {
        "": sd_bound(sd, df, BOUND),
        "_estimate": sd,
        "_low": sd_bound(sd, df, (1 - LEVEL) / 2),
        "_high": sd_bound(sd, df, (1 + LEVEL) / 2),
    }
    table["sd_planned"] = sds[""]
    alone = (table["plan"] == plan_check.PRIMARY) | table["verdict"].str.startswith(outcomes.SAME_AS_PRIMARY)
    together = table.loc[~alone, "family"]
    comparisons = max([len(together), *map(int, together)])
    table["alpha"] = np.where(alone, ALPHA, ALPHA / max(comparisons, 1))
    for end, assumed in sds.items():
        needed = (seeds_needed(difference / assumed, family, power) for family in (1, max(comparisons, 1)))
        table["seeds" + end] = np.where(alone, *needed)
    unit = " nats" if results.metric in NATS else f" in {results.metric}"
    return SeedPlan(difference, power, comparisons, bool(alone.any()), unit, table[[*SEEDS_COLUMNS, FLAWS]])


def _refuse_race(results: Results) -> None:
    """Refuse a pilot whose seeds were added until something was found.

    Raises:
        AnalysisError: it is a race.
    """
    if results.looks:
        raise AnalysisError(
            f"'{results.study}' is a race, and no pilot: its comparisons stop early where their seeds happen to vary "
            "little, so their spread is too small to plan on; take a study with as many seeds of each cell"
        )


def _degrees(results: Results, table: pd.DataFrame) -> Array:
    """Return the degrees of freedom of each sd_difference; of two runs' difference Satterthwaite's, by both arms."""
    values = results.finished(results.metric)
    arms = (values.loc[table[name]].to_numpy() for name in ("cell", "baseline"))
    m = UnpairedMoments.of(*arms)
    variances, parts = m.sd_x**2 + m.sd_y**2, m.sd_x**4 / (m.n_x - 1) + m.sd_y**4 / (m.n_y - 1)
    apart = (table["pairing"] == UNPAIRED).to_numpy()
    return np.where(apart, variances**2 / parts, table["n"].to_numpy() - 1.0)


def spread(results: Results, baseline: str, cells: Sequence[str]) -> pd.DataFrame:
    """Return how much the differences of cells from a baseline vary from seed to seed in a pilot.

    Args:
        results: the pilot.
        baseline: one of its cells.
        cells: others.

    Returns:
        Columns cell, n (pairs), sd_difference and sd_planned (its upper 80 % bound), one row a cell.

    Raises:
        AnalysisError: the pilot is a race, lacks a cell, or has too few pairs or no variance to plan on.
    """
    _refuse_race(results)
    values = results.finished(results.metric)
    for cell in (baseline, *cells):
        if cell not in values.index:
            raise unknown("cell of the pilot", cell, [str(name) for name in values.index])
    differences = values.loc[list(cells)] - values.loc[baseline]
    n, sd = differences.count(axis=1), differences.std(axis=1)
    for cell in cells:
        if n[cell] < MIN_PAIRS or not sd[cell] > 0:
            raise AnalysisError(
                f"the pilot '{results.study}' has {n[cell]} seeds of both {cell} and {baseline}: planning needs "
                f"{MIN_PAIRS} or more whose differences vary"
            )
    planned = sd_bound(np.asarray(sd, dtype=float), np.asarray(n, dtype=float) - 1, BOUND)
    return pd.DataFrame({"cell": list(cells), "n": n.to_numpy(), "sd_difference": sd.to_numpy(), "sd_planned": planned})


def show(plan: SeedPlan, console: Console) -> None:
    """Print the plan as a table."""
    tested = [f"the primary comparison alone at {100 * ALPHA:g} %"] if plan.has_primary else []
    if plan.comparisons:
        tested += [f"{text.counted(plan.comparisons, 'comparison')} of the family together at {100 * ALPHA:g} %"]
    say(
        console,
        f"Seeds needed to find a true difference of {plan.difference:g}{plan.unit} with {100 * plan.power:g} % power. "
        f"Planned on the upper {100 * BOUND:g} % bound of the pilot's sd; in brackets the number's 95 % interval. "
        f"Tests: {text.listing(tested)}.",
    )
    several = bool((plan.table["scale"] != "").any())
    table = plain_table(
        [*(["scale"] if several else []), "cell"],
        ["pilot's\nseeds", "sd of\ndifferences", "planned on", "tested at", "seeds needed"],
    )
    for row in records(plan.table):
        table.add_row(
            *([str(row["scale"])] if several else []),
            marks.marked(str(row["cell"]), row[FLAWS]),
            text.whole(row["n"]),
            text.significant(row["sd_difference"], 3),
            text.significant(row["sd_planned"], 3),
            f"{100 * row['alpha']:.2g} %",
            f"{_count(row['seeds'])} [{_count(row['seeds_low'])}, {_count(row['seeds_high'])}]",
        )
    print_table(console, table)
    caption = marks.caption(plan.table[FLAWS])
    if caption:
        say(console, caption, "bold red")


def _count(seeds: float) -> str:
    return f"> {MOST:,}" if math.isinf(seeds) else text.whole(seeds)
