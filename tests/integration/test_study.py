"""Whole studies: the real command, real training, real Ray and a real MLflow database."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray
import ray.cloudpickle
from filelock import FileLock
from mlflow.entities import Run

from analysis.schema import RECORDS_FOLDER, TrialRecord, read_records
from moe_models.errors import ConfigError
from sweeps.engine import cluster
from sweeps.engine.cli import main
from sweeps.engine.ray_session import start_ray
from sweeps.engine.resources import Resources
from sweeps.engine.where import where_runs_train
from sweeps.exp6_grid import STUDY
from tests import drivers, fakes_ray
from tests.drivers import SCRIPT, comparable, driver

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

TWO_AT_A_TIME = ("--max-concurrent", "2")


@pytest.fixture(scope="module")
def one_ray() -> Iterator[None]:
    """One Ray for the tests that run in this process; a driver joins the one that is started."""
    ray.cloudpickle.register_pickle_by_value(fakes_ray)  # workers cannot import the tests
    start_ray(2)
    yield
    ray.shutdown()


@pytest.fixture
def command(corpus_file: Path) -> Callable[..., list[str]]:
    """A command that trains one run at a time unless told otherwise: processes are what takes long."""

    def make(variants: str = "baseline,mlp", seeds: int = 2, steps: int = 3, *more: str) -> list[str]:
        fixed = ["--corpus", str(corpus_file), "--scale", "cpu", "--precision", "fp32", "--max-concurrent", "1"]
        return ["--variants", variants, "--seeds", str(seeds), "--steps", str(steps), *fixed, *more]

    return make


def study_folder() -> Path:
    (folder,) = Path("results").iterdir()
    return folder


def planned_folder(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> Path:
    """Return the folder of a study that has not begun, and make it."""
    assert main(STUDY, [*arguments, "--dry-run", "--json"]) == 0
    folder = Path(json.loads(capsys.readouterr().out)["folder"])
    folder.mkdir(parents=True)
    return folder


@contextlib.contextmanager
def fault(folder: Path, name: str) -> Iterator[None]:
    """Ask for a fault of `FaultyTrainable` meanwhile."""
    (folder / name).touch()
    yield
    (folder / name).unlink()


def nested_runs() -> list[Run]:
    return drivers.nested_runs(f"sqlite:///{Path('mlflow.db').absolute()}")


def require_mlflow_to_equal_the_records(folder: Path) -> None:
    """Every record has exactly one nested run, with its last values, ended, under one parent."""
    records, runs = read_records(folder), nested_runs()
    assert len({run.data.tags["mlflow.parentRunId"] for run in runs}) == 1
    by_hash = {run.data.tags["ablatune.config_hash"]: run for run in runs}
    assert len(by_hash) == len(runs) == len(records)
    for record in records:
        run = by_hash[record.config_hash]
        assert run.data.tags["ablatune.status"] == record.status
        assert run.data.metrics["val_loss"] == record.rows[-1]["val_loss"]
        assert run.info.status == "FINISHED"


@pytest.mark.usefixtures("one_ray")
def test_one_command_gives_a_finished_study_and_extends_it(
    command: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(STUDY, command(seeds=2)) == 0
    folder = study_folder()
    for name in ("plan.json", "results.csv", "results.json", "report.md", "report.html", "ranking.tex"):
        assert (folder / name).exists()
    assert list(folder.glob("*.png"))
    assert not (folder / ".tune").exists()
    assert list((folder / "checkpoints").glob("*")) == []
    records = read_records(folder)
    assert {(record.cell, record.seed) for record in records} == {(c, s) for c in ("baseline", "mlp") for s in (0, 1)}
    assert all(record.rows[-1]["step"] == 3 for record in records)
    output = capsys.readouterr().out
    assert "4 finished" in output
    assert " core-hours; the largest run took 0." in output
    assert "mlflow ui --backend-store-uri sqlite:///" in output
    assert "report.html" in output
    require_mlflow_to_equal_the_records(folder)

    before = {path.name: path.stat().st_mtime_ns for path in (folder / RECORDS_FOLDER).iterdir()}
    assert main(STUDY, command("baseline,mlp,attention", 3)) == 0
    assert study_folder() == folder
    assert len(read_records(folder)) == 9
    after = {path.name: path.stat().st_mtime_ns for path in (folder / RECORDS_FOLDER).iterdir()}
    assert {name: after[name] for name in before} == before, "a finished run was trained again"
    require_mlflow_to_equal_the_records(folder)

    capsys.readouterr()
    assert main(STUDY, command("mlp", 1, 3, "--json")) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["runs"] == {"finished": 9, "diverged": 0, "failed": 0}
    assert Path(result["report"]).exists()
    assert len(json.loads((folder / "plan.json").read_text())["cells"]) == 3
    require_mlflow_to_equal_the_records(folder)


@pytest.mark.usefixtures("one_ray")
def test_a_result_depends_on_neither_concurrency_order_nor_packing(
    command: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(STUDY, command("baseline,moe", 2, 3, *TWO_AT_A_TIME)) == 0
    together = {record.config_hash: comparable(record) for record in read_records(study_folder())}

    for variants, seeds in (("moe", 1), ("baseline,moe", 2)):
        assert main(STUDY, [*command(variants, seeds), "--output", "alone"]) == 0
    (folder,) = Path("alone").iterdir()
    assert {record.config_hash: comparable(record) for record in read_records(folder)} == together

    capsys.readouterr()
    packing = ("--gpus-per-trial", "auto", *TWO_AT_A_TIME)
    assert main(STUDY, command("baseline,moe", 2, 3, *packing, "--output", "packed", "--json")) == 0
    captured = capsys.readouterr()
    assert "measuring 2 models, up to 2 at a time" in captured.err
    assert "  as measured: " in captured.err
    packing = json.loads(captured.out)["packing"]
    assert packing["together"] in (1, 2)
    assert set(packing["seconds"]) == {"1", "2"}
    (folder,) = Path("packed").iterdir()
    packed = read_records(folder)
    assert {record.config_hash: comparable(record) for record in packed} == together
    peaks = [record.rows[-1]["peak_memory_bytes"] for record in packed]
    if None not in peaks:
        assert max(peaks) <= packing["run_bytes"] < 2 * max(peaks)


@pytest.mark.usefixtures("one_ray")
def test_a_process_trains_one_run_after_the_other_of_any_cell(
    command: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainables.ray_trainable.AblationTrainable", fakes_ray.NotingTrainable)
    assert main(STUDY, command("baseline,mlp", 5, 3, *TWO_AT_A_TIME)) == 0
    trials = [line.split() for line in (study_folder() / "processes.txt").read_text().splitlines()]
    assert len(trials) == 10
    processes = {process for process, _ in trials}
    assert len(processes) <= 4, "as many as run at a time, and as many that wait"
    assert any({cell for other, cell in trials if other == process} == {"baseline", "mlp"} for process in processes)


@pytest.mark.usefixtures("one_ray")
def test_a_published_study_runs_and_every_number_carries_its_flaws(
    command: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = command("baseline,attention,attention_moe", 1, 2, "--protocol", "published")
    undone = [*arguments, "--undo", "leak.no_causal_mask,eval.first_batches,split.overlapping_windows"]
    assert main(STUDY, arguments) == 0
    folder = study_folder()
    assert folder.name.startswith("exp6_grid-published-cpu-")
    records = {record.cell: record for record in read_records(folder)}
    assert STUDY.published is not None
    flaws = list(STUDY.published.all_flaws)
    assert {name: record.flaws for name, record in records.items()} == dict.fromkeys(records, flaws)
    assert len(records) == 3
    assert records["attention_moe"].config["model"] == records["attention"].config["model"]
    assert records["attention_moe"].config["declared_model"]["feed_forward"]["router"]["kind"] == "deepseek"
    curves = {name: comparable(record)["rows"] for name, record in records.items()}
    assert curves["attention_moe"] != curves["attention"]  # another place, other streams
    for run in nested_runs():
        assert run.data.tags["ablatune.flaws"].split() == flaws
    output = capsys.readouterr().out
    assert output.count("protocol published: trained under 9 flaws: confound.default_init, ") == 2  # before and after
    assert "attention, seed 0: val_loss" in output
    assert output.count(" under 9 flaws, ") == 3

    assert main(STUDY, [*undone, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["protocol"], len(result["flaws"])) == ("published", 6)
    other = read_records(Path(result["folder"]))
    assert {record.config_hash for record in other}.isdisjoint({r.config_hash for r in records.values()})
    assert all(record.flaws == result["flaws"] for record in other)


@pytest.mark.usefixtures("one_ray")
def test_a_run_that_fails_cannot_be_read_or_meets_other_code_costs_the_others_nothing(
    command: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("trainables.ray_trainable.AblationTrainable", fakes_ray.FaultyTrainable)
    folder = planned_folder(command(), capsys)
    others = {("baseline", 0), ("baseline", 1), ("mlp", 0)}

    with fault(folder, "raise"):
        assert main(STUDY, [*command(), *TWO_AT_A_TIME]) == 1
    assert {(record.cell, record.seed) for record in read_records(folder)} == others
    (failure,) = (TrialRecord.read(path) for path in (folder / "failures").glob("*.json"))
    (log,) = (folder / "failures").glob("*.log")
    assert "Traceback" in log.read_text()
    assert (failure.cell, failure.seed, failure.status) == ("mlp", 1, "failed")
    assert failure.error == "RuntimeError: planned fault"
    assert "mlp, seed 1: failed: RuntimeError: planned fault" in capsys.readouterr().out
    failed = [run for run in nested_runs() if run.data.tags["ablatune.status"] == "failed"]
    assert [(run.info.status, run.data.tags["ablatune.error"]) for run in failed] == [("FAILED", failure.error)]
    assert (folder / "report.html").exists()
    assert main(STUDY, command()) == 1, "a failure stands until it is to be tried again"
    assert len(read_records(folder)) == 3

    capsys.readouterr()
    with fault(folder, "other code"):
        assert main(STUDY, command("baseline,mlp", 2, 3, "--rerun", "failed")) == 2
    errors = capsys.readouterr().err
    assert "has other code than the driver" in errors
    assert errors.endswith("then the same command continues the study\n")
    assert len(errors.splitlines()) == 1
    assert not list(folder.glob("failures/*"))
    assert {(record.cell, record.seed) for record in read_records(folder)} == others

    with fault(folder, "unreadable"):
        assert main(STUDY, command()) == 2
    errors = capsys.readouterr().err
    (bad,) = (path for path in (folder / RECORDS_FOLDER).iterdir() if path.read_text() == "no record")
    assert errors.startswith(f"error: {bad.absolute()} is not a trial record: ")
    assert errors.endswith("; delete it to train that run again\n")
    assert len(errors.splitlines()) == 1
    assert not (folder / ".tune").exists()

    bad.unlink()
    assert main(STUDY, command()) == 0
    assert len(read_records(folder)) == 4
    require_mlflow_to_equal_the_records(folder)


@pytest.mark.usefixtures("one_ray")
def test_a_process_that_cannot_be_set_up_fails_its_runs_once_and_says_why(
    command: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("trainables.ray_trainable.AblationTrainable", fakes_ray.UnbornTrainable)
    assert main(STUDY, command("baseline", 2)) == 1
    folder = study_folder()
    failures = [TrialRecord.read(path) for path in (folder / "failures").glob("*.json")]
    assert [failure.error for failure in failures] == ["FileNotFoundError: no tokens there"] * 2
    output = capsys.readouterr().out
    assert output.count("failed: FileNotFoundError: no tokens there") == 2
    assert "its worker died" not in output


@pytest.mark.usefixtures("one_ray")
def test_what_is_measured_for_a_cluster_is_measured_on_a_node_with_room(monkeypatch: pytest.MonkeyPatch) -> None:
    here = Resources(slots=2, gpus=0, gpus_per_trial=0.0, reason="")
    assert where_runs_train(here, fakes_ray.process_of) == os.getpid()
    there = dataclasses.replace(here, cluster=True)
    assert where_runs_train(there, fakes_ray.process_of) != os.getpid()
    with pytest.raises(ConfigError, match="a node of the cluster cannot run this code: RuntimeError: planned"):
        where_runs_train(there, fakes_ray.process_of, "planned")
    monkeypatch.setattr(cluster, "MEASURE_SECONDS", 1.0)
    no_such = dataclasses.replace(there, gpus=1, gpus_per_trial=1.0)
    with pytest.raises(ConfigError, match="no node of the cluster had 1 CPU core and 1 GPU free for 1 s"):
        where_runs_train(no_such, fakes_ray.process_of)


def test_two_drivers_cannot_run_one_study(
    command: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = planned_folder(command(), capsys)
    with FileLock(folder / ".lock"):
        assert main(STUDY, command()) == 2
    assert "another process is running this study" in capsys.readouterr().err
    assert not (folder / "plan.json").exists()


def test_a_dry_run_says_all_and_writes_nothing(
    command: Callable[..., list[str]], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    before = sorted(tmp_path.iterdir())
    assert main(STUDY, [*command(), "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["scale"] == "cpu"
    assert plan["seeds"] == [0, 1]
    assert [cell["name"] for cell in plan["cells"]] == ["baseline", "mlp"]
    assert plan["cells"][1]["factors"] == {"attention": 0, "rmsnorm": 0, "mlp": 1, "moe": 0}
    assert all(cell["params_total"] > 0 for cell in plan["cells"])
    assert plan["estimate_seconds"] > 0
    assert (plan["estimate_cost"] > 0, plan["cost_unit"]) == (True, "core-hours")
    assert plan["estimate_memory_bytes"] > 2**20
    assert main(STUDY, [*command(), "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert plan["study"] in text
    assert f"{plan['cells'][0]['params_total']:,}" in text
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--variants", "mpl"], "unknown cell 'mpl': did you mean 'mlp'?"),
        (["--scale", "gpu"], "unknown scale 'gpu'"),
        (["--corpus", "webb"], "unknown corpus 'webb': did you mean 'web'?"),
        (["--corpus", "short.txt"], "short"),
        (["--corpus", "empty.txt"], "empty"),
        (["--corpus", "binary.txt"], "binary.txt"),
        (["--seeds", "0"], "--seeds must be 1 or more but got 0"),
        (["--steps", "-5"], "--steps must be 1 or more but got -5"),
        (["--output", "short.txt"], "--output short.txt"),
        (["--gpus-per-trial", "99"], "--gpus-per-trial 99 asks for more than this machine has"),
        (["--gpus-per-trial", "all"], "--gpus-per-trial"),
        (["--gpus-per-trial", "-1"], "--gpus-per-trial must be auto, 0, a share from 0.01 to 1, or a whole number"),
        (["--gpus-per-trial", "nan"], "--gpus-per-trial must be auto, 0, a share"),
        (["--gpu", "1"], "did you mean"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    more: list[str], message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("short.txt").write_text("too short\n")
    Path("empty.txt").write_text("")
    Path("binary.txt").write_bytes(bytes(range(256)) * 40)
    before = sorted(tmp_path.iterdir())
    assert main(STUDY, more) == 2
    captured = capfd.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    assert captured.err.startswith("error: ")
    assert message in captured.err
    assert sorted(tmp_path.iterdir()) == before


def test_a_tracking_server_that_is_not_there(
    command: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    assert main(STUDY, command()) == 2
    error = capsys.readouterr().err
    assert "the tracking server http://127.0.0.1:9 does not answer" in error
    assert "secret" not in error
    assert not Path("results").exists()


def test_a_ray_that_does_not_start_is_one_line(command: Callable[..., list[str]]) -> None:
    Path("file").write_text("")
    process = driver(command(), RAY_TMPDIR=str(Path("file").absolute()))  # its sessions would lie under a file
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert errors.startswith("error: Ray cannot be started: ")
    assert len(errors.splitlines()) == 1
    assert not list(Path("results").glob("*/plan.json"))


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(STUDY, ["--debug", "--scale", "gpu"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_the_script_refuses_an_argument_before_anything_slow() -> None:
    result = subprocess.run([sys.executable, str(SCRIPT), "--seeds", "0"], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "error: --seeds must be 1 or more but got 0\n"
    modules = (
        "import sys, sweeps.exp6_grid, sweeps.engine.cli; sys.exit(any(m in sys.modules for m in ('torch', 'ray')))"
    )
    assert subprocess.run([sys.executable, "-c", modules], check=False).returncode == 0
