from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from analysis.tracking import _make_database
from tests.drivers import driver


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], None]], Path]:
    """Fill a folder of a name once for all processes that test, and return it."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def made(name: str, fill: Callable[[Path], None]) -> Path:
        place = shared / name
        with FileLock(f"{place}.lock"):
            if not place.exists():
                place.mkdir()
                fill(place)
        return place

    return made


@pytest.fixture(scope="session")
def empty_database(once: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    """A database of MLflow's in which nothing is yet, as a driver makes it: one file."""

    def fill(place: Path) -> None:
        _make_database(place / "mlflow.db")
        assert len(list(place.iterdir())) == 1

    return once("empty-database", fill) / "mlflow.db"


@pytest.fixture(autouse=True)
def _in_own_place(own_place: Path, empty_database: Path) -> None:
    """Every test here runs in a place of its own, with a database of MLflow's: to make each anew takes seconds."""
    shutil.copy(empty_database, own_place)


@pytest.fixture(scope="session")
def small_study(corpus_file: Path) -> list[str]:
    """The arguments of a study of four runs, long enough to be disturbed."""
    fixed = ["--scale", "cpu", "--precision", "fp32", "--max-concurrent", "2", "--corpus", str(corpus_file)]
    return ["--variants", "baseline,mlp", "--seeds", "2", "--steps", "30", *fixed]


@pytest.fixture(scope="session")
def undisturbed(
    small_study: list[str],
    once: Callable[[str, Callable[[Path], None]], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The place where the small study ran and nothing went wrong, from a folder in which there was nothing."""

    def fill(place: Path) -> None:
        process = driver(small_study, place, ABLATUNE_CACHE=str(tmp_path_factory.getbasetemp() / "token-cache"))
        _, errors = process.communicate(timeout=500)
        assert (process.returncode, errors) == (0, "")

    return once("undisturbed", fill)
