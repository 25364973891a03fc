from __future__ import annotations

import re
import subprocess
from importlib import metadata
from pathlib import Path

import pytest
import torch

import moe_models
from analysis import schema
from moe_models.errors import ConfigError
from trainables import environment
from trainables.environment import describe_environment, git_commit, merged, require_same, this_process, training_code


def test_versions_and_hardware_are_named() -> None:
    described = describe_environment()
    assert set(described) == {"git_commit", "code", "versions", "hardware"}
    assert f"torch {metadata.version('torch')}" in described["versions"]
    assert re.match(r"\d+ cores of .+", described["hardware"])
    assert all("\n" not in value for value in described.values())


def test_gpus_that_torch_cannot_use_are_not_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_old(_: int) -> str:
        raise RuntimeError("The NVIDIA driver on your system is too old")

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", too_old)
    assert environment.hardware() == environment.hardware(gpus=False)


def test_that_products_of_matrices_are_not_in_fp32_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where TORCH_ALLOW_TF32_CUBLAS_OVERRIDE is set on one node."""
    here = this_process()
    assert "float32_matmul_precision highest" in here["versions"]
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    with pytest.raises(ConfigError, match=r"a process on b has float32_matmul_precision high where the driver has "):
        require_same(this_process.__wrapped__(), here, "a process on b")


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
    monkeypatch.setattr(moe_models, "__file__", str(tmp_path / "moe_models" / "__init__.py"))
    monkeypatch.setattr(schema, "__file__", str(tmp_path / "analysis" / "schema.py"))
    (tmp_path / "analysis").mkdir()
    (tmp_path / "analysis" / "schema.py").touch()
    seen = [write("moe_models/attention/mha.py", "a"), write("moe_models/attention/mha.py", "b")]
    seen += [write("trainables/loop.py", "a"), write("analysis/schema.py", "a")]
    assert len(set(seen)) == 4
    for name in ("analysis/reporting/report.py", "sweeps/exp6_grid.py", "moe_models/notes.md", "trainables/.copy.py"):
        assert write(name, "a") == seen[-1]
    (tmp_path / "moe_models" / ".#mha.py").symlink_to("nowhere")  # an editor's, of a file that is open
    (tmp_path / "moe_models" / ".ipynb_checkpoints").mkdir()
    assert write("moe_models/.ipynb_checkpoints/mha.py", "a") == seen[-1]
    assert re.fullmatch(r"[0-9a-f]{16}", seen[-1])


def test_other_code_or_packages_than_the_driver_s_are_refused() -> None:
    here = this_process()
    require_same(here, here, "a process")
    require_same(here, {}, "a process of somebody's own Tuner")
    with pytest.raises(ConfigError, match=r"^a process on b has other code than the driver "):
        require_same(here, {**here, "code": "older"}, "a process on b")
    mine, its = ({**here, "versions": f"python 3.11, torch {version}, ray 2.60"} for version in ("2.13", "2.12"))
    with pytest.raises(ConfigError, match=r"^the node has torch 2.13 where the driver has torch 2.12: "):
        require_same(mine, its, "the node")


def test_a_package_that_is_not_there_is_named_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial of somebody's own Tuner needs not all that a study does."""
    monkeypatch.setattr(environment, "PACKAGES", ("torch", "no-such-package"))
    assert this_process.__wrapped__()["versions"].endswith("+cpu, no-such-package none")


def test_what_was_made_in_two_places_names_both_once() -> None:
    one, other = {"code": "a", "hardware": "x"}, {"code": "b", "hardware": "x"}
    assert merged([one]) == one
    assert merged([one, other, one]) == {"code": "a; b", "hardware": "x"}


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
