"""Results straight from given losses, without records: for tests of the numbers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from analysis import schema
from analysis.figures.plots import FIGURES
from analysis.study.results import Results
from analysis.summary import Analysis


def make_results(
    losses: Mapping[str, Sequence[float | str | None]],
    *,
    levels: Mapping[str, Mapping[str, Any]] | None = None,
    baseline: str | Callable[[str], str] = "baseline",
    plan: Mapping[str, Any] | None = None,
    first_seed: int = 0,
    **columns: float,
) -> Results:
    """Build Results from each cell's validation losses by seed.

    Args:
        losses: cell -> a loss in nats, None for a seed without a run, or "diverged" or "failed".
        levels: cell -> level of each factor; one factor `variant`, the cell's place, where not given.
        baseline: the cell all are compared with, or a function from a cell to its own.
        plan: the study's plan.
        first_seed: of each cell's losses.
        columns: other result columns, equal in all finished runs.
    """
    levels = levels or {cell: {"variant": place} for place, cell in enumerate(losses)}
    factors = tuple(next(iter(levels.values())))
    rows = [
        _row(cell, seed, loss, levels[cell], columns)
        for cell, values in losses.items()
        for seed, loss in enumerate(values, start=first_seed)
        if loss is not None
    ]
    runs = pd.DataFrame(rows, columns=list(schema.result_columns(factors)))
    base = baseline if callable(baseline) else lambda cell: baseline
    return Results("study", runs, pd.DataFrame(), factors, {cell: base(cell) for cell in losses}, dict(plan or {}))


def _row(cell: str, seed: int, loss: float | str, levels: Mapping[str, Any], columns: Mapping[str, float]) -> dict:
    ended = loss if isinstance(loss, str) else schema.FINISHED
    value = math.nan if isinstance(loss, str) else loss
    measured = {"val_loss": value, "train_loss": value, "val_perplexity": math.exp(value)}
    defaults = {"val_accuracy": 0.25, "train_seconds": 60.0, "peak_memory_bytes": math.nan, "params_total": 1e6}
    other = {"study": "study", "cell": cell, "seed": seed, "status": ended, "steps": 300, "tokens": 1000}
    labels = {"config_hash": f"{cell}-{seed}", "error": None, "flaws": "", "invalid": ""}
    return {**other, **levels, **measured, **defaults, **columns, **labels}


def figures(results: Results, analysis: Analysis) -> dict[str, Figure]:
    """Draw all figures that apply, by the name of their file."""
    drawn = {name: draw(results, analysis) for name, draw in FIGURES.items()}
    return {name: figure for name, figure in drawn.items() if figure is not None}


def factorial_losses(
    factors: Sequence[str], seeds: int, effect: Callable[[Mapping[str, int], int], float]
) -> tuple[dict[str, list[float]], dict[str, dict[str, int]]]:
    """Return losses and levels of a full 2^k grid whose cells are named after the factors that are on."""
    levels = {}
    for on in itertools.product((0, 1), repeat=len(factors)):
        cell = "_".join(itertools.compress(factors, on)) or "baseline"
        levels[cell] = dict(zip(factors, on, strict=True))
    return {cell: [effect(level, seed) for seed in range(seeds)] for cell, level in levels.items()}, levels
