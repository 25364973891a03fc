"""How losses fall as models grow, and whether what differs at one scale still does at the next.

A cell's name at a scale is `cell@scale`; here the same cell at all scales is one family. The seed is a block: a law is
fitted to each seed's losses, and its interval is over seeds.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis import schema
from analysis.comparing import equivalence
from analysis.comparing.comparisons import why_untested
from analysis.comparing.divergence import survivors
from analysis.comparing.paired import WITHIN_TOLERANCE, paired_table
from analysis.statistics.significance import Array, t_interval
from analysis.study.results import Results
from analysis.study.runs import records

FEWEST_SCALES = 3
"""Two points fit any law."""
ABSCISSAS = {
    schema.PARAMS_TOTAL: "parameters",
    schema.PARAMS_ACTIVE: "active parameters",
    "flops": "training FLOPs",
    schema.TRAIN_SECONDS: "training seconds",
}
"""What grows: column or name, and how it is called."""
SCALING_COLUMNS = {
    "cell": "name of the cell, the same at all scales",
    "against": "what grows",
    "scales": "scales that the law is fitted to",
    "n": "seeds that finished at all of them",
    "exponent": "b of loss = a x^-b, least squares on logarithms, the mean of the seeds' own fits; null, as all that "
    "follows, where x does not grow from each scale to the next, as times of a busy machine may not",
    "exponent_low": "95 % t interval over seeds, lower end; null for n = 1",
    "exponent_high": "upper end",
    "loss_at_end": "loss that the law gives at the largest scale",
    "curvature": "coefficient of (log x)^2 where it is fitted too, the mean over seeds: 0 for a pure power law",
    "curvature_low": "95 % t interval over seeds, lower end; null where there are only three scales or n = 1",
    "curvature_high": "upper end",
    "verdict": "whether the points lie on a power law, in words; where runs diverged that alone, since the law is the "
    "survivors'",
}
GROWTH_COLUMNS = {
    "cell": "name of the cell, the same at all scales",
    "baseline": "the cell it is compared with at each scale",
    "from_scale": "smallest scale by parameters of the baseline",
    "to_scale": "largest scale",
    "n": "seeds that finished in both cells at both scales",
    "n_tested": "of these what p and verdict rest on: all, save where seeds were added after results were known",
    "at_first": "mean paired difference of the metric at the smallest scale, cell - baseline, over these n seeds",
    "at_last": "at the largest scale, over the same",
    "difference": "at_last - at_first: how the difference changes as models grow, paired by seed",
    "difference_low": "95 % t interval of the change, lower end",
    "difference_high": "upper end",
    "p": "one-sample t test that the change is 0, two-sided; null below 3 seeds and where the verdict says why no test "
    "is made",
    "p_holm": "p, Holm-corrected over the family",
    **equivalence.EQUIVALENCE_COLUMNS,
    "family": "changes in the family: one a cell",
    "crossings": "neighbouring scales between which the mean difference over these n seeds changes its sign, 'by means "
    "alone' where either difference has no 95 % interval without 0; and at which scales it is unknown, because runs "
    "diverged or none of these seeds finished",
    "verdict": "in words",
}


@dataclass(frozen=True)
class _Family:
    """One cell at all its scales, smallest first."""

    name: str
    cells: tuple[str, ...]
    scales: tuple[str, ...]


def scaling(results: Results, control: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return SCALING_COLUMNS (a row a cell and abscissa) and GROWTH_COLUMNS (a row a cell that is no baseline).

    Both are empty where the study has fewer than FEWEST_SCALES scales, or is not compared by a loss. Seeds that did
    not finish at every scale are left out of a cell's law; n says how many are in it.

    Args:
        results: the study.
        control: `comparisons.negative_control(results)`; a change between models that it finds to be one up to
            rounding is not tested.
    """
    families = _families(results)
    laws = [row for family in families for row in _laws(results, family)]
    return pd.DataFrame(laws, columns=list(SCALING_COLUMNS)), _growth(results, families, control)


def at_ends(row: Mapping[str, Any]) -> list[str]:
    """Return the cells that a row of GROWTH_COLUMNS is made of."""
    return [f"{row[name]}@{row[scale]}" for name in ("cell", "baseline") for scale in ("from_scale", "to_scale")]


def points(results: Results, against: str) -> pd.DataFrame:
    """Return what is drawn: cell, scale, x, mean loss and its 95 % interval, cell by cell, smallest scale first."""
    rows = []
    values = results.finished(results.metric)
    for family in _families(results):
        x = _abscissa(results, against)
        for cell, scale in zip(family.cells, family.scales, strict=True):
            losses = values.loc[cell].dropna()
            mean = losses.mean()
            low, high = t_interval(mean, losses.std(), len(losses))
            rows.append((family.name, scale, x.loc[cell].mean(), mean, float(low), float(high)))
    return pd.DataFrame(rows, columns=["cell", "scale", "x", "mean", "low", "high"]).dropna(subset=["x", "mean"])


def _families(results: Results) -> list[_Family]:
    """Return the cells that stand at FEWEST_SCALES scales or more, their scales by the baseline's parameters."""
    if schema.SCALE not in results.factors or results.metric not in (schema.VAL_LOSS, schema.TRAIN_LOSS):
        return []
    size = results.runs.groupby(schema.CELL)[schema.PARAMS_TOTAL].mean()  # with those of runs that did not finish
    of_scale = {results.scales[cell]: size[baseline] for cell, baseline in results.baselines.items()}
    by_name: dict[str, list[str]] = {}
    for cell in results.cells.index:
        by_name.setdefault(str(cell).rpartition("@")[0], []).append(cell)
    found = []
    for name, cells in by_name.items():
        ordered = sorted(cells, key=lambda cell: of_scale.get(results.scales[cell], np.inf))
        if len(ordered) >= FEWEST_SCALES:
            found.append(_Family(name, tuple(ordered), tuple(results.scales[cell] for cell in ordered)))
    return found


def _abscissa(results: Results, against: str) -> pd.DataFrame:
    """Return what grows: cells x seeds."""
    if against != "flops":
        return results.finished(against)
    a_token = {cell["name"]: cell.get("flops_per_token", np.nan) for cell in results.plan.get("cells", ())}
    tokens = results.finished(schema.TOKENS)
    return tokens.mul(pd.Series(a_token, dtype=float).reindex(tokens.index), axis=0)


def _laws(results: Results, family: _Family) -> Iterator[tuple[object, ...]]:
    losses = results.finished(results.metric).loc[list(family.cells)]
    diverged = _at_scales(family, survivors(results, {cell: cell for cell in family.cells}))
    for against, words in ABSCISSAS.items():
        x = _abscissa(results, against).loc[list(family.cells)]
        both = (losses.notna() & (x > 0)).all()
        if not both.any():
            continue
        y, log_x = np.log(losses.loc[:, both].to_numpy()), np.log(x.loc[:, both].to_numpy())
        if not np.ptp(log_x, axis=0).all():
            continue  # it does not grow
        halts = np.flatnonzero(np.diff(log_x.mean(axis=1)) <= 0)
        if len(halts):
            nothing, why = (np.nan,) * 7, diverged or _halted(family, halts[0])
            yield family.name, words, len(family.cells), y.shape[1], *nothing, why
            continue
        lines = np.array([np.polyfit(log_x[:, i], y[:, i], 1) for i in range(y.shape[1])])
        exponent = _over_seeds(-lines[:, 0])
        end = float(np.mean(np.exp(lines[:, 1] + lines[:, 0] * log_x[-1])))
        bend = (np.nan,) * 3
        if len(family.cells) > FEWEST_SCALES:
            bend = _over_seeds(np.array([np.polyfit(log_x[:, i], y[:, i], 2)[0] for i in range(y.shape[1])]))
        yield (
            family.name, words, len(family.cells), y.shape[1], *exponent, end, *bend,
            diverged or _straight(*bend[1:]),
        )  # fmt: skip


def _halted(family: _Family, place: int) -> str:
    return f"no law: it does not grow from {family.scales[place]} to {family.scales[place + 1]}"


def _at_scales(family: _Family, reasons: pd.Series) -> str:
    """Return what is said of a family's cells, each with its scale; empty text where nothing is said of any."""
    said = zip(family.cells, family.scales, strict=True)
    return "; ".join(f"{reasons[cell]} at {scale}" for cell, scale in said if reasons.get(cell))


def _straight(low: float, high: float) -> str:
    if np.isnan(low):
        return "cannot be told: too few scales or seeds"
    if low <= 0 <= high:
        return "no bend is seen"
    return "bends up: no pure power law" if low > 0 else "bends down: no pure power law"


def _over_seeds(values: Array) -> tuple[float, float, float]:
    mean, n = float(values.mean()), len(values)
    low, high = t_interval(mean, values.std(ddof=1) if n > 1 else np.nan, n)
    return mean, float(low), float(high)


def _growth(results: Results, families: list[_Family], control: pd.DataFrame) -> pd.DataFrame:
    """Return how each cell's difference from its baseline changes from the smallest to the largest scale."""
    values = results.finished(results.metric)
    rows, changes, blocked = [], [], []
    for family in families:
        pairs = {cell: results.baselines.get(cell, cell) for cell in family.cells}
        if all(cell == baseline for cell, baseline in pairs.items()):
            continue
        reasons = why_untested(results, pairs)
        differences = values.loc[list(pairs)] - values.loc[list(pairs.values())].set_axis(list(pairs))
        common = differences.iloc[[0, -1]].dropna(axis=1)
        known = differences[common.columns].where(reasons == "", axis=0)
        means = differences[common.columns].mean(axis=1)
        change = common.iloc[-1] - common.iloc[0]
        ends = {cell: pairs[cell] for cell in common.index}
        changes.append(change.reindex(values.columns))
        blocked.append(_at_scales(family, reasons[list(ends)]) or _rounding(change, ends, control))
        rows.append(
            {
                "cell": family.name, "baseline": next(iter(ends.values())).rpartition("@")[0],
                "from_scale": family.scales[0], "to_scale": family.scales[-1], "at_first": means.iloc[0],
                "at_last": means.iloc[-1], "crossings": _crossings(family, known),
            }
        )  # fmt: skip
    if not rows:
        return pd.DataFrame(columns=list(GROWTH_COLUMNS))
    table = paired_table(pd.DataFrame(changes).reset_index(drop=True), pd.Series(blocked, dtype=object), results)
    verdicts = {"better": "gains as models grow", "worse": "loses as models grow"}
    table["verdict"] = table["verdict"].replace(verdicts)
    margin = equivalence.margin(results)
    table = table.join(equivalence.equivalence(table, margin, results.looks))
    table["verdict"] = [equivalence.verdict(row, margin) for row in records(table)]
    return table.join(pd.DataFrame(rows))[list(GROWTH_COLUMNS)]


def _rounding(change: pd.Series, ends: Mapping[str, str], control: pd.DataFrame) -> str:
    """Return that a change is one of rounding where the control finds one model at both ends, else empty text."""
    same = control[control["largest"] <= control["tolerance"]]
    tolerances = dict(zip(zip(same["cell"], same["partner"], strict=True), same["tolerance"], strict=True))
    first, last = ends.items()
    one_model = first in tolerances and last in tolerances
    return WITHIN_TOLERANCE.format(tolerances[first]) if one_model and change.any() else ""


def _crossings(family: _Family, differences: pd.DataFrame) -> str:
    """Return between which scales a difference changes its sign, and at which it is unknown.

    Args:
        family: the cell.
        differences: scales x seeds; NaN throughout where it is unknown.
    """
    means = differences.mean(axis=1)
    low, high = t_interval(means, differences.std(axis=1), differences.count(axis=1))
    resolved = (low > 0) | (high < 0)
    crossed = [
        f"{before} to {after}{'' if resolved[i] and resolved[i + 1] else ' by means alone'}"
        for i, (before, after) in enumerate(itertools.pairwise(family.scales))
        if means.iloc[i] * means.iloc[i + 1] < 0
    ]
    unknown = [scale for scale, mean in zip(family.scales, means, strict=True) if np.isnan(mean)]
    return "; ".join([*crossed, *([f"unknown at {', '.join(unknown)}"] if unknown else [])]) or "none"
