"""Where the spread between runs comes from: initial values, the order of the data, the documents evaluated.

A design that varies them apart (Bouthillier et al. 2021, https://arxiv.org/abs/2103.03098) crosses seeds, which draw
the initial values, with orders of the data: a factor DATA_ORDER of the study. With loss = mean + a_i + b_j + c_ij, all
drawn independently, the mean squares of a two-way analysis of variance estimate the variance of each part (Searle,
Casella & McCulloch 1992, chapter 4); documents enter as in `evaluation_noise`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from rich.console import Console
from scipy import stats

from analysis import text
from analysis.comparing import marks
from analysis.comparing.evaluation_noise import crossed_errors
from analysis.errors import AnalysisError
from analysis.schema import DATA_ORDER, VAL_LOSS
from analysis.statistics.significance import LEVEL, Array
from analysis.study.results import Results
from analysis.study.runs import records
from analysis.terminal import plain_table, print_table, say

INITIALISATION, ORDER, BOTH, DOCUMENTS = "initialisation", "data order", "both together", "evaluation documents"
MEANINGS = {
    INITIALISATION: "the seed: initial values, and dropout and router noise where a model has any",
    ORDER: "the order in which the training data is seen",
    BOTH: "what an order does to one initialisation and not to another, and all that is left",
    DOCUMENTS: "which documents are evaluated, a set of this size drawn anew",
}
VARIANCE_COLUMNS = {
    "scale": "scale of the model; empty where scale is no factor of the study",
    "cell": "the model: its cell at the first order of the data",
    "source": "what varies",
    "seeds": "initialisations",
    "orders": "orders of the data",
    "sd": "standard deviation that it alone gives the metric of one run; 0 for a negative variance",
    "sd_low": "lower end of its 95 % interval: chi-squared for 'both together' and documents, for the others modified "
    "large sample (Burdick & Graybill 1992); ends below 0 are 0",
    "sd_high": "upper end",
    "variance": "estimate of the variance, which may be negative by chance",
    "share": "share of the variance between runs on these documents: 0 to 1; null for the documents",
    "df": "degrees of freedom of its mean square",
}


def variance_sources(results: Results) -> pd.DataFrame:
    """Return VARIANCE_COLUMNS: the rows of MEANINGS for each model that was trained on two or more orders of the data.

    Empty where the study has no factor DATA_ORDER. A model of which a run is missing or left out has no rows: the
    mean squares need the complete grid (`why_not` says so).
    """
    rows: list[dict[str, object]] = []
    for cells in models_by_order(results):
        grid = results.finished(results.metric).loc[cells].dropna(axis=1, how="all")
        if min(grid.shape) < 2 or grid.isna().any(axis=None):
            continue
        label = {"scale": results.scales[cells[0]], "cell": cells[0], "seeds": grid.shape[1], "orders": grid.shape[0]}
        parts = components(grid.to_numpy().T)
        documents = _documents(results, cells, [int(seed) for seed in grid.columns])
        total = sum(max(part.variance, 0.0) for part in parts.values())
        for source, part in {**parts, **({DOCUMENTS: documents} if documents else {})}.items():
            low, high = np.sqrt(np.maximum(part.interval, 0))
            shared = max(part.variance, 0.0) / total if source != DOCUMENTS and total > 0 else np.nan
            figures = {"sd": np.sqrt(max(part.variance, 0.0)), "sd_low": low, "sd_high": high}
            figures |= {"variance": part.variance, "share": shared, "df": part.df}
            rows.append({**label, "source": source, **figures})
    return pd.DataFrame(rows, columns=list(VARIANCE_COLUMNS))


def why_not(results: Results) -> list[str]:
    """Name the models whose sources of variance cannot be told apart, and why."""
    notes = []
    for cells in models_by_order(results):
        grid = results.finished(results.metric).loc[cells].dropna(axis=1, how="all")
        missing = int(grid.isna().sum().sum())
        if min(grid.shape) < 2:
            reason = f"it needs 2 seeds and 2 orders of the data, and has {grid.shape[1]} and {grid.shape[0]}"
        elif missing:
            reason = f"{missing} of {grid.size} runs (seeds x orders) are missing, left out or did not finish"
        else:
            continue
        notes.append(f"sources of variance of {cells[0]} cannot be told apart: {reason}")
    return notes


def models_by_order(results: Results) -> list[list[str]]:
    """Return the cells of each model, those that differ in the order of the data alone; empty without DATA_ORDER."""
    if DATA_ORDER not in results.factors:
        return []
    others = [factor for factor in results.factors if factor != DATA_ORDER]
    groups: dict[tuple[object, ...], list[str]] = {}
    for cell, row in results.cells.iterrows():
        groups.setdefault(tuple(row[others]), []).append(str(cell))
    return list(groups.values())


@dataclass(frozen=True)
class Component:
    """One variance of the model, with its 95 % interval before it is cut at 0."""

    variance: float
    interval: tuple[float, float]
    df: float


def components(values: Array) -> dict[str, Component]:
    """Return the variance of initialisations, of orders, and of both together from a complete grid.

    Args:
        values: shape (initialisations, orders), 2 or more of each.
    """
    seeds, orders = values.shape
    by_seed, by_order, mean = values.mean(axis=1), values.mean(axis=0), values.mean()
    df = (seeds - 1) * (orders - 1)
    rest = float(((values - by_seed[:, None] - by_order + mean) ** 2).sum() / df)
    of_seeds = float(orders * by_seed.var(ddof=1))
    of_orders = float(seeds * by_order.var(ddof=1))
    return {
        INITIALISATION: _main(of_seeds, seeds - 1, rest, df, orders),
        ORDER: _main(of_orders, orders - 1, rest, df, seeds),
        BOTH: _exact(rest, df),
    }


def _exact(variance: float, df: float) -> Component:
    """Return a mean square as a variance: chi-squared interval."""
    tail = (1 - LEVEL) / 2
    interval = (df * variance / stats.chi2.isf(tail, df), df * variance / stats.chi2.ppf(tail, df))
    return Component(variance, (float(interval[0]), float(interval[1])), df)


def _main(effect: float, df: int, rest: float, df_rest: int, repeats: int) -> Component:
    """Return (effect - rest) / repeats, mean squares both, with its modified large-sample interval.

    Burdick & Graybill (1992), Confidence Intervals on Variance Components, section 3.3: exact where either mean square
    is known to be 0, close to its level elsewhere.
    """
    tail = (1 - LEVEL) / 2
    few, many = ((d / stats.chi2.isf(tail, d), d / stats.chi2.ppf(tail, d)) for d in (df, df_rest))
    g1, h1, g2, h2 = 1 - few[0], few[1] - 1, 1 - many[0], many[1] - 1
    upper, lower = stats.f.isf(tail, df, df_rest), stats.f.ppf(tail, df, df_rest)
    g12 = ((upper - 1) ** 2 - (g1 * upper) ** 2 - h2**2) / upper
    h12 = ((1 - lower) ** 2 - (h1 * lower) ** 2 - g2**2) / lower
    below = (g1 * effect) ** 2 + (h2 * rest) ** 2 + g12 * effect * rest
    above = (h1 * effect) ** 2 + (g2 * rest) ** 2 + h12 * effect * rest
    gap = effect - rest
    interval = (gap - np.sqrt(max(below, 0.0))) / repeats, (gap + np.sqrt(max(above, 0.0))) / repeats
    return Component(gap / repeats, (float(interval[0]), float(interval[1])), df)


def _documents(results: Results, cells: Sequence[str], seeds: Sequence[int]) -> Component | None:
    """Return the variance of the mean loss over sets of documents; None where losses by document are not known."""
    if results.metric != VAL_LOSS:
        return None
    found = [results.scores.get((cell, seed)) for cell in cells for seed in seeds]
    scores = [score for score in found if score is not None]
    if len(scores) < len(found) or any(score.documents != scores[0].documents for score in scores):
        return None
    _, cluster = np.unique(scores[0].clusters, return_inverse=True)
    tokens = np.bincount(cluster, scores[0].tokens).astype(float)
    if len(tokens) < 2:
        return None
    errors = crossed_errors(np.array([np.bincount(cluster, score.losses) for score in scores]), tokens)
    return _exact(errors.document_error**2, float(tokens.sum() ** 2 / (tokens**2).sum() - 1))


def show(results: Results, console: Console) -> None:
    """Print the table of `variance_sources`.

    Raises:
        AnalysisError: the study does not vary the order of the data, or not one model has a complete grid.
    """
    if DATA_ORDER not in results.factors:
        raise AnalysisError(
            f"study '{results.study}' has no factor '{DATA_ORDER}': sources of variance are told apart by a study that "
            "varies them apart, such as sweeps/variance.py"
        )
    found = variance_sources(results)
    if found.empty:
        raise AnalysisError("; ".join(why_not(results)))
    say(
        console,
        f"Where the spread of {results.metric} between runs comes from: sd that each source alone gives one run.",
    )
    table = plain_table(["model", "source"], ["sd [95 %]", "share", "df"])
    for row in records(found):
        table.add_row(
            marks.marked(str(row["cell"]), results.marks_of([row["cell"]])),
            f"{row['source']}: {MEANINGS[row['source']]}",
            text.estimate(row["sd"], row["sd_low"], row["sd_high"]),
            text.NOTHING if pd.isna(row["share"]) else f"{100 * row['share']:.0f} %",
            text.number(row["df"], 1),
        )
    print_table(console, table)
    for note in why_not(results):
        say(console, note)
    caption = marks.warning(results)
    if caption:
        say(console, caption, "bold red")
