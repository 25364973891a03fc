"""How losses fall as models grow, and whether what differs at one scale still does at the next.

A cell's name at a scale is `cell@scale`; here the same cell at all scales is one family. The seed is a block: a law is
fitted to each seed's losses, and its interval is over seeds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis import schema
from analysis.paired import paired_table
from analysis.results import Results
from analysis.significance import Array, t_interval

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
    "exponent": "b of loss = a x^-b, least squares on logarithms, the mean of the seeds' own fits",
    "exponent_low": "95 % t interval over seeds, lower end; null for n = 1",
    "exponent_high": "upper end",
    "loss_at_end": "loss that the law gives at the largest scale",
    "curvature": "coefficient of (log x)^2 where it is fitted too, the mean over seeds: 0 for a pure power law",
    "curvature_low": "95 % t interval over seeds, lower end; null where there are only three scales or n = 1",
    "curvature_high": "upper end",
    "verdict": "whether the points lie on a power law, in words",
}
GROWTH_COLUMNS = {
    "cell": "name of the cell, the same at all scales",
    "baseline": "the cell it is compared with at each scale",
    "from_scale": "smallest scale by parameters of the baseline",
    "to_scale": "largest scale",
    "n": "seeds that finished in both cells at both scales",
    "n_tested": "of these what p and verdict rest on: all, save where seeds were added after results were known",
    "at_first": "mean paired difference of the metric at the smallest scale, cell - baseline",
    "at_last": "at the largest scale",
    "difference": "at_last - at_first: how the difference changes as models grow, paired by seed",
    "difference_low": "95 % t interval of the change, lower end",
    "difference_high": "upper end",
    "p": "one-sample t test that the change is 0, two-sided; null below 3 seeds",
    "p_holm": "p, Holm-corrected over the family",
    "family": "changes in the family: one a cell",
    "crossings": "neighbouring scales between which the mean difference changes its sign",
    "verdict": "in words",
}


@dataclass(frozen=True)
class _Family:
    """One cell at all its scales, smallest first."""

    name: str
    cells: tuple[str, ...]
    scales: tuple[str, ...]


def scaling(results: Results) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return SCALING_COLUMNS (a row a cell and abscissa) and GROWTH_COLUMNS (a row a cell that is no baseline).

    Both are empty where the study has fewer than FEWEST_SCALES scales, or is not compared by a loss. Seeds that did
    not finish at every scale are left out of a cell's law; n says how many are in it.
    """
    families = _families(results)
    laws = [row for family in families for row in _laws(results, family)]
    return pd.DataFrame(laws, columns=list(SCALING_COLUMNS)), _growth(results, families)


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
    size = results.finished(schema.PARAMS_TOTAL).mean(axis=1)
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
    for against, words in ABSCISSAS.items():
        x = _abscissa(results, against).loc[list(family.cells)]
        both = (losses.notna() & (x > 0)).all()
        if not both.any():
            continue
        y, log_x = np.log(losses.loc[:, both].to_numpy()), np.log(x.loc[:, both].to_numpy())
        if not np.ptp(log_x, axis=0).all():
            continue  # it does not grow
        lines = np.array([np.polyfit(log_x[:, i], y[:, i], 1) for i in range(y.shape[1])])
        exponent = _over_seeds(-lines[:, 0])
        end = float(np.mean(np.exp(lines[:, 1] + lines[:, 0] * log_x[-1])))
        bend = (np.nan,) * 3
        if len(family.cells) > FEWEST_SCALES:
            bend = _over_seeds(np.array([np.polyfit(log_x[:, i], y[:, i], 2)[0] for i in range(y.shape[1])]))
        yield (
            family.name, words, len(family.cells), y.shape[1], *exponent, end, *bend, _straight(*bend[1:]),
        )  # fmt: skip


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


def _growth(results: Results, families: list[_Family]) -> pd.DataFrame:
    """Return how each cell's difference from its baseline changes from the smallest to the largest scale."""
    values = results.finished(results.metric)
    rows, changes = [], []
    for family in families:
        pairs = [(cell, results.baselines.get(cell, cell)) for cell in family.cells]
        if all(cell == baseline for cell, baseline in pairs):
            continue
        differences = pd.DataFrame([values.loc[cell] - values.loc[baseline] for cell, baseline in pairs])
        means = differences.mean(axis=1).to_numpy()
        crossings = [
            f"{before} to {after}"
            for before, after, first, second in zip(family.scales, family.scales[1:], means, means[1:], strict=False)
            if first * second < 0
        ]
        common = differences.iloc[[0, -1]].dropna(axis=1)
        changes.append((common.iloc[-1] - common.iloc[0]).reindex(values.columns))
        baseline = pairs[0][1].rpartition("@")[0]
        rows.append(
            {
                "cell": family.name, "baseline": baseline, "from_scale": family.scales[0],
                "to_scale": family.scales[-1], "at_first": means[0], "at_last": means[-1],
                "crossings": "; ".join(crossings) or "none",
            }
        )  # fmt: skip
    if not rows:
        return pd.DataFrame(columns=list(GROWTH_COLUMNS))
    table = paired_table(pd.DataFrame(changes).reset_index(drop=True), pd.Series("", index=range(len(rows))), results)
    verdicts = {"better": "gains as models grow", "worse": "loses as models grow"}
    table["verdict"] = table["verdict"].replace(verdicts)
    return table.join(pd.DataFrame(rows))[list(GROWTH_COLUMNS)]
