"""MLflow's copy of a study, made anew from the study's folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from analysis.errors import AnalysisError
from analysis.loading.asked import asked_hashes
from analysis.schema import PLAN_FILE, read_failures, read_records
from analysis.text import counted
from analysis.tracking.searches import TuningTracker
from analysis.tracking.store import require_tracking, ui_command
from analysis.tracking.tracker import MlflowTracker
from analysis.tracking.uris import public
from analysis.tuning_records import RUNNING, TUNING_FILE, read_tuning_records


def sync_mlflow(folder: Path, uri: str) -> list[str]:
    """Copy what a study's folder holds to MLflow: runs, trials of a search, plan and report, each once.

    Returns:
        Lines that say what is there now.

    Raises:
        AnalysisError: the folder is no study's, or the store cannot be written.
    """
    try:
        searched = (folder / TUNING_FILE).exists() and not (folder / PLAN_FILE).exists()
        plan = _plan(folder / (TUNING_FILE if searched else PLAN_FILE))
        records = [*read_records(folder), *read_failures(folder)]
        trials = [record for record in read_tuning_records(folder) if record.status != RUNNING]
    except (ValueError, OSError) as error:
        raise AnalysisError(str(error)) from error
    if not records and not trials:
        raise AnalysisError(f"{folder} has no records: nothing of the study has ended yet")
    complete = not searched and asked_hashes(folder, plan) <= {record.config_hash for record in records}
    require_tracking(uri)
    warnings: list[str] = []
    tracker = MlflowTracker(plan, (records or trials)[0].environment, uri, warnings.append)
    TuningTracker(tracker).copy(trials)
    tracker.close(folder, complete=complete)
    if warnings:
        raise AnalysisError(warnings[0])
    what = counted(len(trials), "trial") if searched else counted(len(records), "run")
    copied = f"{public(uri)} has {what} of {plan['study']}"
    return [copied, ui_command(uri, tracker.experiment_id)]


def _plan(path: Path) -> dict[str, Any]:
    try:
        plan: dict[str, Any] = json.loads(path.read_text())
        _ = plan["study"], plan["script"], plan["title"], plan["data_hash"], plan["protocol"], plan["flaws"]
        _ = [cell["hashes"].values() for cell in plan["cells"] if path.name == PLAN_FILE]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise AnalysisError(f"{path.parent} is no study's folder: {path.name}: {error!r}") from error
    return plan
