"""`python -m analysis`: one line for a user's error, no traceback unless asked for."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from analysis.__main__ import main
from analysis.schema import Audit
from tests.fakes import make_study


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mine.csv"
    path.write_text("variant,seed,nll\nold,0,2.0\nold,1,2.1\nold,2,2.3\nnew,0,1.9\nnew,1,2.0\nnew,2,2.1\n")
    return path


def test_report_of_a_folder_lies_in_the_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_study(tmp_path / "grid", cells=("baseline", "moe"), seeds=2)
    assert main(["report", str(folder)]) == 0
    assert (folder / "report.html").exists()
    assert str(folder / "report.html") in capsys.readouterr().out


def test_who_reads_may_have_seen_enough(table: Path) -> None:
    command = f"'{sys.executable}' -m analysis report '{table}' --baseline old --metric nll | true"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), "PYTHONUNBUFFERED": "1"}
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")


def test_report_of_a_csv_takes_its_options(table: Path, tmp_path: Path) -> None:
    arguments = ["report", str(table), "--baseline", "old", "--metric", "nll", "--output", str(tmp_path / "there")]
    assert main(arguments) == 0
    assert "Clearly worse than old" in (tmp_path / "there" / "report.md").read_text()
    assert main(arguments[:-2]) == 0
    assert (tmp_path / "report-mine" / "report.html").exists()


def test_a_metric_that_is_no_loss_has_its_own_direction_and_no_unit(tmp_path: Path) -> None:
    path = tmp_path / "acc.csv"
    path.write_text(
        "cell,seed,accuracy\nbaseline,0,.49\nbaseline,1,.50\nbaseline,2,.48\n"
        "a,0,.60\na,1,.62\na,2,.61\nb,0,.39\nb,1,.41\nb,2,.38\n"
    )
    assert main(["report", str(path), "--metric", "accuracy", "--output", str(tmp_path / "there")]) == 0
    page = (tmp_path / "there" / "report.md").read_text()
    said = page[page.index("## Verdict") : page.index("## Keep in mind")]
    assert "**Highest mean accuracy**:\n  - a: 0.61" in said
    assert "**Clearly better than baseline**:\n  - a: +0.12" in said
    assert "**Clearly worse than baseline**:\n  - b: " in said
    assert "nats" not in said
    assert not [words for words in ("perplexity", "## Efficiency", "## What it costs", "loss is") if words in page]


@pytest.mark.parametrize("command", [("report",), ("seeds", "--difference", "0.1")])
def test_the_direction_of_an_unknown_metric_is_asked_for(
    command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.csv").write_text("cell,seed,bleu\n" + "".join(f"baseline,{n},{n}\nnew,{n},2\n" for n in range(3)))
    arguments = [command[0], "mine.csv", *command[1:], "--metric", "bleu"]
    assert main(arguments) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "nothing says which 'bleu' is better: add --direction min (a lower one) or --direction max" in said
    assert main([*arguments, "--direction", "max"]) == 0


def test_a_study_s_own_table_does_not_know_its_plan(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "grid", cells=("baseline", "attention", "moe"), seeds=3, noise=0.0)
    assert main(["report", str(folder)]) == 0
    assert main(["report", str(folder / "results.csv"), "--output", str(tmp_path / "there")]) == 0
    of_folder, of_table = ((place / "report.md").read_text() for place in (folder, tmp_path / "there"))
    remarks = of_table[of_table.index("## Keep in mind") : of_table.index("## Ranking")]
    assert of_table.count("no plan is known") == remarks.count("no plan is known: nothing says that these tests") == 1
    assert "exploratory unless you know of a plan" in remarks
    assert "report the folder" in remarks
    equal = "WARNING: attention equals baseline in every seed though they differ in attention: one model"
    assert f"{equal}, or a negative control, which a table cannot declare?" in remarks
    assert "no plan is known" not in of_folder
    assert "a table cannot declare" not in of_folder


def test_flawed_and_invalid_runs_are_told_in_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = {("moe", 0): [Audit(name="causality", severity="invalid", evidence="it looks ahead")]}
    folder = make_study(tmp_path / "grid", cells=("baseline", "moe"), seeds=2, audits=found)
    assert main(["report", str(folder)]) == 0
    assert "no result" not in capsys.readouterr().out
    assert "| moe | 1 |" in (folder / "report.md").read_text()
    assert main(["report", str(folder), "--include-invalid"]) == 0
    assert "no result: found invalid by causality" in capsys.readouterr().out
    assert "| moe \N{LARGE RED CIRCLE} | 2 |" in (folder / "report.md").read_text()


def test_a_report_made_again_of_the_published_protocol_keeps_what_its_flaws_make_invalid(tmp_path: Path) -> None:
    flaw = "split.overlapping_windows"
    found = {("moe", 0): [Audit(name="split_overlap", severity="invalid", evidence="it was trained on")]}
    flaws, plan = {"baseline": [flaw], "moe": [flaw]}, {"flaws": [flaw]}
    folder = make_study(tmp_path / "grid", cells=tuple(flaws), seeds=2, audits=found, flaws=flaws, plan=plan)
    assert main(["report", str(folder)]) == 0
    assert "| moe \N{LARGE RED CIRCLE} | 2 |" in (folder / "report.md").read_text()


def test_the_spread_of_cells_of_any_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "orders.csv"
    rows = [f"run_{order},{order},{seed},{seed + order * (1 + seed)}" for order in range(3) for seed in range(3)]
    path.write_text("\n".join(["cell,data_order,seed,val_loss", *rows]))
    assert main(["variance", str(path)]) == 1
    assert "--baseline names the cell" in capsys.readouterr().err
    assert main(["variance", str(path), "--baseline", "run_0"]) == 0
    assert "data order" in capsys.readouterr().out


def test_study_chooses_among_several(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "both.csv"
    path.write_text("study,cell,seed,val_loss\na,baseline,0,1\nb,baseline,0,2\n")
    assert main(["report", str(path), "--output", str(tmp_path / "out")]) == 1
    assert "choose one with --study: a, b" in capsys.readouterr().err
    assert main(["report", str(path), "--output", str(tmp_path / "out"), "--study", "b"]) == 0


def test_an_error_is_one_line(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(table)]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    has = "it has variant, seed, nll; --metric names the column to compare cells by"
    assert shown.err == f"error: {table}: column 'val_loss' is missing: {has}\n"
    assert sorted(path.name for path in table.parent.iterdir()) == ["mine.csv"]


def test_debug_shows_where_it_came_from(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(table), "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_an_unknown_subcommand_names_those_there_are() -> None:
    done = subprocess.run([sys.executable, "-m", "analysis", "rapport"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "report" in done.stdout + done.stderr


@pytest.mark.parametrize("command", ["report", "audit", "compare-published", "seeds", "sync-mlflow", "variance"])
def test_help_is_of_paragraphs_and_asks_nobody_for_none(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main([command, "--help"])
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    assert not re.search(r"None|--no-|default: False", text)
