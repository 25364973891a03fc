"""A run trained again beside its record: real training, and records as a trial writes them."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from analysis.schema import FAILED, FAILURES_FOLDER, RECORDS_FOLDER, TrialRecord, read_replays
from sweeps.__main__ import main
from sweeps.engine.plan import Plan
from sweeps.engine.runner import trial_config
from trainables.environment import this_process
from trainables.ray_trainable import AblationTrainable


@pytest.fixture
def record(plan_for: Callable[..., Plan]) -> Path:
    """The record of the one run of a study."""
    plan = plan_for(variants="baseline", seeds=1)
    plan.write()
    (run,) = plan.runs()
    trial = AblationTrainable(trial_config(plan, run, {"git_commit": "abc"}))
    while not trial.train()["done"]:
        pass
    return plan.folder / RECORDS_FOLDER / f"{run.config_hash}.json"


@pytest.fixture
def replayed(
    record: Path, corpus_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Give the command and return its exit status and what it said."""

    def command(*words: str, corpus: str = str(corpus_file)) -> tuple[int, str]:
        arguments = [str(record.parents[1]), *(words or ("baseline", "0")), "--corpus", corpus]
        monkeypatch.setattr(sys, "argv", ["sweeps", "replay", *arguments])
        status = main()
        captured = capsys.readouterr()
        return status, captured.out + captured.err

    return command


def test_a_run_is_had_again_to_the_last_bit(record: Path, replayed: Callable[..., tuple[int, str]]) -> None:
    before = record.read_bytes()
    for _ in range(2):
        status, said = replayed()
        assert said == "baseline, seed 0: finished as before; the record's curve to the last bit (1 row)\n"
        assert status == 0
    assert record.read_bytes() == before
    assert read_replays(record.parents[1]) == {record.stem: [this_process(False)]}


def test_the_first_difference_is_named_with_what_has_changed(
    record: Path, replayed: Callable[..., tuple[int, str]]
) -> None:
    true = TrialRecord.read(record)
    (row,) = true.rows
    other = {**row, "val_loss": row["val_loss"] + 1e-12}
    dataclasses.replace(true, rows=[other]).write(record.parent)
    status, said = replayed()
    assert said.startswith(
        f"baseline, seed 0: differs from update 4 on: val_loss was {other['val_loss']} and is {row['val_loss']} "
        "(git_commit was abc"
    )
    assert status == 1
    assert read_replays(record.parents[1]) == {}


def test_a_run_that_failed_and_does_not_fail_again_is_said(
    record: Path, replayed: Callable[..., tuple[int, str]]
) -> None:
    failed = dataclasses.replace(TrialRecord.read(record), status=FAILED, error="it broke", rows=[])
    failed.write(record.parents[1] / FAILURES_FOLDER)
    record.unlink()
    assert replayed() == (1, "baseline, seed 0: failed in the study (it broke), and came to its end here\n")


def test_what_cannot_be_trained_again_is_one_line(
    record: Path, replayed: Callable[..., tuple[int, str]], corpus_file: Path, plan_for: Callable[..., Plan]
) -> None:
    plan_for(variants="mlp", seeds=1).write()  # planned beside it, and not trained
    assert replayed("baselin", "0") == (
        2,
        "error: unknown cell 'baselin': did you mean 'baseline'? known: baseline, mlp\n",
    )
    assert replayed("baseline", "3") == (2, "error: baseline has no run of seed 3 that has ended, but of 0\n")
    assert replayed("mlp", "0") == (2, f"error: of mlp no run has ended in {record.parents[1].name}\n")
    Path("other.jsonl").write_text("".join(corpus_file.read_text().splitlines(keepends=True)[1:]))
    status, said = replayed(corpus="other.jsonl")
    assert (
        "the corpus 'other.jsonl' has not the tokens that baseline was trained on (small.jsonl): give that one" in said
    )
    assert (status, said.count("\n")) == (2, 1)
