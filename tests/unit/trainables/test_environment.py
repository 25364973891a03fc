from __future__ import annotations

import re
import subprocess
from importlib import metadata
from pathlib import Path

import pytest

from moe_models.errors import ConfigError
from trainables import environment
from trainables.environment import describe_environment, git_commit, require_same, this_process, training_code


def test_versions_and_hardware_are_named() -> None:
    described = describe_environment()
    assert set(described) == {"git_commit", "code", "versions", "hardware"}
    assert f"torch {metadata.version('torch')}" in described["versions"]
    assert re.match(r"\d+ cores of .+", described["hardware"])
    assert all("\n" not in value for value in described.values())


def repository(folder: Path) -> Path:
    """A repository that holds the module where the project has it; return the module's path."""
    module = folder / "trainables" / "environment.py"
    module.parent.mkdir(parents=True)
    module.write_text("pass\n")
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-q", "-m", "first"]):
        subprocess.run(["git", "-C", str(folder), *command], check=True)
    return module


def test_the_code_is_all_that_trains_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(name: str, text: str) -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return training_code()

    monkeypatch.setattr(environment, "__file__", str(tmp_path / "trainables" / "environment.py"))
    write("analysis/schema.py", "")
    seen = [write("moe_models/attention/mha.py", "a"), write("moe_models/attention/mha.py", "b")]
    seen += [write("trainables/loop.py", "a"), write("analysis/schema.py", "a")]
    assert len(set(seen)) == 4
    for name in ("analysis/report.py", "sweeps/exp6_grid.py", "moe_models/notes.md"):
        assert write(name, "a") == seen[-1]
    assert re.fullmatch(r"[0-9a-f]{16}", seen[-1])


@pytest.mark.parametrize("what", ["code", "versions"])
def test_other_code_or_packages_than_the_driver_s_are_refused(what: str) -> None:
    here = this_process()
    require_same(here, here, "a process")
    require_same(here, {}, "a process of somebody's own Tuner")
    with pytest.raises(
        ConfigError, match=f"a process on b has other {what} than the driver, .* instead of older: "
    ) as caught:
        require_same(here, {**here, what: "older"}, "a process on b")
    assert "\n" not in str(caught.value)


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
    installed = tmp_path / "site-packages" / "trainables" / "environment.py"
    installed.parent.mkdir(parents=True)
    monkeypatch.setattr(environment, "__file__", str(installed))
    assert git_commit() == "unknown"
