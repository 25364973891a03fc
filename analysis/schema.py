"""The schema of results: column names with their units, the trial record, and how both are written and read.

A leaf of the import graph (standard library only): workers import it without loading pandas or scipy.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

SCHEMA_VERSION = 1
CHECKSUM = b',\n "sha256": "'
"""Stands between what a record says and its own SHA-256."""

# What identifies a run.
STUDY = "study"
CELL = "cell"
SEED = "seed"
SCALE = "scale"
CONFIG_HASH = "config_hash"
DATA_ORDER = "data_order"
"""A factor whose levels are orders of the training data; the seed draws everything else."""

# How it ended.
STATUS = "status"
ERROR = "error"
FINISHED = "finished"
"""Trained through the last scheduled update."""
DIVERGED = "diverged"
"""A loss became NaN or infinite, or was above the plan's limit at the end: an outcome, not a gap."""
FAILED = "failed"
"""An error ended it; running the study again retries it."""
STATUSES = (FINISHED, DIVERGED, FAILED)

# Whether it can be believed.
FLAWS = "flaws"
"""Names of the published flaws that it was trained under, by spaces; empty for a sound run."""
INVALID = "invalid"
"""A severity: the result means nothing. In results: names of the audits that found so, by spaces."""
WARNING = "warning"
"""A severity: the result may not mean what it seems to."""
NOTE = "note"
"""A severity: worth knowing."""
SEVERITIES = (INVALID, WARNING, NOTE)
"""The worst first."""
AUDITS_RUN = "audits"
"""In a record's environment: names of the audits that ran, by commas; absent in a record from before there were any."""

DEVICE = "device"
"""In a record's environment: the kind of device that it was trained on, `cpu` or `cuda`."""
CODE = "code"
"""In a record's environment: a hash over the code that trained it."""
VERSIONS = "versions"
"""In a record's environment: of Python and of the packages that it was trained with."""
HARDWARE = "hardware"
"""In a record's environment: of the machine that it was trained on, in words."""
DIGEST_UPDATES = 3
"""Updates after which a run's parameters are made into its digest."""

# What was measured. Losses are nats per token, times wall-clock seconds, sizes bytes.
STEP = "step"
"""Optimizer updates made (in curves)."""
STEPS = "steps"
"""Optimizer updates made in all (in results)."""
TOKENS = "tokens"
"""Training tokens seen."""
TRAIN_LOSS = "train_loss"
"""Mean cross-entropy over the updates since the last row."""
VAL_LOSS = "val_loss"
"""Mean cross-entropy over the whole validation split."""
VAL_ACCURACY = "val_accuracy"
"""Share of validation tokens whose most likely prediction is right, 0 to 1."""
VAL_PERPLEXITY = "val_perplexity"
"""exp(val_loss)."""
TEST_LOSS = "test_loss"
"""Mean cross-entropy over the whole test split, of a finished run. In records alone, in no row of a curve."""
TEST_ACCURACY = "test_accuracy"
"""Share of test tokens whose most likely prediction is right, 0 to 1."""
LEARNING_RATE = "learning_rate"
"""In force at the last update, of the optimizer that holds the matrices (Muon, or AdamW alone)."""
TOKENS_PER_SECOND = "tokens_per_second"
TRAIN_SECONDS = "train_seconds"
"""Training alone: without start-up and evaluation."""
EVALUATION_SECONDS = "evaluation_seconds"
PEAK_MEMORY_BYTES = "peak_memory_bytes"
"""Of this trial alone; null where it cannot be told apart from an earlier trial's."""
PARAMS_TOTAL = "params_total"
"""Trainable parameters, tied weights counted once."""
PARAMS_DEAD = "params_dead"
"""Of these, parameters that training never reached (a field of a record and a metric of MLflow, no column)."""
PARAMS_ACTIVE = "params_active"
"""Parameters that one token meets: of each MoE layer only top_k routed experts (and shared ones)."""
FLOPS_PER_TOKEN = "flops_per_token"
"""Training FLOPs (forward and backward) for one token."""
LOAD_IMBALANCE = "load_imbalance"
"""Largest over mean expert load, worst layer, since the last row; 1 is perfect, null where there is no MoE."""

CURVE_COLUMNS = (
    STEP, TOKENS, TRAIN_LOSS, VAL_LOSS, VAL_ACCURACY, VAL_PERPLEXITY, LEARNING_RATE, TOKENS_PER_SECOND,
    TRAIN_SECONDS, EVALUATION_SECONDS, PEAK_MEMORY_BYTES, PARAMS_TOTAL, PARAMS_ACTIVE, FLOPS_PER_TOKEN,
    LOAD_IMBALANCE,
)  # fmt: skip

RESULT_COLUMNS_BEFORE_FACTORS = (STUDY, CELL)
RESULT_COLUMNS_AFTER_FACTORS = (
    SEED, STATUS, STEPS, TOKENS, VAL_LOSS, VAL_ACCURACY, VAL_PERPLEXITY, TRAIN_LOSS, TRAIN_SECONDS,
    PEAK_MEMORY_BYTES, PARAMS_TOTAL, PARAMS_ACTIVE, FLOPS_PER_TOKEN, CONFIG_HASH, ERROR, FLAWS, INVALID,
)  # fmt: skip

NONDETERMINISTIC_COLUMNS = (TOKENS_PER_SECOND, TRAIN_SECONDS, EVALUATION_SECONDS, PEAK_MEMORY_BYTES)
"""Columns that may differ between two otherwise identical runs: time, memory, throughput."""

PLAN_FILE = "plan.json"
RECORDS_FOLDER = "records"
FAILURES_FOLDER = "failures"
"""Records of runs that an error ended; running the study again retries them."""
CHECKPOINTS_FOLDER = "checkpoints"
"""What runs have reached that have no record yet: a file a run, by its hash."""
REPLAYS_FOLDER = "replays"
"""Where runs were had again to the last bit: a file a run, with the environments."""
TEST_OPENED_FILE = "test_opened.json"
"""When the final report opened the test split, and with which runs."""
RESULTS_CSV = "results.csv"
RESULTS_JSON = "results.json"
STUDY_AUDITS, RUN_AUDITS = "study_audits", "run_audits"
"""In results.json: what audits found by comparing runs (name, severity, evidence, cells), and about each run."""
REPORT_MD = "report.md"
REPORT_HTML = "report.html"
RANKING_TEX = "ranking.tex"


def result_columns(factors: tuple[str, ...]) -> tuple[str, ...]:
    """Return the columns of `results.csv` in order, one for each factor between the cell and the seed."""
    return (*RESULT_COLUMNS_BEFORE_FACTORS, *factors, *RESULT_COLUMNS_AFTER_FACTORS)


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What one audit found out about a run; an audit that finds nothing leaves nothing."""

    name: str
    severity: str
    """One of SEVERITIES."""
    evidence: str
    """One sentence with its figure."""

    def __post_init__(self) -> None:
        if self.severity not in SEVERITIES:
            raise ValueError(f"severity must be one of {', '.join(SEVERITIES)} but got '{self.severity}'")


@dataclass(frozen=True, kw_only=True)
class DocumentScores:
    """The last evaluation by document, for its own sampling error. Lists of equal length."""

    documents: list[int]
    """Place in its split of each document that was scored, rising."""
    clusters: list[int]
    """Number of each one's group (of `web`: its book), counted over the split: documents of one group are alike."""
    tokens: list[int]
    """Tokens scored of each."""
    losses: list[float]
    """Sum of their losses, nats."""


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """All that is kept of one (cell, seed): written once, when it ends, and never changed."""

    study: str
    cell: str
    scale: str
    factors: dict[str, Any]
    """Level of each declared factor: 0 or 1, or a name."""
    seed: int
    config_hash: str
    """Hash of the full resolved configuration and the seed: the run's address."""
    status: str
    """One of STATUSES."""
    error: str | None = None
    """One line for a failed or diverged run."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """The curve: one mapping of CURVE_COLUMNS a row, by rising step; val_* are null where nothing was evaluated."""
    config: dict[str, Any] = field(default_factory=dict)
    """The resolved configuration (model, training, data)."""
    environment: dict[str, str] = field(default_factory=dict)
    """Package versions, hardware, git commit."""
    flaws: list[str] = field(default_factory=list)
    """Names of the published flaws that it was trained under, sorted; empty for a sound run."""
    audits: list[Audit] = field(default_factory=list)
    """What the audits found on what was really trained."""
    digest: str = ""
    """Of the parameters after DIGEST_UPDATES updates: equal for runs of one model, data and seed. Empty where the run
    had fewer, and in a record from before it was kept."""
    params_dead: int | None = None
    """Parameters that no gradient or no optimizer ever reached, experts that were never chosen apart; null where the
    run did not finish, and in a record from before they were counted."""
    scores: DocumentScores | None = None
    """The last evaluation by document; null where the run did not finish, and in a record from before it was kept."""
    test: dict[str, float | None] = field(default_factory=dict)
    """TEST_LOSS and TEST_ACCURACY after the last scheduled update: sealed until the study is complete; empty where the
    run did not finish, its plan has no final test, and in a record from before there was one."""
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ValueError(f"status must be one of {', '.join(STATUSES)} but got '{self.status}'")
        if self.status == FINISHED and (not self.rows or self.rows[-1].get(VAL_LOSS) is None):
            raise ValueError(f"a {FINISHED} run's last row must have a {VAL_LOSS}")

    def result_row(self) -> dict[str, Any]:
        """Return this run's row of `results.csv`.

        Losses are the last scheduled update's. A run that ended early has no validation result: those are null.
        """
        last = self.rows[-1] if self.rows else {}
        row: dict[str, Any] = {STUDY: self.study, CELL: self.cell, **self.factors, SEED: self.seed}
        row |= {name: last.get(name) for name in RESULT_COLUMNS_AFTER_FACTORS[1:]}
        if self.status != FINISHED:
            row |= dict.fromkeys((VAL_LOSS, VAL_ACCURACY, VAL_PERPLEXITY))
        row |= {
            STATUS: self.status,
            STEPS: last.get(STEP, 0),
            TOKENS: last.get(TOKENS, 0),
            CONFIG_HASH: self.config_hash,
            ERROR: self.error,
            FLAWS: " ".join(self.flaws),
            INVALID: " ".join(audit.name for audit in self.audits if audit.severity == INVALID),
        }
        return row

    def write(self, folder: Path) -> Path:
        """Write the record into `folder` atomically (write, fsync, rename) and return its path."""
        path = folder / f"{self.config_hash}.json"
        with replacing(path) as file:
            file.write(self.to_bytes())
        return path

    def to_bytes(self) -> bytes:
        """Return what `write` writes: JSON whose last entry is the SHA-256 of all that stands before it."""
        return _sealed(json_bytes(dataclasses.asdict(self)).removesuffix(b"\n}\n"))

    @classmethod
    def read(cls, path: Path) -> TrialRecord:
        """Read a record; a file that is not one raises ValueError with the path."""
        return cls.parse(path.read_bytes(), str(path))

    @classmethod
    def parse(cls, content: bytes, path: str) -> TrialRecord:
        """Return the record that a file holds; content that is none raises ValueError with the path.

        So does one of which anything was changed after it was written, a digit of a loss for one.
        """
        try:
            data = {**json.loads(content)}
            is_sealed = data.pop("sha256", None) is not None  # a record from before there was one has none
            if is_sealed and content != _sealed(content.rpartition(CHECKSUM)[0]):
                raise ValueError("it was changed after it was written")
            require_version(data)
            scores = data.get("scores")
            data["audits"] = [Audit(**audit) for audit in data.get("audits", ())]
            return cls(**{**data, "scores": None if scores is None else DocumentScores(**scores)})
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path} is not a trial record: {error}") from error


def require_version(data: Mapping[str, Any]) -> None:
    """Require that a record or a plan has this code's schema, by which its figures are read; ValueError otherwise."""
    version = data.get("schema_version", SCHEMA_VERSION)
    if version != SCHEMA_VERSION:
        raise ValueError(f"its schema_version is {version}, and this code reads {SCHEMA_VERSION}")


def _sealed(before: bytes) -> bytes:
    return before + CHECKSUM + hashlib.sha256(before).hexdigest().encode() + b'"\n}\n'


def read_records(folder: Path) -> list[TrialRecord]:
    """Read all records of a study's folder, ordered by file name."""
    return [TrialRecord.read(path) for path in sorted((folder / RECORDS_FOLDER).glob("*.json"))]


def error_line(error: BaseException) -> str:
    """Return an exception as the one line that a record keeps of it: its type and message."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")


def read_failures(folder: Path) -> list[TrialRecord]:
    """Read what is kept of a study's failed runs, those without a record, ordered by file name."""
    records = folder / RECORDS_FOLDER
    paths = sorted((folder / FAILURES_FOLDER).glob("*.json"))
    return [TrialRecord.read(path) for path in paths if not (records / path.name).exists()]


def read_replays(folder: Path) -> dict[str, list[dict[str, str]]]:
    """Return, by the hash of each run of a study that was had again, in which environments."""
    return {path.stem: json.loads(path.read_text()) for path in sorted((folder / REPLAYS_FOLDER).glob("*.json"))}


def write_json(path: Path, data: Mapping[str, Any] | Sequence[Any]) -> None:
    """Write JSON so that a reader sees the old file or the whole new one, even across a crash."""
    with replacing(path) as file:
        file.write(json_bytes(data))


def json_bytes(data: Mapping[str, Any] | Sequence[Any]) -> bytes:
    """Return data as the JSON that every file of a study is written in."""
    return (json.dumps(data, indent=1, allow_nan=False) + "\n").encode()


TEMPORARY = ".*.tmp"
"""Pattern of the names that `temporary_name` gives: a writer that is killed leaves its file under one."""


def temporary_name(name: str) -> str:
    """Return the name that a file has until it is whole, this thread's own: those of several machines may share it."""
    return f".{name}.{socket.gethostname()}.{threading.get_native_id()}.tmp"


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file that takes `path`'s place, whole, when the block ends; across a crash, too, not after an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(temporary_name(path.name))
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
