"""Work in processes of its own: real ones, on this machine's cores."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from moe_models.errors import ConfigError
from sweeps.engine import memory
from sweeps.engine.apart import NoMemoryError, in_one_line, in_processes
from sweeps.engine.cli import main
from sweeps.engine.forecast import forecast
from sweeps.engine.plan import Plan
from sweeps.engine.resources import Resources
from sweeps.engine.where import where_runs_train
from sweeps.exp6_grid import STUDY

LACKED = "OutOfMemoryError: asked for 2.00 GiB"


def out_of_memory(*_: Any) -> None:
    """Lack memory as torch does on a GPU."""
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has\na total capacity of")


def planned(fault: str) -> None:
    """Fail otherwise."""
    raise RuntimeError(f"planned\n{fault}")


def killed() -> None:
    """Die as where the system's memory ends."""
    os.kill(os.getpid(), signal.SIGKILL)


def process_and_place(corpus: Any) -> tuple[int, bool]:
    """Return the process that this runs in, and whether a corpus is mapped there."""
    return os.getpid(), isinstance(corpus.train.tokens.base, np.memmap)


def test_processes_end_with_their_work() -> None:
    first, second = in_processes("looking", 2, os.getpid)
    assert len({first, second, os.getpid()}) == 3
    assert multiprocessing.active_children() == []


def test_a_corpus_is_opened_there_and_not_copied(plan_for: Callable[..., Plan]) -> None:
    corpus = plan_for(variants="baseline").corpora["cpu"]
    ((process, mapped),) = in_processes("looking", 1, process_and_place, corpus)
    assert process != os.getpid()
    assert mapped


@pytest.mark.parametrize(
    ("work", "arguments", "error", "message"),
    [
        (out_of_memory, (), NoMemoryError, rf"^{LACKED}$"),
        (killed, (), NoMemoryError, "^a process was killed, as the system kills one where memory ends$"),
        (planned, ("fault",), ConfigError, "^looking failed: RuntimeError: planned fault$"),
    ],
)
def test_what_goes_wrong_there_is_one_line(
    work: Callable[..., Any], arguments: tuple[Any, ...], error: type[ConfigError], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as found:
        in_processes("looking", 1, work, *arguments)
    assert type(found.value) is error
    assert multiprocessing.active_children() == []


def test_in_this_process_a_lack_of_memory_is_one_line_and_a_defect_stays_one() -> None:
    assert in_one_line(int, "3") == 3
    with pytest.raises(NoMemoryError, match=LACKED):
        in_one_line(out_of_memory)
    with pytest.raises(NoMemoryError, match=r"^RuntimeError: .* can't allocate memory"):
        in_one_line(torch.empty, 2**60)
    with pytest.raises(RuntimeError, match="planned"):
        in_one_line(planned, "fault")


def test_what_a_gpu_shows_is_looked_at_in_a_process_that_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver's own context, and torch's cache, would lie on the GPU for as long as the study lasts."""
    whole = Resources(slots=1, gpus=1, gpus_per_trial=1.0, reason="")
    assert where_runs_train(whole, os.getpid) != os.getpid()
    none = Resources(slots=1, gpus=0, gpus_per_trial=0.0, reason="")
    assert where_runs_train(none, os.getpid) == os.getpid()
    seen = torch.cuda.device_count()
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: pytest.fail("the driver has a context of its own"))
    assert len(memory.free_on_gpus()) == seen


def test_precision_that_cannot_be_measured_is_one_line(
    corpus_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sweeps.engine.planning.faster_precision", out_of_memory)
    arguments = ["--scale", "cpu", "--corpus", str(corpus_file), "--variants", "mlp", "--dry-run"]
    assert main(STUDY, arguments) == 2
    assert capsys.readouterr().err == (
        f"error: no memory to measure which precision is faster at --scale cpu ({LACKED}): take a smaller --scale, end "
        "what else takes memory there, or, to go without this measurement, take --precision fp32 or bf16\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_times_that_cannot_be_measured_are_one_line(
    plan_for: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweeps.engine.forecast.estimate_runs", out_of_memory)
    with pytest.raises(ConfigError, match=rf"^no memory to measure how long runs take \({LACKED}\): take a smaller"):
        forecast(plan_for(variants="baseline"), Resources(slots=1, gpus=0, gpus_per_trial=0.0, reason=""))
