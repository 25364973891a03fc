"""What all tests share."""

from __future__ import annotations

import gc
import importlib
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

from tests.fakes_text import write_corpus

# How long an example takes says nothing of the code on a busy machine.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

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


def pytest_collection_finish() -> None:
    """Leave what all imports made out of every later garbage collection: each trial begins with one."""
    importlib.import_module("torch._dynamo")  # as the first optimizer does
    gc.collect()
    gc.freeze()
