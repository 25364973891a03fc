"""`python -m sweeps status`, `cancel` and `export`, on studies in folders."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from analysis.loading.load import load_results
from sweeps.__main__ import main
from sweeps.engine import lock
from sweeps.engine.lock import DRIVER_FILE, study_lock
from sweeps.engine.studies import find_studies, show_status
from tests.fakes import make_study

DRIVER = """
import pathlib, signal, sys, time
from sweeps.engine.lock import study_lock

signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in the background of a script
try:
    with study_lock(pathlib.Path(sys.argv[1])):
        time.sleep(600)
except KeyboardInterrupt:
    sys.exit(130)
"""
"""A process that holds a study as its driver does, and stops as one by Ctrl-C."""
STOPPING_DRIVER = """
import pathlib, sys, time, types
from sweeps.engine.lock import study_lock
from sweeps.engine.trials import _signals

mark = pathlib.Path(sys.argv[1], "stopping")

def wait():
    mark.touch()
    while mark.exists():
        time.sleep(0.05)

with study_lock(mark.parent):
    with _signals(types.SimpleNamespace(asked=True), print):
        if sys.argv[2] == "trials":
            wait()
    if sys.argv[2] != "trials":
        wait()
"""
"""One that was told to stop, and keeps what its runs have reached."""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Six planned runs, of which one diverged, one failed, and one has not ended."""
    cells = ("baseline", "attention", "mlp")
    folder = make_study(tmp_path / "studies" / "one", cells=cells, seeds=2, diverged=[("mlp", 0)], failed=[("mlp", 1)])
    plan = json.loads((folder / "plan.json").read_text())
    (folder / "records" / f"{plan['cells'][0]['hashes']['1']}.json").unlink()
    return folder


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Give a command and return its exit status and what it said."""

    def give(*words: str | Path) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["sweeps", *map(str, words)])
        status = main()
        captured = capsys.readouterr()
        return status, captured.out + captured.err

    return give


def test_status_counts_what_has_become_of_the_planned_runs(
    study: Path, command: Callable[..., tuple[int, str]]
) -> None:
    status, said = command("status", study.parent)
    heading, line = said.splitlines()
    names = ["planned", "finished", "diverged", "failed", "invalid", "missing"]
    assert heading.split()[2:8] == names
    assert line.split()[:8] == ["one", "interrupted", "6", "3", "1", "1", "0", "1"]
    assert status == 0
    with study_lock(study):
        assert "running (process " in command("status", study)[1]


def test_status_of_several_names_what_cannot_be_read_and_what_has_no_plan_yet(
    study: Path, command: Callable[..., tuple[int, str]]
) -> None:
    damaged, begun, other = (study.parent / name for name in ("damaged", "begun", "other"))
    for folder in (damaged, begun, other):
        folder.mkdir()
    (damaged / "plan.json").write_text("{")
    with study_lock(begun):
        status, said = command("status", study.parent)
        assert command("status", begun)[0] == 0
    first, second, third, error = said.splitlines()[1:]
    assert first.split()[:2] == ["begun", "running"]
    assert first.rstrip().endswith("without a plan yet")
    assert second.split() == ["damaged", "cannot", "be", "read"]
    assert third.split()[:2] == ["one", "interrupted"]
    assert error.startswith(f"error: {damaged / 'plan.json'} is not JSON")
    assert status == 2
    assert command("cancel", damaged)[0] == 2


def test_a_search_of_more_cells_is_not_complete_with_the_confirmation_of_others(
    command: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    folder = make_study(tmp_path / "one", cells=("baseline", "mlp"), seeds=2)
    searched = {
        "study": "one",
        "space": {},
        "cells": ["baseline", "mlp"],
        "guess_loss": 7.0,
        "updates": 9,
        "seed": 1000,
    }
    searched |= {"trials": 2, "random": 0, "sweep": 0, "rungs": [], "reduction": 3, "trial_tokens": 900}
    (folder / "tuning.json").write_text(json.dumps(searched))
    assert find_studies(folder)[0].state == "complete"
    (folder / "tuning.json").write_text(json.dumps({**searched, "cells": ["baseline", "mlp", "moe"]}))
    assert "interrupted in the search of moe" in command("status", folder)[1]


def test_status_in_a_narrow_terminal_keeps_names_whole(study: Path) -> None:
    long = "significance-exp6_grid-baseline-cpu-web-300-fp32-077053fa"
    plan = json.loads((study / "plan.json").read_text())
    (study / "plan.json").write_text(json.dumps({**plan, "study": long}))
    out = io.StringIO()
    show_status(find_studies(study), Console(file=out, width=80, force_terminal=True))
    name, *words = out.getvalue().splitlines()
    assert name == long
    assert all(line.startswith("  ") for line in words)
    assert " ".join(" ".join(words).split()).startswith(
        "interrupted: of 6 planned 3 finished, 1 diverged, 1 failed, 1 missing; last run ended 2"
    )
    assert max(map(len, out.getvalue().splitlines())) <= 80
    wide = io.StringIO()
    show_status(find_studies(study), Console(file=wide, width=200))
    assert len(wide.getvalue().splitlines()) == 2  # a header and a line


def test_cancel_stops_the_driver_and_waits_for_its_end(study: Path, command: Callable[..., tuple[int, str]]) -> None:
    assert command("cancel", study) == (0, "one: was not running, 1 run left\n")
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(study)])
    deadline = time.monotonic() + 60
    while not (study / DRIVER_FILE).exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert command("cancel", study) == (0, "one: stopped, 1 run left\n")
    assert driver.wait(60) == 130


@pytest.mark.parametrize("what", ["trials", "the rest"])
def test_cancel_is_no_second_signal_to_a_driver_that_stops_already(
    study: Path, command: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    driver = subprocess.Popen([sys.executable, "-c", STOPPING_DRIVER, str(study), what])
    deadline = time.monotonic() + 60
    while not (study / "stopping").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)

    def kill(pid: int, number: int) -> None:
        os.kill(pid, number)
        (study / "stopping").unlink()  # what it keeps takes until then

    monkeypatch.setattr(lock, "os", SimpleNamespace(**{**vars(os), "kill": kill}))
    assert command("cancel", study) == (0, "one: stopped, 1 run left\n")
    assert driver.wait(60) == 0


def test_a_cancel_that_comes_too_late_ends_nothing(tmp_path: Path) -> None:
    leaving = """
import os, pathlib, sys
from sweeps.engine.lock import STOP, study_lock

with study_lock(pathlib.Path(sys.argv[1])):
    pass
os.kill(os.getpid(), STOP)
print("left")
"""
    done = subprocess.run(
        [sys.executable, "-c", leaving, str(tmp_path)], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "left\n")


def test_cancel_stops_a_study_that_has_no_plan_yet(tmp_path: Path, command: Callable[..., tuple[int, str]]) -> None:
    folder = tmp_path / "one"
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(folder)])
    deadline = time.monotonic() + 60
    while not (folder / DRIVER_FILE).exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    try:
        assert command("cancel", folder) == (0, "one: stopped before it had a plan\n")
        assert driver.wait(60) == 130
    finally:
        driver.kill()
    assert not folder.exists()
    assert command("cancel", folder)[0] == 2


def test_a_driver_elsewhere_is_not_stopped_from_here(study: Path, command: Callable[..., tuple[int, str]]) -> None:
    with study_lock(study):
        (study / DRIVER_FILE).write_text(json.dumps({"pid": 1, "host": "elsewhere"}))
        status, said = command("cancel", study)
    assert said.startswith(f"error: the driver of {study} runs on elsewhere, not here")
    assert (status, said.count("\n")) == (2, 1)


def test_what_is_exported_is_analysed_as_the_study(
    study: Path, command: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    (study / "checkpoints").mkdir()
    (study / "checkpoints" / "0.pt").touch()
    status, said = command("export", study, tmp_path / "one.zip")
    assert status == 0
    with zipfile.ZipFile(tmp_path / "one.zip") as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "there")
    assert said.startswith(f"{tmp_path / 'one.zip'}: {len(names)} files")
    assert not [name for name in names if "checkpoints" in name or "/." in name]
    assert load_results(tmp_path / "there" / "one").runs.equals(load_results(study).runs)


def test_no_study_is_one_line(command: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    for folder, complaint in ((tmp_path / "none", "there is no folder"), (tmp_path, "is no study's folder")):
        status, said = command("status", folder)
        assert complaint in said
        assert (status, said.count("\n")) == (2, 1)
