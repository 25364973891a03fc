"""Results from a folder, a CSV and an MLflow store: the same table, and one clear line for what is wrong."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.errors import AnalysisError
from analysis.loading import load_mlflow
from analysis.loading.load import load_results
from analysis.reporting import narrative
from analysis.reporting.report import results_csv
from analysis.schema import CURVE_COLUMNS, RECORDS_FOLDER, Audit, TrialRecord, read_records, result_columns
from analysis.study.results import LARGEST
from analysis.study.runs import runs_table
from analysis.tracking import stored_runs
from tests.fakes import FACTORS, GRID, make_study

CELLS = ("baseline", "rmsnorm", "mlp", "moe")
FLAWS = {"rmsnorm": ("eval.first_batches", "leak.no_causal_mask"), "moe": ("leak.no_causal_mask",)}
AUDITS = {
    ("rmsnorm", 0): (
        Audit(name="causality", severity="invalid", evidence="the logits moved: by 0.35"),
        Audit(name="budget", severity="note", evidence="299 of 300 updates"),
    ),
    ("moe", 0): (Audit(name="targets", severity="invalid", evidence="labels are off by one"),),
}


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return make_study(tmp_path / "grid", cells=CELLS, seeds=3, diverged=[("moe", 1)], failed=[("mlp", 2)])


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


# --- a study's folder ---


def test_a_folder_gives_every_run_in_plan_order(study: Path) -> None:
    results = load_results(study)
    assert results.study == "grid"
    assert results.factors == FACTORS
    assert tuple(results.runs.columns) == result_columns(FACTORS)
    assert list(zip(results.runs["cell"], results.runs["seed"], strict=True)) == [
        (c, s) for c in CELLS for s in range(3)
    ]
    assert results.baselines == dict.fromkeys(CELLS, "baseline")
    assert results.notes == ()
    record = next(r for r in read_records(study) if r.cell == "rmsnorm" and r.seed == 2)
    row = results.runs.query("cell == 'rmsnorm' and seed == 2").iloc[0]
    assert row["val_loss"] == record.rows[-1]["val_loss"]
    assert row["steps"] == 300
    assert row["config_hash"] == record.config_hash


def test_runs_that_did_not_finish_have_no_validation_result(study: Path) -> None:
    runs = load_results(study).runs.set_index(["cell", "seed"])
    assert runs.loc[("moe", 1), "status"] == "diverged"
    assert runs.loc[("mlp", 2), "status"] == "failed"
    for run in (("moe", 1), ("mlp", 2)):
        assert runs["val_loss"].isna()[run]
        assert runs.loc[run, "error"]
    assert runs.loc[("mlp", 2), "steps"] == 0
    assert runs["error"].notna().sum() == 2


def test_a_record_counts_more_than_an_earlier_failure(study: Path) -> None:
    failure = TrialRecord.read(next((study / "failures").glob("*.json")))
    rows = [{"step": 300, "val_loss": 4.0}]
    dataclasses.replace(failure, status="finished", error=None, rows=rows).write(study / RECORDS_FOLDER)
    run = load_results(study).runs.query("cell == 'mlp' and seed == 2").iloc[0]
    assert (run["status"], run["val_loss"]) == ("finished", 4.0)


def test_a_folder_gives_the_curves(study: Path) -> None:
    curves = load_results(study).curves
    assert tuple(curves.columns) == ("cell", "seed", *CURVE_COLUMNS)
    one = curves.query("cell == 'baseline' and seed == 0")
    assert list(one["step"]) == list(range(25, 301, 25))
    assert one["val_loss"].notna().sum() == 6
    assert len(curves.query("cell == 'moe' and seed == 1")) == 6


def test_the_plan_says_where_the_runs_were_made(study: Path) -> None:
    record = read_records(study)[0]
    elsewhere = {**record.environment, "hardware": "one GPU"}
    dataclasses.replace(record, environment=elsewhere).write(study / RECORDS_FOLDER)
    environment = load_results(study).plan["environment"]
    assert environment["git_commit"] == "0123abc"
    assert set(environment["hardware"].split("; ")) == {"one GPU", "2 cores of Intel Xeon, 8 GiB memory"}


@pytest.mark.parametrize("key", ["factors", "baseline", "hashes"])
def test_a_plan_whose_cells_lack_something_is_said(study: Path, key: str) -> None:
    plan = json.loads((study / "plan.json").read_text())
    plan["cells"][1].pop(key)
    (study / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(AnalysisError, match=rf"plan\.json is not a study's plan: a cell of it has no {key}"):
        load_results(study)


@pytest.mark.parametrize("name", ["plan.json", "records/*.json"])
def test_what_code_of_another_schema_wrote_is_refused(study: Path, name: str) -> None:
    path = next(study.glob(name))
    if name == "plan.json":
        path.write_text(path.read_text().replace('"schema_version": 1', '"schema_version": 2'))
    else:
        dataclasses.replace(TrialRecord.read(path), schema_version=2).write(path.parent)
    with pytest.raises(AnalysisError, match=rf"{path.name}.*its schema_version is 2, and this code reads 1"):
        load_results(study)


def test_several_scales_compare_within_a_scale(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "grid", cells=CELLS, seeds=2, scales=("cpu", "large"))
    results = load_results(folder)
    assert results.factors == (*FACTORS, "scale")
    assert results.baselines["moe@large"] == "baseline@large"
    assert load_results(folder, baseline="moe").baselines["mlp@cpu"] == "moe@cpu"


@pytest.mark.parametrize("text", ["{", "[]", '{"study": "grid"}', '{"surprise": 1}'])
def test_a_corrupt_record_is_named(study: Path, text: str) -> None:
    path = write(study / RECORDS_FOLDER / "0000.json", text)
    with pytest.raises(AnalysisError, match=f"{path} is not a trial record"):
        load_results(study)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace('"val_loss": 4', '"val_loss": 3', 1),
        lambda text: text.removesuffix("\n}\n") + ',\n "status": "failed"\n}\n',
        lambda text: json.dumps(json.loads(text)),
    ],
    ids=["a digit", "an entry", "its form"],
)
def test_a_record_that_was_changed_is_named(study: Path, change: Callable[[str], str]) -> None:
    path = next((study / RECORDS_FOLDER).glob("*.json"))
    text = path.read_text()
    assert change(text) != text
    path.write_text(change(text))
    with pytest.raises(AnalysisError, match=f"{path} is not a trial record: it was changed after it was written"):
        load_results(study)


@pytest.mark.parametrize("rows", [[], [{"step": 4, "train_loss": 3.0, "val_loss": None}]], ids=["none", "no loss"])
def test_a_finished_run_without_its_last_loss_is_no_record(study: Path, rows: list[dict[str, Any]]) -> None:
    path = next((study / RECORDS_FOLDER).glob("*.json"))
    fields = {name: value for name, value in json.loads(path.read_text()).items() if name != "sha256"}
    path.write_text(json.dumps({**fields, "rows": rows}))
    with pytest.raises(AnalysisError, match=f"{path} is not a trial record: .*last row must have a val_loss"):
        load_results(study)


def test_a_record_from_before_there_were_checksums_is_read(study: Path) -> None:
    before = load_results(study)
    for path in (study / RECORDS_FOLDER).glob("*.json"):
        text = {name: value for name, value in json.loads(path.read_text()).items() if name != "sha256"}
        path.write_text(json.dumps(text))
    assert load_results(study).runs.equals(before.runs)


def test_a_record_that_the_plan_does_not_have_is_refused(study: Path) -> None:
    record = read_records(study)[0]
    TrialRecord(**{**vars(record), "config_hash": "0000"}).write(study / RECORDS_FOLDER)
    with pytest.raises(
        AnalysisError, match=rf"record 0000\.json \(cell '{record.cell}', seed {record.seed}\) is not a run of"
    ):
        load_results(study)


def test_a_folder_without_a_plan_or_records_is_refused(tmp_path: Path, study: Path) -> None:
    with pytest.raises(AnalysisError, match=r"it has no plan\.json"):
        load_results(tmp_path)
    (study / "plan.json").write_text("{}")
    with pytest.raises(AnalysisError, match="it has no study, factors, cells, seeds"):
        load_results(study)
    empty = make_study(tmp_path / "empty", seeds=0)
    with pytest.raises(AnalysisError, match="has no records"):
        load_results(empty)


def test_a_source_that_is_not_there_is_refused() -> None:
    with pytest.raises(AnalysisError, match="there is no 'nowhere': a source is"):
        load_results("nowhere")


def test_flaws_and_findings_of_records_reach_the_runs(tmp_path: Path) -> None:
    results = load_results(make_study(tmp_path / "grid", cells=CELLS, seeds=2, flaws=FLAWS, audits=AUDITS))
    runs = results.runs.set_index(["cell", "seed"])
    assert runs["flaws"].tolist() == [
        "",
        "",
        *["eval.first_batches leak.no_causal_mask"] * 2,
        "",
        "",
        *["leak.no_causal_mask"] * 2,
    ]
    assert runs.loc[[("rmsnorm", 0), ("rmsnorm", 1), ("moe", 0)], "invalid"].tolist() == ["causality", "", "targets"]
    assert sorted(results.audits["audit"]) == ["budget", "causality", "targets"]
    assert results.marks == {"rmsnorm": set(FLAWS["rmsnorm"]), "moe": {"leak.no_causal_mask"}}
    assert results.left_out.sum() == 2
    old = load_results(make_study(tmp_path / "old", cells=CELLS, seeds=2))
    assert (old.audited, len(old.audits), old.marks) == (0, 0, {})


# --- CSV ---


@pytest.mark.parametrize("scales", [("cpu",), ("cpu", "large")])
def test_results_csv_reads_back_as_the_same_runs(tmp_path: Path, scales: tuple[str, ...]) -> None:
    folder = make_study(
        tmp_path / "grid", cells=CELLS, seeds=2, scales=scales, diverged=[("moe", 1)], failed=[("mlp", 0)]
    )
    results = load_results(folder)
    again = load_results(write(tmp_path / "other.csv", results_csv(results.runs)))
    pd.testing.assert_frame_equal(again.runs, results.runs, check_exact=True)
    assert (again.study, again.factors, again.baselines) == (results.study, results.factors, results.baselines)
    assert again.notes == ()


def test_a_csv_may_name_flaws_and_invalid_runs(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "grid", cells=CELLS, seeds=2, flaws=FLAWS, audits=AUDITS)
    results = load_results(folder)
    again = load_results(write(tmp_path / "other.csv", results_csv(results.runs)))
    pd.testing.assert_frame_equal(again.runs, results.runs, check_exact=True)
    assert again.marks == results.marks
    assert again.audited == 0
    text = "cell,seed,val_loss,flaws\nbaseline,0,2.0,\nnew,0,1.5,  leak   split \n"
    assert list(load_results(write(tmp_path / "mine.csv", text)).runs["flaws"]) == ["", "leak split"]


@settings(max_examples=20)
@given(
    loss=st.floats(min_value=1e-300, max_value=LARGEST),
    tokens=st.integers(0, 2**50),
    level=st.text("ab1.,\" '", min_size=1),
)
def test_csv_keeps_numbers_exactly(
    tmp_path_factory: pytest.TempPathFactory, loss: float, tokens: int, level: str
) -> None:
    row = {"study": "s", "cell": "baseline", "kind": level.strip() or "x", "seed": 0, "status": "finished"}
    runs = runs_table([{**row, "val_loss": loss, "tokens": tokens}], ("kind",), ())
    path = tmp_path_factory.mktemp("csv") / "results.csv"
    path.write_text(results_csv(runs))
    pd.testing.assert_frame_equal(load_results(path).runs, runs, check_exact=True)


def test_anyones_csv_needs_three_columns(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.csv", "variant,seed,val_loss,note\nbaseline,0,2.0,a\nnew,0,1.5,b\n")
    results = load_results(path)
    assert results.study == "mine"
    assert list(results.runs["val_loss"]) == [2.0, 1.5]
    assert list(results.runs["status"]) == ["finished", "finished"]
    assert results.runs["params_total"].isna().all()
    assert results.factors == ()
    assert results.curves.empty
    assert results.notes == ("columns of mine.csv that were not used: note",)


@pytest.mark.parametrize("separator", [";", "\t"])
def test_semicolons_or_tabs_may_separate_columns(tmp_path: Path, separator: str) -> None:
    lines = [
        ("variant", "seed", "note", "val_loss"),
        ("baseline", "0", "x", "2.0"),
        ("new, or old", "0", "1,234,5", "1.5"),
    ]
    text = "\n".join(separator.join(line) for line in lines)
    results = load_results(write(tmp_path / "mine.csv", f"\N{ZERO WIDTH NO-BREAK SPACE}{text}\n"))
    assert list(results.runs["cell"]) == ["baseline", "new, or old"]
    assert list(results.runs["val_loss"]) == [2.0, 1.5]
    assert results.notes == ("columns of mine.csv that were not used: note",)


def test_columns_between_cell_and_seed_are_factors(tmp_path: Path) -> None:
    text = "cell,depth,norm,time,seed,val_loss\nbaseline,2,a,9,0,2\nbaseline,2,a,8,1,2\nnew,4,b,7,0,2\n"
    results = load_results(write(tmp_path / "mine.csv", text))
    assert results.factors == ("depth", "norm")
    assert list(results.runs["depth"]) == [2, 2, 4]
    assert "column 'time' is no factor: it varies within cell 'baseline'" in results.notes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cell,seed,loss\nbaseline,0,1\n", "column 'val_loss' is missing: it has cell, seed, loss"),
        ("name,seed,val_loss\nbaseline,0,1\n", r"column 'cell \(or variant\)' is missing: it has name, seed, val_loss"),
        ("cell,seed,val_loss\nbaseline,0,low\n", "line 2: val_loss must be a number but got 'low'"),
        ("cell,seed,val_loss\nbaseline,0,1\nx,first,1\n", "line 3: seed must be a whole number but got 'first'"),
        ("cell,seed,val_loss\nbaseline,,1\n", "line 2: seed must be a whole number but got ''"),
        ("cell,seed,val_loss\nbaseline,nan,1\n", "line 2: seed must be a whole number but got 'nan'"),
        (
            "cell,seed,val_loss\nbaseline,9223372036854775808,1\n",
            r"line 2: seed must lie between -2\^63 and 2\^63 but got '9223372",
        ),
        (
            "cell,seed,val_loss\nbaseline,1e999999999,1\n",
            r"line 2: seed must lie between -2\^63 and 2\^63 but got '1e999999999'",
        ),
        ("cell,seed,val_loss\nbaseline,1.5,1\n", "line 2: seed must be a whole number but got '1.5'"),
        ("cell,seed,val_loss\nbaseline,inf,1\n", "line 2: seed must be a whole number but got 'inf'"),
        ("cell,seed,val_loss\n,0,1\n", "line 2: cell is empty"),
        ("cell,seed,val_loss\nbaseline,0\n", "line 2: 2 values for 3 columns"),
        ("cell,seed,val_loss,val_loss\nbaseline,0,1,1\n", "column 'val_loss' is there twice"),
        ("cell,seed,val_loss,status\nbaseline,0,1,ok\n", "line 2: status must be one of .* but got 'ok'"),
        ("cell;seed;val_loss\nbaseline;0;2,31\n", "line 2: '2,31' has a decimal comma: write numbers with a point"),
        ("cell;seed;val_loss\nbaseline;0;2,310\n", "line 2: '2,310' has a decimal comma"),
        ("cell\tseed\tval_loss\nbaseline\t0\t-,5e-3\n", "line 2: '-,5e-3' has a decimal comma"),
        ("cell;seed\tval_loss\nbaseline;0\t2\n", "its header has semicolons and tabs"),
        ("cell;seed;loss\nbaseline;0;1\n", "column 'val_loss' is missing: it has cell, seed, loss"),
        ("cell,seed;val_loss\nbaseline,0;1\n", "column 'seed' is missing: it has cell, seed;val_loss"),
        ("cell,seed,val_loss\n", "has no rows"),
        ("", "has no rows"),
        ("cell,seed,val_loss\nbaselin,0,1\n", "unknown baseline 'baseline': did you mean 'baselin'?"),
        ("cell,seed,val_loss\nbaseline,0,1\nbaseline,0,2\n", "cell 'baseline', seed 0"),
        ("study,cell,seed,val_loss\na,baseline,0,1\nb,baseline,0,1\n", "2 studies, choose one with --study: a, b"),
    ],
)
def test_a_bad_csv_gets_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(AnalysisError, match=message) as caught:
        load_results(write(tmp_path / "mine.csv", text))
    assert "\n" not in str(caught.value)


def test_large_seeds_keep_their_digits(tmp_path: Path) -> None:
    first = 1764000000000000001
    rows = [f"{cell},{first + n}{end},{n}" for cell in ("baseline", "new") for n, end in enumerate(("", "", ".0", ""))]
    results = load_results(write(tmp_path / "mine.csv", "\n".join(["cell,seed,val_loss", *rows, "new,9e18,5", ""])))
    assert list(results.runs["seed"]) == [*range(first, first + 4), *range(first, first + 4), 9 * 10**18]
    assert ("seeds", "5 (1,764,000,000,000,000,001 to 9,000,000,000,000,000,000)") in narrative.facts(results)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_bytes(b"cell,seed,val_loss\n\xff\xfe\x00,1,2\n")
    with pytest.raises(AnalysisError, match="cannot be read as CSV"):
        load_results(path)


def test_rows_without_a_loss_are_counted_not_dropped(tmp_path: Path) -> None:
    text = "cell,seed,val_loss\nbaseline,0,1\nbaseline,1,nan\nnew,0,inf\nnew,1,\nnew,2,2\n"
    results = load_results(write(tmp_path / "mine.csv", text))
    assert list(results.runs["status"]) == ["finished", "diverged", "diverged", "failed", "finished"]
    assert list(results.runs["val_loss"].isna()) == [False, True, True, True, False]
    assert results.notes == (
        "rows with NaN or infinite val_loss, counted as diverged: 2",
        "rows with no val_loss, counted as failed: 1",
    )


def test_one_of_several_studies(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.csv", "study,cell,seed,val_loss\na,baseline,0,1\nb,baseline,0,2\n")
    assert list(load_results(path, study="b").runs["val_loss"]) == [2.0]
    with pytest.raises(AnalysisError, match="unknown study 'c'"):
        load_results(path, study="c")


def test_a_metric_may_be_any_column(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.csv", "cell,seed,nll,val_accuracy\nold,0,2.0,0.5\nnew,0,1.0,0.75\n")
    results = load_results(path, baseline="old", metric="nll")
    assert (results.metric, results.direction) == ("val_loss", "min")
    assert list(results.runs["val_loss"]) == [2.0, 1.0]
    assert "val_loss is the column 'nll' of mine.csv, taken as nats per token" in results.notes
    results = load_results(path, baseline="old", metric="val_accuracy")
    assert (results.metric, results.direction) == ("val_accuracy", "max")
    assert list(results.runs["val_accuracy"]) == [0.5, 0.75]
    with pytest.raises(AnalysisError, match="column 'bleu' is missing"):
        load_results(path, baseline="old", metric="bleu")


@pytest.mark.parametrize(
    ("metric", "direction"),
    [
        ("accuracy", "max"), ("Test Acc.", "max"), ("accuracy_pct", "max"), ("perplexity", "min"), ("val_ppl", "min"),
        ("bleu", "max"), ("bleu", "min"), ("my_loss", "min"), ("train_seconds", "min"), ("val_perplexity", "min"),
    ],
)  # fmt: skip
def test_a_metric_that_is_no_validation_loss_keeps_its_name(tmp_path: Path, metric: str, direction: str) -> None:
    path = write(
        tmp_path / "mine.csv", f"cell,{metric},seed,val_loss\nbaseline,1.5,0,2.0\nnew,2.5,0,3.0\nbad,nan,0,1\n"
    )
    by_its_name = metric not in ("bleu", "my_loss", "train_seconds")
    results = load_results(path, metric=metric, direction=None if by_its_name else direction)
    assert (results.metric, results.direction) == (metric, direction)
    assert list(results.finished(metric)[0].dropna()) == [1.5, 2.5]
    assert list(results.finished("val_loss")[0].dropna()) == [2.0, 3.0]
    assert results.factors == ()
    assert results.notes == (f"rows with NaN or infinite {metric}, counted as diverged: 1",)
    again = tmp_path / "results.csv"
    again.write_text(results_csv(results.runs))
    there = load_results(again, study="mine", metric=metric, direction=direction)
    pd.testing.assert_frame_equal(there.runs, results.runs, check_exact=True)


def test_a_column_a_seed_is_told_how_to_be_written(tmp_path: Path) -> None:
    path = write(tmp_path / "wide.csv", "cell,seed_0,seed_1\nbaseline,1,2\n")
    with pytest.raises(AnalysisError, match=r"column 'seed' is missing: .*; write one row a \(cell, seed\)"):
        load_results(path)


@pytest.mark.parametrize(
    ("metric", "direction", "message"),
    [
        ("bleu", None, "nothing says which 'bleu' is better"),
        ("my_loss", None, "nothing says which 'my_loss' is better"),
        ("accuracy", "min", "--direction min: of accuracy higher is better: leave it out"),
        ("nll", "max", "--direction max: of val_loss lower is better"),
        ("bluu", None, "column 'bluu' is missing: .*; --metric names the column to compare cells by"),
        ("bluu", "max", "column 'bluu' is missing"),
        ("seed", "min", "--metric seed: this column holds no figure"),
    ],
)
def test_a_direction_is_never_assumed(tmp_path: Path, metric: str, direction: str | None, message: str) -> None:
    path = write(tmp_path / "mine.csv", "cell,seed,accuracy,nll,bleu,my_loss\nbaseline,0,1,2,3,4\n")
    with pytest.raises(AnalysisError, match=message) as caught:
        load_results(path, metric=metric, direction=direction)
    assert "\n" not in str(caught.value)


def test_a_loss_that_stands_beside_the_one_that_is_taken_is_not_used(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.csv", "cell,seed,val_loss,loss\nbaseline,0,2.0,3.0\n")
    results = load_results(path, metric="loss")
    assert list(results.runs["val_loss"]) == [3.0]
    assert "columns of mine.csv that were not used: val_loss" in results.notes


def test_a_study_has_only_its_own_metrics(study: Path) -> None:
    assert load_results(study, metric="val_accuracy").direction == "max"
    with pytest.raises(AnalysisError, match="--direction max: of val_loss lower is better"):
        load_results(study, direction="max")
    with pytest.raises(AnalysisError, match="unknown metric 'nll'"):
        load_results(study, metric="nll")


# --- MLflow ---


def copy_to_mlflow(folder: Path, uri: str, open_runs: int = 0) -> None:
    """Write a study's folder into a store in the form that analysis.tracking gives it."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric, RunTag

    client = MlflowClient(tracking_uri=uri)
    found = client.get_experiment_by_name("exp6_grid")
    artifacts = (folder.parent / "artifacts").as_uri()
    experiment = found.experiment_id if found else client.create_experiment("exp6_grid", artifacts)
    parent = client.create_run(experiment, tags={"ablatune.study": folder.name, "ablatune.kind": "study"}).info.run_id
    client.log_artifact(parent, str(folder / "plan.json"))
    failures = [TrialRecord.read(path) for path in sorted((folder / "failures").glob("*.json"))]
    for place, record in enumerate([*read_records(folder), *failures]):
        tags = {
            "mlflow.parentRunId": parent,
            "ablatune.study": folder.name,
            "ablatune.cell": record.cell,
            "ablatune.scale": record.scale,
            "ablatune.factors": json.dumps(record.factors),
            "ablatune.factor.moe": str(record.factors["moe"]),
            "ablatune.seed": str(record.seed),
            "ablatune.config_hash": record.config_hash,
            **{f"ablatune.{name}": value for name, value in record.environment.items()},
            **({"ablatune.flaws": " ".join(record.flaws), "ablatune.protocol": "published"} if record.flaws else {}),
        }
        if place >= open_runs:
            tags |= {"ablatune.status": record.status} | ({"ablatune.error": record.error} if record.error else {})
            tags |= {f"ablatune.audit.{audit.name}": f"{audit.severity}: {audit.evidence}" for audit in record.audits}
        run = client.create_run(experiment).info.run_id
        metrics = [Metric(k, float(v), 0, row["step"]) for row in record.rows for k, v in row.items() if v is not None]
        client.log_batch(run, metrics=metrics, tags=[RunTag(k, v) for k, v in tags.items()])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, new_database: Callable[[Path], str]) -> tuple[str, Path]:
    """A store with one study, and the study's folder."""
    root = tmp_path_factory.mktemp("mlflow")
    folder = make_study(
        root / "grid", cells=CELLS, seeds=2, diverged=[("moe", 1)], failed=[("mlp", 0)], flaws=FLAWS, audits=AUDITS
    )
    uri = new_database(root)
    copy_to_mlflow(folder, uri)
    return uri, folder


@pytest.fixture(params=["by queries", "by MLflow's client"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to read the same store: a database's own, and a server's."""
    if request.param != "by queries":
        monkeypatch.setattr(stored_runs, "is_database", lambda uri: False)
        monkeypatch.setattr(stored_runs, "PAGE", 3)
    return request.param


@pytest.mark.usefixtures("way")
def test_mlflow_gives_the_same_results_as_the_folder(
    store: tuple[str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    uri, folder = store
    there, here = load_results(uri), load_results(folder)
    assert capfd.readouterr().err == ""
    pd.testing.assert_frame_equal(there.runs, here.runs, check_exact=True)
    assert (there.study, there.factors, there.baselines) == (here.study, here.factors, here.baselines)
    assert there.plan == here.plan
    assert there.plan["environment"]["audits"] == "causality,targets"
    order = ["cell", "seed", "audit"]
    pd.testing.assert_frame_equal(*(r.audits.sort_values(order, ignore_index=True) for r in (there, here)))
    assert there.audited == here.audited == 8
    assert there.notes == (load_mlflow.NO_DOCUMENTS,)
    columns = ["cell", "seed", "step", *load_mlflow.CURVES]
    curves = [
        frame.curves.dropna(subset=["val_loss"])[columns].sort_values(["cell", "seed", "step"], ignore_index=True)
        for frame in (there, here)
    ]
    pd.testing.assert_frame_equal(curves[0], curves[1], check_exact=True)


def test_an_audit_s_tag_that_says_nothing_is_refused(tmp_path: Path, new_database: Callable[[Path], str]) -> None:
    from mlflow import MlflowClient

    uri = new_database(tmp_path)
    copy_to_mlflow(make_study(tmp_path / "grid", cells=("baseline",), seeds=1), uri)
    client = MlflowClient(tracking_uri=uri)
    run = next(run for run in client.search_runs(["1"]) if "ablatune.cell" in run.data.tags)
    client.set_tag(run.info.run_id, "ablatune.audit.causality", "awful")
    with pytest.raises(AnalysisError, match="causality must begin with one of invalid, warning, note but is 'awful'"):
        load_results(uri)


def test_a_server_is_not_asked_for_the_curves_of_very_many_runs(
    store: tuple[str, Path], way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (load_mlflow, stored_runs):
        monkeypatch.setattr(module, "MOST_CURVES", 7)
    results = load_results(store[0])
    assert len(results.runs) == 8
    if way == "by queries":
        assert not results.curves.empty
        assert results.notes == (load_mlflow.NO_DOCUMENTS,)
    else:
        assert results.curves.empty
        assert results.notes == (
            load_mlflow.NO_DOCUMENTS,
            "no curves: 8 runs are more than the 7 whose history a server is asked for",
        )


@pytest.mark.usefixtures("way")
def test_a_run_that_was_deleted_in_mlflow_is_left_out(tmp_path: Path, new_database: Callable[[Path], str]) -> None:
    from mlflow import MlflowClient

    uri = new_database(tmp_path)
    copy_to_mlflow(make_study(tmp_path / "grid", cells=CELLS, seeds=2), uri)
    client = MlflowClient(tracking_uri=uri)
    run = client.search_runs(["1"], "tags.`ablatune.cell` = 'moe' AND tags.`ablatune.seed` = '1'")[0]
    client.delete_run(run.info.run_id)
    results = load_results(uri)
    left = set(zip(results.runs["cell"], results.runs["seed"], strict=True))
    assert left == {(cell, seed) for cell in CELLS for seed in (0, 1)} - {("moe", 1)}
    assert set(zip(results.curves["cell"], results.curves["seed"], strict=True)) == left


@pytest.mark.usefixtures("way")
def test_a_study_that_is_in_mlflow_twice_is_refused(tmp_path: Path, new_database: Callable[[Path], str]) -> None:
    uri = new_database(tmp_path)
    folder = make_study(tmp_path / "grid", cells=("baseline",), seeds=2)
    copy_to_mlflow(folder, uri)
    copy_to_mlflow(folder, uri)
    why = (
        "study 'grid' in .* has 2 runs of a .cell, seed. that has another, the first of cell 'baseline', seed .: MLflow"
    )
    with pytest.raises(AnalysisError, match=why):
        load_results(uri)


def test_mlflow_with_several_studies_asks_which(tmp_path: Path, new_database: Callable[[Path], str]) -> None:
    uri = new_database(tmp_path)
    for name in ("first", "second"):
        copy_to_mlflow(make_study(tmp_path / name, cells=("baseline",), seeds=2), uri, open_runs=int(name == "second"))
    with pytest.raises(AnalysisError, match="has 2 studies, choose one with --study: ") as caught:
        load_results(uri)
    assert "first" in str(caught.value)
    assert "second" in str(caught.value)
    with pytest.raises(AnalysisError, match=r"unknown study 'frist': did you mean 'first'\?"):
        load_results(uri, study="frist")
    assert len(load_results(uri, study="first").runs) == 2
    second = load_results(uri, study="second")
    assert len(second.runs) == 1
    assert second.notes == ("runs in MLflow that have not ended, left out: 1",)


def test_a_store_that_is_not_there_is_refused_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(AnalysisError, match="there is no MLflow database"):
        load_results(f"sqlite:///{tmp_path}/mlflow.db")
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_does_not_answer_is_refused_without_its_password() -> None:
    with pytest.raises(AnalysisError, match=r"the MLflow server http://127\.0\.0\.1:9 does not answer") as caught:
        load_results("http://user:secret@127.0.0.1:9")
    assert "secret" not in str(caught.value)


def test_the_fake_grid_is_the_whole_grid() -> None:
    assert len(GRID) == 16
    assert len({tuple(levels.values()) for levels in GRID.values()}) == 16
