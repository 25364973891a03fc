"""Shares of a GPU on real Ray, whose GPUs are numbers that it hands out: there need not be any."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
import ray.cloudpickle
import torch

from analysis.schema import FAILURES_FOLDER, FINISHED, TrialRecord, read_records
from analysis.tuning_records import SEARCH, STOPPED, of_arm, read_tuning_records
from sweeps import tune
from sweeps.engine import memory
from sweeps.engine.cli import main
from sweeps.engine.ray_session import start_ray
from sweeps.exp6_grid import STUDY
from tests import fakes_ray
from tests.drivers import comparable

pytestmark = [pytest.mark.slow]


@pytest.fixture(scope="module")
def _one_ray() -> Iterator[None]:
    ray.cloudpickle.register_pickle_by_value(fakes_ray)  # workers cannot import the tests
    start_ray(2, gpus=1)
    yield
    ray.shutdown()


@pytest.fixture
def command(_one_ray: None, corpus_file: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """A command on a machine with one GPU, which trials share by halves."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a GPU")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=80 * 2**30))
    monkeypatch.setattr(memory, "free_bytes", lambda _: 80 * 2**30)

    def make(variants: str, share: str) -> list[str]:
        fixed = ["--corpus", str(corpus_file), "--scale", "cpu", "--precision", "fp32", "--seeds", "1", "--steps", "3"]
        return ["--variants", variants, "--gpus-per-trial", share, *fixed]

    return make


def had(folder: Path) -> list[str]:
    return (folder / "had.txt").read_text().splitlines()


def test_what_runs_out_of_memory_is_tried_once_more_alone(
    command: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("trainables.ray_trainable.AblationTrainable", fakes_ray.HungryTrainable)
    assert main(STUDY, [*command("baseline,mlp,moe", "1"), "--output", "whole"]) == 1
    (whole,) = Path("whole").iterdir()
    assert sorted(had(whole)) == ["baseline 0 1", "mlp 0 1", "moe 0 1"], "what had a whole GPU is not tried again"
    assert len(read_records(whole)) == 2
    capsys.readouterr()

    assert main(STUDY, command("baseline,mlp,moe", "0.5")) == 1
    (folder,) = Path("results").iterdir()
    records = {record.config_hash: comparable(record) for record in read_records(folder)}
    assert records == {record.config_hash: comparable(record) for record in read_records(whole)}

    trials = had(folder)
    assert [line for line in trials if line.startswith("baseline ")] == ["baseline 0 0.5"]
    for cell in ("mlp", "moe"):
        tries = [line for line in trials if line.startswith(f"{cell} ")]
        assert tries == [f"{cell} 0 0.5", f"{cell} 0 1"], "once more, with a whole GPU"
    failures = [TrialRecord.read(path) for path in (folder / FAILURES_FOLDER).glob("*.json")]
    assert [(failure.cell, failure.seed) for failure in failures] == [("moe", 0)]
    assert {failure.error for failure in failures} == {"OutOfMemoryError: asked for 3.00 GiB, with 1 GPU"}

    output = capsys.readouterr().out
    again = "OutOfMemoryError: asked for 2.00 GiB, with 0.5 GPU; it is tried once more, alone"
    assert output.count(f"mlp, seed 0: {again}") == 1
    assert output.count("moe, seed 0: failed: OutOfMemoryError: asked for 3.00 GiB, with 1 GPU") == 1
    assert " GPU-hours" in output
    assert "Traceback" not in output


def test_a_trial_of_a_search_is_tried_once_more_too(
    command: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("trainables.ray_trainable.AblationTrainable", fakes_ray.HungryTrainable)
    search = [*command("baseline,mlp", "0.5"), "--trials", "4", "--sweep", "0", "--rungs", "1"]
    assert tune.main(search, fakes_ray.HungryTuningTrainable) == 0
    output = capsys.readouterr().out
    assert output.count("mlp, seed 1000: OutOfMemoryError: planned; it is tried once more, alone") == 1
    (folder,) = Path("results").iterdir()
    trials = of_arm(read_tuning_records(folder), "mlp", SEARCH)
    assert [record.number for record in trials] == [0, 1, 2, 3]
    assert {record.status for record in trials} <= {FINISHED, STOPPED}
    assert trials[1].updates > 0
