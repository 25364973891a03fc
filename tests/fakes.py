"""Studies without training: realistic records through the real schema, from seeded noise."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from analysis.schema import (
    DIVERGED,
    FAILED,
    FINISHED,
    PLAN_FILE,
    RECORDS_FOLDER,
    Audit,
    DocumentScores,
    TrialRecord,
    write_json,
)

FACTORS = ("attention", "rmsnorm", "mlp", "moe")
GRID = {
    "all_components" if len(on) == 4 else "_".join(on) or "baseline": {f: int(f in on) for f in FACTORS}
    for count in range(5)
    for on in itertools.combinations(FACTORS, count)
}
"""Cell name -> factor levels, in plan order: the sixteen cells of exp6."""
EFFECTS = {"attention": 0.0, "rmsnorm": 0.0, "mlp": 0.035, "moe": -0.045}
"""True differences in nats; `mlp` and `moe` together add `INTERACTION`."""
INTERACTION = -0.02
TOKENS_PER_UPDATE = 1024
FAILURES = "failures"
"""Folder of the records of failed runs."""


def make_study(
    folder: Path,
    *,
    cells: Collection[str] = tuple(GRID),
    seeds: int = 5,
    updates: int = 300,
    rows: int = 12,
    scales: tuple[str, ...] = ("cpu",),
    design: str = "default",
    diverged: Collection[tuple[str, int]] = (),
    failed: Collection[tuple[str, int]] = (),
    noise: float = 0.006,
    flaws: Mapping[str, Sequence[str]] | None = None,
    audits: Mapping[tuple[str, int], Sequence[Audit]] | None = None,
    documents: int = 0,
    plan: Mapping[str, Any] | None = None,
) -> Path:
    """Write a study's plan and records into `folder` and return it.

    Args:
        folder: the study's folder; its name is the study's name.
        cells: names out of GRID, to which "@<scale>" is added where there are several scales.
        seeds: number of seeds, counted from 0.
        updates: optimizer updates of a finished run.
        rows: rows of a curve; every second one and the last hold a validation result.
        scales: names of scales; each later one is 0.3 nats better.
        design: "default" or "orthogonal".
        diverged: (cell, seed) pairs that end with a NaN loss in mid-training.
        failed: (cell, seed) pairs that end with an error before their first row.
        noise: standard deviation in nats that a run has of its own; seeds share another 0.02.
        flaws: cell -> the flaws that it was trained under.
        audits: (cell, seed) -> what the audits found; None: records from before there were audits.
        documents: validation documents whose scores the records keep, three to a group; 0: none are kept.
        plan: further entries of the plan, and others in the place of its own.
    """
    entries = []
    for (scale_place, scale), base in itertools.product(enumerate(scales), cells):
        name = base if len(scales) == 1 else f"{base}@{scale}"
        factors: dict[str, Any] = dict(GRID[base])
        if len(scales) > 1:
            factors["scale"] = scale
        hashes = {str(seed): _hash(name, seed, updates) for seed in range(seeds)}
        entries.append(
            {
                "name": name,
                "factors": factors,
                "scale": scale,
                "baseline": "baseline" if len(scales) == 1 else f"baseline@{scale}",
                **_sizes(GRID[base], 4**scale_place),
                "hashes": hashes,
            }
        )
        for seed in range(seeds):
            status = DIVERGED if (base, seed) in diverged else FAILED if (base, seed) in failed else FINISHED
            run = {
                "study": folder.name,
                "cell": name,
                "scale": scale,
                "factors": factors,
                "seed": seed,
                "status": status,
            }
            curve = _curve(entries[-1], GRID[base], seed, updates, rows, noise, 0.3 * scale_place)
            record = _record(run, curve, hashes[str(seed)])
            record = dataclasses.replace(record, flaws=sorted((flaws or {}).get(base, ())))
            if audits is not None:
                environment = record.environment | {"audits": "causality,targets"}
                found = list(audits.get((base, seed), ()))
                record = dataclasses.replace(record, audits=found, environment=environment)
            if documents and status == FINISHED:
                record = dataclasses.replace(record, scores=_scores(record, documents))
            record.write(folder / (FAILURES if status == FAILED else RECORDS_FOLDER))
    made = _plan(folder.name, entries, seeds, updates, scales, design)
    write_json(folder / PLAN_FILE, {**made, **(plan or {})})
    return folder


def _hash(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _record(run: dict[str, Any], curve: list[dict[str, Any]], config_hash: str) -> TrialRecord:
    error = None
    if run["status"] == DIVERGED:
        curve = curve[: len(curve) // 2]
        error = f"train_loss became NaN at update {curve[-1]['step'] + 3}"
    elif run["status"] == FAILED:
        curve, error = [], "RuntimeError: out of memory (asked for 2.0 GB)"
    environment = {
        "git_commit": "0123abc",
        "versions": "python 3.11.9, torch 2.13.0, ray 2.60.0",
        "hardware": "2 cores of Intel Xeon, 8 GiB memory",
    }
    return TrialRecord(**run, rows=curve, error=error, config_hash=config_hash, environment=environment)


def _scores(record: TrialRecord, documents: int) -> DocumentScores:
    """Return losses by document that sum to the run's: each document is harder or easier for all, and for each cell."""
    places = np.arange(documents)
    tokens = 100 + 37 * places % 211
    hard = np.random.default_rng([17]).normal(0, 0.3, documents)
    harder = np.random.default_rng([19, *record.factors.values()]).normal(0, 0.02, documents)
    jitter = np.random.default_rng([23, record.seed, *record.factors.values()]).normal(0, 0.01, documents)
    offsets = hard + harder + jitter
    offsets -= (offsets * tokens).sum() / tokens.sum()
    return DocumentScores(
        documents=places.tolist(),
        clusters=(places // 3).tolist(),
        tokens=tokens.tolist(),
        losses=((record.rows[-1]["val_loss"] + offsets) * tokens).tolist(),
    )


def _sizes(factors: dict[str, int], size: int) -> dict[str, int]:
    dense, gated_experts = factors["mlp"] and not factors["moe"], factors["mlp"] and factors["moe"]
    attention = 26_000 if factors["attention"] else 32_768
    experts, active = (98_304, 98_304) if dense else (786_432, 196_608) if gated_experts else (524_288, 131_072)
    total = (65_536 + attention + experts) * size
    active = (65_536 + attention + active) * size
    return {"params_total": total, "params_active": active, "flops_per_token": 6 * active}


def _curve(
    cell: dict[str, Any], factors: dict[str, int], seed: int, updates: int, rows: int, noise: float, gain: float
) -> list[dict[str, Any]]:
    """Return a falling loss curve; the partner of a cell under `rmsnorm` gets the same noise: it is the same model."""
    same_model = [factors["attention"], factors["mlp"], factors["moe"]]
    shared, own = np.random.default_rng([7, seed]), np.random.default_rng([11, seed, *same_model])
    final = 4.31 + sum(EFFECTS[name] * on for name, on in factors.items()) - gain
    final += INTERACTION * factors["mlp"] * factors["moe"]
    final += shared.normal(0, 0.02) + own.normal(0, noise) + factors["rmsnorm"] * 3e-7
    speed = 11_000.0 if factors["mlp"] and not factors["moe"] else 6_500.0 - 700.0 * factors["attention"]
    pace = np.random.default_rng([13, seed, *factors.values()])
    curve, previous, seconds = [], 0, 0.0
    for row in range(1, rows + 1):
        step = round(updates * row / rows)
        loss = final + 2.6 * (math.exp(-4 * step / updates) - math.exp(-4)) + own.normal(0, 0.01) * (row < rows)
        rate = speed * float(pace.normal(1, 0.02))
        seconds += (step - previous) * TOKENS_PER_UPDATE / rate
        evaluated = row % 2 == 0 or row == rows
        curve.append(
            {
                "step": step,
                "tokens": step * TOKENS_PER_UPDATE,
                "train_loss": loss - 0.05,
                "val_loss": loss if evaluated else None,
                "val_accuracy": 0.32 - 0.03 * (loss - 4.31) if evaluated else None,
                "val_perplexity": math.exp(loss) if evaluated else None,
                "learning_rate": 0.01 * (0.1 + 0.45 * (1 + math.cos(math.pi * step / updates))),
                "tokens_per_second": rate,
                "train_seconds": seconds,
                "evaluation_seconds": 0.8 * row,
                "peak_memory_bytes": None,
                "params_total": cell["params_total"],
                "params_active": cell["params_active"],
                "flops_per_token": cell["flops_per_token"],
                "load_imbalance": None if factors["mlp"] and not factors["moe"] else 1.2,
            }
        )
        previous = step
    return curve


def _plan(
    study: str, cells: list[dict[str, Any]], seeds: int, updates: int, scales: tuple[str, ...], design: str
) -> dict[str, Any]:
    levels = {"factors": ["mlp", "moe"]} if design == "default" else None
    return {
        "schema_version": 1,
        "study": study,
        "title": "DeepSeek component grid",
        "script": "exp6_grid",
        "design": design,
        "scales": list(scales),
        "corpus": "web",
        "data_hash": "5f0c2a9be1d34c77",
        "updates": updates,
        "seeds": list(range(seeds)),
        "factors": [*FACTORS, *(["scale"] if len(scales) > 1 else [])],
        "metric": "val_loss",
        "direction": "min",
        "negative_control": {"factor": "rmsnorm", "tolerance_nats": 0.005},
        "factorial": design == "orthogonal",
        "feed_forward_levels": levels,
        "notes": ["attention trains mla_rope_only: no-position dimension 0, as published"],
        "choices": {"precision": dict.fromkeys(scales, "fp32"), "threads": 1},
        "cells": cells,
    }
