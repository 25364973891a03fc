"""Memory of one trial in a process that runs many: its peak, its share of a GPU, and what it lacked."""

from __future__ import annotations

import ctypes
import functools
import gc
import re
from pathlib import Path

import torch

from analysis.schema import error_line
from moe_models.errors import require

CLEAR_REFS = Path("/proc/self/clear_refs")
STATUS = Path("/proc/self/status")
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # from malloc.h
KEPT_BYTES = 2**30
CONTEXT_BYTES = 600 * 2**20
"""What a process takes of a GPU beside its tensors, about."""
LACKS_MEMORY = re.compile(
    r"out of memory|can't allocate memory|not enough memory|_ALLOC_FAILED|CU(BLAS|DNN)_STATUS_NOT_INITIALIZED", re.I
)
"""What errors of CUDA, of its libraries (the last: there was no room for a handle) and of a CPU's allocator say."""


class PeakMemory:
    """Measures from construction on.

    On a GPU: the most that this process's tensors took. On a CPU: the process's largest resident set, the
    interpreter and its libraries (some 400 MB) included, since the operating system's peak can be reset but not
    divided; where it cannot be reset (not Linux, no permission) there is no figure that is this trial's alone.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
            self._known = True
        else:
            self._known = _return_free_memory() and _reset_resident_peak()

    def read(self) -> int | None:
        """Return the peak so far in bytes, or None where it is not known."""
        if not self._known:
            return None
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        for line in STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        return None


def tensors_share(gpus: float, index: int) -> float:
    """Return the part of a GPU that is left for the tensors of a process which has a share of it.

    The process's own context there is part of the share, and torch does not count it.

    Raises:
        ConfigError: the share has no room for a tensor.
    """
    total = torch.cuda.get_device_properties(index).total_memory
    share = gpus - CONTEXT_BYTES / total
    require(share > 0, f"{gpus:g} of a GPU of {_gib(total)} is less than a process takes before its first tensor")
    return share


def limit_to_share(gpus: float, device: torch.device) -> None:
    """Keep this process's tensors within its share of its GPU, so that no trial takes what others were promised.

    Raises:
        ConfigError: the share has no room for a tensor.
    """
    if device.type != "cuda" or gpus >= 1:
        return
    torch.cuda.set_per_process_memory_fraction(tensors_share(gpus, torch.cuda.current_device()))


def lacks_memory(error: BaseException) -> bool:
    """Return whether an error says that memory has ended, a GPU's or the machine's.

    Of torch's errors only that of its allocator on a GPU has a type of its own. What CUDA lacks beside it is an
    AcceleratorError like others, and what cuBLAS, cuDNN or a CPU's allocator lack is a plain RuntimeError: there the
    words decide.
    """
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and LACKS_MEMORY.search(str(error)) is not None


def breaks_process(error: BaseException) -> bool:
    """Return whether each further call of CUDA in this process fails, too: not after one that only lacked memory.

    After an assert on the device cuBLAS and cuDNN say that they have no memory: the next call of CUDA tells.
    """
    if not lacks_memory(error):
        return isinstance(error, torch.AcceleratorError)
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or not torch.cuda.is_initialized():
        return False
    try:
        torch.cuda.synchronize()
    except torch.AcceleratorError as found:
        return not lacks_memory(found)
    return False


def out_of_memory(error: BaseException, gpus: float, device: torch.device) -> str:
    """Return in one line what a trial asked for, what it had, and what was free."""
    asked = re.search(r"Tried to allocate ([\d.]+ \w+)", str(error))
    what = f"{type(error).__name__}: asked for {asked[1]}" if asked else error_line(error)
    line = f"{what}, with {gpus:g} GPU" if gpus else what
    if device.type != "cuda":
        return line
    try:
        free, total = torch.cuda.mem_get_info(device)
    except RuntimeError:  # there is no room for this process itself
        return f"{line}, of which it held nothing"
    held = torch.cuda.memory_reserved(device)
    return f"{line}, of which it held {_gib(held)}; {_gib(free)} of {_gib(total)} were free"


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"


@functools.cache
def settle_process() -> None:
    """Prepare a process for many trials; only the first call does anything.

    The C library keeps what this process frees, up to 1 GiB, where it can be told to (glibc). By default it hands large
    blocks back to the system and fetches them again, zeroed, in every update: about a thousand page faults, some 5 %
    of an update's time at the `cpu` scale. And the garbage collector need not look again at what the imports have
    made: a full collection, of which every trial begins with one, takes 0.2 to 0.3 s otherwise.
    """
    gc.collect()
    gc.freeze()
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    for parameter in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD):
        mallopt(parameter, KEPT_BYTES)


def _return_free_memory() -> bool:
    """Give what an earlier trial freed back to the system, so that it does not count as this one's."""
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):
        return False
    return True


def _reset_resident_peak() -> bool:
    try:
        CLEAR_REFS.write_text("5")  # resets VmHWM, see proc(5)
    except OSError:
        return False
    return True
