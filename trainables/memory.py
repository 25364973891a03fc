"""Peak memory of one trial in a process that runs many."""

from __future__ import annotations

import ctypes
import functools
import gc
from pathlib import Path

import torch

CLEAR_REFS = Path("/proc/self/clear_refs")
STATUS = Path("/proc/self/status")
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # from malloc.h
KEPT_BYTES = 2**30


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
