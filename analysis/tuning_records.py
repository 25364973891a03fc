"""Records of a search: what was tried, with which hyperparameters, how far it was trained and what came out.

They lie beside a study's own records and are never among them: a trial that the search stopped at a rung is a part of a
longer schedule, whose loss no finished run can be compared with, and a trial that a search chose is no replicate.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from analysis.schema import (
    DIVERGED,
    FAILED,
    FINISHED,
    INVALID,
    LEARNING_RATE,
    STEP,
    TOKENS,
    VAL_LOSS,
    Audit,
    write_json,
)

TUNING_FOLDER = "tuning"
"""In a study's folder: one folder a cell, one record a trial."""
TUNING_FILE = "tuning.json"
"""In a study's folder: the search as it was declared, and what it found."""
RUNNING = "running"
"""Asked for and not ended: a trial that an interruption left goes on with the same hyperparameters."""
STOPPED = "stopped"
"""Ended by the search at a rung, because enough others were better there."""
_DECLARED = (
    "study", "cells", "trials", "random", "sweep", "rungs", "reduction", "updates", "trial_tokens", "seed",
    "guess_loss",
)  # fmt: skip
"""What no declaration of a search lacks, beside its space."""
TUNING_STATUSES = (RUNNING, FINISHED, STOPPED, DIVERGED, FAILED)

SEARCH = "search"
"""The arm that looks for the best: draws depend on what came before, and poor ones are stopped early."""
RANDOM = "random"
"""The arm of independent draws, all trained to the end."""
SWEEP = "sweep"
"""The arm that varies one learning rate and keeps the rest at the best that the search found."""
ARMS = (SEARCH, RANDOM, SWEEP)


@dataclass(frozen=True, kw_only=True)
class TuningRecord:
    """One trial of one cell's search. Written when it is asked for, at each rung, and for the last time at its end."""

    study: str
    cell: str
    arm: str
    """One of ARMS."""
    number: int
    """Counted from 0 within the cell's arm."""
    hyperparameters: dict[str, float]
    varied: str | None = None
    """The learning rate that a trial of a sweep belongs to."""
    seed: int
    config_hash: str
    """Hash of the full configuration and the seed."""
    status: str = RUNNING
    """One of TUNING_STATUSES."""
    error: str | None = None
    """One line for a failed or diverged trial."""
    rungs: dict[str, float] = field(default_factory=dict)
    """Validation loss at each rung reached, by its update."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """The curve up to the end, as in a trial record."""
    config: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    audits: list[Audit] = field(default_factory=list)
    """What the audits found; they judge finished trials alone."""

    def __post_init__(self) -> None:
        for name, known in (("status", TUNING_STATUSES), ("arm", ARMS)):
            value = getattr(self, name)
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)} but got '{value}'")

    @property
    def loss(self) -> float | None:
        """Validation loss after the whole schedule, in nats per token; None for a trial that did not finish."""
        return self.rows[-1][VAL_LOSS] if self.status == FINISHED else None

    @property
    def invalid(self) -> tuple[str, ...]:
        """Names of the audits that found the trial invalid."""
        return tuple(audit.name for audit in self.audits if audit.severity == INVALID)

    @property
    def updates(self) -> int:
        """Optimizer updates made."""
        return self.rows[-1][STEP] if self.rows else 0

    @property
    def tokens(self) -> int:
        """Training tokens spent."""
        return self.rows[-1][TOKENS] if self.rows else 0

    def write(self, folder: Path) -> Path:
        """Write the record into a study's folder, atomically, and return its path."""
        path = folder / TUNING_FOLDER / self.cell / f"{self.arm}-{self.config_hash}.json"
        write_json(path, dataclasses.asdict(self))
        return path

    @classmethod
    def read(cls, path: Path) -> TuningRecord:
        """Read a record; a file that is not one raises ValueError with the path."""
        return cls.parse(path.read_bytes(), str(path))

    @classmethod
    def parse(cls, content: bytes, name: str) -> TuningRecord:
        """Return the record in a file's content; one that is none raises ValueError with the file's name."""
        try:
            data = json.loads(content)
            return cls(**{**data, "audits": [Audit(**audit) for audit in data.get("audits", ())]})
        except (ValueError, TypeError) as error:
            raise ValueError(f"{name} is not a record of a search: {error}") from error


def read_tuning_records(folder: Path) -> list[TuningRecord]:
    """Read all records of the searches in a study's folder, by cell, arm and number; two of one raise ValueError."""
    found: list[TuningRecord] = []
    paths: dict[tuple[str, str, int], Path] = {}
    for path in sorted((folder / TUNING_FOLDER).glob("*/*.json")):
        record = TuningRecord.read(path)
        other = paths.setdefault((record.cell, record.arm, record.number), path)
        if other != path:  # a cell with one trial more, or less, would not have been searched equally
            raise ValueError(f"{path} is a second record of the trial in {other.name}, as two drivers at once leave it")
        found.append(record)
    return sorted(found, key=lambda record: (record.cell, ARMS.index(record.arm), record.number))


def of_arm(records: Iterable[TuningRecord], cell: str, arm: str) -> list[TuningRecord]:
    """Return the records of one cell's arm in their order."""
    return [record for record in records if record.cell == cell and record.arm == arm]


def place_in(low: float, high: float, value: float, *, log: bool) -> float:
    """Return how far a value is from the lower end of a range (0) to the upper (1), on the scale that is drawn from."""
    low, high, place = (math.log(x) if log else x for x in (low, high, value))
    return (place - low) / (high - low)


def best_of(records: Iterable[TuningRecord]) -> TuningRecord | None:
    """Return the finished trial of the search with the lowest loss, the earliest of equals; None where none has.

    One that an audit found invalid is the best only where all are: then the confirmation's runs will be, too.
    """
    finished = [record for record in records if record.arm == SEARCH and record.loss is not None]
    return min(finished, key=lambda record: (bool(record.invalid), record.loss, record.number), default=None)


def tokens_spent(records: Iterable[TuningRecord]) -> int:
    """Return the training tokens of trials, those of stopped and failed ones included."""
    return sum(record.tokens for record in records)


def is_learning_rate(name: str) -> bool:
    """Return whether a hyperparameter is a learning rate."""
    return name.endswith(LEARNING_RATE)


def planned_trials(declared: Mapping[str, Any]) -> dict[str, int]:
    """Return how many trials each arm of a cell's search has, at most where its tokens are bounded."""
    rates = sum(map(is_learning_rate, declared["space"]))
    return {SEARCH: declared["trials"], RANDOM: declared["random"], SWEEP: declared["sweep"] * rates}


def parse_tuning(folder: Path) -> Mapping[str, Any]:
    """Return the declaration of a study's search; a folder without one raises ValueError."""
    path = folder / TUNING_FILE
    try:
        return parse_declaration(path.read_bytes(), str(path))
    except FileNotFoundError as error:
        raise ValueError(f"{folder} has no {TUNING_FILE}: it is no search's folder") from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def parse_declaration(content: bytes, name: str) -> Mapping[str, Any]:
    """Return the declaration in a file's content; one that is none raises ValueError with the file's name."""
    try:
        found: Mapping[str, Any] = json.loads(content)
        _ = found["space"].items(), *(found[name] for name in _DECLARED)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{name} is not the declaration of a search: {error}") from error
    return found
