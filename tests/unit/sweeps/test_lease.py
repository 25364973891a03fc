"""The lease by which one driver at a time runs a study whose storage is shared."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from analysis.terminal import UnreadError
from moe_models.errors import ConfigError
from sweeps.engine import lease as module
from sweeps.engine.lease import LEASE_FILE, lease, lost
from sweeps.engine.lock import _stoppable
from sweeps.engine.trials import _signals
from trainables.store import Store, open_store


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A third of what it is, so that a busy machine is in time, and the waits a hundredth; within a study's lock."""
    for name, seconds in {"BEAT": 0.05, "LEASE": 20.0, "LOOK": 0.25, "SETTLE": 0.1}.items():
        monkeypatch.setattr(module, f"{name}_SECONDS", seconds)
    with _stoppable():
        yield


@pytest.fixture(params=["path", "url", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "s3":
        return open_store(request.getfixturevalue("bucket"))
    return open_store(str(tmp_path) if request.param == "path" else tmp_path.as_uri())


def held(store: Store) -> dict[str, object]:
    content = store.read(LEASE_FILE)
    assert content is not None
    found: dict[str, object] = json.loads(content)
    return found


def wait_until(true: Callable[[], bool]) -> None:
    """Wait for what another thread does, as long as a busy machine may take."""
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.02)


def leave(store: Store, age: float) -> None:
    """Leave the lease of a driver that died so many seconds ago."""
    with store.writing(LEASE_FILE) as file:
        file.write(json.dumps({"owner": "a", "host": "there", "pid": 7, "time": time.time() - age}).encode())


def test_a_lease_is_renewed_and_given_back(store: Store) -> None:
    said: list[str] = []
    with lease(store, "place", said.append):
        first = held(store)
        wait_until(lambda: held(store)["time"] > first["time"])  # type: ignore[operator]
        second = held(store)
        assert (second["owner"], second["pid"]) == (first["owner"], first["pid"])
        with (
            pytest.raises(ConfigError, match=r"\(process \d+\) is running this study in place"),
            lease(store, "place", said.append),
        ):
            raise AssertionError("two hold it")
        assert held(store)["owner"] == first["owner"]
    assert store.read(LEASE_FILE) is None
    assert said == []


def test_a_dead_drivers_lease_is_refused_while_fresh_then_taken_over(store: Store) -> None:
    said: list[str] = []
    leave(store, age=0.1)
    with (
        pytest.raises(ConfigError, match=r"the driver on there \(process 7\) is running"),
        lease(store, "place", said.append),
    ):
        raise AssertionError("it was fresh")
    leave(store, age=30)
    with lease(store, "place", said.append):
        assert held(store)["host"] != "there"
    assert len(said) == 1
    assert re.fullmatch(
        r"the driver on there \(process 7\) has not renewed its lease of this study for [3-9]\d s: it is taken over",
        said[0],
    )


@pytest.mark.parametrize("skew", [-500.0, 500.0], ids=["behind", "ahead"])
def test_a_driver_that_lives_keeps_its_lease_however_wrong_its_clock(store: Store, skew: float) -> None:
    with lease(store, "place", print):
        mine = held(store)
        with store.writing(LEASE_FILE) as file:  # as a clock that differs would have written it
            file.write(json.dumps({**mine, "time": time.time() + skew}).encode())
        with pytest.raises(ConfigError, match="is running this study"), lease(store, "place", print):
            raise AssertionError("it was alive")
        assert held(store)["owner"] == mine["owner"]


def test_a_driver_can_ask_whether_its_lease_was_taken(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BEAT_SECONDS", 600.0)
    with lease(store, "place", print):
        assert not lost(store, "place")
        leave(store, age=0)
        assert lost(store, "place")
        store.delete(LEASE_FILE)  # the other has ended
        assert lost(store, "place")
        with store.writing(LEASE_FILE) as file:
            file.write(b"[]")
        assert not lost(store, "place")
        store.delete(LEASE_FILE)


def lose(store: Store, to_another: bool, said: list[str]) -> None:
    """Take a driver's lease away, wait until it says so, and then for the signal that follows."""

    def said_so() -> bool:
        # Again and again: the driver may have been about to renew it.
        if to_another:
            leave(store, age=0)
        else:
            store.delete(LEASE_FILE)
        return any("this one stops" in line for line in said)

    wait_until(said_so)
    time.sleep(1)


@pytest.mark.parametrize("other", ["runs", "has ended"])
def test_a_driver_whose_lease_was_taken_stops_and_leaves_it(store: Store, other: str) -> None:
    said: list[str] = []
    with pytest.raises(KeyboardInterrupt), lease(store, "place", said.append):
        lose(store, other == "runs", said)
    if other == "runs":
        assert said == ["the driver on there (process 7) has taken this study over: this one stops"]
        assert held(store)["host"] == "there"
    else:
        assert said[-1] == "the lease of this study is gone, as after another driver that took it over: this one stops"
        assert all("is tried again" in line for line in said[:-1]), "as where it went while it was read"
        assert store.read(LEASE_FILE) is None


@pytest.mark.parametrize("asked", [False, True], ids=["", "stops already"])
def test_trials_stop_in_order_where_the_lease_is_lost(tmp_path: Path, asked: bool) -> None:
    store, said = open_store(str(tmp_path)), list[str]()
    stop = SimpleNamespace(asked=asked)
    with lease(store, "place", said.append), _signals(stop, said.append):  # type: ignore[arg-type]
        lose(store, False, said)
        assert stop.asked
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert [line for line in said if "once more" in line] == ([] if asked else ["stopping; once more to stop at once"])


def test_a_signal_stops_trials_in_order_where_nobody_reads() -> None:
    """Ctrl-C in a terminal ends what a study's output is piped into, too."""
    stop = SimpleNamespace(asked=False)

    def unread(line: str) -> None:
        raise UnreadError

    with _signals(stop, unread):  # type: ignore[arg-type]
        signal.raise_signal(signal.SIGINT)
    assert stop.asked


def test_a_lease_is_kept_where_nobody_reads(tmp_path: Path) -> None:
    store, said = open_store(str(tmp_path)), list[str]()

    def unread(line: str) -> None:
        said.append(line)
        raise UnreadError

    with lease(store, "place", unread):
        ours = json.dumps(held(store)).encode()
        for content in (b"[]", ours):  # it cannot be read for a while, which is said
            time.sleep(0.5)
            (tmp_path / LEASE_FILE).write_bytes(content)
        assert said
        first = held(store)
        wait_until(lambda: held(store)["time"] > first["time"])  # type: ignore[operator]
    with pytest.raises(KeyboardInterrupt), lease(store, "place", unread):
        lose(store, True, said)
    leave(store, age=100)
    with pytest.raises(UnreadError), lease(store, "place", unread):
        raise AssertionError("it went on")


def test_of_two_drivers_that_begin_at_once_one_runs(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one writes its lease while this one waits to see whether anybody does."""
    wait = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: (leave(store, age=0), wait(seconds)))
    with (
        pytest.raises(ConfigError, match=r"the driver on there \(process 7\) is running"),
        lease(store, "place", print),
    ):
        raise AssertionError("the other one was later")


def test_who_is_interrupted_while_it_looks_leaves_no_lease(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: float) -> None:
        raise KeyboardInterrupt  # no signal: where tests run in the background of a script, SIGINT is ignored

    # Its own time alone: a server of the tests sleeps, too.
    monkeypatch.setattr(module, "time", SimpleNamespace(time=time.time, sleep=interrupted))
    with pytest.raises(KeyboardInterrupt), lease(store, "place", print):
        raise AssertionError("it went on")
    assert store.read(LEASE_FILE) is None


def test_a_lease_that_is_none_and_a_place_that_cannot_be_written_are_one_line(tmp_path: Path) -> None:
    (tmp_path / LEASE_FILE).write_text("nonsense")
    store = open_store(str(tmp_path))
    with pytest.raises(ConfigError, match=r"place/driver\.lease is no lease of a driver"), lease(store, "place", print):
        pass
    (tmp_path / "file").write_text("")
    store = open_store(str(tmp_path / "file" / "below"))
    with pytest.raises(ConfigError, match="the storage place cannot be read and written"), lease(store, "place", print):
        pass


def test_a_store_that_fails_for_a_while_is_said_once(tmp_path: Path) -> None:
    store, said = open_store(str(tmp_path / "place")), list[str]()
    with lease(store, "place", said.append):
        (tmp_path / "place").rename(tmp_path / "away")
        (tmp_path / "place").write_text("in the way")
        wait_until(lambda: bool(said))
        time.sleep(0.2)  # some more beats, of which nothing is said
        (tmp_path / "place").unlink()
        (tmp_path / "away").rename(tmp_path / "place")
        before = held(store)
        wait_until(lambda: held(store)["time"] > before["time"])  # type: ignore[operator]
    assert len(said) == 1
    assert "cannot be renewed, which is tried again" in said[0]
