"""A study's storage (`--storage`) beside its folder: where workers write, and what the driver brings from there.

The folder is what everything else reads. Without a storage of its own a study has its folder alone, workers write
there, and nothing here does anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from analysis.schema import CHECKPOINTS_FOLDER, FAILURES_FOLDER, PLAN_FILE, RECORDS_FOLDER, TrialRecord, replacing
from analysis.tuning_records import RUNNING, TUNING_FOLDER, TuningRecord
from moe_models.errors import ConfigError, require
from sweeps.engine.plan_file import follows, plan_of, read_plan
from trainables.store import Folder, Store, is_url, open_store

KEPT_FOLDERS = (RECORDS_FOLDER, FAILURES_FOLDER)
READS_AT_A_TIME = 16
Record = TypeVar("Record")


class Storage:
    """Where the runs of one study are kept.

    Args:
        folder: the study's.
        root: `--storage`, under which the study has a place of its own; None keeps all in the folder.

    Attributes:
        folder: the study's.
        place: path or URL to which workers write.
        apart: whether that is not the study's folder.
    """

    def __init__(self, folder: Path, root: str | None) -> None:
        self.folder = folder
        self.apart = root is not None
        self.place = str(folder) if root is None else _below(root, folder.name)
        self.store: Store = open_store(self.place)
        self._folder = Folder(folder)

    def fetch(self, name: str) -> bool:
        """Have a file in the folder, from the storage if need be; False where neither has it."""
        if self._folder.exists(name):
            return True
        content = self.store.read(name) if self.apart else None
        if content is None:
            return False
        self._take(name, content)
        return True

    def record(self, name: str) -> TrialRecord | None:
        """Return a record, which the folder has from then on; None where neither has it.

        Raises:
            ConfigError: it is none.
        """
        content = self._folder.read(name) if self.fetch(name) else None
        return None if content is None else _parsed(TrialRecord.parse, content, str(self.folder / name))

    def names(self, folder: str) -> list[str]:
        """Return the names of the files that either has in a folder, sorted."""
        return sorted({*self.store.list(folder), *self._folder.list(folder)})

    def keep(self, name: str) -> None:
        """Have a file of the folder in the storage, too."""
        content = self._folder.read(name) if self.apart else None
        if content is not None:
            with self.store.writing(name) as file:
                file.write(content)

    def forget(self, name: str) -> None:
        """Remove a file from both."""
        self.store.delete(name)
        self._folder.delete(name)

    def sweep(self, age: float) -> None:
        """Remove from both what killed writers left half written, so many seconds ago or more.

        And what was kept of runs on their way to a record that is there by now: the checkpoint of a worker that died
        after it wrote that, the failure of a run that another driver, with another folder, has tried again.
        """
        self._folder.sweep(age)
        if self.apart:
            self.store.sweep(age)
        ended = {Path(name).stem for name in self.names(RECORDS_FOLDER)}
        self.drop_checkpoints(ended)
        for name in self.names(FAILURES_FOLDER):
            if Path(name).stem in ended:
                self.forget(name)

    def drop_checkpoints(self, ended: Iterable[str]) -> None:
        """Remove what runs had kept on their way, given the hashes of such as have ended."""
        names = {f"{CHECKPOINTS_FOLDER}/{config_hash}.pt" for config_hash in ended}
        for name in sorted(names.intersection(self.store.list(CHECKPOINTS_FOLDER))):
            self.store.delete(name)

    def missing(self) -> list[str]:
        """Return the names of records and failures that the storage has and the folder lacks.

        Raises:
            ConfigError: the storage cannot be read.
        """
        if not self.apart:
            return []
        with self._reading():
            return [name for folder in KEPT_FOLDERS for name in _beyond(self.store, self._folder, folder)]

    def plan(self) -> dict[str, Any]:
        """Return the plan of the study as either has it, the folder's first; empty where neither has one.

        Raises:
            ConfigError: it is none, or the storage cannot be read.
        """
        ours = read_plan(self.folder / PLAN_FILE)
        if ours or not self.apart:
            return ours
        with self._reading():
            theirs = self.store.read(PLAN_FILE)
        return {} if theirs is None else plan_of(theirs, _below(self.place, PLAN_FILE))

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ConfigError(f"the storage {self.place} cannot be read: {error}") from error

    def exchange(self) -> bool:
        """Have in both what one of them lacks: the plan, records and failures; return whether the folder lacked any.

        So a driver that died, or whose machine is gone, loses nothing that a run had written.

        Raises:
            ConfigError: the plans of the two do not follow from one another, or one of the two, or a record in the
            storage, is none.
        """
        if not self.apart:
            return False
        brought = self._exchange_plans()
        missing = self.missing()
        with ThreadPoolExecutor(READS_AT_A_TIME) as readers:
            for name, content in zip(missing, readers.map(self.store.read, missing), strict=True):
                if content is not None:
                    self._take(name, content)
        for folder in KEPT_FOLDERS:
            for name in _beyond(self._folder, self.store, folder):
                self.keep(name)
        return brought or bool(missing)

    def exchange_trials(self, cells: Iterable[str]) -> None:
        """Have in both the records of some cells' searches; of two of one trial the one that is further.

        Raises:
            ConfigError: a record in the storage is none.
        """
        if not self.apart:
            return
        for folder in (f"{TUNING_FOLDER}/{cell}" for cell in cells):
            for name in self.names(folder):
                ours, theirs = self._folder.read(name), self.store.read(name)
                if theirs is not None and (ours is None or self._is_further(name, theirs, ours)):
                    self._take(name, theirs, TuningRecord.parse)
                elif theirs != ours:
                    self.keep(name)

    def _is_further(self, name: str, theirs: bytes, ours: bytes) -> bool:
        try:
            one, other = (TuningRecord.parse(content, name) for content in (theirs, ours))
        except ValueError:
            return True  # ours is none, or theirs is, which taking it says
        return (one.status != RUNNING, len(one.rungs)) > (other.status != RUNNING, len(other.rungs))

    def _exchange_plans(self) -> bool:
        ours, theirs = self._folder.read(PLAN_FILE), self.store.read(PLAN_FILE)
        if theirs is None or theirs == ours:
            self.keep(PLAN_FILE)
            return False
        later = plan_of(theirs, _below(self.place, PLAN_FILE))
        if ours is not None:
            mine = plan_of(ours, str(self.folder / PLAN_FILE))
            if follows(mine, later):
                self.keep(PLAN_FILE)
                return False
            require(
                follows(later, mine),
                f"the study in {self.folder} and the one in {self.place} were extended apart from one another: give "
                "another --output to go on with the one in the storage, or another --storage to go on with the other",
            )
        self._take(PLAN_FILE, theirs)
        return True

    def _take(self, name: str, content: bytes, parse: Callable[[bytes, str], object] = TrialRecord.parse) -> None:
        if name.endswith(".json") and name != PLAN_FILE:
            _parsed(parse, content, _below(self.place, name))
        with replacing(self.folder / name) as file:
            file.write(content)


def _parsed(parse: Callable[[bytes, str], Record], content: bytes, path: str) -> Record:
    try:
        return parse(content, path)
    except ValueError as error:
        raise ConfigError(f"{error}; delete it to train that run again") from error


def _below(root: str, name: str) -> str:
    """Return what lies below a place, whose settings may follow a `?`; a path for other current folders, too."""
    if not is_url(root):
        return str(Path(root).expanduser().absolute() / name)
    place, mark, settings = root.partition("?")
    return f"{place.rstrip('/')}/{name}{mark}{settings}"


def _beyond(store: Store, other: Store, folder: str) -> Iterable[str]:
    """Return the names of the files in a folder of one store that another lacks."""
    return sorted({*store.list(folder)} - {*other.list(folder)})
