"""Studies that lie in folders: how far each is, and how one travels."""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from analysis.runs import parse_plan
from analysis.schema import (
    DIVERGED,
    FAILED,
    FINISHED,
    INVALID,
    PLAN_FILE,
    RECORDS_FOLDER,
    TrialRecord,
    read_failures,
    read_records,
    replacing,
)
from moe_models.errors import ConfigError, require
from sweeps.engine.lock import running_driver

REPORT_SUFFIXES = (".md", ".html", ".csv", ".json", ".tex", ".png")


@dataclass(frozen=True)
class StudyFolder:
    """A study as its folder shows it."""

    folder: Path
    plan: dict[str, Any]
    records: Sequence[TrialRecord]
    failures: Sequence[TrialRecord]
    """Of runs that have no record."""

    @property
    def name(self) -> str:
        """The study's name."""
        return str(self.plan["study"])

    @cached_property
    def counts(self) -> Counter[str]:
        """How many runs ended in which way; `invalid` are those of the finished that an audit found so."""
        counts = Counter(record.status for record in (*self.records, *self.failures))
        counts[INVALID] = sum(bool(record.result_row()[INVALID]) for record in self.records)
        return counts

    @property
    def planned(self) -> int:
        """Runs of the plan."""
        return sum(len(cell["hashes"]) for cell in self.plan["cells"])

    @property
    def missing(self) -> int:
        """Runs of the plan that have not ended."""
        return self.planned - len(self.records) - len(self.failures)

    @property
    def last_end(self) -> datetime | None:
        """When a run last ended; None where none has."""
        times = [path.stat().st_mtime for path in (self.folder / RECORDS_FOLDER).glob("*.json")]
        return datetime.fromtimestamp(max(times)) if times else None

    @property
    def state(self) -> str:
        """In words: running, complete, with failures, or interrupted."""
        driver = running_driver(self.folder)
        if driver is not None:
            return f"running (process {driver.pid} on {driver.host})" if driver.pid else "running"
        if self.missing:
            return "interrupted"
        return "complete" if not self.failures else "complete but for failed runs"


def find_studies(folder: Path, *, single: bool = False) -> list[StudyFolder]:
    """Return the study in a folder, or (unless it has to be a single one) those in its subfolders, by name.

    Raises:
        ConfigError: there is none, or one cannot be read.
    """
    require(folder.is_dir(), f"there is no folder '{folder}'")
    if (folder / PLAN_FILE).exists():
        return [_read(folder)]
    folders = [] if single else sorted(path.parent for path in folder.glob(f"*/{PLAN_FILE}"))
    require(bool(folders), f"{folder} is no study's folder" + ("" if single else " and holds none"))
    return [_read(path) for path in folders]


def _read(folder: Path) -> StudyFolder:
    try:
        plan = parse_plan((folder / PLAN_FILE).read_text(), str(folder / PLAN_FILE))
        return StudyFolder(folder, plan, read_records(folder), read_failures(folder))
    except ValueError as error:
        raise ConfigError(str(error)) from error


def show_status(studies: Sequence[StudyFolder], console: Console) -> None:
    """Print one line a study."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("study", overflow="fold")
    table.add_column("state")
    for name in ("planned", FINISHED, DIVERGED, FAILED, INVALID, "missing"):
        table.add_column(name, justify="right")
    table.add_column("last run ended")
    for study in studies:
        last = study.last_end
        table.add_row(
            study.name,
            study.state,
            str(study.planned),
            *(str(study.counts[name]) for name in (FINISHED, DIVERGED, FAILED, INVALID)),
            str(study.missing),
            "" if last is None else f"{last:%Y-%m-%d %H:%M:%S}",
        )
    console.print(table)


def export_study(study: StudyFolder, path: Path) -> int:
    """Write plan, records, failures and report of a study to a zip file, atomically; return how many files.

    Checkpoints, locks and Tune's scratch stay behind.
    """
    kept = [
        entry
        for entry in sorted(study.folder.rglob("*"))
        if entry.is_file()
        and not any(part.startswith(".") for part in entry.relative_to(study.folder).parts)
        and entry.suffix in REPORT_SUFFIXES
    ]
    with replacing(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry in kept:
            archive.write(entry, Path(study.name, entry.relative_to(study.folder)))
    return len(kept)
