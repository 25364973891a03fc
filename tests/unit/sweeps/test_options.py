from __future__ import annotations

import importlib
import io
import re
import subprocess
import sys
from functools import partial

import pytest

from moe_models.errors import ConfigError
from sweeps.engine.options import Options, parse, read
from sweeps.engine.study import find_study
from sweeps.exp6_grid import STUDY
from sweeps.significance import SignificanceOptions
from sweeps.tune import TuneOptions


def test_defaults_are_the_whole_study() -> None:
    options = parse(STUDY, [])
    assert options == Options()
    assert len(options.cells(STUDY)) == 16


def test_cells_come_in_the_study_s_order_and_once() -> None:
    assert parse(STUDY, ["--variants", "mlp, baseline"]).cells(STUDY) == ["baseline", "mlp"]


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        (["--variants", "atention"], ["unknown cell 'atention'", "did you mean 'attention'"]),
        (["--variants", "mlp,mlp"], ["--variants", "'mlp' twice"]),
        (["--variants", "mlp,,moe"], ["--variants", "empty name"]),
        (["--variants", ""], ["--variants", "empty name"]),
        (["--design", "orthogonl"], ["unknown design", "orthogonal"]),
        (["--seeds", "0"], ["--seeds must be 1 or more but got 0"]),
        (["--seeds", "-3"], ["--seeds must be 1 or more but got -3"]),
        (["--seeds", "many"], ["--seeds", "whole number", "many"]),
        (["--seeds", "1.5"], ["--seeds", "whole number", "1.5"]),
        (["--seeds"], ["--seeds", "Missing value"]),
        (["--equivalence-margin", "0"], ["--equivalence-margin must be positive but got 0"]),
        (["--equivalence-margin", "nan"], ["--equivalence-margin must be positive but got nan"]),
        (["--equivalence-margin", "0.02", "--protocol", "published"], ["no use under --protocol published"]),
        (["--steps", "0"], ["--steps must be 1 or more but got 0"]),
        (["--steps", "ten"], ["--steps", "whole number", "ten"]),
        (["--max-concurrent", "0"], ["--max-concurrent must be 1 or more but got 0"]),
        (["--gpus-per-trial", "-0.5"], ["--gpus-per-trial", "-0.5"]),
        (["--gpus-per-trial", "1.5"], ["--gpus-per-trial", "1.5"]),
        (["--gpus-per-trial", "nan"], ["--gpus-per-trial", "nan"]),
        (["--gpus-per-trial", "inf"], ["--gpus-per-trial", "inf"]),
        (["--gpus-per-trial", "all"], ["--gpus-per-trial: must be auto or a number but got 'all'"]),
        (["--gpus-per-trial", ""], ["--gpus-per-trial: must be auto or a number but got ''"]),
        (["--precision", "fp8"], ["--precision", "fp8", "bf16"]),
        (["--seed", "3"], ["--seed", "did you mean --seeds?"]),
        (["--max_concurent", "3"], ["did you mean --max-concurrent?"]),
        (["exp6"], ["exp6"]),
    ],
)
def test_bad_options_give_one_line(argv: list[str], parts: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError) as error:
        parse(STUDY, argv)
    assert "\n" not in str(error.value)
    for part in parts:
        assert part in str(error.value)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_an_error_is_its_message_alone_whatever_can_be_drawn(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    with pytest.raises(ConfigError) as error:
        parse(STUDY, ["--gpus-per-trial", "all"])
    assert str(error.value) == (
        "Error parsing --gpus-per-trial: must be auto or a number but got 'all' (all options: --help)"
    )


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse(STUDY, ["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for name in Options.__dataclass_fields__:
        assert "--" + name.replace("_", "-") in text
    assert "baseline" in text


@pytest.mark.parametrize("kind", [Options, SignificanceOptions, TuneOptions])
@pytest.mark.parametrize("width", [80, 200])
def test_help_fills_its_lines_with_whole_words(
    kind: type[Options], width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    with pytest.raises(SystemExit):
        read(kind, ["--help"], "study", "A title.\n\n" + "Many words of a description. " * 20)
    text = capsys.readouterr().out
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    assert " ".join(text.split()).count("Many words") == 20
    assert "(default: None)" not in text
    assert "(default: False)" not in text
    assert "(default: web)" in text
    flags = [place for place, line in enumerate(lines) if "--" in line] + [len(lines) - 1]
    first = next(place for place in flags if "--corpus" in lines[place])
    found = "".join(lines[first : flags[flags.index(first) + 1]])
    words = " ".join(re.sub("[\u2502|]", " ", found).split())
    assert words.endswith("`synthetic`, `recall`, `copy`, `modular` (docs/corpora.md). (default: web)")
    assert flags[flags.index(first) + 1] - first == {80: 5, 200: 2}[width]  # as few lines as hold it


UNREAD = """
import os, sys
from sweeps.engine.cli import guarded
from sweeps.engine.options import Options
from sweeps.engine.shown import console_of
from sweeps.exp6_grid import STUDY, main

reading, writing = os.pipe()
os.dup2(writing, sys.stdout.fileno())
os.close(reading)
options = Options(dry_run=sys.argv[1] == "dry run")
sys.exit(main(STUDY, ["--help"]) if sys.argv[1] == "help" else guarded([], lambda _: console_of(options).print("a")))
"""
"""Prints to nobody."""


@pytest.mark.parametrize(
    ("what", "status", "said"),
    [
        ("study", 2, "error: what read standard output has ended; the same command continues the study\n"),
        ("dry run", 1, ""),
        ("help", 1, ""),
    ],
)
def test_where_nobody_reads_a_study_stops_and_says_so(what: str, status: int, said: str) -> None:
    done = subprocess.run([sys.executable, "-c", UNREAD, what], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (status, "", said)


UNREAD_ASIDE = """
import os, sys
from sweeps.engine.cli import guarded
from sweeps.engine.options import Options
from sweeps.engine.shown import console_of

reading, writing = os.pipe()
os.dup2(writing, sys.stderr.fileno())
os.close(reading)
print("ends with", guarded([], lambda _: console_of(Options(json=True)).print("a")))
"""
"""Prints to nobody what stands beside `--json`."""


def test_where_nobody_reads_what_stands_beside_it_standard_output_is_still_read() -> None:
    done = subprocess.run([sys.executable, "-c", UNREAD_ASIDE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "ends with 2\n")


@pytest.mark.parametrize("script", ["significance", "tune", "gating", "variance", "scaling"])
def test_what_stands_above_the_options_is_as_wide_as_the_page(
    script: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tyro takes a line that begins with a quoted name for a paragraph of its own."""
    monkeypatch.setenv("COLUMNS", "90")
    module = importlib.import_module(f"sweeps.{script}")
    ask = partial(parse, module.STUDY) if hasattr(module, "STUDY") else module.main
    with pytest.raises(SystemExit):
        ask(["--help"])
    text = capsys.readouterr().out
    lines = [line for line in text.splitlines() if not line.startswith("    python ")]
    assert max(map(len, lines)) <= 90
    assert not any(line.startswith("`") for line in lines)
    assert "\n\n\n" not in text


def test_help_names_the_cells_of_every_design_and_the_scales_of_a_ladder(capsys: pytest.CaptureFixture[str]) -> None:
    for name, said in (
        ("gating", "Cells of --design matched: baseline, silu, gate, silu_gate."),
        ("variance", "Cells of --design components: baseline, baseline_1,"),
        ("scaling", "Sizes of --scale auto: ladder_1, ladder_2, ladder_3, ladder_4."),
    ):
        with pytest.raises(SystemExit):
            parse(find_study(name), ["--help"])
        assert said in " ".join(capsys.readouterr().out.split())


def test_what_is_read_is_of_the_kind_that_was_asked_for() -> None:
    assert read(Options, [], "study", "") == Options()
    assert read(TuneOptions, ["--trials", "4"], "tune", "") == TuneOptions(trials=4)
