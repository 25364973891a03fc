"""`--gpus-per-trial auto`: real processes on this machine's cores; GPUs that are not there by made-up figures."""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from moe_models.errors import ConfigError
from moe_models.loss import CHUNK_ELEMENTS
from sweeps.engine import measure as module
from sweeps.engine import memory
from sweeps.engine.apart import CONTEXT, NoMemoryError
from sweeps.engine.cli import main
from sweeps.engine.forecast import forecast
from sweeps.engine.measure import Measurement, measure, packed
from sweeps.engine.memory import footprint, require_memory
from sweeps.engine.plan import Plan
from sweeps.engine.race import open_runs
from sweeps.engine.resources import find_resources
from sweeps.exp6_grid import STUDY

CPU = torch.device("cpu")
GIB = 2**30


def silent(line: str) -> None:
    """Hear nothing."""


def test_processes_train_at_the_same_time_and_end(plan_for: Callable[..., Plan]) -> None:
    plan = plan_for(variants="baseline,mlp")
    models = [(cell.config, plan.corpora["cpu"].directory) for cell in plan.cells]
    both = measure(models, CPU, 2)
    assert len(both) == 2
    assert all(found.update_seconds > 0 for found in both)
    assert all(50 * 2**20 < found.peak_bytes < 4 * GIB for found in both)
    assert multiprocessing.active_children() == []


def test_a_probe_takes_what_the_audits_of_the_end_do(
    plan_for: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They let the head take all that it takes at a time, which small models do not in training."""
    plan = plan_for(variants="baseline")
    (cell,) = plan.cells

    def peak() -> int:
        return module._train(cell.config, plan.corpora["cpu"].directory, CPU, CONTEXT.Barrier(1)).peak_bytes

    small = peak()
    monkeypatch.setitem(CHUNK_ELEMENTS, "cpu", 2**26)
    assert peak() > small + 200 * 2**20


@pytest.mark.parametrize("together", [1, 2])
def test_a_process_that_fails_is_one_line_and_the_others_end(
    plan_for: Callable[..., Plan], tmp_path: Path, together: int
) -> None:
    plan = plan_for(variants="baseline")
    with pytest.raises(ConfigError, match=rf"measuring {together} at a time failed: ConfigError: .* prepared corpus"):
        measure([(plan.cells[0].config, tmp_path / "nowhere")], CPU, together)
    assert multiprocessing.active_children() == []


def test_a_process_that_dies_is_one_line(plan_for: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_for(variants="baseline")
    monkeypatch.setattr(module, "_train_models", os_exit)
    with pytest.raises(ConfigError, match="measuring 2 at a time failed: a process died, with exit code 9"):
        measure([(plan.cells[0].config, plan.corpora["cpu"].directory)], CPU, 2)


def os_exit(*_: Any) -> None:
    """Die, as a process does that the system kills."""
    import os

    os._exit(9)


class Machine:
    """A machine whose measurements are made up; it notes what was measured, and holds up to `room` at a time."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, peak: int, speed: Callable[[str, int], float], room: float = math.inf
    ) -> None:
        self.measured: list[tuple[str, int, int]] = []
        self.peak = peak
        self.speed = speed
        self.room = room
        monkeypatch.setattr(module, "measure", self.measure)
        monkeypatch.setattr(module, "cpu_cores", lambda: 16)

    def measure(self, models: Sequence[Any], device: torch.device, together: int) -> list[Measurement]:
        self.measured.append((str(device), together, len(models)))
        if together > self.room:
            raise NoMemoryError("OutOfMemoryError: asked for 2.00 GiB, with 1 GPU")
        seconds = self.speed(str(device), together)
        return [Measurement(update_seconds=seconds, peak_bytes=self.peak) for _ in models]


def with_gpus(monkeypatch: pytest.MonkeyPatch, *sizes: int) -> None:
    """Make GPUs of these sizes, in GiB, all free."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(sizes))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a GPU")
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda i: SimpleNamespace(name="a GPU", total_memory=sizes[i] * GIB)
    )
    monkeypatch.setattr(module, "free_on_gpus", lambda: [size * GIB for size in sizes])
    monkeypatch.setattr(memory, "free_on_gpus", lambda: [size * GIB for size in sizes])


def test_on_a_cpu_the_number_at_a_time_is_chosen(
    plan_for: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four at a time end later than two, and eight are not tried."""
    machine = Machine(monkeypatch, GIB, lambda _, together: {1: 1.0, 2: 1.0, 4: 2.5}[together])
    monkeypatch.setattr(module, "free_bytes", lambda _: 100 * GIB)
    plan = plan_for(variants="baseline,mlp", seeds=8)
    found = packed(plan, open_runs(plan), find_resources(None, "auto"), None, silent)
    assert (found.slots, found.gpus, found.gpus_per_trial) == (2, 0, 0.0)
    assert machine.measured == [("cpu", 1, 2), ("cpu", 2, 2), ("cpu", 4, 2)]
    assert plan.choices["threads"] == 1
    expected = forecast(plan, found)
    assert expected.method == "from updates measured with 2 at a time"
    assert expected.seconds == pytest.approx(expected.busy_seconds / 2)
    assert footprint(open_runs(plan), found).bytes == 2 * math.ceil(1.2 * GIB) == expected.memory_bytes
    require_memory(open_runs(plan), found)


def test_equal_models_are_measured_once(plan_for: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, GIB, lambda *_: 1.0)
    plan = plan_for(variants="baseline,mlp", seeds=1)
    twin = replace(plan.cells[0], name="twin", config=replace(plan.cells[0].config, data_seed=5))
    more = replace(plan, cells=(*plan.cells, twin))
    packed(more, open_runs(more), find_resources(1, "auto"), 1, silent)
    assert machine.measured == [("cpu", 1, 2)]


def test_a_gpu_is_shared_as_far_as_it_helps_and_as_memory_goes(
    plan_for: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    with_gpus(monkeypatch, 24, 24)
    machine = Machine(monkeypatch, 39 * GIB // 10, lambda *_: 1.0)
    plan = plan_for(variants="baseline,mlp", seeds=8)
    found = packed(plan, open_runs(plan), find_resources(None, "auto"), None, silent)
    # 24 GiB hold five of 4.7, and four take as long: 16 runs in two rounds on two GPUs
    assert [together for _, together, _ in machine.measured] == [1, 2, 4, 5]
    assert (found.slots, found.gpus, found.gpus_per_trial) == (8, 2, 0.25)


def test_what_runs_out_of_memory_together_is_tried_no_further(
    plan_for: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Measured alone a run looked as if eight would fit."""
    with_gpus(monkeypatch, 24)
    machine = Machine(monkeypatch, 2 * GIB, lambda *_: 1.0, room=2)
    plan = plan_for(variants="baseline,mlp", seeds=8)
    said: list[str] = []
    found = packed(plan, open_runs(plan), find_resources(None, "auto"), None, said.append)
    assert [together for _, together, _ in machine.measured] == [1, 2, 4]
    assert (found.slots, found.gpus_per_trial) == (2, 0.5)
    assert said[1:] == ["4 at a time do not fit (OutOfMemoryError: asked for 2.00 GiB, with 1 GPU), 2 do"]


def test_what_one_kind_of_gpu_has_no_room_for_none_gets(
    plan_for: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    with_gpus(monkeypatch, 24, 12)
    machine = Machine(monkeypatch, 2 * GIB, lambda *_: 1.0)
    measure_all = machine.measure

    def measured(models: Sequence[Any], device: torch.device, together: int) -> list[Measurement]:
        machine.room = 1 if device.index == 1 else math.inf
        return measure_all(models, device, together)

    monkeypatch.setattr(module, "measure", measured)
    plan = plan_for(variants="baseline,mlp", seeds=8)
    found = packed(plan, open_runs(plan), find_resources(None, "auto"), None, silent)
    assert (found.slots, found.gpus_per_trial) == (2, 1.0)


def test_where_not_one_fits_the_study_is_refused(
    plan_for: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    with_gpus(monkeypatch, 24)
    Machine(monkeypatch, 2 * GIB, lambda *_: 1.0, room=0)
    plan = plan_for(variants="baseline,mlp")
    with pytest.raises(ConfigError) as error:
        packed(plan, open_runs(plan), find_resources(None, "auto"), None, silent)
    assert str(error.value) == (
        "not one run fits (OutOfMemoryError: asked for 2.00 GiB, with 1 GPU): take a smaller --scale, such as cpu, or "
        "end what else takes memory there"
    )


def test_unequal_gpus_are_each_measured_and_the_smallest_decides(
    plan_for: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    with_gpus(monkeypatch, 80, 12, 80)
    machine = Machine(monkeypatch, 5 * GIB, lambda device, _: {"cuda:0": 1.0, "cuda:1": 4.0}[device])
    plan = plan_for(variants="baseline,mlp", seeds=8)
    found = packed(plan, open_runs(plan), find_resources(None, "auto"), None, silent)
    assert machine.measured == [(device, together, 2) for together in (1, 2) for device in ("cuda:0", "cuda:1")]
    assert (found.slots, found.gpus_per_trial) == (6, 0.5)
    too_large = Machine(monkeypatch, 11 * GIB, lambda *_: 1.0)
    with pytest.raises(ConfigError, match=r"a run takes 13\.2 GiB, measured .* and 12\.0 GiB are free on a GPU"):
        packed(plan, open_runs(plan), find_resources(None, "auto"), None, silent)
    assert [together for _, together, _ in too_large.measured] == [1, 1]


def test_more_than_fits_is_refused(plan_for: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpus(monkeypatch, 24)
    Machine(monkeypatch, 9 * GIB, lambda *_: 1.0)
    plan = plan_for(variants="baseline,mlp", seeds=8)
    assert packed(plan, open_runs(plan), find_resources(2, "auto"), 2, silent).slots == 2
    with pytest.raises(ConfigError) as error:
        packed(plan, open_runs(plan), find_resources(3, "auto"), 3, silent)
    assert str(error.value) == (
        "--max-concurrent 3 with --gpus-per-trial auto is more than fits: a run takes 10.8 GiB, measured and with a "
        "margin, and 24.0 GiB are free on a GPU, so take --max-concurrent 2 or leave it out"
    )


def test_a_study_that_does_not_fit_is_one_line_and_leaves_nothing(
    corpus_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Machine(monkeypatch, 3 * GIB, lambda *_: 1.0)
    monkeypatch.setattr(module, "free_bytes", lambda _: 8 * GIB)
    asked = ["--gpus-per-trial", "auto", "--max-concurrent", "3"]
    fixed = ["--scale", "cpu", "--corpus", str(corpus_file), "--precision", "fp32"]
    assert main(STUDY, [*asked, *fixed]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: --max-concurrent 3 with --gpus-per-trial auto is more than fits: ")
    assert "take --max-concurrent 2 or leave it out" in error
    assert len(error.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_nothing_left_is_not_measured(plan_for: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, GIB, lambda *_: 1.0)
    plan = plan_for(variants="baseline")
    resources = find_resources(None, "auto")
    assert packed(plan, [], resources, None, silent) is resources
    assert machine.measured == []
