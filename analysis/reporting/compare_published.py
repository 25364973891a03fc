"""A published table beside what was measured here, row by row."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from scipy import stats

from analysis import schema
from analysis.comparing.marks import MARK_MEANING
from analysis.comparing.ranking import rank_cells
from analysis.errors import AnalysisError
from analysis.loading.load import load_results
from analysis.published import PublishedTable, load_published
from analysis.published.derived import FORMULAS, Derived, derive
from analysis.study.results import Results
from analysis.study.runs import parse_plan, records
from analysis.text import listing

MIN_COMMON_ROWS = 3
"""Fewer rows have no rank correlation worth a number."""
RESULTS_FOLDER = Path("results")
"""Where studies are looked for when no source is named."""
DEFAULT_DESIGN = "default"
"""The design whose cells are the published ones."""
SOUND, PUBLISHED = "sound", "published"
"""Protocols: a study done right, or under the flaws of the published one. Plans that do not say are sound."""

COMPARISON_COLUMNS = {
    "variant": "the published name",
    "cell": "the cell that trains what the name says; under the published protocol the name's own cell",
    "n": "its finished runs (seeds); 0 where it has none",
    "invalid": "its runs that an audit found invalid, which are left out; of a study trained under flaws none is",
    "diverged": "its runs that diverged: such a cell has no rank",
    "val_loss": "mean validation loss, nats per token",
    "ci_low": "95 % t interval of the mean, lower end; null for n = 1",
    "ci_high": "upper end",
    "rank_printed": "published rank among the rows that have a measured one, 1 is best; null for others",
    "rank": "rank by the measured mean among the same rows; ties share the better rank",
    "val_accuracy": "mean validation accuracy, 0 to 1",
    "train_minutes": "mean time of training",
    "params_total": "trainable parameters",
    schema.FLAWS: MARK_MEANING,
}
"""All but the first two and `rank_printed` are measured, and null where nothing was."""


@dataclass(frozen=True)
class Comparison:
    """A published table and what one study measured at one scale."""

    table: PublishedTable
    study: str
    """Name of the study that was measured."""
    protocol: str
    """SOUND or PUBLISHED."""
    scale: str
    """Empty where the source does not say."""
    corpus: str
    """What was trained on; empty where the source does not say."""
    rows: pd.DataFrame
    """COMPARISON_COLUMNS, in the published order."""
    tau: float | None
    """Kendall's tau-b between the two rankings; None below MIN_COMMON_ROWS ranked rows, or where all measured tie."""
    tau_p: float | None
    """Two-sided p that the rankings are unrelated."""
    derived: tuple[Derived, ...]
    """Printed figures recomputed."""
    beside: Comparison | None = None
    """The same table and scale under the published protocol, where this is sound and there is one to show."""

    def measured(self, figure: Derived) -> float:
        """Return a derived figure by its formula from the measured means; NaN where they lack one that it needs."""
        rows = {row["variant"]: row for row in records(self.rows)}
        row, other = rows[figure.variant], rows.get(figure.against, {})
        inputs = {
            "loss": row["val_loss"],
            "minutes": row["train_minutes"],
            "million": row["params_total"] / 1e6,
            "other": other.get("val_loss", math.nan),
        }
        return FORMULAS[figure.figure].value(inputs)

    @property
    def common(self) -> int:
        """Number of rows that both rankings have."""
        return int(self.rows["rank"].notna().sum())


def compare_published(
    name: str, source: str | None = None, study: str | None = None, protocol: str | None = None
) -> list[Comparison]:
    """Load a published table and results, and set them side by side, once for each scale of the results.

    Args:
        name: the published study, as in `load_published`.
        source: a study's folder, a CSV or an MLflow tracking URI; None takes the newest study of that script under
            `results`, and where it is a sound one, one of the published protocol beside it.
        study: which study, where the source has several.
        protocol: SOUND or PUBLISHED, where no source is named; None is SOUND.

    Raises:
        AnalysisError: a name is unknown, there are no results, or they are of another study.
    """
    table = load_published(name)
    if source is not None:
        if protocol is not None:
            raise AnalysisError(
                f"--protocol chooses among the studies under {RESULTS_FOLDER}/: leave it or {source} out"
            )
        return _compare_all(table, load_results(source, study))
    protocol = protocol or SOUND
    found = newest_study(table.study, protocol)
    if found is None:
        options, other = ("", PUBLISHED) if protocol == SOUND else (" --protocol published", SOUND)
        hint = f", --protocol {other} shows those there are" if newest_study(table.study, other) else ""
        raise AnalysisError(
            f"no results of {table.study} ({protocol} protocol) under {RESULTS_FOLDER}/: "
            f"`python sweeps/{table.study}.py{options}` makes them{hint}, or name a SOURCE"
        )
    comparisons = _compare_all(table, load_results(found, study))
    flawed = newest_study(table.study, PUBLISHED) if protocol == SOUND else None
    if flawed is None:
        return comparisons
    beside = {comparison.scale: comparison for comparison in _compare_all(table, load_results(flawed))}
    return [dataclasses.replace(comparison, beside=beside.get(comparison.scale)) for comparison in comparisons]


def _compare_all(table: PublishedTable, results: Results) -> list[Comparison]:
    script = results.plan.get("script", table.study)
    if script != table.study:
        raise AnalysisError(f"the results '{results.study}' are of {script}, not of {table.study}")
    if not _has_published_names(results.plan):
        design = results.plan["design"]
        raise AnalysisError(
            f"the results '{results.study}' are of --design {design}, in which a cell need not train what its name "
            f"says in {table.study}: compare those of the {DEFAULT_DESIGN} design"
        )
    results = results.as_reported()
    return [compare(table, results, scale) for scale in results.scales.unique()]


def newest_study(script: str, protocol: str, folder: Path = RESULTS_FOLDER) -> Path | None:
    """Return the study of a script and protocol whose plan was written last, of those that have a record, or None.

    Of the default design: in others a published name may be another model. A sound study is one without any flaw; of
    the published protocol the studies with the most flaws are taken, since the others have some of them undone.
    """
    found = []
    for path in folder.glob(f"{script}-*/{schema.PLAN_FILE}"):
        if any((path.parent / schema.RECORDS_FOLDER).glob("*.json")):
            plan = parse_plan(path.read_text(), str(path))
            flaws = len(plan.get("flaws", ()))
            if _has_published_names(plan) and _protocol(plan) == protocol and (flaws == 0 or protocol == PUBLISHED):
                found.append((flaws, path.stat().st_mtime, path.parent))
    return max(found)[-1] if found else None


def _protocol(plan: Mapping[str, Any]) -> str:
    return str(plan.get("protocol", SOUND))


def _has_published_names(plan: Mapping[str, Any]) -> bool:
    """Return whether a cell of a published name trains what the name says."""
    return plan.get("design", DEFAULT_DESIGN) == DEFAULT_DESIGN


def compare(table: PublishedTable, results: Results, scale: str) -> Comparison:
    """Compare a published table with the results at one of their scales (empty text where they have one alone)."""
    names = [row.variant if _protocol(results.plan) == PUBLISHED else row.cell for row in table.rows]
    rows = _measured(table, results, [f"{name}@{scale}" if scale else name for name in names])
    if not (rows["n"] > 0).any():
        cells = list(dict.fromkeys(results.runs[schema.CELL]))
        raise AnalysisError(
            f"'{results.study}' has no finished run of a cell that {table.study} published "
            f"({listing(names)}): it has {listing(cells)}"
        )
    ranked = rows["val_loss"].notna() & (rows["diverged"] == 0)
    printed = pd.Series([row.val_loss.value for row in table.rows])
    rows["rank"] = rows["val_loss"].where(ranked).rank(method="min").astype("Int64")
    rows["rank_printed"] = printed.where(ranked).rank(method="min").astype("Int64")
    tau, p = _kendall(printed[ranked], rows.loc[ranked, "val_loss"])
    planned = results.plan.get("scales", [])
    return Comparison(
        table=table,
        study=results.study,
        protocol=_protocol(results.plan),
        scale=scale or (planned[0] if len(planned) == 1 else ""),
        corpus=str(results.plan.get("corpus") or ""),
        rows=rows[list(COMPARISON_COLUMNS)],
        tau=tau,
        tau_p=p,
        derived=tuple(derive(table)),
    )


def _measured(table: PublishedTable, results: Results, names: list[str]) -> pd.DataFrame:
    """Return the measured columns of these cells, one a published row; means are over finished seeds."""
    ranking = rank_cells(results).set_index("cell")
    rows = pd.DataFrame({"variant": [row.variant for row in table.rows], "cell": names})
    rows[schema.FLAWS] = [results.marks_of([name]) for name in names]
    for column in ("n", "diverged", schema.INVALID):
        rows[column] = ranking[column].reindex(names).fillna(0).astype(int).to_numpy()
    for column, measured in {
        "val_loss": ranking["mean"],
        "ci_low": ranking["ci_low"],
        "ci_high": ranking["ci_high"],
        "val_accuracy": ranking["val_accuracy"],
        "train_minutes": results.finished(schema.TRAIN_SECONDS).mean(axis=1) / 60,
        "params_total": ranking["params_total"],
    }.items():
        rows[column] = measured.reindex(names).to_numpy(dtype=float)
    return rows


def _kendall(printed: pd.Series, measured: pd.Series) -> tuple[float | None, float | None]:
    """Return tau-b and its p of two columns of losses; None for both where there is no tau."""
    if len(printed) < MIN_COMMON_ROWS or measured.nunique() == 1:
        return None, None
    found = stats.kendalltau(printed, measured)
    return float(found.statistic), float(found.pvalue)
