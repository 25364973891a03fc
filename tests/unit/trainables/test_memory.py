"""A trial's share of a GPU: torch's own functions, down to the calls of CUDA, on a device that is not there."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from moe_models.errors import ConfigError
from trainables.memory import CONTEXT_BYTES, breaks_process, lacks_memory, limit_to_share, out_of_memory

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
GIB = 2**30


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The limits that CUDA was told, on a GPU of 24 GiB of which a process holds 5 and 2 are free."""
    made: list[float] = []
    runtime = SimpleNamespace(cudaMemGetInfo=lambda index: (2 * GIB, 24 * GIB))
    for module, name, stand_in in (
        (torch.cuda, "_lazy_init", lambda: None),
        (torch.cuda.memory, "_lazy_init", lambda: None),
        (torch.cuda, "is_initialized", lambda: True),
        (torch.cuda.memory, "is_initialized", lambda: True),
        (torch.cuda, "current_device", lambda: 0),
        (torch._utils, "_get_current_device_index", lambda: 0),
        (torch.cuda, "device_count", lambda: 1),
        (torch.cuda, "cudart", lambda: runtime),
        (torch.cuda, "_get_device_properties", lambda index: SimpleNamespace(total_memory=24 * GIB)),
        (torch._C, "_cuda_setMemoryFraction", lambda share, index: made.append(share)),
        (torch._C, "_cuda_memoryStats", lambda index: {"reserved_bytes": {"all": {"current": 5 * GIB}}}),
    ):
        monkeypatch.setattr(module, name, stand_in, raising=False)
    return made


def test_all_shares_and_their_contexts_fit_on_the_gpu(limits: list[float]) -> None:
    limit_to_share(0.25, CUDA)
    (share,) = limits
    assert 4 * (share * 24 * GIB + CONTEXT_BYTES) == pytest.approx(24 * GIB)


@pytest.mark.parametrize(("gpus", "device"), [(1.0, CUDA), (2.0, CUDA), (0.25, CPU), (0.0, CPU)])
def test_a_whole_gpu_or_none_has_no_limit(limits: list[float], gpus: float, device: torch.device) -> None:
    limit_to_share(gpus, device)
    assert limits == []


def test_a_share_without_room_is_refused(limits: list[float]) -> None:
    with pytest.raises(ConfigError, match=r"0\.02 of a GPU of 24\.00 GiB is less than a process takes"):
        limit_to_share(0.02, CUDA)


@pytest.mark.usefixtures("limits")
def test_what_was_lacked_is_one_line_with_its_figures() -> None:
    error = torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 24.00 GiB of which 2.00 GiB is "
        "free.\nSee documentation for Memory Management"
    )
    assert out_of_memory(error, 0.25, CUDA) == (
        "OutOfMemoryError: asked for 2.50 GiB, with 0.25 GPU, of which it held 5.00 GiB; "
        "2.00 GiB of 24.00 GiB were free"
    )
    assert out_of_memory(torch.OutOfMemoryError("said\notherwise"), 1.0, CPU) == (
        "OutOfMemoryError: said otherwise, with 1 GPU"
    )
    assert out_of_memory(RuntimeError("can't allocate memory"), 0.0, CPU) == "RuntimeError: can't allocate memory"


@pytest.mark.usefixtures("limits")
def test_where_a_process_has_no_room_at_all_there_are_no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_context(_: torch.device) -> tuple[int, int]:
        raise torch.AcceleratorError("CUDA error: out of memory")

    monkeypatch.setattr(torch.cuda, "mem_get_info", no_context)
    assert out_of_memory(torch.AcceleratorError("CUDA error: out of memory"), 0.25, CUDA) == (
        "AcceleratorError: CUDA error: out of memory, with 0.25 GPU, of which it held nothing"
    )


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB."),
        torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    ],
    ids=repr,
)
def test_memory_ends_in_many_words(error: Exception) -> None:
    assert lacks_memory(error)
    assert not breaks_process(error)


def test_memory_of_this_machine_ends_too() -> None:
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**60)
    assert lacks_memory(error.value)


def test_other_errors_are_no_lack_of_memory() -> None:
    assert not lacks_memory(RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`"))
    assert not lacks_memory(OSError("out of memory, says a file"))
    assert not breaks_process(RuntimeError("planned"))
    broken = torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
    assert breaks_process(broken)
    assert not lacks_memory(broken)


@pytest.mark.parametrize(
    ("then", "broken"),
    [
        (None, False),
        ("CUDA error: device-side assert triggered", True),
        ("CUDA error: out of memory", False),
    ],
)
def test_after_an_assert_on_the_device_what_cublas_says_is_no_lack_of_memory(
    then: str | None, broken: bool, limits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    def synchronize() -> None:
        if then is not None:
            raise torch.AcceleratorError(then)

    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    said = RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
    assert breaks_process(said) is broken
