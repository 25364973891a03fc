from __future__ import annotations

import os
from pathlib import Path

import pytest
from filelock import FileLock

from tests.drivers import driver


@pytest.fixture(autouse=True)
def _in_own_place(own_place: Path) -> None:
    """Every test here runs in a place of its own."""


@pytest.fixture(scope="session")
def small_study(corpus_file: Path) -> list[str]:
    """The arguments of a study of four runs, long enough to be disturbed."""
    fixed = ["--scale", "cpu", "--precision", "fp32", "--max-concurrent", "2", "--corpus", str(corpus_file)]
    return ["--variants", "baseline,mlp", "--seeds", "2", "--steps", "60", *fixed]


@pytest.fixture(scope="session")
def undisturbed(small_study: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The place where the small study ran and nothing went wrong: one for all processes that test."""
    base = tmp_path_factory.getbasetemp()
    place = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "undisturbed"
    with FileLock(f"{place}.lock"):
        if not place.exists():
            place.mkdir()
            process = driver(small_study, place, ABLATUNE_CACHE=str(base / "token-cache"))
            _, errors = process.communicate(timeout=500)
            assert (process.returncode, errors) == (0, "")
    return place
