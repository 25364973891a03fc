"""Where a study's records and checkpoints are kept: a folder, or a place that only a URL names (S3, GCS, HDFS).

What is written is seen whole or not at all, whoever reads and whatever dies. URLs are those of `pyarrow.fs`, as for
Ray's own storage; they hold no password (`require_place`), so that they may be shown anywhere.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol, TypeVar
from urllib.parse import parse_qsl

from analysis.schema import TEMPORARY, replacing, temporary_name
from moe_models.errors import ConfigError, require

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

OBJECT_STORES = ("s3", "gcs", "abfs")
"""Kinds of file system in which a file appears whole when its writer closes it, and nothing can be renamed."""
SETTINGS = ("region", "scheme", "endpoint_override", "anonymous", "allow_bucket_creation", "enable_tls")
"""What a URL may set: nothing that is a secret."""
Place = TypeVar("Place", str, Path)


class Store(Protocol):
    """Files by name: parts separated by `/`, relative to the store's place."""

    def read(self, name: str) -> bytes | None:
        """Return a file's content; None where there is no such file."""

    def open(self, name: str) -> BinaryIO | None:
        """Return a file to read from any place in it; None where there is no such file."""

    def writing(self, name: str) -> AbstractContextManager[BinaryIO]:
        """Return a file to write, in a with-block: it is there, whole, once the block has ended without an error."""

    def delete(self, name: str) -> None:
        """Remove a file, where there is one."""

    def exists(self, name: str) -> bool:
        """Return whether there is such a file."""

    def list(self, folder: str) -> list[str]:
        """Return the names of the files in a folder, sorted; none where there is no such folder."""

    def sweep(self, age: float) -> None:
        """Remove what killed writers left half written, so many seconds ago or more by the clock of the file system."""


def is_url(place: str) -> bool:
    """Return whether a place is a URL, and not a path."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", place) is not None


def require_place(place: str, option: str) -> None:
    """Refuse a place that holds a secret, which command lines, logs and process titles would show.

    Raises:
        ConfigError: it does; the line does not repeat it.
    """
    if not is_url(place):
        require(place.strip() != "", f"{option} is empty: give a path or a URL")
        return
    held = place.partition("://")[2].rpartition("@")[0]  # a password may hold what would otherwise end a server's name
    secret = "credentials belong into the environment of every node, or into a role of the machines"
    require(":" not in held, f"{option}: its URL holds a password, which everybody could read: {secret}")
    query = place.partition("?")[2]
    unknown = [name for name, _ in parse_qsl(query, keep_blank_values=True) if name not in SETTINGS]
    require(not unknown, f"{option}: its URL may set {', '.join(SETTINGS)}, but not {', '.join(unknown)}; {secret}")


def open_store(place: str) -> Store:
    """Return the store at a path or URL; it is made by the first file that is written.

    Raises:
        ConfigError: no file system understands the URL, or the one that does cannot be used.
    """
    if not is_url(place):
        return Folder(Path(place))
    from pyarrow import ArrowException
    from pyarrow.fs import FileSystem

    try:
        files, root = FileSystem.from_uri(place)
    except (ArrowException, OSError) as error:
        why = " ".join(str(error).split())
        raise ConfigError(f"the storage {place} cannot be used: {why}; give a path, s3://, gs:// or file://") from error
    require(root != "", f"the storage {place} cannot be used: it names no bucket; give a path, or s3://bucket/folder")
    return Remote(files, root)


class Folder:
    """A store that is a folder, of this machine or of a network file system."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def read(self, name: str) -> bytes | None:
        """Return a file's content."""
        try:
            return (self.root / name).read_bytes()
        except FileNotFoundError:
            return None

    def open(self, name: str) -> BinaryIO | None:
        """Open a file."""
        try:
            return (self.root / name).open("rb")
        except FileNotFoundError:
            return None

    @contextmanager
    def writing(self, name: str) -> Iterator[BinaryIO]:
        """Write a file, which survives a loss of power once the block has ended."""
        with replacing(self.root / name) as file:
            yield file

    def delete(self, name: str) -> None:
        """Remove a file."""
        (self.root / name).unlink(missing_ok=True)

    def exists(self, name: str) -> bool:
        """Return whether there is such a file."""
        return (self.root / name).is_file()

    def list(self, folder: str) -> list[str]:
        """Return the names of the files in a folder."""
        return sorted(f"{folder}/{path.name}" for path in (self.root / folder).glob("[!.]*"))

    def sweep(self, age: float) -> None:
        """Remove what killed writers left."""
        probe = self.root / temporary_name("sweep")
        self.root.mkdir(parents=True, exist_ok=True)
        probe.touch()
        left: dict[Path, float] = {}
        for path in self.root.rglob(TEMPORARY):
            with suppress(FileNotFoundError):  # it is whole now, or another driver was faster
                left[path] = path.stat().st_mtime
        for path in _old(left, probe, age):
            path.unlink(missing_ok=True)


class Remote:
    """A store in a file system of `pyarrow.fs`.

    Args:
        files: the file system.
        root: the store's place in it.
    """

    def __init__(self, files: FileSystem, root: str) -> None:
        self._files = files
        self._root = root.rstrip("/")

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def read(self, name: str) -> bytes | None:
        """Return a file's content, all of it from before it was replaced, or from after.

        An object store answers each request from one version, but a stream makes several, and size and content are two.
        """
        path = self._path(name)
        while True:
            try:
                with self._files.open_input_file(path) as file:
                    size = file.size()
                    content: bytes = file.read(size)
            except FileNotFoundError:
                return None
            if len(content) == size == self._files.get_file_info(path).size:
                return content

    def open(self, name: str) -> BinaryIO | None:
        """Read a file into memory."""
        content = self.read(name)
        return None if content is None else io.BytesIO(content)

    @contextmanager
    def writing(self, name: str) -> Iterator[BinaryIO]:
        """Write a file from memory: half of one is never sent."""
        buffer = io.BytesIO()
        yield buffer
        path = self._path(name)
        if self._files.type_name == "local":  # which pyarrow would leave to the system's memory
            with replacing(Path(path)) as file:
                file.write(buffer.getbuffer())
            return
        if self._files.type_name in OBJECT_STORES:
            self._send(path, buffer)
            return
        parent, _, last = path.rpartition("/")
        temporary = f"{parent}/{temporary_name(last)}"
        self._files.create_dir(parent, recursive=True)
        self._send(temporary, buffer)
        self._files.move(temporary, path)

    def _send(self, path: str, buffer: io.BytesIO) -> None:
        with self._files.open_output_stream(path) as file:
            file.write(buffer.getbuffer())

    def delete(self, name: str) -> None:
        """Remove a file."""
        if self.exists(name):
            self._files.delete_file(self._path(name))

    def exists(self, name: str) -> bool:
        """Return whether there is such a file."""
        from pyarrow.fs import FileType

        return bool(self._files.get_file_info(self._path(name)).type == FileType.File)

    def list(self, folder: str) -> list[str]:
        """Return the names of the files in a folder."""
        from pyarrow.fs import FileSelector

        found = self._files.get_file_info(FileSelector(self._path(folder), allow_not_found=True))
        return sorted(f"{folder}/{info.base_name}" for info in found if not info.base_name.startswith("."))

    def sweep(self, age: float) -> None:
        """Remove what killed writers left, where a file has another name until it is whole."""
        from pyarrow.fs import FileSelector

        if self._files.type_name in OBJECT_STORES:
            return
        probe = self._path(temporary_name("sweep"))
        self._files.create_dir(self._root, recursive=True)
        self._send(probe, io.BytesIO())
        found = self._files.get_file_info(FileSelector(self._root, recursive=True))
        left = {info.path: info.mtime_ns / 1e9 for info in found if fnmatch(info.base_name, TEMPORARY)}
        for path in _old(left, probe, age):
            with suppress(FileNotFoundError):
                self._files.delete_file(path)


def _old(left: Mapping[Place, float], probe: Place, age: float) -> list[Place]:
    """Return which files, by when each was last written to, are old beside one that was just written, and that one."""
    return [place for place, at in left.items() if place == probe or left[probe] - at > age]
