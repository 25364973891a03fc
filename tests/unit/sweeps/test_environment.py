from __future__ import annotations

import re
import subprocess
from importlib import metadata
from pathlib import Path

import pytest

from sweeps.engine import environment
from sweeps.engine.environment import describe_environment, git_commit


def test_versions_and_hardware_are_named() -> None:
    described = describe_environment()
    assert set(described) == {"git_commit", "versions", "hardware"}
    assert f"torch {metadata.version('torch')}" in described["versions"]
    assert re.match(r"\d+ cores of .+", described["hardware"])
    assert all("\n" not in value for value in described.values())


def repository(folder: Path) -> Path:
    """A repository that holds the module where the project has it; return the module's path."""
    module = folder / "sweeps" / "engine" / "environment.py"
    module.parent.mkdir(parents=True)
    module.write_text("pass\n")
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-q", "-m", "first"]):
        subprocess.run(["git", "-C", str(folder), *command], check=True)
    return module


def test_the_commit_says_whether_files_differ_from_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = repository(tmp_path)
    monkeypatch.setattr(environment, "__file__", str(module))
    clean = git_commit()
    assert re.fullmatch(r"[0-9a-f]{40}", clean)
    module.write_text("changed\n")
    assert git_commit() == clean + "+changes"


@pytest.mark.parametrize("inside_another", [False, True])
def test_without_a_repository_of_its_own_the_commit_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inside_another: bool
) -> None:
    if inside_another:
        repository(tmp_path)
    installed = tmp_path / "site-packages" / "sweeps" / "engine" / "environment.py"
    installed.parent.mkdir(parents=True)
    monkeypatch.setattr(environment, "__file__", str(installed))
    assert git_commit() == "unknown"
