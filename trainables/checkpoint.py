"""Checkpoints: written whole, read without unpickling code."""

from __future__ import annotations

from typing import Any

import torch

from trainables.store import Store


def save_checkpoint(store: Store, name: str, state: dict[str, Any]) -> None:
    """Write tensors and plain data so that a reader sees the old file or the whole new one, even across a crash."""
    with store.writing(name) as file:
        torch.save(state, file)


def load_checkpoint(store: Store, name: str) -> dict[str, Any] | None:
    """Read a checkpoint onto the CPU; only tensors and plain data are accepted (`weights_only=True`).

    Returns:
        The state, or None where there is no such file.
    """
    file = store.open(name)
    if file is None:
        return None
    with file:
        state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        return state
