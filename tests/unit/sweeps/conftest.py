from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweeps.engine.options import Options
from sweeps.engine.plan import Plan, make_plan
from sweeps.engine.resources import Resources
from sweeps.engine.study import Study
from sweeps.exp6_grid import STUDY
from tests.fakes_text import write_corpus

CPU = Resources(slots=2, gpus=0, gpus_per_trial=0.0, reason="no GPU was seen")


@pytest.fixture(scope="session")
def corpus_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus") / "small.jsonl")


@pytest.fixture(autouse=True)
def own_place(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder of the test's own, a token cache of the session's, and no tracking server."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ABLATUNE_CACHE", str(tmp_path_factory.getbasetemp() / "token-cache"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


@pytest.fixture
def plan_for(corpus_file: Path) -> Callable[..., Plan]:
    """Make a small plan; keyword arguments are options."""

    def make(resources: Resources = CPU, study: Study = STUDY, **options: Any) -> Plan:
        defaults = {"corpus": str(corpus_file), "precision": "fp32", "steps": 4, "seeds": 2}
        return make_plan(study, Options(**{**defaults, **options}), resources)

    return make
