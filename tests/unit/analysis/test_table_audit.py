"""The audit of anybody's table: every published flaw is found, and sound tables are left alone."""

from __future__ import annotations

import csv
import io
import json
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats

from analysis.__main__ import main
from analysis.errors import AnalysisError
from analysis.loading.load import load_results
from analysis.published import Printed, published_studies
from analysis.reporting.report import results_csv, results_json
from analysis.schema import FLAWS, INVALID, NOTE, WARNING
from analysis.statistics.effects import gamma_correction
from analysis.summary import analyse
from analysis.table_audit import TableAudit, audit_table
from analysis.table_audit.columns import normal
from analysis.table_audit.differences import differences
from analysis.table_audit.digits import beside
from analysis.table_audit.finding import Finding
from analysis.table_audit.latex import plain
from tests.fakes import make_study

Rows = list[dict[str, str]]


def audit(
    table: str | Rows, baseline: str | None = None, metric: str | None = None, direction: str | None = None
) -> TableAudit:
    """Audit a table given as the text of a CSV file (lines apart by blanks) or as rows."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.csv"
        path.write_text(as_csv(table) if isinstance(table, list) else table.replace(" ", "\n"))
        return audit_table(str(path), baseline, metric, direction)


def as_csv(rows: Rows) -> str:
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def found(audited: TableAudit, name: str, severity: str | None = None) -> list[Finding]:
    return [item for item in audited.findings if item.name == name and severity in (None, item.severity)]


def invalid(audited: TableAudit) -> list[Finding]:
    return [item for item in audited.findings if item.severity == INVALID]


# The published tables.


def test_exp6_prints_five_efficiencies_that_its_formula_does_not_give() -> None:
    evidence = [item.evidence for item in found(audit_table("exp6"), "derived_column")]
    assert len(evidence) == 5
    for name, printed, value in (
        ("attention_mlp:", "0.056", "2.71"),
        ("rmsnorm_mlp:", "0.007", "0.0576"),
        ("attention_rmsnorm:", "0.019", "0.615"),
        ("attention_moe:", "0.020", "0.624"),
        ("mlp:", "0.006", "0.0539"),
    ):
        (line,) = (line for line in evidence if line.startswith(name))
        assert f"printed as {printed}, but 1 / (minutes x loss x million parameters) is {value} (" in line


@pytest.mark.parametrize("study", published_studies())
def test_every_published_table_has_one_run_a_name(study: str) -> None:
    audited = audit_table(study)
    (item,) = found(audited, "replication")
    assert item.severity == WARNING
    assert item.evidence.startswith("n = 1: no effect size exists")
    assert f"all {len(audited.table.rows)} names" in item.evidence
    assert "3 or more seeds" in item.instead
    assert all(finding.evidence and finding.instead for finding in audited.findings)


def test_nothing_else_is_invalid_in_the_published_tables() -> None:
    names = {study: {(item.name, item.evidence.partition(":")[0]) for item in invalid(audit_table(study))} for study in
             published_studies()}  # fmt: skip
    models = {name for found in names.values() for kind, name in found if kind == "same_model"}
    assert len(models) == 5
    assert {(study, kind) for study, found in names.items() for kind, _ in found} == {
        ("exp6_grid", "derived_column"),
        ("exp6_grid", "same_model"),
        ("exp1_attention_768d", "same_model"),
        ("exp1_attention_768d", "effect_size"),
        ("exp3_rmsnorm", "claim"),
    }


def test_the_effect_size_of_zero_is_the_best_against_itself() -> None:
    (item,) = found(audit_table("exp1_attention"), "effect_size")  # fmt: skip
    assert "0.000: that is |best - baseline| / sd over the 3 variants" in item.evidence
    assert "the best is baseline itself; n = 1" in item.evidence


def test_exp6_s_67_is_not_against_the_baseline() -> None:
    (item,) = found(audit_table("exp6"), "baseline")
    assert "67; mlp is not the control: against baseline it is 59.9" in item.evidence


def test_names_of_one_model_differ_by_noise() -> None:
    evidence = [item.evidence for item in found(audit_table("exp6"), "same_model")]
    assert any("mlp_moe, baseline and moe are one model (baseline), and their val_loss differs by 0.0576" in line for
               line in evidence)  # fmt: skip


def test_a_claim_in_words_is_recomputed() -> None:
    (item,) = found(audit_table("exp3"), "claim")
    assert "said to be -0.8 (in exp5's report), but 100 (loss / other loss - 1) is −2.4" in item.evidence


# Sound tables, made from the formulas, and the same with one figure moved.

positive = st.floats(0.02, 12)


@st.composite
def tables(draw: st.DrawFn, fewest: int = 2) -> Rows:
    """Draw a table whose derived columns are computed exactly and then printed."""
    count = draw(st.integers(fewest, 6))
    losses = draw(st.lists(positive, min_size=count, max_size=count))
    minutes = draw(st.lists(st.floats(0.3, 600), min_size=count, max_size=count))
    params = draw(st.lists(st.integers(10_000, 10**9), min_size=count, max_size=count))
    digits = {name: draw(st.integers(2, 8), label=name) for name in ("loss", "minutes", "perplexity", "percent")}
    sparse = draw(st.integers(3, 8), label="significant digits of efficiency")
    percent = draw(st.sampled_from(("change_percent", "improvement (%)", "perplexity_change_pct")))

    def compared(loss: float) -> float:
        if percent == "perplexity_change_pct":
            return 100 * (math.exp(loss - losses[0]) - 1)
        return 100 * (loss / losses[0] - 1) * (-1 if percent.startswith("improvement") else 1)

    return [
        {
            "rank": str(sorted(losses).index(loss) + 1),
            "variant": "baseline" if place == 0 else f"variant {place}",
            "val_loss": f"{loss:.{digits['loss']}f}",
            "train_minutes": f"{time:.{digits['minutes']}f}",
            "params_total": str(size),
            "perplexity": f"{math.exp(loss):.{digits['perplexity']}f}",
            "efficiency": f"{1 / (time * loss * size / 1e6):.{sparse}g}",
            "loss_per_million": f"{loss / size * 1e6:.{sparse}g}",
            percent: f"{compared(loss):.{digits['percent']}f}",
            "remark": "mine",
        }
        for place, (loss, time, size) in enumerate(zip(losses, minutes, params, strict=True))
    ]


@given(rows=tables())
def test_what_was_computed_from_the_formulas_is_left_alone(rows: Rows) -> None:
    audited = audit(rows)
    assert invalid(audited) == []
    assert audited.table.not_checked == ("remark",)


def moved(text: str, low: float, high: float) -> str:
    """Return a figure with the decimals of `text` that lies outside a range by more than rounding."""
    unit = Decimal(1).scaleb(int(Decimal(text).as_tuple().exponent))
    beyond = high + 2 * float(unit) + 1e-5 * abs(high) + (high - low) / 2
    return str((Decimal(beyond) / unit).to_integral_value(rounding="ROUND_CEILING") * unit)


@given(rows=tables(), data=st.data())
def test_a_figure_beyond_rounding_is_always_found(rows: Rows, data: st.DataObject) -> None:
    row = data.draw(st.sampled_from(rows))
    (low, high), minutes = Printed(row["val_loss"]).interval, Printed(row["train_minutes"]).interval
    million = int(row["params_total"]) / 1e6
    low = max(low, 1e-12)
    ranges = {
        "perplexity": (math.exp(low), math.exp(high)),
        "efficiency": (1 / (minutes[1] * high * million), 1 / (max(minutes[0], 1e-12) * low * million)),
        "loss_per_million": (low / million, high / million),
        "rank": (len(rows), len(rows)),
    }
    column = data.draw(st.sampled_from(sorted(ranges)))
    row[column] = moved(row[column], *ranges[column])
    items = invalid(audit(rows))
    assert [(item.name, item.evidence.partition(":")[0]) for item in items] == [
        ("rank" if column == "rank" else "derived_column", row["variant"])
    ]
    assert row[column] in items[0].evidence


@given(rows=tables(fewest=4), data=st.data())
def test_so_is_a_percentage(rows: Rows, data: st.DataObject) -> None:
    place = data.draw(st.integers(1, len(rows) - 1))
    column = list(rows[0])[-2]
    largest = max(abs(Printed(row[column]).value) for row in rows)
    rows[place][column] = moved(rows[place][column], -largest, 3 * largest + 1e4)
    (item,) = invalid(audit(rows))
    assert item.evidence.startswith(f"variant {place}: {column} is printed as {rows[place][column]}")


def test_digits_of_rounding_decide() -> None:
    """exp(0.0364) = 1.03707; the loss is 0.03635 to 0.03645, so 1.0370 and 1.0371 may be printed."""
    for text, wrong in (("1.0370", 0), ("1.0371", 0), ("1.0369", 1), ("1.0372", 1)):
        audited = audit(f"variant,val_loss,perplexity baseline,2.0,7.4 a,0.0364,{text}")
        assert len(found(audited, "derived_column", INVALID)) == wrong, text


@pytest.mark.parametrize(("loss", "printed", "right"), [
    ("3.21888", "25.01", "25.000"),
    ("2.901427", "18.2000", "18.20010 (18.20008 to 18.20011 by rounding)"),
    ("2.0000", "9.000", "7.39"),
])  # fmt: skip
def test_what_is_right_has_the_digits_in_which_it_differs(loss: str, printed: str, right: str) -> None:
    (item,) = found(audit(f"variant,val_loss,ppl baseline,{loss},{printed}"), "derived_column")
    assert item.evidence == f"baseline: ppl is printed as {printed}, but exp(loss) is {right}"


@example(figures=[5e-324], printed=Decimal("0.000"))
@given(figures=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=3), printed=st.decimals(-(10**6), 10**6, places=3))
def test_digits_beside_a_printed_figure_show_the_difference(figures: Sequence[float], printed: Decimal) -> None:
    """The nearest figure, as shown, is on its side of the printed one, by half of the difference and more."""
    nearest = min(figures, key=lambda figure: abs(figure - float(printed)))
    gap = nearest - float(printed)
    shown = float(beside(figures, float(printed))[figures.index(nearest)].replace("−", "-"))
    assert shown - float(printed) == pytest.approx(gap, abs=0.51 * abs(gap) + 1e-8)


def test_figures_of_other_units_and_spellings_are_read() -> None:
    rows = 'Model,Loss,"Time (min)",Params,Efficiency baseline,2.00,30,"25,960,192",0.00064 small,2.10,0.5,25.9M,0.50'
    items = invalid(audit(rows))
    assert [item.evidence.partition(":")[0] for item in items] == ["small"]
    assert "is 0.0368" in items[0].evidence  # 1 / (0.5 x 2.10 x 25.9)
    seconds = "cell,val_loss,train_seconds,params_m,efficiency_score baseline,2.0,120,10.0,0.025"
    assert invalid(audit(seconds)) == []
    assert normal("Val. Loss_printed") == "val_loss"
    assert normal("improvement (%)") == "improvement_percent"


def test_a_formula_without_its_inputs_is_named_as_not_checked() -> None:
    audited = audit("variant,val_loss,efficiency,params,colour baseline,2,0.5,1.5,red a,3,0.4,1.5,blue")
    assert audited.table.not_checked == (
        "colour",
        "params (not whole numbers: call it params_million if it is in millions)",
        "efficiency (its formula needs the training time (train_minutes) and the parameters (params_total))",
    )
    (item,) = found(audit("variant,val_loss,minutes,params,efficiency baseline,2,,9,0.5 a,2,1,9,"), "derived_column")
    assert item.severity == NOTE
    assert "efficiency of baseline could not be checked" in item.evidence


# Means over runs.


@given(
    runs=st.lists(st.lists(st.floats(0.01, 12), min_size=3, max_size=3), min_size=2, max_size=4),
    digits=st.integers(2, 6),
    with_sd=st.booleans(),
    lost=st.integers(0, 1),
)
def test_a_mean_of_perplexities_is_no_error(
    runs: Sequence[Sequence[float]], digits: int, with_sd: bool, lost: int
) -> None:
    rows = [
        {
            "variant": "baseline" if place == 0 else str(place),
            "n": "3",
            "val_loss": f"{np.mean(losses):.{digits}f}",
            **({"sd": f"{np.std(losses, ddof=lost):.{digits}f}"} if with_sd else {}),
            "perplexity": f"{np.mean(np.exp(losses)):.{digits}f}",
        }
        for place, losses in enumerate(runs)
    ]
    assert invalid(audit(rows)) == []


def test_perplexity_of_means_may_lie_above_but_neither_below_nor_anywhere() -> None:
    """Two runs of loss 1 and 3: mean 2, sd 1.41421, perplexities 2.718 and 20.086, whose mean is 11.402."""
    for text, severity in (("7.389", None), ("11.40", NOTE), ("7.30", INVALID), ("11.45", INVALID)):
        audited = audit(f"variant,n,val_loss,sd,ppl baseline,2,2.0000,1.41421,7.389 a,2,2.0000,1.00000,{text}")
        # With n - 1 or n the sd of 1.0 allows a mean of exp(2 + 1) and exp(2 - 1): 11.40.
        severities = [item.severity for item in found(audited, "derived_column")]
        assert severities == ([] if severity is None else [severity]), text
    (item,) = found(audit("variant,val_loss_mean,ppl baseline,2.0,11.4"), "derived_column")
    assert item.severity == NOTE
    assert "is not the perplexity of the mean loss" in item.instead


def test_one_run_has_the_perplexity_of_its_loss() -> None:
    audited = audit("variant,seed,val_loss,ppl baseline,0,1.000,2.718 baseline,1,3.000,20.50")
    (item,) = found(audited, "derived_column", INVALID)
    assert item.evidence.startswith("baseline (seed 1): ppl is printed as 20.50, but exp(loss) is 20.1")


def test_seeds_of_this_project_s_own_results_are_sound(tmp_path: Path) -> None:
    for name, options in (
        ("grid", {"cells": ("baseline", "rmsnorm", "attention", "mlp"), "seeds": 5}),
        ("scales", {"cells": ("baseline", "moe"), "seeds": 3, "scales": ("cpu", "small")}),
        ("ends", {"cells": ("baseline", "moe"), "seeds": 4, "diverged": {("moe", 1)}, "failed": {("moe", 2)}}),
    ):
        path = tmp_path / f"{name}.csv"
        path.write_text(results_csv(load_results(make_study(tmp_path / name, **options)).runs))
        audited = audit_table(str(path))
        assert invalid(audited) == [], name
        assert found(audited, "derived_column") == []
        assert {group.n for group in audited.table.groups} <= {options["seeds"], 2}
    assert found(audited, "values", NOTE)[0].evidence.startswith("2 of 8 rows have no finite val_loss")


def test_own_tables_of_means_are_sound(tmp_path: Path) -> None:
    """The report's comparisons, as a table of their own: differences, percentages, effect sizes, p."""
    results = load_results(make_study(tmp_path / "grid", cells=("baseline", "attention", "moe"), seeds=5))
    tables = results_json(results, analyse(results))
    losses = {row["cell"]: row for row in tables["ranking"]}
    compared = {row["cell"]: row for row in tables["comparisons"]}
    rows = [
        {
            "cell": cell,
            "n": str(row["n"]),
            "val_loss": repr(row["mean"]),
            "sd": repr(row["sd"]),
            "rank": str(row["rank"]),
            **{
                column: repr(compared[cell][column]) if cell in compared else ""
                for column in ("difference", "difference_low", "percent", "percent_low", "hedges_g", "p", "p_holm")
            },
        }
        for cell, row in losses.items()
    ]
    audited = audit(rows)
    assert audited.table.not_checked == ()
    assert invalid(audited) == []


# n, and what it allows.


@pytest.mark.parametrize(
    ("n", "severity", "words"),
    [
        ("1", WARNING, "n = 1: no effect size exists"),
        ("2", WARNING, "n = 2: an interval exists"),
        ("5", NOTE, "n = 5: names are ranked or compared, and no spread of the runs is there to judge that by"),
    ],
)
def test_what_n_allows(n: str, severity: str, words: str) -> None:
    (item,) = found(audit(f"rank,variant,n,val_loss 2,baseline,{n},2.0 1,a,{n},1.9"), "replication")
    assert (item.severity, item.evidence[: len(words)]) == (severity, words)


def test_n_is_no_finding_where_a_table_claims_nothing_or_shows_its_spread() -> None:
    assert audit("variant,n,val_loss baseline,5,2.0 a,5,1.9").findings == ()
    assert audit("rank,variant,n,val_loss,sd 2,baseline,5,2.000,0.010 1,a,5,1.900,0.010").findings == ()


def normal_losses(rng: np.random.Generator, means: Mapping[str, float], n: int) -> dict[str, np.ndarray]:
    """Draw n losses a name with an sd of 0.01 about their means: those of 0.2 and more apart are clearly so."""
    return {name: mean + 0.01 * rng.standard_normal(n) for name, mean in means.items()}


def cohens_d(x: np.ndarray, y: np.ndarray) -> float:
    return float((x.mean() - y.mean()) / np.sqrt((x.var(ddof=1) + y.var(ddof=1)) / 2))


FAR = {"baseline": 3.0, "a": 2.8, "b": 3.3}
NEAR = {"baseline": 3.0, "a": 2.995, "b": 3.002}
"""Apart by half an sd and less."""


def sound_tables(losses: Mapping[str, np.ndarray], digits: int) -> tuple[Rows, Rows, Rows]:
    """Return runs as a table of means, as one that ranks and compares them, and as one row a run."""
    n = len(losses["baseline"])
    means = [
        {
            "variant": name,
            "n": str(n),
            "val_loss": f"{runs.mean():.{digits}f}",
            "sd": f"{runs.std(ddof=1):.{digits}f}",
        }
        for name, runs in losses.items()
    ]
    order = sorted(losses, key=lambda name: float(losses[name].mean()))
    control, base = losses["baseline"], float(means[0]["val_loss"])
    claimed = [
        {
            "rank": str(order.index(row["variant"]) + 1),
            **row,
            "difference": f"{float(row['val_loss']) - base:.{digits}f}",
            "cohens_d": f"{cohens_d(runs, control):.2f}",
            "val_accuracy": f"0.{45 - place}",
        }
        for place, (row, runs) in enumerate(zip(means, losses.values(), strict=True))
    ]
    runs = [
        {"variant": name, "seed": str(seed), "val_loss": f"{loss:.{digits}f}"}
        for name, drawn in losses.items()
        for seed, loss in enumerate(drawn)
    ]
    return means, claimed, runs


@pytest.mark.parametrize("n", [5, 10, 20])
@pytest.mark.parametrize("names", [2, 3])
def test_sound_tables_raise_nothing(n: int, names: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    losses = normal_losses(np.random.default_rng(n), dict(list(FAR.items())[:names]), n)
    path = tmp_path / "sound.csv"
    for rows in sound_tables(losses, digits=4):
        path.write_text(as_csv(rows))
        assert main(["audit", str(path)]) == 0
        shown = capsys.readouterr().out
        assert "nothing found" in shown, shown


@pytest.mark.parametrize("digits", [2, 3, 4])
@pytest.mark.parametrize("n", [5, 10, 20])
@pytest.mark.parametrize("names", [2, 3])
def test_sound_tables_of_means_that_differ_little_raise_nothing_but_that(n: int, names: int, digits: int) -> None:
    """A table that ranks and compares them may be told that its differences are within the noise: they mostly are."""
    losses = normal_losses(np.random.default_rng(n), dict(list(NEAR.items())[:names]), n)
    means, claimed, runs = (audit(rows).findings for rows in sound_tables(losses, digits))
    assert {item.severity for item in (*means, *runs)} <= {NOTE}
    assert {item.severity for item in claimed} <= {WARNING, NOTE}
    assert {item.name for item in claimed if item.severity == WARNING} <= {"precision", "multiplicity"}


def test_sound_tables_may_hold_names_that_do_not_differ() -> None:
    rows = "variant,n,val_loss,sd baseline,5,2.000,0.010 a,5,2.001,0.010 b,5,1.800,0.010"
    assert audit(rows).findings == ()
    unnamed = "variant,n,val_loss,sd big,5,2.000,0.010 small,5,2.001,0.010 tiny,5,1.800,0.010"
    assert audit(unnamed).findings == ()
    tested = "variant,n,val_loss,sd,difference,p baseline,7,2.000,0.010,, a,7,2.001,0.010,0.001,0.85"
    assert audit(tested).findings == ()


def test_n_is_counted_from_seeds_or_rows() -> None:
    by_seed = audit("cell,seed,val_loss baseline,0,2.1 baseline,1,2.2 baseline,2,2.0 a,0,1.9 a,1,1.8")
    assert {group.name: group.n for group in by_seed.table.groups} == {"baseline": 3, "a": 2}
    repeated = audit("cell,seed,n,val_loss baseline,0,3,2.1 baseline,1,3,2.2 baseline,2,3,2.0")
    assert repeated.table.groups[0].n == 3
    by_row = audit("cell,val_loss baseline,2.1 baseline,2.2 a,1.9 a,1.8")
    assert {group.name: group.n for group in by_row.table.groups} == {"baseline": 2, "a": 2}
    assert any("no column says so" in item.evidence for item in found(by_row, "replication", NOTE))
    (item,) = found(audit("cell,val_loss,val_loss_std baseline,2.1,0.1 a,2.2,0.1"), "replication")
    assert "how many is not stated" in item.evidence


@pytest.mark.parametrize("column", ["sd", "val_loss_std", "p_value", "ci_low", "p_holm", "sem"])
def test_one_run_has_no_spread_and_no_test(column: str) -> None:
    one = audit(f"variant,n,val_loss,{column} baseline,1,2.0, a,1,1.9,0.02")
    assert [item.evidence for item in invalid(one)] == [f"a: {column} is 0.02, but n = 1"]
    assert invalid(audit(f"variant,n,val_loss,{column} baseline,3,2.0, a,3,1.9,0.02")) == []


@pytest.mark.parametrize(("n", "severity"), [("1", INVALID), ("2", WARNING), ("5", None)])
@pytest.mark.parametrize("column", ["cohens_d", "Hedges' g", "effect_size", "d"])
def test_an_effect_size_needs_replicates(column: str, n: str, severity: str | None) -> None:
    audited = audit([
        {"variant": "baseline", "n": n, "val_loss": "2.00", column: ""},
        {"variant": "a", "n": n, "val_loss": "1.90", column: "-0.3"},
        {"variant": "b", "n": n, "val_loss": "2.30", column: "0.8"},
    ])  # fmt: skip
    assert [item.severity for item in found(audited, "effect_size")] == [severity] * (2 if severity else 0)


def over_variants(lost: int, sd: str) -> Rows:
    """Return a table whose effect sizes are |loss - 2.0| over the sd of all losses."""
    losses = {"baseline": 2.0, "a": 1.9, "b": 2.3, "c": 2.2}
    spread = float(np.std(list(losses.values()), ddof=lost))
    return [
        {"variant": name, "n": "5", "val_loss": f"{loss:.4f}", "sd": sd, "cohens_d": f"{abs(loss - 2) / spread:.3f}"}
        for name, loss in losses.items()
    ]


@pytest.mark.parametrize("lost", [0, 1])
def test_an_effect_size_over_variants_is_recognised_whatever_n(lost: int) -> None:
    """Where the printed sds do not give it, it is certain; the control's 0 is right by any sd."""
    items = found(audit(over_variants(lost, "0.0100")), "effect_size")
    assert [item.severity for item in items] == [INVALID] * 3
    assert all("that is |best - baseline| / sd over the 4 variants, not over seeds; n = 5" in item.evidence for item
               in items)  # fmt: skip
    items = found(audit(over_variants(lost, "")), "effect_size")
    assert [item.severity for item in items] == [WARNING] * 4
    assert all("so is |best - baseline| / sd over the 4 variants, and no sd over seeds" in item.evidence for item
               in items)  # fmt: skip
    rows = over_variants(lost, "")
    rows[1]["cohens_d"] = "4.000"
    assert found(audit(rows), "effect_size") == []


def test_an_effect_size_that_the_sds_give_is_not_over_variants() -> None:
    """0.02 / 0.020 and 0.01 / 0.020; over the variants' sd of 0.0125 to 0.0153 both may be printed so, too."""
    sound = "variant,n,val_loss,val_loss_sd,cohens_d baseline,5,3.00,0.020, a,5,2.98,0.020,1.00 b,5,3.01,0.020,0.50"
    assert found(audit(sound), "effect_size") == []
    without_sds = "variant,n,val_loss,cohens_d baseline,5,3.00, a,5,2.98,1.00 b,5,3.01,0.50"
    assert found(audit(without_sds), "effect_size") == []


def test_an_effect_size_may_be_over_the_pooled_sd_of_all_names() -> None:
    """sqrt((0.10^2 + 0.10^2 + 0.30^2) / 3) = 0.1915, which is between no two names' sds."""
    rows = "variant,n,val_loss,sd,cohens_d baseline,200,3.000,0.100, a,200,2.700,0.100,{} b,200,3.300,0.300,{}"
    assert found(audit(rows.format("1.57", "1.57")), "effect_size") == []
    assert len(found(audit(rows.format("1.20", "1.57")), "effect_size", INVALID)) == 1


def with_effect(column: str, value: str, n: int = 5, sd: str = "0.10") -> Rows:
    return [
        {"variant": "baseline", "n": str(n), "val_loss": "3.00", "sd": "0.10", column: ""},
        {"variant": "a", "n": str(n), "val_loss": "2.70", "sd": sd, column: value},
    ]


@pytest.mark.parametrize(("column", "severity"), [
    ("cohens_d", INVALID), ("Hedges' g", INVALID), ("g", INVALID), ("effect_size", WARNING),
    ("d_z", None), ("hedges_g_low", None), ("accuracy_cohens_d", None),
])  # fmt: skip
def test_an_effect_size_that_means_and_sds_do_not_give(column: str, severity: str | None) -> None:
    """0.3 / 0.1 is 3; d_z depends on the pairing, which no mean and sd tell."""
    items = found(audit(with_effect(column, "99")), "effect_size")
    assert [item.severity for item in items] == ([severity] if severity else [])
    assert all(f"a: {column} is printed as 99, but means and sds give" in item.evidence for item in items)


@pytest.mark.parametrize("value", ["-3.0", "3.00", "2.71", "3.35", "2.4"])
def test_any_definition_of_an_effect_size_will_do(value: str) -> None:
    """d of either sign, Hedges' g (x J(8) = 0.903), an sd with n (x 1.118), and g of pairs (J(4) = 0.798)."""
    assert found(audit(with_effect("cohens_d", value)), "effect_size") == []


@pytest.mark.parametrize(("value", "wrong"), [("0.98", 0), ("1.38", 0), ("3.00", 0), ("1.90", 1), ("9.9", 1)])
def test_the_sd_may_be_either_arm_s_or_pooled_and_nothing_else(value: str, wrong: int) -> None:
    """Sds 0.10 and 0.30 at n = 200, where corrections are nothing: 0.3 / 0.30, / 0.2236, / 0.10."""
    assert len(found(audit(with_effect("d", value, n=200, sd="0.30")), "effect_size", INVALID)) == wrong


def test_an_effect_size_between_two_definitions_is_told_what_each_gives() -> None:
    (item,) = found(audit(with_effect("d", "1.90", n=200, sd="0.30")), "effect_size")
    assert "means and sds give 0.945 to 1.05 or 1.26 to 1.42 or 2.74 to 3.27 against" in item.evidence


def test_rounding_decides_over_an_effect_size() -> None:
    """A difference printed as 0.01 is 0 to 0.02; an sd printed as 0.0 may be 0.05, or nothing."""
    rows = with_effect("d", "0.19")
    rows[1]["val_loss"] = "2.99"
    assert found(audit(rows), "effect_size") == []
    rows[1]["d"] = "0.40"
    assert len(found(audit(rows), "effect_size")) == 1
    rows[1]["sd"] = rows[0]["sd"] = "0.0"
    assert found(audit(rows), "effect_size") == []


@given(
    shift=st.floats(-1, 1), scale=st.floats(0.02, 2), n=st.integers(3, 12), seed=st.integers(0, 99),
    digits=st.integers(1, 5), kind=st.sampled_from(("pooled", "hedges", "glass", "with n")),
)  # fmt: skip
def test_effect_sizes_of_real_runs_are_left_alone(
    shift: float, scale: float, n: int, seed: int, digits: int, kind: str
) -> None:
    x, y = 5 + scale * np.random.default_rng(seed).standard_normal((2, n)) + np.array([[shift], [0.0]])
    pooled = math.sqrt((x.var(ddof=1) + y.var(ddof=1)) / 2)
    sd = {"pooled": pooled, "glass": y.std(ddof=1), "with n": math.sqrt((x.var() + y.var()) / 2)}.get(kind, pooled)
    d = (x.mean() - y.mean()) / sd * (float(gamma_correction(2 * n - 2)) if kind == "hedges" else 1)
    rows = [
        {"variant": name, "n": str(n), "val_loss": f"{runs.mean():.{digits}f}", "sd": f"{runs.std(ddof=1):.{digits}f}",
         "cohens_d": effect}
        for name, runs, effect in (("baseline", y, ""), ("a", x, f"{d:.2f}"))
    ]  # fmt: skip
    assert invalid(audit(rows)) == []


@st.composite
def small_effects(draw: st.DrawFn) -> Rows:
    """Draw a sound table of means whose effects are of the size of its noise, with all that is computed from the runs.

    Seeds are shared by all names; figures are computed exactly and then printed to the same decimals.
    """
    names, n = draw(st.integers(2, 8)), draw(st.integers(3, 10))
    digits, effect = draw(st.integers(2, 4), label="digits"), draw(st.floats(0, 3), label="in sds")
    sd, shared = draw(st.floats(0.003, 0.05)), draw(st.floats(0, 3))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    runs = 3 + sd * (
        effect * rng.standard_normal((names, 1)) + shared * rng.standard_normal(n) + rng.standard_normal((names, n))
    )
    means, sds, control = runs.mean(axis=1), runs.std(axis=1, ddof=1), runs[0]
    column, definition = draw(st.sampled_from(sorted(DEFINITIONS.items())))
    return [
        {
            "rank": str(1 + int((means < means[place]).sum())),
            "variant": f"variant {place}" if place else "baseline",
            "n": str(n),
            "val_loss": f"{means[place]:.{digits}f}",
            "val_loss_sd": f"{sds[place]:.{digits}f}",
            "difference": f"{means[place] - means[0]:.{digits}f}",
            column: f"{definition(runs[place], control):.2f}" if place else "",
            "p": f"{stats.ttest_rel(runs[place], control).pvalue:.3f}" if place else "",
        }
        for place in range(names)
    ]


DEFINITIONS: Mapping[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "cohens_d": cohens_d,
    "hedges_g": lambda x, y: cohens_d(x, y) * float(gamma_correction(2 * x.size - 2)),
    "glass_delta": lambda x, y: float((x.mean() - y.mean()) / y.std(ddof=1)),
    "effect_size": lambda x, y: abs(cohens_d(x, y)),
    "d_z": lambda x, y: float((x - y).mean() / (x - y).std(ddof=1)),
}


@given(rows=small_effects())
def test_nothing_is_invalid_in_sound_tables_of_small_effects(rows: Rows) -> None:
    assert invalid(audit(rows)) == []


# p values.


def with_p(column: str, value: str, n: int = 5, other_n: int = 8) -> Rows:
    return [
        {"variant": "baseline", "n": str(other_n), "val_loss": "3.000", "sd": "0.100", column: ""},
        {"variant": "a", "n": str(n), "val_loss": "2.850", "sd": "0.080", column: value},
    ]


@pytest.mark.parametrize(("column", "severity"), [("p", WARNING), ("p_welch", INVALID), ("Unpaired p-value", INVALID)])
def test_a_p_that_no_unpaired_t_test_gives(column: str, severity: str) -> None:
    """scipy: Welch's is 0.0136, the pooled one 0.0166; where nothing names the test, it may be another."""
    (item,) = found(audit(with_p(column, "0.20")), "p_value")
    assert item.severity == severity
    assert f"a: {column} is printed as 0.20, but means, sds and n give 0.0122 to 0.0258" in item.evidence
    assert "against baseline (Welch's t test or the pooled one, two-sided)" in item.evidence
    assert ("corrected" in item.instead) == (severity == WARNING)


@pytest.mark.parametrize("value", ["0.0136", "0.0166", "0.01", "<0.05", "< 0.02", "0.02*"])
def test_the_p_of_either_unpaired_test_will_do(value: str) -> None:
    assert found(audit(with_p("p_welch", value)), "p_value") == []


@pytest.mark.parametrize(("value", "wrong"), [("<0.001", 1), ("0.000", 1), ("0.001", 1), ("0.06", 1)])
def test_no_rounding_makes_such_a_p(value: str, wrong: int) -> None:
    assert len(found(audit(with_p("p_welch", value)), "p_value")) == wrong


def test_a_p_may_be_of_pairs_where_nothing_excludes_them() -> None:
    """At n = 5 both, pairs differ by an sd of 0.02 to 0.18, the mean by 0.15: p is from 0.00007 to 0.14."""
    for value in ("0.0005", "0.03", "0.13"):
        assert found(audit(with_p("p", value, other_n=5)), "p_value") == []
        assert bool(found(audit(with_p("p_unpaired", value, other_n=5)), "p_value")) == (value != "0.03")
    (item,) = found(audit(with_p("p", "0.30", other_n=5)), "p_value")
    assert item.severity == WARNING
    assert "any paired one" in item.evidence


def test_a_p_against_the_baseline_is_no_change() -> None:
    rows = with_p("p-value vs. baseline", "0.0136")
    rows.append({"variant": "b", "n": "8", "val_loss": "2.99", "sd": "0.1", "p-value vs. baseline": "n.s."})
    audited = audit(rows)
    assert audited.table.columns["p"] == ("p-value vs. baseline",)
    assert found(audited, "derived_column") == found(audited, "p_value") == []
    assert len(found(audit(with_p("welch p vs. control", "0.2")), "p_value", INVALID)) == 1
    assert found(audit(with_p("p_bonferroni_vs_baseline", "0.03")), "derived_column") == []


def test_a_loss_relative_to_the_baseline_s() -> None:
    for column, value in (("relative_loss", "0.950"), ("relative (%)", "95.0"), ("change", "-5.0%")):
        rows = [{"cell": "baseline", "loss": "3.000", column: ""}, {"cell": "a", "loss": "2.850", column: value}]
        assert found(audit(rows), "derived_column", INVALID) == []


def test_seeds_say_whether_runs_are_paired() -> None:
    """Two names of three runs, sds 0.1 and 0.1 and means 1.1 apart: Welch's p is 0.0002."""
    head, rows = "variant,seed,val_loss,p", "baseline,0,2.9, baseline,1,3.0, baseline,2,3.1,"
    shared = f"{head} {rows} a,0,1.8,0.0000001 a,1,1.9, a,2,2.0,"
    apart = f"{head} {rows} a,5,1.8,0.0000001 a,6,1.9, a,7,2.0,"
    some = f"{head} {rows} a,0,1.8,0.9 a,1,1.9, a,2,2.0, a,3,1.9,"
    assert found(audit(shared), "p_value") == found(audit(some), "p_value") == []
    assert len(found(audit(apart), "p_value")) == 1


@given(
    shift=st.floats(-3, 3), scales=st.tuples(st.floats(0.02, 2), st.floats(0.02, 2)), seed=st.integers(0, 999),
    n=st.tuples(st.integers(2, 12), st.integers(2, 12)), digits=st.integers(1, 5), lost=st.integers(0, 1),
    kind=st.sampled_from(("welch", "pooled", "paired")), decimals=st.integers(1, 6),
)  # fmt: skip
def test_p_values_of_real_runs_are_left_alone(
    shift: float, scales: tuple[float, float], seed: int, n: tuple[int, int], digits: int, lost: int, kind: str,
    decimals: int,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    n = (n[0], n[0]) if kind == "paired" else n
    shared = rng.standard_normal(max(n)) * rng.uniform(0, 3)
    x, y = (5 + scale * (rng.standard_normal(few) + shared[:few]) for scale, few in zip(scales, n, strict=True))
    x = x + shift
    test = stats.ttest_rel(x, y) if kind == "paired" else stats.ttest_ind(x, y, equal_var=kind == "pooled")
    rows = [
        {"variant": name, "n": str(runs.size), "val_loss": f"{runs.mean():.{digits}f}",
         "sd": f"{runs.std(ddof=lost):.{digits}f}", "p": p}
        for name, runs, p in (("baseline", y, ""), ("a", x, f"{test.pvalue:.{decimals}f}"))
    ]  # fmt: skip
    assert found(audit(rows), "p_value") == []


def test_how_many_times_lower_a_loss_is() -> None:
    rows = "variant,loss,times_lower baseline,3.00, a,1.50,2.0 b,1.00,2.0"
    assert [item.evidence.partition(":")[0] for item in found(audit(rows), "derived_column", INVALID)] == ["b"]


# Other metrics than the loss.


def test_more_may_be_better() -> None:
    ranked = "Model,Accuracy(%),Rank,n,sd,Improvement baseline,71.2,3,5,0.5,0 a,73.4,2,5,0.4,2.2 b,74.1,1,5,0.6,2.9"
    audited = audit(ranked)
    assert (audited.table.is_loss, audited.table.direction) == (False, "max")
    (item,) = audited.findings
    assert item.evidence == "Improvement follows value - other value, not 100 (value / other value - 1)"
    assert audited.to_dict()["columns"]["metric"] == ["Accuracy(%)"]
    wrong = audit(ranked.replace("71.2,3", "71.2,1").replace("74.1,1", "74.1,3"))
    assert [item.evidence.partition(":")[0] for item in found(wrong, "rank", INVALID)] == ["baseline", "b"]


@pytest.mark.parametrize(("column", "value", "severity"), [
    ("accuracy_difference", "0.022", None), ("accuracy_difference", "-0.022", INVALID), ("gain_percent", "3.1", None),
    ("gain", "0.031", NOTE), ("gain", "0.05", INVALID), ("Improvement factor", "1.03", None),
    ("times_better", "0.97", INVALID),
    ("Relative to baseline", "1.03", NOTE), ("% of baseline, relative", "103.1", NOTE), ("relative", "0.97", INVALID),
    ("error_reduction", "0.9", None), ("loss_improvement", "0.9", None),
])  # fmt: skip
def test_gains_of_a_metric(column: str, value: str, severity: str | None) -> None:
    """0.734 against 0.712."""
    rows = [
        {"variant": "baseline", "accuracy": "0.712", column: ""},
        {"variant": "a", "accuracy": "0.734", column: value},
    ]
    assert [item.severity for item in found(audit(rows), "derived_column")] == ([severity] if severity else [])


def test_formulas_of_the_loss_are_not_another_metric_s() -> None:
    audited = audit(
        "variant,bleu,ppl,loss_sd,loss_cohens_d,n baseline,20,7,9,,5 a,22,9,9,7,5", metric="bleu", direction="max"
    )
    assert [item for item in audited.findings if item.severity != NOTE] == []
    assert audited.table.not_checked == ("loss_sd", "loss_cohens_d", "ppl (its formula needs the loss, not bleu)")
    assert audit("variant,metric baseline,-3 a,-2", metric="metric", direction="max").findings[0].name == "replication"
    published = audit_table("exp6", metric="val_accuracy")
    assert {item.name for item in published.findings} == {"replication", "same_model", "rank"}


def test_the_best_is_the_highest_where_more_is_better() -> None:
    accuracies = {"baseline": 0.70, "a": 0.72, "b": 0.61, "c": 0.66}
    size = (0.72 - 0.70) / float(np.std(list(accuracies.values())))
    rows = [{"variant": name, "n": "1", "accuracy": f"{value:.4f}", "effect_size": f"{size:.3f}"} for name, value in
            accuracies.items()]  # fmt: skip
    items = found(audit(rows), "effect_size", INVALID)
    assert len(items) == 4
    assert all("that is |best - baseline| / sd over the 4 variants" in item.evidence for item in items)


# Figures and names as people write them.


def test_spreads_beside_their_figures() -> None:
    rows = "method,{},n baseline,3.21±0.04,5 ours,3.15±0.03,5 other,{},5"
    unnamed = audit(rows.format("val_loss", "3.30+/-0.05"))
    assert [item.evidence for item in found(unnamed, "replication", WARNING)] == [
        "nothing says whether what stands after the ± of val_loss is an sd, a standard error or half an interval"
    ]
    named = audit(rows.format("val_loss(mean±sd)", "3.30+-0.05"))
    assert found(named, "replication") == []
    assert [named.table.columns[role] for role in ("loss", "sd")] == [("val_loss(mean±sd)",), ("val_loss sd",)]
    assert [row.figures["val_loss sd"].value for row in named.table.rows] == [0.04, 0.03, 0.05]
    without_n = audit("method,val_loss baseline,3.21±0.04 ours,3.15")
    assert any("how many is not stated (baseline)" in item.evidence for item in found(without_n, "replication"))
    names = audit([{"variant": "w +/- dropout", "Final val loss (nats)": "1.2e0±.1"}])
    assert [(row.name, row.words) for row in names.table.rows] == [
        ("w +/- dropout", {"Final val loss (nats) plus or minus": ".1"})
    ]
    with pytest.raises(AnalysisError, match="holds spreads, and so does 'val_loss sd'"):
        audit([{"variant": "a", "val_loss ± sd": "1 ± 2", "val_loss sd": "2"}])


@pytest.mark.parametrize("column", ["sem", "p", "val_loss_ci_low", "p_holm"])
def test_a_spread_without_n_is_of_runs_that_nobody_counted(column: str) -> None:
    audited = audit(f"variant,val_loss,{column} baseline,2.0,0.02 a,1.9,0.02")
    (item,) = found(audited, "replication")
    assert item.severity == WARNING
    assert "how many is not stated" in item.evidence


def test_names_and_figures_with_marks_and_units() -> None:
    names = ("Val loss (nats)", "loss [nats/token]", "val_loss (mean ± std)", "± sd", "nats")
    assert [normal(name) for name in names] == ["val_loss", "loss", "val_loss", "sd", "nats"]
    assert normal("Δ loss") == normal("∆loss") == "delta_loss"
    marked = audit(
        [{"Model": "base", "Loss (nats)": "**3.21**", "p": ""}, {"Model": "b", "Loss (nats)": "3.1", "p": "0.03*"}]
    )
    assert [row.figures["Loss (nats)"].value for row in marked.table.rows] == [3.21, 3.1]
    assert marked.table.rows[1].figures["p"].value == 0.03


# Baselines.


def test_a_percentage_against_another_row_than_the_control() -> None:
    """100 (1 - loss / 4.0): the worst row stands in for the baseline."""
    audited = audit("variant,val_loss,improvement_pct baseline,2.000,50.0 worst,4.000,0.0 a,1.000,75.0 b,1.500,62.5")
    (item,) = invalid(audited)
    assert item.name == "baseline"
    assert "is 100 (1 - loss / other loss) with worst as the other, not with baseline, in all 4 rows" in item.evidence


def test_without_a_control_nothing_is_compared() -> None:
    text = "variant,val_loss,improvement_pct,rank old,2.000,0.0,2 new,1.000,99.0,1"
    (item,) = found(audit(text), "baseline")
    assert item.severity == WARNING
    assert "--baseline" in item.instead
    (item,) = invalid(audit(text, baseline="old"))
    assert "new: improvement_pct is printed as 99.0" in item.evidence
    assert "is 50 against old" in item.evidence
    assert found(audit("rank,variant,val_loss 2,old,2.0 1,new,1.0"), "baseline")[0].severity == NOTE
    assert found(audit("variant,val_loss old,2.0 new,1.0"), "baseline") == []
    for name in ("Control", "baseline (ours)", "baseline@cpu"):
        assert audit([{"variant": name, "loss": "2.0"}, {"variant": "a", "loss": "1.0"}]).table.control is not None


def test_each_data_set_has_its_own_control() -> None:
    audited = audit("dataset,variant,val_loss,rank x,baseline,2.0,2 x,a,1.0,1 y,baseline,5.0,2 y,a,4.0,1")
    assert invalid(audited) == []
    assert all(group.n == 1 for group in audited.table.groups)
    (item,) = found(audit("dataset,variant,val_loss x,baseline,2.0 y,a,4.0"), "baseline")
    assert item.evidence == "y: baseline has no row with a loss"


# Ranks, repeats, noise, families.


def test_ranks_follow_the_losses_and_ties_may_stand_either_way() -> None:
    assert found(audit("rank,variant,val_loss 1,a,1.0 2,b,1.0 3,baseline,2.0"), "rank") == []
    assert found(audit("rank,variant,val_loss 1,a,1.0 1,b,1.0 2,baseline,2.0"), "rank") == []
    assert len(found(audit("rank,variant,val_loss 1,a,1.0 1,b,1.1 2,baseline,2.0"), "rank")) == 2
    items = found(audit("rank,variant,val_loss 2,a,1.00 1,baseline,1.20 3,b,2.00"), "rank")
    assert [item.evidence.partition(",")[0] for item in items] == ["a: rank is 2", "baseline: rank is 1"]
    (item,) = found(audit("rank,variant,val_loss 1,baseline,2.0 2,a,nan"), "rank")
    assert "it has no finite loss" in item.evidence


def test_neighbours_that_swapped_their_ranks_are_found_at_the_last_digit() -> None:
    items = found(audit("rank,variant,val_loss 1,a,3.013 2,b,3.012 3,baseline,3.020"), "rank", INVALID)
    assert [item.evidence for item in items] == [
        "a: rank is 1, but its val_loss of 3.013 is 2 of 3",
        "b: rank is 2, but its val_loss of 3.012 is 1 of 3",
    ]
    fewer_decimals = "rank,variant,val_loss 1,a,3.01 2,b,3.012 3,c,3.009 4,baseline,3.016"
    (item,) = found(audit(fewer_decimals), "rank", INVALID)
    assert item.evidence == "c: rank is 3, but its val_loss of 3.009 is between 1 and 2 of 4"


@given(losses=st.lists(st.floats(0.5, 4), min_size=2, max_size=6), data=st.data())
def test_ranks_of_rounded_losses_are_never_wrong(losses: Sequence[float], data: st.DataObject) -> None:
    """Whatever decimals each loss is printed to."""
    rows = [
        {"variant": str(place), "loss": f"{loss:.{data.draw(st.integers(0, 4))}f}", "rank": str(1 + rank)}
        for place, loss in enumerate(losses)
        for rank in [sorted(range(len(losses)), key=lambda other: losses[other]).index(place)]
    ]
    assert found(audit(rows), "rank") == []


def test_a_run_is_counted_once() -> None:
    (item,) = invalid(audit("cell,seed,val_loss baseline,0,2.0 baseline,0,2.1 a,0,1.9"))
    assert item.evidence == "baseline (seed 0) stands 2 times: it counts as one run"


def test_a_mean_over_runs_that_stands_twice_counts_once() -> None:
    rows = "rank,variant,n,val_loss,sd 2,baseline,5,3.0000,0.0100 1,a,5,2.9456,0.0100 1,a,5,2.9456,0.0100"
    audited = audit(rows)
    (item,) = invalid(audited)
    assert item.evidence == "a stands 2 times with all fields the same (val_loss 2.9456): it counts once, with n = 5"
    assert {group.name: group.n for group in audited.table.groups} == {"baseline": 5, "a": 5}
    assert found(audited, "rank") == []
    (item,) = invalid(audit("variant,val_loss,sd baseline,3.0,0.1 a,2.9456,0.01 a,2.9456,0.01"))
    assert item.evidence.endswith("(val_loss 2.9456): it counts once")


def test_two_means_of_one_name_are_not_told_apart() -> None:
    text = "variant,steps,n,val_loss,sd,difference baseline,9,5,3.0,0.01, a,9,5,2.94,0.01,-0.06 a,99,5,2.91,0.01,-0.09"
    audited = audit(text)
    (item,) = found(audited, "duplicate", WARNING)
    assert (
        item.evidence == "a has 2 rows that are means over runs, with n = 5 and 5: nothing says what tells them apart"
    )
    assert math.isnan(differences(audited.table)[0].p)
    assert found(audit("variant,n,val_loss baseline,1,3.0 a,1,2.94 a,1,2.91"), "duplicate") == []


@pytest.mark.parametrize(("loss", "severity"), [("2.9456", WARNING), ("2.946", WARNING), ("2.95", NOTE)])
def test_runs_without_a_seed_that_are_alike(loss: str, severity: str) -> None:
    audited = audit(f"variant,val_loss,minutes baseline,3.0001,2 baseline,2.9992,2 a,{loss},2 a,{loss},2")
    (item,) = found(audited, "duplicate")
    assert item.severity == severity
    assert item.evidence.startswith(f"a stands 2 times with all fields the same (val_loss {loss}): one run that was")
    assert found(audit(f"variant,val_loss,minutes baseline,3.0001,2 a,{loss},2 a,{loss},3"), "duplicate") == []


@pytest.mark.parametrize(("loss", "severity"), [("2.9456", WARNING), ("2.95", NOTE), ("0.0344", NOTE)])
def test_seeds_that_do_not_differ(loss: str, severity: str) -> None:
    text = "cell,seed,val_loss baseline,0,3.00 baseline,1,3.01 baseline,2,2.99"
    (item,) = found(audit(text + "".join(f" a,{seed},{loss}" for seed in range(3))), "no_spread")
    assert (item.severity, item.evidence) == (severity, f"a: val_loss is {loss} in all 3 runs")
    assert found(audit(text + "".join(f" a,{seed},{loss}" for seed in range(2))), "no_spread") == []
    assert found(audit(f"{text} a,0,{loss} a,1,{loss} a,2,{loss}1"), "no_spread") == []


@pytest.mark.parametrize(
    ("n", "sd", "severity"), [("5", "0.0000", WARNING), ("5", "0.00", NOTE), ("2", "0.0000", None)]
)
def test_an_sd_of_nothing(n: str, sd: str, severity: str | None) -> None:
    items = found(audit(f"variant,n,val_loss,sd baseline,{n},3.00,0.01 a,{n},2.90,{sd}"), "no_spread")
    assert [(item.severity, item.evidence) for item in items] == (
        [(severity, f"a: sd is {sd} over 5 runs")] if severity else []
    )


def test_equal_figures_under_two_names_are_a_warning() -> None:
    (item,) = found(audit("variant,val_loss,val_accuracy baseline,2.01,0.51 a,2.01,0.51 b,2.01,0.52"), "duplicate")
    assert item.severity == WARNING
    assert item.evidence == "baseline and a have the same val_loss and val_accuracy: 2.01"
    (item,) = found(audit("variant,val_loss baseline,2.01 a,2.01"), "duplicate")
    assert item.severity == NOTE


def test_digits_beyond_the_standard_error_are_a_note() -> None:
    """An sd of 0.08 over 4 runs is a standard error of 0.040: three decimals say all, four too much."""
    (item,) = found(audit("variant,n,val_loss,sd baseline,4,4.7435,0.08 a,4,4.513,0.08"), "precision", NOTE)
    assert "baseline: val_loss is printed as 4.7435, finer than its standard error of 0.040" in item.evidence
    assert "other" not in item.evidence


def test_differences_within_the_noise() -> None:
    """Paired differences 0.1 and -0.1: the interval holds 0; 0.30 and 0.31 do not."""
    rows = [
        "cell,seed,val_loss,difference baseline,0,2.00, baseline,1,2.50,",
        "a,0,2.10,0.10 a,1,2.40,-0.10 b,0,2.30,0.30 b,1,2.81,0.31",
    ]
    (item,) = found(audit(" ".join(rows)), "precision")
    assert item.evidence.startswith("1 of 2 differences from baseline are within the noise of the runs: a [−1.27")
    assert item.severity == WARNING
    means = "rank,cell,n,val_loss,sd 2,baseline,5,2.00,0.10 1,a,5,1.95,0.10 3,b,5,4.00,0.10"
    (item,) = found(audit(means), "precision")
    assert item.severity == WARNING
    # 0.05 -+ t(8) 2.306 x sqrt(2 x 0.01 / 5): Welch
    assert item.evidence.endswith("a [−0.1958, +0.0958] (95 % intervals, if the runs are not paired)")
    tested = "cell,n,val_loss,sd,difference,p baseline,5,2.00,0.10,, a,5,1.95,0.10,-0.05,0.45"
    assert found(audit(tested), "precision") == []


PAIRS = "rank,cell,n,val_loss,sd,difference,{} 2,baseline,10,3.0000,0.0300,,{} 1,a,10,2.9900,0.0300,-0.0100,{}"


@pytest.mark.parametrize(("columns", "empty", "row", "within", "p"), [
    ("d_z", "", "-5.00", None, 7.1e-8),  # t(9) = 5 sqrt(10) = 15.8
    ("d_z", "", "-0.50", "a [−0.0243, +0.0043] (95 % intervals)", 0.148),  # 0.01 -+ t(9) 2.262 x 0.02 / sqrt(10)
    ("d_z", "", "0.00", "a (p 1.0000)", 1.0),
    ("difference_low,difference_high", ",", "-0.0114,-0.0086", None, 5.9e-8),
    ("difference_low,difference_high", ",", "-0.0243,0.0043", "a [−0.0243, +0.0043] (95 % intervals)", 0.148),
    ("p", "", "0.0001", None, 0.0001),
    ("p", "", "0.30", "a (p 0.3000)", 0.3),
    ("remark", "", "", "a [−0.0382, +0.0182] (95 % intervals, if the runs are not paired)", 0.466),
])  # fmt: skip
def test_a_table_s_own_paired_figures_go_before_welch(
    columns: str, empty: str, row: str, within: str | None, p: float
) -> None:
    audited = audit(PAIRS.format(columns, empty, row))
    assert [item.evidence.partition("runs: ")[2] for item in found(audited, "precision", WARNING)] == (
        [within] if within else []
    )
    assert differences(audited.table)[0].p == pytest.approx(p, rel=0.05)


def test_seeds_that_are_not_shared_are_not_paired() -> None:
    rows = (
        "cell,seed,loss,difference baseline,0,2.9, baseline,1,3.0, baseline,2,3.1, a,7,2.8,-0.1 a,8,2.9,-0.1 a,9,3.0,0"
    )
    (item,) = found(audit(rows), "precision", WARNING)
    assert item.evidence.endswith("(95 % intervals)")


@pytest.mark.parametrize(
    "table",
    [
        "rank,cell,n,loss,sd 2,baseline,3,3.0,0.1 1,a,3,2.7,0.1",
        "cell,seed,loss baseline,0,2.9 baseline,1,3.0 baseline,2,3.1 a,7,2.6 a,8,2.7 a,9,2.8",
    ],
)
def test_arms_without_common_seeds_are_compared_by_welch(table: str) -> None:
    """0.3 -+ t(4) 2.776 x 0.0816."""
    audited = audit(table)
    (difference,) = differences(audited.table)
    assert (round(difference.low, 2), round(difference.high, 2), round(difference.p, 3)) == (-0.53, -0.07, 0.021)
    assert found(audited, "precision") == []


def test_more_comparisons_than_the_seeds_can_carry() -> None:
    rows = [{"cell": name, "n": "5", "loss": "2.0"} for name in ("baseline", *"abc")]
    (item,) = found(audit(rows), "multiplicity")  # 3 x 2/32 = 0.19
    assert (
        "3 comparisons at n = 5: the smallest p of an exact sign-flip test is 2/2^5, times 3 is 0.19" in item.evidence
    )
    assert item.instead.startswith("train 7 seeds")  # 3 x 2/128 = 0.047
    for row in rows:
        row["n"] = "7"
    assert found(audit(rows), "multiplicity") == []


def test_one_comparison_is_no_family_and_clear_differences_need_no_exact_test() -> None:
    assert found(audit("cell,n,loss,p baseline,5,2.0, a,5,1.9,0.001"), "multiplicity") == []
    clear = [
        {"rank": str(place + 1), "cell": name, "n": "5", "loss": f"{2 + place:.3f}", "sd": "0.010"}
        for place, name in enumerate(("baseline", *"abc"))
    ]
    assert found(audit(clear), "multiplicity") == []


def test_many_names_of_three_seeds_find_nothing_in_any_case() -> None:
    """15 comparisons at n = 3: only differences above 12.7 sd are found."""
    rows = [{"cell": f"v{i}", "n": "3", "loss": f"2.{i:02}", "sd": "0.10"} for i in range(15)]
    (item,) = found(audit([{"cell": "baseline", "n": "3", "loss": "2.00", "sd": "0.10"}, *rows]), "multiplicity")
    assert item.evidence.startswith("15 comparisons at n = 3")


def test_differences_that_only_stand_alone() -> None:
    """By Welch p = 0.021; the other nine names are far from any difference."""
    rows = [{"cell": f"v{i}", "n": "3", "loss": "3.0", "sd": "0.1", "difference": "0.0"} for i in range(9)]
    rows += [{"cell": "a", "n": "3", "loss": "2.7", "sd": "0.1", "difference": "-0.3"}]
    rows += [{"cell": "baseline", "n": "3", "loss": "3.0", "sd": "0.1", "difference": ""}]
    items = found(audit(rows), "multiplicity", WARNING)
    assert [item.evidence for item in items] == [
        "of 10 comparisons with the control, a (p 0.0213, corrected 0.2131) is told apart from it only without "
        "Holm's correction, if the runs are not paired"
    ]


def test_p_values_that_a_correction_would_take() -> None:
    rows = "cell,n,loss,p baseline,9,2.0, a,9,1.9,0.001 b,9,1.8,0.03 c,9,1.7,0.2"
    (item,) = found(audit(rows), "multiplicity")
    assert item.severity == WARNING
    assert "of 3 p values, b (0.03, corrected 0.0600) is below 0.05 only without" in item.evidence


def test_what_results_say_against_themselves_is_passed_on() -> None:
    text = f"cell,seed,val_loss,{FLAWS},{INVALID} baseline,0,2.0,, a,0,0.1,leak.no_causal_mask,causality"
    evidence = [item.evidence for item in found(audit(text), "marked", INVALID)]
    assert evidence == [
        "a (seed 0): trained under leak.no_causal_mask",
        "a (seed 0): found invalid by causality",
    ]


def test_losses_that_cannot_be() -> None:
    audited = audit("variant,val_loss baseline,-2.0 a,inf b, c,1.0")
    assert (
        "2 of 4 rows have no finite val_loss and count nowhere: a and b" in found(audited, "values", NOTE)[0].evidence
    )
    assert "baseline (-2.0)" in found(audited, "values", WARNING)[0].evidence


@pytest.mark.parametrize(("column", "values", "wrong"), [
    ("val_accuracy", ("0.51", "0.52", "1.7"), ["b (1.7)"]),
    ("val_accuracy", ("0.51", "-0.2", "0.52"), ["a (-0.2)"]),
    ("accuracy", ("51.0", "52.0", "117.0"), ["b (117.0)"]),
    ("accuracy (%)", ("0.9", "0.8", "101.5"), ["b (101.5)"]),
    ("val_accuracy", ("0.0", "1.0", "1.000"), []),
    ("acc_percent", ("0.0", "0.4", "100.0"), []),
    ("accuracy", ("51%", "52%", "1.7%"), []),
    ("delta_acc", ("0.0", "-0.2", "1.7"), []),
])  # fmt: skip
def test_accuracies_that_cannot_be(column: str, values: Sequence[str], wrong: list[str]) -> None:
    rows = [
        {"variant": name, "val_loss": loss, column: value}
        for name, loss, value in zip(("baseline", "a", "b"), ("2.0", "2.1", "2.2"), values, strict=True)
    ]
    items = found(audit(rows), "values", INVALID)
    assert len(items) == bool(wrong)
    assert all(item.evidence.endswith(f"can be: {' and '.join(wrong)}") for item in items)


@pytest.mark.parametrize(("column", "value", "words"), [
    ("p", "1.7", "p is outside 0 to 1, which no probability can be: a (1.7)"),
    ("p_value", "-0.2", "p_value is outside 0 to 1, which no probability can be: a (-0.2)"),
    ("p_holm", "3", "p_holm is outside 0 to 1, which no probability can be: a (3)"),
    ("sd", "-0.01", "sd is outside 0 and more, which no spread can be: a (-0.01)"),
    ("val_loss_sem", "\u22120.01", "val_loss_sem is outside 0 and more, which no spread can be: a (-0.01)"),
    ("train_minutes", "-3", "train_minutes is outside 0 and more, which no time or count can be: a (-3)"),
    ("params", "-5", "params is outside 0 and more, which no time or count can be: a (-5)"),
    ("p", "<0.001", ""), ("p", "1.000", ""), ("p_holm", "0", ""), ("sd", "0.00", ""), ("ci_low", "-0.1", ""),
    ("difference_low", "-0.1", ""), ("margin_of_error", "0.1", ""),
])  # fmt: skip
def test_figures_that_cannot_be(column: str, value: str, words: str) -> None:
    rows = [
        {"variant": "baseline", "n": "5", "val_loss": "2.00", column: ""},
        {"variant": "a", "n": "5", "val_loss": "1.90", column: value},
    ]
    assert [item.evidence for item in invalid(audit(rows))] == ([words] if words else [])


def with_interval(columns: Sequence[str], values: Sequence[str], **more: str) -> list[Finding]:
    base = {
        "variant": "baseline",
        "n": "5",
        "val_loss": "2.75",
        **dict.fromkeys(more, ""),
        **dict.fromkeys(columns, ""),
    }
    own = {"variant": "a", "n": "5", "val_loss": "2.700", **more, **dict(zip(columns, values, strict=True))}
    return found(audit([base, own]), "interval", INVALID)


@pytest.mark.parametrize("columns", [
    ("ci_low", "ci_high"), ("val_loss_lower", "val_loss_upper"), ("mean_low", "mean_high"), ("ci95_low", "ci95_upper"),
    ("loss_ci_low", "loss_ci_high"), ("ci_95_low", "ci_95_high"), ("CI lower 95", "CI upper 95"),
    ("lower_ci", "upper_ci"),
])  # fmt: skip
def test_an_interval_holds_its_mean(columns: Sequence[str]) -> None:
    (item,) = with_interval(columns, ("2.8", "2.9"))
    words = f"a: {columns[0]} to {columns[1]} is 2.8 to 2.9, which leaves out its own estimate: val_loss 2.700"
    assert item.evidence == words
    (item,) = with_interval(columns, ("2.8", "2.6"))
    assert item.evidence == f"a: {columns[0]} to {columns[1]} is 2.8 to 2.6: its lower end is above its upper one"
    assert with_interval(columns, ("2.6", "2.8")) == []
    assert with_interval(columns, ("2.7", "2.7")) == []


@pytest.mark.parametrize(("field", "wrong"), [
    ("[2.8, 2.9]", True), ("2.8 to 2.9", True), ("(2.8; 2.9)", True), ("[2.6, 2.8]", False), ("0.05", False),
    ("[-0.06, -0.04]", False), ("[0.04, 0.06]", False), ("[-2.0, -1.6]", False), ("[0.5, 1.2]", False),
])  # fmt: skip
def test_an_interval_in_one_field(field: str, wrong: bool) -> None:
    """One that is not near the loss is of something else: of the difference, the percentage, or what is nowhere."""
    for column in ("ci", "95% CI", "val_loss_ci95"):
        items = with_interval([column], [field if wrong or column != "val_loss_ci95" else "[2.69, 2.71]"])
        assert [item.evidence for item in items] == (
            [f"a: {column} is {field}, which leaves out its own estimate: val_loss 2.700"] if wrong else []
        )


def test_an_interval_is_of_what_its_column_says() -> None:
    columns = ("difference_low", "difference_high")
    (item,) = with_interval(columns, ("0.02", "0.08"), difference="-0.05")
    assert item.evidence.endswith("is 0.02 to 0.08, which leaves out its own estimate: difference -0.05")
    assert with_interval(columns, ("-0.08", "-0.02"), difference="-0.05") == []
    assert with_interval(columns, ("0.02", "0.08")) == []
    assert with_interval(("hedges_g_low", "hedges_g_high"), ("1.0", "2.0"), hedges_g="3.0")
    assert with_interval(("bleu_ci_low", "bleu_ci_high"), ("2.8", "2.9"), bleu="2.85") == []
    assert with_interval(("ci_low", "ci_high"), ("2.8", "2.9"), bleu="2.85") == []


# Bad input, and the command.


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        (
            "variant,score a,1",
            {},
            "no column to compare by (val_loss, perplexity, accuracy ...): it has variant, score;",
        ),
        ("variant,score a,1", {"metric": "score"}, "nothing says which 'score' is better: add --direction min"),
        ("variant,acc a,1", {"direction": "min"}, "--direction min: of acc higher is better: leave it out"),
        ("variant,seed_0,seed_1 a,1,2", {}, "seed_0 and seed_1 look like one figure a seed: write one row a run"),
        ("colour,val_loss a,1", {}, "no column of names (variant, cell, model ...): it has colour, val_loss"),
        (
            "variant,val_loss a,",
            {},
            "no column to compare by (val_loss, perplexity, accuracy ...): it has variant, val_lo",
        ),
        ("variant,val_loss a,nan", {}, "no row has a finite val_loss"),
        ("variant,val_loss a,low", {}, "line 2: val_loss must be a number but got 'low'"),
        ("variant,val_loss±sd a,1±0.1±1", {}, "line 2: val_loss sd must be a number but got '0.1±1'"),
        ("variant,val_loss a,2 ,1", {}, "line 3: variant is empty"),
        ("variant,n,val_loss a,0,1", {}, "line 2: n must be a whole number from 1 but got '0'"),
        ("variant,val_loss baseline,1", {"baseline": "basline"}, "did you mean 'baseline'"),
        ("variant,val_loss a,1", {"metric": "loss"}, "unknown metric 'loss'"),
        ("variant,val_loss", {}, "has no rows"),
        ("variant,val_loss a,1,2", {}, "line 2: 3 values for 2 columns"),
    ],
)
def test_bad_input_is_one_line(text: str, options: Mapping[str, str], words: str) -> None:
    with pytest.raises(AnalysisError) as error:
        audit(text, **options)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_another_column_may_be_compared_by() -> None:
    audited = audit("variant,score,val_loss,rank baseline,2.0,9.0,2 a,1.0,9.9,1", metric="score", direction="min")
    assert invalid(audited) == []


def test_status_of_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("variant,n,val_loss,perplexity\nbaseline,5,2.0000,7.389\na,5,1.9000,6.0000\n")
    assert main(["audit", str(path)]) == 1
    shown = capsys.readouterr().out
    assert "invalid (1)" in shown
    assert "a: perplexity is printed as 6.0000, but exp(loss) is 6.69" in shown
    assert main(["audit", str(path), "--json"]) == 1
    data = json.loads(capsys.readouterr().out)
    assert data["findings"][0]["severity"] == "invalid"
    assert set(data["findings"][0]) == {"name", "severity", "evidence", "instead"}
    path.write_text("variant,n,val_loss,perplexity\nbaseline,5,2.0000,7.389\na,5,1.9000,6.6859\n")
    assert main(["audit", str(path)]) == 0
    assert main(["audit", str(tmp_path / "none.csv")]) == main(["audit", str(tmp_path)]) == 2
    assert "is a folder: name a CSV file" in capsys.readouterr().err
    assert main(["--debug", "audit", "nothing"]) == 2
    assert "there is no published table of 'nothing'" in capsys.readouterr().err


# Tables as people write them.


@pytest.mark.parametrize(
    "metric",
    ["val_loss (mean \u00b1 sd; n=3)", "val_loss (mean \u00b1 sd over 3 seeds)", "Val loss \u00b1 sd (3 runs)"],
)
def test_the_runs_that_a_column_s_name_states_are_behind_its_rows(metric: str) -> None:
    rows = [{"variant": "baseline", metric: "3.214 \u00b1 0.010"}, {"variant": "ours", metric: "3.102 \u00b1 0.012"}]
    audited = audit(rows)
    assert [group.n for group in audited.table.groups] == [3, 3]
    assert {role: len(names) for role, names in audited.table.columns.items()} == dict.fromkeys(
        ("loss", "name", "n", "sd"), 1
    )
    assert audited.table.not_checked == ()
    assert not found(audited, "replication", WARNING)
    other = audit([{**row, "n": "5"} for row in rows])
    assert [group.n for group in other.table.groups] == [5, 5]


def test_a_mean_whose_name_states_its_runs_is_no_single_one() -> None:
    audited = audit(
        [{"variant": "baseline", "val_loss (3 seeds)": "3.2"}, {"variant": "a", "val_loss (3 seeds)": "3.1"}]
    )
    assert [group.n for group in audited.table.groups] == [3, 3]
    runs = [{"variant": "baseline", "val_loss (3 seeds)": str(3 + seed / 10), "seed": str(seed)} for seed in range(3)]
    assert [group.n for group in audit(runs).table.groups] == [3]


@pytest.mark.parametrize("word", ["mean", "Avg", "std"])
def test_a_row_that_sums_up_runs_is_no_run(word: str) -> None:
    table = f"variant,seed,val_loss baseline,0,3.2 baseline,1,3.3 baseline,{word},3.25"
    with pytest.raises(AnalysisError, match=f"line 4: seed is '{word}': that row sums up runs and is none"):
        audit(table)


def test_ranks_may_be_over_all_contexts() -> None:
    rows = "scale,variant,val_loss,rank s,baseline,3.5,4 s,a,3.4,{} l,baseline,3.2,2 l,a,3.1,1"
    audited = audit(rows.format(3))
    (item,) = found(audited, "rank")
    assert (item.severity, invalid(audited)) == (NOTE, [])
    assert item.evidence.startswith("rank is over all 4 rows, and not within each of the 2 that")
    assert not found(audit("scale,variant,val_loss,rank s,baseline,3.5,2 s,a,3.4,1 l,baseline,3.2,2 l,a,3.1,1"), "rank")
    assert found(audit(rows.format(1)), "rank", INVALID)


def test_a_column_may_compare_each_row_with_the_one_before() -> None:
    """As ablations that add one thing after another do."""
    rows = "variant,val_loss,improvement_percent baseline,3.214, +mla,3.102,3.5 +moe,3.050,{}"
    audited = audit(rows.format("1.7"))
    (item,) = found(audited, "baseline")
    assert (item.severity, invalid(audited)) == (WARNING, [])
    assert "with the row before as the other, not with baseline, in all 2 rows" in item.evidence
    assert found(audit(rows.format("1.5")), "derived_column", INVALID)
    assert not found(audit(rows.format("5.1")), "baseline")


@pytest.mark.parametrize(
    ("field", "shown"),
    [
        (r"\textbf{3.102}", "3.102"),
        (r"$\mathbf{3.102}$", "3.102"),
        (r"{\bf \underline{3.1}}", "3.1"),
        (r"$3.150 \pm 0.012$", "3.150 ± 0.012"),
        (r"$3.150_{\pm 0.012}$", "3.150± 0.012"),
        (r"$3.1^{\dagger}$", "3.1†"),
        (r"38.1\,\%", "38.1 %"),
        ("25{,}960{,}192", "25,960,192"),
        (r"Val Loss $\downarrow$", "Val Loss ↓"),
        (r"w/o \texttt{norm\_x}", "w/o norm_x"),
        ("$10^{3}$", "10^{3}"),
        ("$3.15_{01}$", "3.15_{01}"),
        (r"\cellcolor{gray}3.1", r"\cellcolorgray3.1"),
        ("US$5", "US$5"),
    ],
)
def test_latex_is_read_as_it_looks(field: str, shown: str) -> None:
    """What has figures above or below the line stays, and is no number."""
    assert plain(field) == shown


def test_a_table_out_of_latex_is_audited() -> None:
    rows = [
        {"Method": r"\textbf{Baseline}", r"Val. loss ($\downarrow$)": "$3.214$", "PPL": "$24.88$"},
        {"Method": "MLA", r"Val. loss ($\downarrow$)": r"$\mathbf{3.102}$", "PPL": r"\textbf{24.00}"},
    ]
    audited = audit(rows, metric=r"Val. loss ($\downarrow$)")
    assert audited.table.control == "Baseline"
    (item,) = found(audited, "derived_column")
    assert "MLA: PPL is printed as 24.00, but exp(loss) is 22.2 (" in item.evidence
    with pytest.raises(AnalysisError, match="line 2: PPL must be a number but got '10\\^\\{3\\}'"):
        audit([{**rows[0], "PPL": "$10^{3}$"}])
    with pytest.raises(AnalysisError, match="column 'loss' is there twice"):
        audit([{"Method": "a", "loss": "1", "$loss$": "2"}])
