"""The report of a study: words, tables, figures and data, written all or none."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.comparing.final_test import open_test
from analysis.errors import AnalysisError
from analysis.figures.pictures import draw
from analysis.reporting import narrative, render
from analysis.schema import (
    CELL,
    CONFIG_HASH,
    FLOPS_PER_TOKEN,
    PARAMS_ACTIVE,
    PARAMS_TOTAL,
    PEAK_MEMORY_BYTES,
    RANKING_TEX,
    REPORT_HTML,
    REPORT_MD,
    RESULTS_CSV,
    RESULTS_JSON,
    RUN_AUDITS,
    SCHEMA_VERSION,
    SEED,
    STEPS,
    STUDY_AUDITS,
    TOKENS,
)
from analysis.study.results import Results
from analysis.study.runs import records
from analysis.summary import COLUMNS, Analysis, analyse

WHOLE = (SEED, STEPS, TOKENS, PEAK_MEMORY_BYTES, PARAMS_TOTAL, PARAMS_ACTIVE, FLOPS_PER_TOKEN)
"""Columns that results.csv holds as whole numbers."""


@dataclass(frozen=True)
class Report:
    """Where a report was written."""

    folder: Path
    markdown: Path
    html: Path
    csv: Path
    json: Path
    latex: Path
    figures: tuple[Path, ...]

    @property
    def files(self) -> tuple[Path, ...]:
        """All files, the one to open first."""
        return (self.html, self.markdown, self.csv, self.json, self.latex, *self.figures)


def write_report(results: Results, folder: Path, processes: int = 1) -> Report:
    """Analyse the results and write report.md, report.html, results.csv, results.json, ranking.tex and PNG figures.

    Everything is made before anything is put in its place, each file by a rename: an error leaves an earlier report as
    it was, and a reader never sees half a file. A figure of an earlier report that no longer applies is removed.

    Args:
        results: the study.
        folder: where the files are put; made if it is not there.
        processes: how many may draw figures, as in `pictures.draw`.

    Raises:
        AnalysisError: the results cannot be analysed, or the folder cannot be written.
    """
    results = open_test(results)
    analysis = analyse(results)
    pictures = draw(results, analysis, processes)
    made = render.content(results, analysis)
    files = {
        REPORT_MD: render.markdown(made, pictures).encode(),
        REPORT_HTML: render.html(made, pictures).encode(),
        RESULTS_CSV: results_csv(results.runs).encode(),
        RESULTS_JSON: (json.dumps(results_json(results, analysis), indent=1, allow_nan=False) + "\n").encode(),
        RANKING_TEX: render.latex(made).encode(),
        **{f"{name}.png": png for name, png in pictures.items()},
    }
    try:
        write_all(folder, files)
        for name in render.FIGURES.keys() - pictures.keys():
            (folder / f"{name}.png").unlink(missing_ok=True)
    except OSError as error:
        raise AnalysisError(f"the report cannot be written to {folder}: {error.strerror}") from error
    return Report(
        folder=folder,
        markdown=folder / REPORT_MD,
        html=folder / REPORT_HTML,
        csv=folder / RESULTS_CSV,
        json=folder / RESULTS_JSON,
        latex=folder / RANKING_TEX,
        figures=tuple(folder / f"{name}.png" for name in pictures),
    )


def results_csv(runs: pd.DataFrame) -> str:
    """Return the table of runs as CSV: numbers so that they read back exactly, null as an empty field."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(runs.columns)
    writer.writerows(zip(*(_fields(runs[name], name in WHOLE) for name in runs.columns), strict=True))
    return file.getvalue()


def _fields(column: pd.Series, whole: bool) -> list[str]:
    """Return a column's values as text: `isna` of single ones would take longer than all else."""
    return ["" if null else _field(value, whole) for value, null in zip(column.tolist(), column.isna(), strict=True)]


def _field(value: Any, whole: bool) -> str:
    if whole:
        return str(int(value))
    return repr(float(value)) if isinstance(value, float) else str(value)


def results_json(results: Results, analysis: Analysis) -> dict[str, Any]:
    """Return the whole analysis as plain data; `columns` says what each table's columns hold."""
    plan = {key: value for key, value in results.plan.items() if key != "cells"}
    return _plain(
        {
            "schema_version": SCHEMA_VERSION,
            "study": results.study,
            "metric": results.metric,
            "direction": results.direction,
            "flaws": results.marks_of(results.marks).split(),
            "include_invalid": results.include_invalid,
            "plan": plan,
            "cells": results.plan.get("cells", []),
            "verdict": {
                scale: [vars(finding) for finding in findings]
                for scale, findings in narrative.verdict(results, analysis).items()
            },
            "notes": narrative.remarks(results, analysis),
            **{name: records(getattr(analysis, name)) for name in COLUMNS},
            STUDY_AUDITS: [{**vars(item.audit), "cells": item.cells} for item in analysis.study_audits],
            RUN_AUDITS: records(results.audits.merge(results.runs[[CELL, SEED, CONFIG_HASH]], on=[CELL, SEED])),
            "columns": COLUMNS,
        }
    )


def _plain(value: Any) -> Any:
    """Return the value as JSON has it: NaN and infinity are null, numpy's numbers are Python's."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    if value is pd.NA or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value


def write_all(folder: Path, files: dict[str, bytes]) -> None:
    """Write all files beside their places, then rename each into its own."""
    folder.mkdir(parents=True, exist_ok=True)
    waiting = Path(tempfile.mkdtemp(prefix=".report.", dir=folder))
    try:
        for name, data in files.items():
            with (waiting / name).open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        for name in files:
            os.replace(waiting / name, folder / name)
    finally:
        shutil.rmtree(waiting, ignore_errors=True)
