"""Races by the real command on real Ray: what is decided stops, an interruption changes nothing."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
import ray.cloudpickle

from analysis.schema import RECORDS_FOLDER, TrialRecord, read_records
from sweeps.engine.plan import PlannedRun
from sweeps.engine.progress import Progress
from sweeps.engine.ray_session import start_ray
from sweeps.significance import main
from tests import fakes_ray

pytestmark = [pytest.mark.slow]


@pytest.fixture(autouse=True)
def _one_ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("trainables.ray_trainable.AblationTrainable", fakes_ray.RacingTrainable)
    ray.cloudpickle.register_pickle_by_value(fakes_ray)  # workers cannot import the tests
    start_ray(2)
    yield
    ray.shutdown()


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (folder / RECORDS_FOLDER).iterdir()}


def test_a_race_saves_runs_and_an_interrupted_one_ends_in_the_same_records(
    corpus_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fixed = ["--corpus", str(corpus_file), "--scale", "cpu", "--precision", "fp32", "--steps", "3"]
    command = ["--variants", "baseline,mlp,moe", "--seeds", "5", "--until-decided", *fixed, "--max-concurrent", "1"]
    assert main([*command, "--max-concurrent", "2", "--output", "whole", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    whole = Path(result["folder"])
    assert (result["race"]["next_look"], result["race"]["runs"], result["race"]["fixed_runs"]) == (None, 13, 15)
    assert result["race"]["stops"]["mlp"] == {"n": 3, "why": "worse"}
    records = read_records(whole)
    assert len(records) == 13
    assert {record.seed for record in records if record.cell == "mlp"} == {1000, 1001, 1002}
    assert "## The race" in (whole / "report.md").read_text()

    ended = Progress.ended
    counted = 0

    def interrupting(progress: Progress, run: PlannedRun, record: TrialRecord) -> None:
        nonlocal counted
        counted += 1
        ended(progress, run, record)
        if counted == 5:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Progress, "ended", interrupting)
    assert main([*command, "--output", "again"]) == 130
    captured = capsys.readouterr()
    assert "runs left: the same command continues the study" in captured.err
    (folder,) = Path("again").iterdir()
    first = times(folder)
    assert 5 <= len(first) < 13
    monkeypatch.setattr(Progress, "ended", ended)
    assert main([*command, "--output", "again"]) == 0
    output = capsys.readouterr().out
    assert "look at 3 seeds, mlp against baseline: worse" in output
    assert "race: 13 runs, 15 without looks" in output
    after = times(folder)
    assert set(after) == set(times(whole))
    assert {name: after[name] for name in first} == first, "a finished run was trained again"
    assert {record.config_hash: record.rows for record in read_records(folder)} == {
        record.config_hash: record.rows for record in records
    }

    assert main([*command, "--output", "again"]) == 0
    assert times(folder) == after
    capsys.readouterr()
    assert main([*command[:4], *fixed, "--output", "again"]) == 2
    assert "add --until-decided, or use another --output" in capsys.readouterr().err
