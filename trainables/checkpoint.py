"""Checkpoints: written whole, checked when read, and read without unpickling code.

A file is the SHA-256 of what follows, and torch's format, which by itself takes many a changed byte for a tensor's.
"""

from __future__ import annotations

import hashlib
from typing import Any, BinaryIO, cast

import torch

from trainables.store import Store

CHUNK_BYTES = 2**20


class DamagedError(Exception):
    """A checkpoint is not what was written."""


class _Hashing:
    """A file that notes what is written to it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()


def save_checkpoint(store: Store, name: str, state: dict[str, Any]) -> None:
    """Write tensors and plain data so that a reader sees the old file or the whole new one, even across a crash."""
    with store.writing(name) as file:
        hashing = _Hashing(file)
        file.write(bytes(hashing.digest.digest_size))
        torch.save(state, cast(BinaryIO, hashing))
        file.seek(0)
        file.write(hashing.digest.digest())


def load_checkpoint(store: Store, name: str) -> dict[str, Any] | None:
    """Read a checkpoint onto the CPU; only tensors and plain data are accepted (`weights_only=True`).

    Returns:
        The state, or None where there is no such file.

    Raises:
        DamagedError: the file is not what was written.
        OSError: it cannot be read for now, and may be whole.
    """
    file = store.open(name)
    if file is None:
        return None
    with file:
        digest = hashlib.sha256()
        written = file.read(digest.digest_size)
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
        if written != digest.digest():
            raise DamagedError(f"{name} is not what was written")
        file.seek(digest.digest_size)
        state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        return state
