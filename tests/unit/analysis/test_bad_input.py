"""Bad input: one clear line for what cannot be read, and a count of everything that is left out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from analysis.__main__ import main
from analysis.loading.load import load_results
from analysis.reporting import narrative
from analysis.schema import PLAN_FILE
from analysis.summary import analyse
from tests.fakes import make_study

HEAD = "cell,seed,val_loss\n"
REFUSED = {
    "no rows": (HEAD, "has no rows"),
    "an empty file": ("", "has no rows"),
    "no seed": ("cell,val_loss\nbaseline,1\n", "column 'seed' is missing: it has cell, val_loss"),
    "no cell": ("seed,val_loss\n0,1\n", "column 'cell (or variant)' is missing: it has seed, val_loss"),
    "no loss": (
        "cell,seed,loss\nbaseline,0,1\n",
        "column 'val_loss' is missing: it has cell, seed, loss; --metric names the column",
    ),
    "words for a loss": (f"{HEAD}baseline,0,1\nnew,0,low\n", "line 3: val_loss must be a number but got 'low'"),
    "words for a seed": (f"{HEAD}baseline,x,1\n", "line 2: seed must be a whole number but got 'x'"),
    "half a seed": (f"{HEAD}baseline,0.5,1\n", "line 2: seed must be a whole number but got '0.5'"),
    "a short line": (f"{HEAD}baseline,0\n", "line 2: 2 values for 3 columns"),
    "a name that looks marked": (f"{HEAD}ours \u2020,0,1\n", "line 2: cell 'ours \u2020' ends in \u2020"),
    "a cell without a name": (f"{HEAD},0,1\n", "line 2: cell is empty"),
    "duplicate seeds": (
        f"{HEAD}baseline,0,1\nbaseline,0,1.1\nnew,0,2\nnew,0,2.2\n",
        "2 rows repeat a (cell, seed), the first is cell 'baseline', seed 0: keep one",
    ),
    "no baseline": (f"{HEAD}old,0,1\nnew,0,1\n", "unknown baseline 'baseline': there are: old, new; --baseline names"),
    "an unknown status": (
        "cell,seed,status,val_loss\nbaseline,0,done,1\n",
        "line 2: status must be one of finished, diverged, failed but got 'done'",
    ),
    "an infinite time": (
        "cell,seed,val_loss,train_seconds\nbaseline,0,1,inf\n",
        "cell 'baseline', seed 0 finished with train_seconds = inf",
    ),
    "an absurd loss": (
        f"{HEAD}baseline,0,3\nbaseline,1,3.1\nbaseline,2,3.2\nnew,0,1e308\nnew,1,2.9\nnew,2,-1e200\n",
        "cell 'new', seed 0 (and 1 more) finished with val_loss = 1e+308: beyond 1e+25 nothing can be computed",
    ),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_what_cannot_be_read_is_one_line(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written, expected = REFUSED[case]
    path = tmp_path / "mine.csv"
    path.write_text(written)
    assert main(["report", str(path), "--output", str(tmp_path / "report")]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert expected in said
    assert not (tmp_path / "report").exists()


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("loss", ["1e6", "1e24", "-1e24", "1e-300"])
def test_an_extreme_loss_still_has_its_report(loss: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(f"{HEAD}baseline,0,3\nbaseline,1,3.1\nbaseline,2,3.2\nnew,0,{loss}\nnew,1,2.9\nnew,2,3.3\n")
    assert main(["report", str(path), "--output", str(tmp_path / "report")]) == 0
    json.loads((tmp_path / "report" / "results.json").read_text(), parse_constant=pytest.fail)
    assert (tmp_path / "report" / "power.png").exists()


def test_differences_without_a_percentage_are_named(tmp_path: Path) -> None:
    sound = "baseline,0,3\nbaseline,1,3.1\nbaseline,2,3.2\nold,0,3.1\nold,1,3.3\nold,2,3.2\n"
    remarks, _ = said(tmp_path / "mine.csv", f"{sound}new,0,1e6\nnew,1,2.9\nnew,2,3.3\n")
    assert one(remarks, "percent of perplexity, or their interval, are left out of new: ")
    remarks, _ = said(tmp_path / "mine.csv", sound)
    assert not any("percent of perplexity" in remark for remark in remarks)


def test_an_unknown_metric_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_study(tmp_path / "grid", cells=("baseline", "moe"), seeds=2)
    assert main(["report", str(folder), "--metric", "val_los"]) == 1
    assert "unknown metric 'val_los': did you mean 'val_loss'? there are: val_loss" in capsys.readouterr().err


def test_an_unknown_direction_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_study(tmp_path / "grid", cells=("baseline", "moe"), seeds=2)
    plan = json.loads((folder / PLAN_FILE).read_text())
    (folder / PLAN_FILE).write_text(json.dumps({**plan, "direction": "down"}))
    assert main(["report", str(folder)]) == 1
    assert "unknown direction 'down': known: min, max" in capsys.readouterr().err


def said(path: Path, rows: str) -> tuple[list[str], dict[str, str]]:
    """Return the report's remarks on a CSV and the verdict on each cell."""
    path.write_text(HEAD + rows)
    results = load_results(path)
    analysis = analyse(results)
    verdicts = dict(zip(analysis.comparisons["cell"], analysis.comparisons["verdict"], strict=True))
    return narrative.remarks(results, analysis), verdicts


def one(remarks: list[str], words: str) -> bool:
    return sum(words in remark for remark in remarks) == 1


def test_nan_and_infinity_are_diverged_runs_and_an_empty_loss_a_failed_one(tmp_path: Path) -> None:
    rows = "baseline,0,1\nbaseline,1,1.1\nbaseline,2,1.2\nnew,0,nan\nnew,1,-inf\nnew,2,1\nodd,0,1\nodd,1,\nodd,2,1.1\n"
    remarks, verdicts = said(tmp_path / "mine.csv", rows)
    assert one(remarks, "rows with NaN or infinite val_loss, counted as diverged: 2")
    assert one(remarks, "2 runs diverged: an outcome, so these cells have no rank and no test; their means are of")
    assert one(remarks, "rows with no val_loss, counted as failed: 1")
    assert one(remarks, "1 run failed and in no number: odd (1)")
    assert one(remarks, "odd against baseline: paired over 2 common seeds; left out are 0 finished seeds of odd and 1")
    assert verdicts == {"new": "diverged in 2 of 3 seeds", "odd": "n too small (2 of the 3 pairs needed)"}


def test_what_has_no_row_is_counted(tmp_path: Path) -> None:
    rows = "baseline,0,1\nbaseline,1,1.1\nbaseline,2,1.2\nbaseline,3,1.2\nnew,0,1\nnew,1,1.5\nnew,2,1\nother,1,2\n"
    remarks, verdicts = said(tmp_path / "mine.csv", rows)
    assert one(remarks, "of 3 cells x 4 seeds = 12 runs 4 are not there: new (1), other (3)")
    assert one(remarks, "cells have between 1 and 4 finished seeds")
    assert one(
        remarks, "new against baseline: paired over 3 common seeds; left out are 0 finished seeds of new and 1 of"
    )
    assert verdicts["other"] == "n too small (1 of the 3 pairs needed)"


@pytest.mark.parametrize(
    ("n", "expected"),
    [
        (1, "n = 1: no interval, no effect size and no test exists"),
        (2, "n = 2: intervals are wide, and no effect size"),
    ],
)
def test_few_seeds_have_no_test(n: int, expected: str, tmp_path: Path) -> None:
    rows = "".join(
        f"{cell},{seed},{1 + seed + place * (1 + seed**2)}\n"
        for place, cell in enumerate(("baseline", "new"))
        for seed in range(n)
    )
    remarks, verdicts = said(tmp_path / "mine.csv", rows)
    assert one(remarks, expected)
    assert verdicts == {"new": f"n too small ({n} of the 3 pairs needed)"}


def test_no_variance_is_no_certainty(tmp_path: Path) -> None:
    rows = "".join(f"{cell},{seed},{loss}\n" for cell, loss in (("baseline", 1), ("new", 2)) for seed in range(3))
    remarks, verdicts = said(tmp_path / "mine.csv", rows)
    assert one(remarks, "no spread: all seeds gave the same val_loss in baseline, new")
    assert verdicts == {"new": "the same difference in all seeds: no t test exists"}


def test_ties_share_a_rank_and_are_named(tmp_path: Path) -> None:
    rows = "".join(f"{cell},{seed},{1 + seed / 7}\n" for cell in ("baseline", "new") for seed in range(3))
    remarks, verdicts = said(tmp_path / "mine.csv", rows)
    assert one(remarks, "ties: these have the same mean up to rounding and share a rank: baseline = new")
    assert one(remarks, "WARNING: new equals baseline in every seed though they differ in name alone")
    assert verdicts == {"new": "identical in 3 of 3 seeds"}


@pytest.mark.parametrize("n", [1, 2])
def test_few_equal_losses_of_a_table_do_not_make_one_model(n: int, tmp_path: Path) -> None:
    rows = "".join(f"{cell},{seed},{3 + seed}\n" for cell in ("baseline", "new") for seed in range(n))
    remarks, verdicts = said(tmp_path / "mine.csv", rows)
    assert verdicts == {"new": f"n too small ({n} of the 3 pairs needed)"}
    assert not any("equals" in remark for remark in remarks)
    assert one(remarks, f"n = {n}: ")
    results = load_results(tmp_path / "mine.csv")
    claims = {finding.claim: finding.cells for finding in narrative.verdict(results, analyse(results))[""]}
    assert not any(claim.startswith("The same") for claim in claims)
    assert claims["Not tested"] == (("new", verdicts["new"]),)


def test_equal_losses_of_a_study_are_of_one_model_from_the_first_seed_on(tmp_path: Path) -> None:
    results = load_results(make_study(tmp_path / "grid", cells=("baseline", "attention"), seeds=1, noise=0.0))
    assert list(analyse(results).comparisons["verdict"]) == ["identical in 1 of 1 seeds"]


def test_a_table_with_everything_wrong_still_makes_a_report(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(
        "variant,seed,note,val_loss\nbaseline,0,x,1\nbaseline,1,x,1\nnew,0,y,nan\nnew,5,y,2\nlost,0,z,\nlone,7,z,3\n"
    )
    assert main(["report", str(path), "--output", str(tmp_path / "report")]) == 0
    page = (tmp_path / "report" / "report.md").read_text()
    for words in (
        "counted as diverged: 1",
        "counted as failed: 1",
        "were not used: note",
        "no spread",
        "of 4 cells x 4 seeds = 16 runs 10",
    ):
        assert words in page, words
