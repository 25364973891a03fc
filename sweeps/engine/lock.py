"""One driver a study: a lock that the operating system frees when its driver dies, and who holds it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType

from filelock import FileLock, Timeout

from analysis.schema import write_json
from moe_models.errors import ConfigError, require

LOCK_FILE = ".lock"
DRIVER_FILE = ".driver.json"
LOCK_SECONDS = 1.0
"""How long a driver waits for its lock: who asks whether a study is driven holds it for a moment."""
STOP = signal.SIGUSR2
"""Stops a driver in order, however often it comes: a second SIGINT stops at once what stops already, and is ignored in
the background of a script; SIGUSR1 is Tune's."""
STOP_SECONDS = 120.0
"""How long a cancelled driver may take to keep what its runs have reached, and to write what it has."""


@dataclass(frozen=True)
class Driver:
    """The process that runs a study."""

    pid: int
    host: str


@contextmanager
def study_lock(folder: Path) -> Iterator[None]:
    """Hold a study's lock, and say in its folder who does. What it made is gone where nothing was written beside it.

    Raises:
        ConfigError: another process holds it.
    """
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / LOCK_FILE, timeout=LOCK_SECONDS), _stoppable():
            write_json(folder / DRIVER_FILE, asdict(Driver(os.getpid(), socket.gethostname())))
            try:
                yield
            finally:
                (folder / DRIVER_FILE).unlink(missing_ok=True)
                _remove(folder, made)
    except Timeout as error:
        raise ConfigError(f"another process is running this study ({folder}): wait for it to end") from error


@contextmanager
def _stoppable() -> Iterator[None]:
    """Hear the first STOP as if it were Ctrl-C: what stops already is to end in order."""

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(STOP, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = signal.signal(STOP, stop)
    try:
        yield
    finally:
        # By itself it would end a process that leaves already, as one that `cancel` had just read about.
        signal.signal(STOP, signal.SIG_IGN if before is signal.SIG_DFL else before)


def _remove(folder: Path, made: Sequence[Path]) -> None:
    """Remove folders that were made for a lock that is held, innermost first, while they are empty."""
    if made and os.listdir(folder) == [LOCK_FILE]:
        # Who has it open by now is refused: `FileLock` takes no file that is no longer in its place.
        (folder / LOCK_FILE).unlink()
        with contextlib.suppress(OSError):  # something is in one of them
            for place in made:
                place.rmdir()


def running_driver(folder: Path) -> Driver | None:
    """Return who runs a study; None where nobody does, whatever a killed driver left behind."""
    if not _is_held(folder / LOCK_FILE):
        return None
    try:
        return Driver(**json.loads((folder / DRIVER_FILE).read_text()))
    except (OSError, ValueError, TypeError):
        return Driver(pid=0, host="")  # it begins or ends just now


def _is_held(path: Path) -> bool:
    """Return whether a process holds a lock. `FileLock` would make a file that is not there, in a folder just gone."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def cancel(folder: Path) -> bool:
    """Stop a study in order, as one Ctrl-C does in its terminal, and wait for it to end; False where nobody runs it.

    Raises:
        ConfigError: its driver runs on another machine, or does not end.
    """
    driver = running_driver(folder)
    if driver is None:
        return False
    require(driver.pid > 0, f"the driver of {folder} begins or ends just now: try again")
    host = socket.gethostname()
    require(driver.host == host, f"the driver of {folder} runs on {driver.host}, not here ({host}): cancel it there")
    os.kill(driver.pid, STOP)
    deadline = time.monotonic() + STOP_SECONDS
    while running_driver(folder) is not None:
        require(time.monotonic() < deadline, f"the driver of {folder} (process {driver.pid}) does not end")
        time.sleep(0.2)
    return True
