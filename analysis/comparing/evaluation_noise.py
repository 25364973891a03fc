"""`evaluation_noise`: how far a difference may be off because these documents were evaluated and not others.

A validation loss is a mean over documents as a cell's is one over seeds: both were drawn, and other ones would have
given another figure. Differences are paired within each document. Documents of one group (a book) are alike, so groups
are the clusters.

Shapes: S seeds, G clusters, D documents.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from analysis import schema
from analysis.comparing import outcomes
from analysis.comparing.divergence import SURVIVORS_COLUMN, survivors
from analysis.statistics.significance import LEVEL, Array
from analysis.study.results import Results, StudyAudit
from analysis.study.runs import records

NAME = "evaluation_noise"
ENOUGH_CLUSTERS = 40
"""Below this a standard error over clusters is itself badly known (Angrist & Pischke 2009, section 8.2.3: 42)."""
EVALUATION_NOISE_COLUMNS = {
    "scale": "scale of the model; empty where scale is no factor of the study",
    "cell": "name of the cell",
    "baseline": "the cell it is compared with",
    "n": "pairs: seeds that finished in both and scored the same documents",
    "documents": "validation documents scored",
    "clusters": "groups of documents that are alike (of 'web': books), the units that are taken as drawn at random; a "
    "document without a group is one",
    "difference": "mean paired difference of the validation loss, cell - baseline, nats per token",
    "seed_error": "its standard error over seeds, for these documents: sd of the paired differences / sqrt(n); null "
    "for n = 1",
    "document_error": "its standard error over documents, for these seeds: ratio estimator (differences summed over "
    "tokens), clustered; null for one cluster",
    "both_error": "its standard error over both, seeds crossed with clusters: squares added, what both count (the "
    "interaction) taken off once, never below the larger of the two; null where one of them is",
    "both_df": "degrees of freedom of both_error (Satterthwaite)",
    "both_low": "lower end of the 95 % interval of the difference with other seeds on other documents, of one "
    "comparison",
    "both_high": "its upper end",
} | SURVIVORS_COLUMN


@dataclass(frozen=True)
class CrossedErrors:
    """A mean difference in nats per token and its standard errors; NaN where one does not exist."""

    difference: float
    seed_error: float
    document_error: float
    both_error: float
    both_df: float

    @property
    def interval(self) -> tuple[float, float]:
        """Both ends of the 95 % interval over seeds and documents; NaN where the error is 0 or does not exist."""
        if not self.both_error > 0:
            return math.nan, math.nan
        half = float(stats.t.ppf((1 + LEVEL) / 2, self.both_df)) * self.both_error
        return self.difference - half, self.difference + half


def crossed_errors(differences_SG: Array, tokens_G: Array) -> CrossedErrors:
    """Return the mean difference of a study whose seeds are crossed with clusters of documents, and its errors.

    With w_g a cluster's share of the tokens, the difference of seed s in cluster g is mean + a_s + b_g + c_sg, all
    drawn independently. The variance of the mean over both is var(a) / S + sum w² var(b) + sum w² var(c) / S. The
    squared error over seeds estimates the first and the last term, that over documents the second and the last, so the
    last is taken off once; it is estimated from what seeds and clusters leave. Where chance would make the rest smaller
    than one of the two, the larger of them stands, which errs on the wide side. (Two-way clustering: Cameron, Gelbach &
    Miller 2011; ratio estimator: Cochran 1977, section 2.11.)

    Args:
        differences_SG: sums over a cluster's tokens of loss differences, nats.
        tokens_G: tokens of each cluster.
    """
    seeds, clusters = differences_SG.shape
    total = tokens_G.sum()
    by_seed_S = differences_SG.sum(axis=1) / total
    residuals_SG = differences_SG - by_seed_S[:, None] * tokens_G
    mean_G = residuals_SG.mean(axis=0)
    per_cluster = clusters / (clusters - 1) / total**2 if clusters > 1 else math.nan
    per_seed = 1 / seeds / (seeds - 1) if seeds > 1 else math.nan
    over_seeds = ((by_seed_S - by_seed_S.mean()) ** 2).sum() * per_seed
    over_documents = (mean_G**2).sum() * per_cluster
    over_pairs = ((residuals_SG - mean_G) ** 2).sum() * per_cluster * per_seed
    over_both = float(np.max([over_seeds + over_documents - over_pairs, over_seeds, over_documents]))  # NaN if one is
    # Clusters of unequal size count as fewer: as many equal ones as would have the same sum of squared shares.
    df_documents = total**2 / (tokens_G**2).sum() - 1
    df = math.nan
    if over_both > 0:
        parts = ((over_seeds, seeds - 1), (over_documents, df_documents), (over_pairs, (seeds - 1) * df_documents))
        df = max(over_both**2 / sum(part**2 / d for part, d in parts), min(seeds - 1, df_documents))
    return CrossedErrors(
        difference=float(by_seed_S.mean()),
        seed_error=math.sqrt(over_seeds),
        document_error=math.sqrt(over_documents),
        both_error=math.sqrt(over_both),
        both_df=float(df),
    )


def evaluation_noise(results: Results, order: Sequence[str]) -> pd.DataFrame:
    """Return EVALUATION_NOISE_COLUMNS, one row a cell (in the given order) whose documents its baseline has too.

    Empty where the source has no losses by document.
    """
    counted = set(zip(results.counted[schema.CELL], results.counted[schema.SEED], strict=True))
    kept = {run: scores for run, scores in results.scores.items() if run in counted}
    seeds: dict[str, list[int]] = {}
    for cell, seed in sorted(kept):
        seeds.setdefault(cell, []).append(seed)
    baselines = {cell: results.baselines.get(cell, cell) for cell in order}
    diverged = survivors(results, baselines)
    rows = []
    for cell, baseline in baselines.items():
        pairs = [
            (kept[cell, seed], kept[baseline, seed])
            for seed in seeds.get(cell, ())
            if (baseline, seed) in kept and cell != baseline
        ]
        pairs = [pair for pair in pairs if _layout(pair[0]) == _layout(pair[1]) == _layout(pairs[0][0])]
        if not pairs:
            continue
        documents_SD = np.array([np.subtract(here.losses, there.losses) for here, there in pairs])
        layout = pairs[0][0]
        _, cluster_D = np.unique(layout.clusters, return_inverse=True)
        tokens_G = np.bincount(cluster_D, layout.tokens).astype(float)
        found = crossed_errors(np.array([np.bincount(cluster_D, row_D) for row_D in documents_SD]), tokens_G)
        low, high = found.interval
        rows.append(
            {
                "scale": results.scales[cell],
                "cell": cell,
                "baseline": baseline,
                "n": len(pairs),
                "documents": len(layout.documents),
                "clusters": len(tokens_G),
                **vars(found),
                "both_low": low,
                "both_high": high,
                "survivors": diverged[cell],
            }
        )
    return pd.DataFrame(rows, columns=list(EVALUATION_NOISE_COLUMNS))


def _layout(scores: schema.DocumentScores) -> tuple[list[int], list[int], list[int]]:
    """Return what two evaluations must have in common to be paired by document."""
    return scores.documents, scores.clusters, scores.tokens


def audit(noise: pd.DataFrame) -> list[StudyAudit]:
    """Warn where there are too few clusters for the errors over documents to be well known: one finding a number."""
    few: dict[int, list[dict[str, Any]]] = {}
    for row in records(noise):
        if row["clusters"] < ENOUGH_CLUSTERS:
            few.setdefault(row["clusters"], []).append(row)
    found = []
    for clusters, rows in few.items():
        known = [row for row in rows if not math.isnan(row["document_error"])]
        worst = max(known, key=lambda row: row["document_error"], default=None)
        evidence = (
            f"standard errors over documents rest on {clusters} groups of {rows[0]['documents']} documents, and below "
            f"{ENOUGH_CLUSTERS} they are themselves uncertain"
            + (f"; the largest, of {worst['cell']}, is {worst['document_error']:.4f} nats" if worst else "")
        )
        cells = tuple(row["cell"] for row in rows)
        found.append(StudyAudit(schema.Audit(name=NAME, severity=schema.WARNING, evidence=evidence), cells))
    return found


def notes(noise: pd.DataFrame, comparisons: pd.DataFrame) -> list[str]:
    """Name the cells that are better or worse on these documents, and may not be on others."""
    verdicts = dict(zip(comparisons["cell"], comparisons["verdict"].map(outcomes.outcome), strict=True))
    unshown = [
        row["cell"]
        for row in records(noise)
        if verdicts.get(row["cell"]) in (outcomes.BETTER, outcomes.WORSE) and row["both_low"] <= 0 <= row["both_high"]
    ]
    if not unshown:
        return []
    return [
        f"better or worse on these validation documents, not shown for others: {', '.join(unshown)} (the interval over "
        "seeds and documents has 0 in it, see Evaluation noise)"
    ]
