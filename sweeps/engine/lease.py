"""One driver a study where its storage is shared: a lease in the storage, renewed as long as its driver lives.

Object stores have no locks, and network file systems may not honour them. A lease is a file that says whose it is; who
finds one that nobody renews takes it over, and who finds its own taken stops in order. Should two drivers still run for
a moment, they write the same results.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from analysis.schema import json_bytes
from analysis.terminal import UnreadError
from moe_models.errors import ConfigError, require
from sweeps.engine.lock import STOP
from trainables.store import Store

LEASE_FILE = "driver.lease"
BEAT_SECONDS = 10.0
"""Time between two renewals."""
LEASE_SECONDS = 60.0
"""After so long without one a lease can be taken over."""
LOOK_SECONDS = 25.0
"""How long one looks at a lease that seems old, by clocks that may differ: who lives renews it meanwhile."""
SETTLE_SECONDS = 2.0
"""How long two drivers that begin at once may differ in what they see."""


@contextmanager
def lease(store: Store, place: str, say: Callable[[str], None]) -> Iterator[None]:
    """Hold a study's lease, within its `study_lock`; where another driver takes it over, this one stops in order.

    Args:
        store: the study's storage.
        place: the same, to be shown.
        say: where to say that it was taken over, from another driver or by one.

    Raises:
        ConfigError: another driver holds it.
    """
    holder = _Holder(store, place, say)
    try:
        holder.acquire()
    except OSError as error:
        raise ConfigError(f"the storage {place} cannot be read and written: {error}") from error
    except KeyboardInterrupt:
        holder.release()
        raise
    beats = threading.Thread(target=holder.beat, daemon=True)
    beats.start()
    try:
        yield
    finally:
        holder.ended.set()
        beats.join()
        holder.release()


def lost(store: Store, place: str) -> bool:
    """Return whether another driver has taken over the study that this process held the lease of, and may have ended
    since; False where the storage does not tell."""
    try:
        held = _held(store, place)
    except (OSError, ConfigError):
        return False
    return held is None or (held["host"], held["pid"]) != (socket.gethostname(), os.getpid())


class _Holder:
    def __init__(self, store: Store, place: str, say: Callable[[str], None]) -> None:
        self._store = store
        self._place = place
        self._say = say
        self._me = {"owner": uuid.uuid4().hex, "host": socket.gethostname(), "pid": os.getpid()}
        self.ended = threading.Event()

    def acquire(self) -> None:
        held = self._read()
        if held is not None:
            age = time.time() - held["time"]
            if abs(age) > LEASE_SECONDS:
                time.sleep(LOOK_SECONDS)
            now = self._read()
            if now is not None:
                require(abs(age) > LEASE_SECONDS and now == held, self._refusal(now))
                self._say(f"{_name(held)} has not renewed its lease of this study for {age:.0f} s: it is taken over")
        self._write()
        time.sleep(SETTLE_SECONDS)
        now = self._read()
        if now is None or now["owner"] != self._me["owner"]:
            raise ConfigError(self._refusal(now))

    def beat(self) -> None:
        """Renew the lease until the study ends, or stop the study where it was lost."""
        failing = False
        while not self.ended.wait(BEAT_SECONDS):
            problem, taken = self._renew()
            if taken:
                self._say_aside(f"{taken}: this one stops")
                os.kill(os.getpid(), STOP)
                return
            if problem is not None and not failing:
                self._say_aside(f"the lease of this study cannot be renewed, which is tried again: {problem}")
            failing = problem is not None

    def _say_aside(self, line: str) -> None:
        """Say it in the thread that renews the lease, which goes on where nobody reads."""
        with suppress(UnreadError):
            self._say(line)

    def _renew(self) -> tuple[Exception | None, str]:
        """Write the lease anew; return what went wrong, or how it was lost.

        One that is gone was another's: who took it over while this process slept has ended since.
        """
        try:
            now = self._read()
            if now is None:
                return None, "the lease of this study is gone, as after another driver that took it over"
            if now["owner"] != self._me["owner"]:
                return None, f"{_name(now)} has taken this study over"
            self._write()
        except (OSError, ConfigError) as error:
            return error, ""
        return None, ""

    def release(self) -> None:
        try:
            now = self._read()
            if now is not None and now["owner"] == self._me["owner"]:
                self._store.delete(LEASE_FILE)
        except (OSError, ConfigError) as error:
            self._say(f"the lease of this study stays for {LEASE_SECONDS:.0f} s, it cannot be removed: {error}")

    def _read(self) -> dict[str, Any] | None:
        return _held(self._store, self._place)

    def _write(self) -> None:
        with self._store.writing(LEASE_FILE) as file:
            file.write(json_bytes({**self._me, "time": time.time()}))

    def _refusal(self, held: dict[str, Any] | None) -> str:
        who = "another driver" if held is None else _name(held)
        return (
            f"{who} is running this study in {self._place}: wait for it to end; should it be dead, its lease is free "
            f"{LEASE_SECONDS:.0f} s after it was last renewed"
        )


def _held(store: Store, place: str) -> dict[str, Any] | None:
    content = store.read(LEASE_FILE)
    if content is None:
        return None
    try:
        found: dict[str, Any] = json.loads(content)
        _ = found["owner"], found["host"], found["pid"], found["time"] + 0.0
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{place}/{LEASE_FILE} is no lease of a driver ({error}): delete it") from error
    return found


def _name(held: dict[str, Any]) -> str:
    return f"the driver on {held['host']} (process {held['pid']})"
