from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.drivers import driver


@pytest.fixture(autouse=True)
def _in_own_place(own_place: Path, new_database: Callable[[Path], str]) -> None:
    """Every test here runs in a place of its own, with a database of MLflow's."""
    new_database(own_place)


@pytest.fixture(scope="session")
def small_study(corpus_file: Path) -> list[str]:
    """The arguments of a study of four runs, long enough to be disturbed, two at a time."""
    fixed = ["--scale", "cpu", "--precision", "fp32", "--max-concurrent", "2", "--corpus", str(corpus_file)]
    return ["--variants", "baseline,mlp", "--seeds", "2", "--steps", "30", *fixed]


@pytest.fixture(scope="session")
def one_by_one(small_study: list[str]) -> list[str]:
    """The same study with one run at a time: half of the work before the first, and some are always left."""
    return [*small_study, "--max-concurrent", "1"]


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
