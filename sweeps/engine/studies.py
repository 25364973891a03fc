"""Studies that lie in folders: how far each is, and how one travels."""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.console import Console

from analysis.loading.asked import asked_hashes
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
from analysis.study.runs import parse_plan
from analysis.terminal import fits, plain_table, say
from analysis.text import counted, listing
from analysis.tuning_records import (
    RUNNING,
    TUNING_FILE,
    TUNING_FOLDER,
    TuningRecord,
    parse_tuning,
    planned_trials,
    read_tuning_records,
)
from moe_models.errors import ConfigError, require
from sweeps.engine.lock import running_driver

STUDY_FILES = (PLAN_FILE, TUNING_FILE)
"""One of these makes a folder a study's."""
REPORT_SUFFIXES = (".md", ".html", ".csv", ".json", ".tex", ".png")


@dataclass(frozen=True)
class StudyFolder:
    """A study as its folder shows it."""

    folder: Path
    plan: dict[str, Any]
    records: Sequence[TrialRecord]
    failures: Sequence[TrialRecord]
    """Of runs that have no record."""
    searched: tuple[str, ...] = ()
    """Cells whose search has not come to its confirmation, where others' has."""

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

    @cached_property
    def asked(self) -> set[str]:
        """Hashes of the runs that are asked for; a race asks for no more of what is decided."""
        return asked_hashes(self.folder, self.plan)

    @property
    def planned(self) -> int:
        """Runs that are asked for."""
        return len(self.asked)

    @property
    def missing(self) -> int:
        """Runs that are asked for and have not ended."""
        return len(self.asked - {record.config_hash for record in (*self.records, *self.failures)})

    @property
    def left(self) -> str:
        """How many have not ended, in words."""
        return counted(self.missing, "run")

    @property
    def last_end(self) -> datetime | None:
        """When a run last ended; None where none has."""
        return _last_written((self.folder / RECORDS_FOLDER).glob("*.json"))

    @property
    def state(self) -> str:
        """In words: running, complete, with failures, or interrupted."""
        if driven := _driven(self.folder):
            return driven
        if self.searched:
            return f"interrupted in the search of {listing(list(self.searched))}"
        if self.missing:
            return "interrupted"
        return "complete" if not self.failures else "complete but for failed runs"


@dataclass(frozen=True)
class SearchFolder:
    """A search whose best hyperparameters are not being confirmed yet: until then its folder has no plan."""

    folder: Path
    declared: Mapping[str, Any]
    trials: Sequence[TuningRecord]

    @property
    def name(self) -> str:
        """The study's name."""
        return str(self.declared["study"])

    @cached_property
    def counts(self) -> Counter[str]:
        """How many trials ended in which way."""
        return Counter(trial.status for trial in self.trials if trial.status != RUNNING)

    @property
    def planned(self) -> int:
        """Trials that are declared, at most where their tokens are bounded."""
        return len(self.declared["cells"]) * sum(planned_trials(self.declared).values())

    @property
    def missing(self) -> int:
        """Trials that are declared and have not ended."""
        return self.planned - self.counts.total()

    @property
    def left(self) -> str:
        """How many have not ended, in words."""
        return counted(self.missing, "trial")

    @property
    def last_end(self) -> datetime | None:
        """When a trial last ended or reached a rung; None where none has."""
        return _last_written((self.folder / TUNING_FOLDER).glob("*/*.json"))

    @property
    def state(self) -> str:
        """In words: how far it is, and whether it is running."""
        far = f"search, {self.counts.total()} of {counted(self.planned, 'trial')}"
        return f"{far}, {_driven(self.folder) or 'interrupted'}"


@dataclass(frozen=True)
class UnreadFolder:
    """A study of which nothing can be told but its state: it cannot be read, or has just begun."""

    folder: Path
    state: str
    error: str = ""
    """Why it cannot be read; empty where it can, once it has a plan."""

    @property
    def name(self) -> str:
        """The study's name."""
        return self.folder.name


Found = StudyFolder | SearchFolder | UnreadFolder


def _driven(folder: Path) -> str:
    """Return who drives a study now, in words; empty where nobody does."""
    driver = running_driver(folder)
    if driver is None:
        return ""
    return f"running (process {driver.pid} on {driver.host})" if driver.pid else "running"


def _last_written(paths: Iterable[Path]) -> datetime | None:
    times = [path.stat().st_mtime for path in paths]
    return datetime.fromtimestamp(max(times)) if times else None


def is_study(folder: Path) -> bool:
    """Return whether a folder is a study's: one that has just begun is none yet."""
    return any((folder / name).exists() for name in STUDY_FILES)


def find_studies(folder: Path) -> list[Found]:
    """Return the study in a folder, or those in its subfolders, by name.

    Raises:
        ConfigError: there is none.
    """
    require(folder.is_dir(), f"there is no folder '{folder}'")
    if found := _look(folder):
        return [found]
    studies = [found for path in sorted(folder.iterdir()) if path.is_dir() and (found := _look(path))]
    require(bool(studies), f"{folder} is no study's folder and holds none")
    return studies


def find_study(folder: Path) -> StudyFolder | SearchFolder:
    """Return the study in a folder.

    Raises:
        ConfigError: there is none, or it cannot be read.
    """
    require(folder.is_dir(), f"there is no folder '{folder}'")
    require(is_study(folder), f"{folder} is no study's folder")
    try:
        return _read(folder)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def find_plan(folder: Path) -> StudyFolder:
    """Return the study in a folder, which has to have a plan.

    Raises:
        ConfigError: there is none, it cannot be read, or it is a search that has not come to its confirmation.
    """
    study = find_study(folder)
    if isinstance(study, SearchFolder):
        raise ConfigError(f"{study.name} has no runs yet: it is a {study.state}")
    return study


def _look(folder: Path) -> Found | None:
    """Return the study in a folder, read or not; None where there is none."""
    try:
        if is_study(folder):
            return _read(folder)
    except (OSError, ValueError) as error:
        return UnreadFolder(folder, "cannot be read", str(error))
    driven = _driven(folder)
    return UnreadFolder(folder, f"{driven}, without a plan yet") if driven else None


def _read(folder: Path) -> StudyFolder | SearchFolder:
    if not (folder / PLAN_FILE).exists():
        return SearchFolder(folder, parse_tuning(folder), read_tuning_records(folder))
    plan = parse_plan((folder / PLAN_FILE).read_text(), str(folder / PLAN_FILE))
    declared = parse_tuning(folder)["cells"] if (folder / TUNING_FILE).exists() else ()
    planned = {cell["name"] for cell in plan["cells"]}
    searched = tuple(cell for cell in declared if cell not in planned)
    return StudyFolder(folder, plan, read_records(folder), read_failures(folder), searched)


def show_status(studies: Sequence[Found], console: Console) -> None:
    """Print one line a study; where the terminal is too narrow for that, two, without the counts that are 0."""
    counts = (FINISHED, DIVERGED, FAILED, INVALID)
    table = plain_table(["study", "state"], ["planned", *counts, "missing"])
    table.add_column("last run ended", overflow="fold")
    for study in studies:
        if isinstance(study, UnreadFolder):
            table.add_row(study.name, study.state)
            continue
        last = study.last_end
        table.add_row(
            study.name,
            study.state,
            str(study.planned),
            *(str(study.counts[name]) for name in counts),
            str(study.missing),
            "" if last is None else f"{last:%Y-%m-%d %H:%M:%S}",
        )
    if fits(console, table):
        console.print(table)
        return
    for study in studies:
        if isinstance(study, UnreadFolder):
            say(console, study.name)
            say(console, f"  {study.state}")
            continue
        found = [f"{study.counts[name]} {name}" for name in counts if study.counts[name]]
        found += [f"{study.missing} missing"] if study.missing else []
        when = "" if study.last_end is None else f"; last run ended {study.last_end:%Y-%m-%d %H:%M:%S}"
        say(console, study.name)
        say(console, f"  {study.state}: of {study.planned} planned {', '.join(found) or 'none ended'}{when}")


def export_study(study: StudyFolder | SearchFolder, path: Path) -> int:
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
