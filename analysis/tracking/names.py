"""How a study looks in MLflow: its tags, its params, and how much goes into one call."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

T = TypeVar("T")

BATCH = 1000
"""Metrics a call (MLflow's limit)."""
PARAMS_A_CALL = 100
PREFIX = "ablatune."
PARENT_TAG = "mlflow.parentRunId"
AUDIT_TAG = f"{PREFIX}audit."
"""Followed by an audit's name: what it found, `severity: evidence`."""
KIND_TAG = f"{PREFIX}kind"
TUNING = "tuning"
"""The kind of a nested run that is a trial of a search and none of the study's own."""


def batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Yield the items in order, at most so many at a time."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def flatten(data: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested configuration as MLflow params: `model.attention.kind`, values as text."""
    flat: dict[str, str] = {}
    for name, value in data.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = str(value)
    return flat
