"""Races: which comparisons are decided at which look, read off the records alone.

At each look that the plan declares, all contenders still open are compared with their baseline as in a report, over the
seeds up to that look. What is decided stops. So a decision depends on the records of those seeds and on nothing
else: not on time, order or interruption. Holm's correction runs over all contenders, with those that have stopped at
the p of their last look, which holds whenever they stopped (`looks.repeated_p`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from analysis import schema, text
from analysis.comparing import outcomes
from analysis.comparing.comparisons import compare, negative_control
from analysis.comparing.equivalence import margin
from analysis.statistics.joint import one_model
from analysis.statistics.significance import ALPHA, t_interval
from analysis.statistics.stopping import median_unbiased
from analysis.study.plan_check import PRIMARY
from analysis.study.results import NATS, Results
from analysis.study.runs import records

ENDED = (schema.FINISHED, schema.DIVERGED, schema.INVALID)
"""How a run can stand when a look is made; a failed one is tried again first."""
FUTILE = "futile: its plain 95 % interval lies within \u00b1{:g} nats, the wanted difference"
RACE_COLUMNS = {
    "scale": "scale of the model; empty where scale is no factor of the study",
    "cell": "name of the cell",
    "n": "seeds at the last look at this comparison",
    "look": "which of the plan's looks that was",
    "decision": "why the comparison stopped there, or that it goes on",
}


@dataclass(frozen=True)
class Stop:
    """Where a contender's race ended."""

    n: int
    """Seeds at that look."""
    why: str


@dataclass(frozen=True)
class Race:
    """Where a race stands."""

    looks: tuple[int, ...]
    baselines: Mapping[str, str]
    """Contender -> the cell it is compared with."""
    stops: Mapping[str, Stop]
    """Contenders that have stopped."""
    next_look: int | None
    """Seeds at the look that is to come; None where all contenders have stopped."""
    alphas: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Contender -> at each of its looks the error over all looks by which a difference would have stopped it: by Holm,
    5 % over the contenders of which no difference was found by then."""

    @property
    def running(self) -> list[str]:
        """The contenders that are still open."""
        return [cell for cell in self.baselines if cell not in self.stops]

    def asked(self) -> dict[str, int]:
        """Return for each cell how many seeds the race asks for up to the next look."""
        seeds = {cell: self.stops[cell].n if cell in self.stops else self.next_look or 0 for cell in self.baselines}
        for cell, baseline in self.baselines.items():
            seeds[baseline] = max(seeds.get(baseline, 0), seeds[cell])
        return seeds

    @property
    def runs(self) -> int:
        """Runs of the whole race, up to the next look."""
        return sum(self.asked().values())

    @property
    def fixed_runs(self) -> int:
        """Runs of the design without looks: the last look's seeds of every cell."""
        return len(self.asked()) * self.looks[-1]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "looks": list(self.looks),
            "stops": {cell: dataclasses.asdict(stop) for cell, stop in self.stops.items()},
            "next_look": self.next_look,
            "runs": self.runs,
            "fixed_runs": self.fixed_runs,
        }


def race(results: Results) -> Race | None:
    """Make every look that the records allow; None where the plan declares one look alone."""
    if not results.looks:
        return None
    pairs = {str(cell): results.baselines.get(cell, cell) for cell in results.cells.index}
    baselines = {cell: baseline for cell, baseline in pairs.items() if cell != baseline}
    seeds = sorted(results.plan["seeds"])
    stops: dict[str, Stop] = {}
    alphas: dict[str, list[float]] = {cell: [] for cell in baselines}
    for n in results.looks:
        running = [cell for cell in baselines if cell not in stops]
        if not running:
            break
        asked = [*dict.fromkeys(baselines[cell] for cell in running), *running]
        statuses = results.statuses.reindex(columns=seeds[:n]).loc[asked]
        if len(seeds) < n or not statuses.isin(ENDED).all(axis=None):
            return Race(results.looks, baselines, stops, n, alphas)
        # Those of what has stopped, too, at another scale as well: they share Holm's correction.
        counted = Race(results.looks, baselines, stops, n).asked()
        stopped, by = _look(results, running, counted, n)
        stops |= stopped
        for cell in running:
            alphas[cell].append(by[cell])
    return Race(results.looks, baselines, stops, None, alphas)


def _look(
    results: Results, running: Sequence[str], counted: Mapping[str, int], n: int
) -> tuple[dict[str, Stop], dict[str, float]]:
    """Compare over the first seeds of each cell alone, so many as `counted` says.

    Returns:
        The contenders that stop, and by which error a difference would have stopped each that was running.
    """
    place = {seed: place for place, seed in enumerate(sorted(results.plan["seeds"]))}
    runs = results.runs
    first = runs[schema.SEED].map(place) < runs[schema.CELL].map(counted).fillna(0)
    seen = dataclasses.replace(results, runs=runs[first])
    control = negative_control(seen)
    models = one_model(seen.finished(seen.metric), control)
    table = compare(seen, [str(cell) for cell in seen.cells.index], control, models).set_index("cell")
    low, high = t_interval(table["difference"], table["sd_difference"], table["n"])
    wanted = margin(seen)
    futile = pd.Series((low > -wanted) & (high < wanted) if wanted else False, index=table.index)
    stops = {}
    for cell in running:
        verdict = str(table.loc[cell, "verdict"])
        if outcomes.outcome(verdict) != outcomes.OPEN:
            stops[cell] = Stop(n, verdict)
        elif futile[cell]:
            stops[cell] = Stop(n, FUTILE.format(wanted))
        elif n == results.looks[-1]:
            stops[cell] = Stop(n, "the last look: not resolved")
    return stops, {cell: _alpha(table, cell) for cell in running}


def _alpha(table: pd.DataFrame, cell: str) -> float:
    """Return the error by which a difference of a contender is found: Holm's step as the others stand."""
    row = table.loc[cell]
    if row["plan"] == PRIMARY or str(row["verdict"]).startswith(outcomes.SAME_AS_PRIMARY):
        return ALPHA
    family = table[table["p"].notna() & (table["plan"] != PRIMARY)]
    others = int((family["p_holm"].drop(index=cell, errors="ignore") <= ALPHA).sum())
    return ALPHA / max(int(table["family"].max()) - others, 1)


def adjust(results: Results, found: Race | None, comparisons: pd.DataFrame) -> pd.DataFrame:
    """Return the comparisons with the estimates of those that could have stopped earlier adjusted for that.

    `adjusted_difference` is null, and the percentage that of the mean, where nothing was looked at several times, where
    no difference is estimated, and where a comparison has other seeds than at the look at which it stands.
    """
    if found is None:
        return comparisons
    table, wanted = comparisons.copy(), margin(results)
    for place, row in zip(table.index, records(table), strict=True):
        alphas, last = found.alphas[row["cell"]], len(found.looks) - 1
        if not alphas or row["n"] != found.looks[len(alphas) - 1] or np.isnan(row["difference_low"]):
            continue
        # What has stopped might have gone on; what is open has all its looks behind it.
        before = [*alphas, *[alphas[-1]] * last][:last] if row["cell"] in found.stops else alphas[:-1]
        adjusted = median_unbiased(row["difference"], row["sd_difference"], found.looks, before, wanted)
        table.loc[place, "adjusted_difference"] = adjusted
        if results.metric in NATS:
            table.loc[place, "percent"] = 100 * np.expm1(adjusted)
    return table


def race_table(results: Results, found: Race | None) -> pd.DataFrame:
    """Return RACE_COLUMNS, one row a contender; empty where there is no race."""
    if found is None:
        return pd.DataFrame(columns=list(RACE_COLUMNS))
    looks = (0, *found.looks)
    before = looks[looks.index(found.next_look) - 1] if found.next_look else 0
    rows = []
    for cell in found.baselines:
        stop = found.stops.get(cell, Stop(before, "open"))
        place = looks.index(stop.n)
        rows.append((results.scales[cell], cell, stop.n, f"{place} of {len(found.looks)}", stop.why))
    return pd.DataFrame(rows, columns=list(RACE_COLUMNS))


def race_notes(found: Race | None) -> list[str]:
    """Say what looking several times means for the numbers, and what it saved."""
    if found is None:
        return []
    notes = [
        f"looks at {text.listing([str(n) for n in found.looks])} seeds: the intervals of differences and p hold at all "
        "of them at once, so wherever a comparison stopped; a mean difference is on average too large where it could "
        "have stopped early, so the one shown against the baseline is adjusted for that (median-unbiased)",
        "adjusted are no means, mean ranks and differences of other tables; d_z, g and probabilities of improvement, "
        "which would be too large, are not given",
        "a look takes the seeds up to it alone: later ones are in no difference until the next look; means and ranks "
        "are over as many seeds as each cell has",
    ]
    if found.next_look is None:
        saved = found.fixed_runs - found.runs
        notes.append(
            f"the race took {found.runs} runs; {found.looks[-1]} seeds of every cell would have been "
            f"{found.fixed_runs}: {saved} runs ({100 * saved / found.fixed_runs:.0f} %) were saved"
        )
    else:
        notes.append(f"not over: the look at {found.next_look} seeds is to come for {', '.join(found.running)}")
    return notes
