"""The estimate of memory against what training really takes, and the refusal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from moe_models.errors import ConfigError
from sweeps.engine import memory
from sweeps.engine.cli import main
from sweeps.engine.memory import free_bytes, require_memory, run_bytes
from sweeps.engine.plan import Plan
from sweeps.engine.race import open_runs
from sweeps.engine.resources import Resources
from tests.unit.sweeps.test_protocol import STUDIES
from trainables.config import TrialConfig

CPU = torch.device("cpu")
GIB = 2**30
TRAIN = """
import json, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from trainables.config import TrialConfig
from trainables.data import open_corpus
from trainables.loop import Trainer
config = TrialConfig.from_dict(json.loads(sys.argv[1]))
trainer = Trainer(config, 0, open_corpus(Path(sys.argv[2])), torch.device("cpu"))
for _ in trainer.run():
    pass
print(trainer.memory.read())
"""


def measured(config: TrialConfig, corpus: Path) -> int | None:
    """Return the peak memory of a process that trains and evaluates, as a worker does."""
    arguments = [sys.executable, "-c", TRAIN, json.dumps(config.to_dict()), str(corpus)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True, env={**os.environ})
    return None if done.stdout.strip() == "None" else int(done.stdout)


@pytest.mark.parametrize(
    ("name", "cell", "protocol"),
    [("exp1_attention_768d", "baseline", "sound"), ("exp1_components_512d", "moe_8e_2k_512d", "published")],
)
def test_the_estimate_is_near_what_training_takes(
    plan_for: Callable[..., Plan], name: str, cell: str, protocol: str
) -> None:
    plan = plan_for(study=STUDIES[name], variants=cell, protocol=protocol, steps=1)
    config = plan.cells[0].config
    peak = measured(config, plan.corpora["cpu"].directory)
    if peak is None:
        pytest.skip("this system does not tell a process's peak memory")
    assert peak / 2 < run_bytes(config, CPU) < 2 * peak


def test_the_estimate_grows_with_everything_that_takes_memory(plan_for: Callable[..., Plan]) -> None:
    def need(cell: str = "baseline", scale: str = "paper_256d", **training: Any) -> int:
        config = plan_for(variants=cell, scale=scale).cells[0].config.to_dict()
        return run_bytes(TrialConfig.from_dict({**config, "training": {**config["training"], **training}}), CPU)

    assert need(scale="cpu") < need() < need(scale="paper_512d") < need(scale="paper_768d")
    assert need("mlp") < need()  # one dense layer instead of eight experts
    assert need(batch_size=64) > 2 * need()
    assert need(evaluation_batch_size=640) > need()
    assert need(scale="paper_768d") > 16 * 400_000_000  # weights, gradients and two more of each


def test_what_does_not_fit_is_refused_with_what_would(
    plan_for: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_for(variants="baseline,mlp", scale="paper_256d")
    need = run_bytes(plan.cells[0].config, CPU)
    two = Resources(slots=2, gpus=0, gpus_per_trial=0.0, reason="")
    monkeypatch.setattr(memory, "free_bytes", lambda _: 2 * need)
    require_memory(open_runs(plan), two)
    monkeypatch.setattr(memory, "free_bytes", lambda _: 2 * need - 1)
    with pytest.raises(ConfigError) as error:
        require_memory(open_runs(plan), two)
    each, together = need / GIB, 2 * need / GIB
    assert str(error.value) == (
        f"{each:.1f} GiB a run ('baseline' needs most) times 2 at a time are {together:.1f} GiB, and "
        f"{together:.1f} GiB are free in memory: take --max-concurrent 1, or a smaller --scale"
    )
    monkeypatch.setattr(memory, "free_bytes", lambda _: need - 1)
    with pytest.raises(ConfigError, match="take a smaller --scale, such as cpu"):
        require_memory(open_runs(plan), two)
    monkeypatch.setattr(memory, "free_bytes", lambda _: None)
    require_memory(open_runs(plan), two)


def test_a_run_larger_than_its_share_is_refused_with_what_would_do(
    plan_for: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of its trials would run out of memory once, whatever is free on the GPU."""
    plan = plan_for(variants="baseline,mlp", scale="paper_256d")
    need = run_bytes(plan.cells[0].config, torch.device("cuda"))
    sizes = [10 * need, 4 * need]
    monkeypatch.setattr(memory, "free_bytes", lambda _: min(sizes))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(sizes))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(total_memory=sizes[index]))

    def one(share: float) -> Resources:
        return Resources(slots=1, gpus=2, gpus_per_trial=share, reason="")

    for enough in (0.25, 0.5, 1.0):
        require_memory(open_runs(plan), one(enough))
    with pytest.raises(ConfigError) as error:
        require_memory(open_runs(plan), one(0.2))
    gib = need / GIB
    assert str(error.value) == (
        f"{gib:.1f} GiB a run ('baseline' needs most), and --gpus-per-trial 0.2 is {0.8 * gib:.1f} GiB of a GPU of "
        f"{4 * gib:.1f} GiB: take --gpus-per-trial 0.25, or a smaller --scale"
    )
    sizes[:] = [need - 1, need]
    with pytest.raises(ConfigError, match="take a smaller --scale, such as cpu"):
        require_memory(open_runs(plan), one(0.5))


def test_a_study_larger_than_memory_leaves_nothing(
    corpus_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda _: GIB)
    arguments = ["--scale", "paper_768d", "--corpus", str(corpus_file), "--precision", "fp32"]
    assert main(STUDIES["exp1_attention_768d"], arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert len(captured.err.splitlines()) == 1
    assert "and 1.0 GiB are free in memory" in captured.err
    assert list(tmp_path.iterdir()) == []


def test_free_memory_is_known_here_and_a_container_s_limit_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    info = tmp_path / "meminfo"
    info.write_text("MemTotal: 16000000 kB\nMemAvailable:    8000000 kB\n")
    monkeypatch.setattr(memory, "MEMORY_INFO", info)
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    assert free_bytes(CPU) == 8_000_000 * 1024
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("3000\n")
    (tmp_path / "memory.stat").write_text("file 700\ninactive_file 500\n")
    assert free_bytes(CPU) == 8_000_000 * 1024
    (tmp_path / "memory.max").write_text("5000\n")
    assert free_bytes(CPU) == 5000 - (3000 - 500)
    info.unlink()
    assert free_bytes(CPU) is None
