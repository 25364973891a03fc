"""Stores: a folder, and the same through a file system of pyarrow."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from pyarrow.fs import LocalFileSystem, SubTreeFileSystem

from moe_models.errors import ConfigError
from trainables.store import Folder, Remote, Store, open_store, require_place

KINDS: dict[str, Callable[[Path], Store]] = {
    "folder": Folder,
    "path": lambda root: open_store(str(root)),
    "url": lambda root: open_store(root.as_uri()),
    "subtree": lambda root: Remote(SubTreeFileSystem(str(root), LocalFileSystem()), "below"),
}


@pytest.fixture(params=KINDS)
def local(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """A store whose files lie under `tmp_path`."""
    return KINDS[request.param](tmp_path)


@pytest.fixture(params=[*KINDS, "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "s3":
        return open_store(request.getfixturevalue("bucket").replace("?", "/below?"))
    return KINDS[request.param](tmp_path)


def put(store: Store, name: str, content: bytes) -> None:
    with store.writing(name) as file:
        file.write(content)


def test_what_was_written_is_read(store: Store) -> None:
    assert store.read("records/a.json") is None
    assert store.open("records/a.json") is None
    assert not store.exists("records/a.json")
    assert store.list("records") == []
    put(store, "records/b.json", b"1")
    put(store, "records/a.json", b"first")
    put(store, "records/a.json", b"second")
    assert store.read("records/a.json") == b"second"
    assert store.list("records") == ["records/a.json", "records/b.json"]
    file = store.open("records/a.json")
    assert file is not None
    with file:
        file.seek(3)
        assert file.read() == b"ond"
    store.delete("records/a.json")
    store.delete("records/a.json")
    assert not store.exists("records/a.json")
    assert not store.exists("records")


@pytest.mark.parametrize("kind", ["folder", "path", "url"])
def test_what_is_written_waits_for_the_disk(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file, and then the folder that names it, before anything else goes on."""
    synced: list[Path] = []
    to_disk = os.fsync

    def noted(descriptor: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")))
        to_disk(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    put(KINDS[kind](tmp_path / "with space"), "records/a.json", b"1")
    file, folder = synced
    assert (file.parent, folder) == (tmp_path / "with space" / "records",) * 2
    assert (folder / "a.json").read_bytes() == b"1"


def fail_while_writing(store: Store) -> None:
    def fail() -> None:
        with store.writing("records/a") as file:
            file.write(b"ha")
            raise RuntimeError("planned")

    with pytest.raises(RuntimeError):
        fail()


def test_an_error_while_writing_leaves_what_was_there(store: Store) -> None:
    fail_while_writing(store)
    assert not store.exists("records/a")
    put(store, "records/a", b"whole")
    fail_while_writing(store)
    assert store.read("records/a") == b"whole"
    assert store.list("records") == ["records/a"]


def test_an_error_while_writing_leaves_no_half(local: Store, tmp_path: Path) -> None:
    fail_while_writing(local)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_readers_see_whole_files_alone(store: Store) -> None:
    contents = [bytes([number]) * (500_000 * (1 + number % 3)) for number in range(40)]
    put(store, "a", contents[0])
    writer = threading.Thread(target=lambda: [put(store, "a", content) for content in contents])
    writer.start()
    seen = []
    while writer.is_alive():
        seen.append(store.read("a"))
    writer.join()
    assert set(seen) <= set(contents)
    assert store.read("a") == contents[-1]


def test_two_threads_may_write_one_file_at_a_time(store: Store) -> None:
    other = threading.Thread(target=put, args=(store, "a", b"the other's"))
    with store.writing("a") as file:
        file.write(b"mine")
        other.start()
        other.join()
        assert store.read("a") == b"the other's"
    assert store.read("a") == b"mine"


def test_what_killed_writers_left_is_swept_and_what_is_being_written_is_not(local: Store, tmp_path: Path) -> None:
    put(local, "records/a.json", b"1")
    (record,) = tmp_path.rglob("a.json")
    old, young = (record.with_name(f".b.json.{host}.7.tmp") for host in ("here", "there"))
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(record, (0, 0))
    os.utime(old, (0, time.time() - 70))
    os.utime(young, (0, time.time() - 50))
    local.sweep(60)
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == {record, young}


@pytest.mark.parametrize("place", ["nonsense://bucket", "s3://", "file://relative"])
def test_a_url_that_nothing_understands_is_one_line(place: str) -> None:
    with pytest.raises(ConfigError, match=r"cannot be used.*give a path"):
        open_store(place)


@pytest.mark.parametrize(
    "place",
    [
        "s3://me:hunter2@bucket/a",
        "s3://me:hun/ter2@bucket/a",
        "s3://me:hunter2#@bucket/a",
        "gs://bucket?access_token=hunter2",
        "abfss://a.b/c?account_key=hunter2",
    ],
)
def test_a_secret_in_a_url_is_refused_and_not_repeated(place: str) -> None:
    with pytest.raises(ConfigError, match=r"--storage.*environment of every node") as caught:
        require_place(place, "--storage")
    assert not {"hun", "ter2"} & {*re.findall("hun|ter2", str(caught.value))}


def test_places_that_can_be_shown_pass() -> None:
    for place in ("/nfs/a", "relative/b", "s3://bucket/a?region=eu-west-1&endpoint_override=localhost:9", "gs://b/a"):
        require_place(place, "--storage")
    with pytest.raises(ConfigError, match="--storage is empty"):
        require_place(" ", "--storage")
