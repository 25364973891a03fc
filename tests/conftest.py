"""What all tests share."""

from __future__ import annotations

import gc
import importlib
import os
import shutil
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from hypothesis import HealthCheck, settings

from analysis.tracking.store import make_database
from tests.fakes_text import write_corpus

# How long an example takes says nothing of the code on a busy machine.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

# Ray's workers are nicer than the processes that test, and would wait for all of them.
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 (Ray spells it so)

# As in a trial on a CPU: another number of threads splits sums otherwise, and exact comparisons would fail.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def corpus_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small corpus of text, as a file."""
    return write_corpus(tmp_path_factory.mktemp("corpus") / "small.jsonl")


@pytest.fixture
def own_place(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder of the test's own, a token cache of the session's, and no tracking server."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ABLATUNE_CACHE", str(tmp_path_factory.getbasetemp() / "token-cache"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


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
def new_database(once: Callable[[str, Callable[[Path], None]], Path]) -> Callable[[Path], str]:
    """Put a database of MLflow's in which nothing is yet into a folder; return its URI.

    A driver makes just such a file, in several seconds.
    """

    def fill(place: Path) -> None:
        make_database(place / "mlflow.db")
        assert len(list(place.iterdir())) == 1

    def new(folder: Path) -> str:
        return f"sqlite:///{shutil.copy(once('empty-database', fill) / 'mlflow.db', folder)}"

    return new


def pytest_collection_finish() -> None:
    """Leave what all imports made out of every later garbage collection: each trial begins with one."""
    importlib.import_module("torch._dynamo")  # as the first optimizer does
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def _object_store() -> Iterator[str]:
    """Host and port of a server on this machine that speaks the protocol of S3."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    yield "{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def bucket(_object_store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty bucket."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "any")
    name = f"bucket-{tmp_path.name.replace('_', '-').lower()[-40:]}"
    with urllib.request.urlopen(urllib.request.Request(f"http://{_object_store}/{name}", method="PUT")):
        return f"s3://{name}?scheme=http&endpoint_override={_object_store}&region=us-east-1"
