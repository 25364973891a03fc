from __future__ import annotations

from types import SimpleNamespace
from typing import Literal

import pytest

from moe_models.errors import ConfigError
from sweeps.engine import resources
from sweeps.engine.resources import find_resources


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """A machine with as many GPUs, of 24 GiB, as the test's parameter says, and four cores."""
    gpus = request.node.callspec.params.get("gpus", 0) if hasattr(request.node, "callspec") else 0
    monkeypatch.setattr(resources.torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(resources.torch.cuda, "get_device_name", lambda _: "a GPU")
    total = SimpleNamespace(total_memory=24 * 2**30)
    monkeypatch.setattr(resources.torch.cuda, "get_device_properties", lambda _: total)
    monkeypatch.setattr(resources, "cpu_cores", lambda: 4)


@pytest.mark.parametrize(
    ("gpus", "max_concurrent", "share", "slots", "used"),
    [
        (0, None, None, 4, 0.0),
        (0, 2, None, 2, 0.0),
        (0, None, 0.0, 4, 0.0),
        (1, None, None, 1, 1.0),
        (1, None, 0.25, 4, 0.25),
        (2, None, 0.25, 8, 0.25),
        (1, 3, 0.25, 3, 0.25),
        (1, None, 0.3, 3, 0.3),
        (1, None, 0.1, 10, 0.1),
        (4, None, 2.0, 2, 2.0),
        (1, None, 0.0, 4, 0.0),
        (0, 3, "auto", 4, 0.0),
        (2, 9, "auto", 2, 1.0),  # all that there is: what becomes of it is measured
    ],
)
def test_slots(
    gpus: int, max_concurrent: int | None, share: Literal["auto"] | float | None, slots: int, used: float
) -> None:
    found = find_resources(max_concurrent, share)
    assert (found.slots, found.gpus_per_trial) == (slots, used)
    assert found.gpus == (gpus if used else 0)
    assert found.device.type == ("cuda" if used else "cpu")


@pytest.mark.parametrize(
    ("gpus", "max_concurrent", "share", "message"),
    [
        (0, None, 0.25, r"--gpus-per-trial 0\.25 asks for more than this machine has \(no GPU\)"),
        (1, None, 2.0, r"--gpus-per-trial 2 asks for more than this machine has \(1 GPU\)"),
        (1, None, 0.02, r"0\.02 of a GPU of 24\.00 GiB is less than a process takes before its first tensor"),
        (2, 9, 0.25, r"--max-concurrent 9 with --gpus-per-trial 0\.25 .*\(2 GPUs: 8 at a time\)"),
    ],
)
def test_what_the_machine_does_not_have(gpus: int, max_concurrent: int | None, share: float, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find_resources(max_concurrent, share)


@pytest.mark.parametrize("gpus", [1])
def test_a_gpu_that_torch_cannot_use_is_one_line(gpus: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def too_old(_: int) -> str:
        raise RuntimeError("The NVIDIA driver on your system is too old")

    monkeypatch.setattr(resources.torch.cuda, "get_device_name", too_old)
    told = r"cannot use the 1 GPU that this machine has: RuntimeError: The NVIDIA driver .* --gpus-per-trial 0 trains"
    with pytest.raises(ConfigError, match=told):
        find_resources(None, None)
    assert find_resources(None, 0.0).slots == 4
