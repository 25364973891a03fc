"""A published table beside measured results, with numbers checked by hand."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import pytest

from analysis.__main__ import main
from analysis.comparing.marks import MARK, bare, is_marked
from analysis.errors import AnalysisError
from analysis.published import load_published
from analysis.published.derived import CHANGE, EFFICIENCY
from analysis.reporting import published_tables
from analysis.reporting.compare_published import PUBLISHED, SOUND, Comparison, compare, compare_published, newest_study
from analysis.schema import Audit
from analysis.text import NOTHING
from tests.fakes import make_study
from tests.fakes_results import make_results

EXP6 = load_published("exp6")


def compared(losses: dict[str, list[float | str | None]], name: str = "exp6", **columns: float) -> Comparison:
    return compare(load_published(name), make_results(losses, **columns), "")


def test_rows_are_the_published_ones_with_what_their_cells_measured() -> None:
    comparison = compared(
        {"baseline": [4.0, 4.2], "attention_rmsnorm_moe": [3.9, 4.1], "all_components": [1.0, 1.0]},
        train_seconds=90.0, params_total=2e6, val_accuracy=0.3,
    )  # fmt: skip
    rows = comparison.rows.set_index("variant")
    assert list(rows.index) == [row.variant for row in EXP6.rows]
    assert rows.loc["all_components", "cell"] == "attention_rmsnorm_moe"
    assert rows.loc["all_components", "val_loss"] == pytest.approx(4.0)
    assert rows.loc["baseline", "val_loss"] == pytest.approx(4.1)
    # 4.1 -+ t(0.975, 1) sd / sqrt(2), t = 12.706, sd = 0.1414
    assert rows.loc["baseline", ["ci_low", "ci_high"]].tolist() == pytest.approx([2.8294, 5.3706], abs=1e-4)
    assert rows.loc["baseline", ["n", "train_minutes", "params_total"]].tolist() == [2, 1.5, 2e6]
    assert rows.loc["moe", "n"] == 0
    assert math.isnan(rows.loc["moe", "val_loss"])
    # Published 3rd and 8th are 1st and 2nd of the two that were measured.
    assert rows.loc[["all_components", "baseline"], "rank_printed"].tolist() == [1, 2]
    assert rows.loc[["all_components", "baseline"], "rank"].tolist() == [1, 2]


@pytest.mark.parametrize("measured", [["all_components", "baseline"], [row.variant for row in EXP6.rows]])
def test_the_printed_rank_is_among_the_rows_that_are_shown_with_another(measured: list[str]) -> None:
    cells = {row.cell: [1.0 + place] for place, row in enumerate(EXP6.rows) if row.variant in measured}
    table = published_tables.sections(compared(cells))[0]
    ranks = {row[0]: row[-2:] for row in table.rows}
    whole = len(measured) == len(EXP6.rows)
    assert ranks["all_components"][0] == ("3" if whole else "1")
    assert ranks["baseline"][0] == ("8" if whole else "2")
    assert ("both ranks are among the 2 rows that have a measured one" in table.lines) == (not whole)
    assert whole or ranks["moe"] == ("–", "–")


def test_measured_derived_figures() -> None:
    comparison = compared({"baseline": [4.0], "mlp": [3.0]}, train_seconds=120.0, params_total=5e6)
    figures = {(figure.variant, figure.figure): comparison.measured(figure) for figure in comparison.derived}
    assert figures["baseline", EFFICIENCY] == pytest.approx(1 / (2 * 4 * 5))
    assert figures["mlp", CHANGE] == pytest.approx(-25.0)
    assert math.isnan(figures["moe", CHANGE])


def test_measured_derived_figures_are_said_to_be_of_the_means() -> None:
    comparison = compared({"baseline": [2.0, 4.0], "mlp": [3.0, 3.0]}, train_seconds=60.0, params_total=1e6)
    efficiencies = [figure for figure in comparison.derived if figure.figure == EFFICIENCY]
    scores = {figure.variant: comparison.measured(figure) for figure in efficiencies}
    assert scores["baseline"] == scores["mlp"] == pytest.approx(1 / 3), "the mean of the scores would be 3/8 and 1/3"
    said = published_tables.sections(comparison)[-1].lines[1]
    assert said.startswith("measured figures, perplexity too, are by their formula from the means over seeds above; a ")
    without = published_tables.sections(compared({"baseline": [2.0], "gated_experts": [3.0]}, "exp5"))[-1].lines[1]
    assert "efficiency" not in without


@pytest.mark.parametrize(
    ("corpus", "said"), [("web", "measured on web, printed of cosmopedia-v2"), ("smollm:1000", ""), ("", "")]
)
def test_losses_of_another_corpus_are_said_not_to_be_comparable(corpus: str, said: str) -> None:
    results = make_results({"baseline": [2.0], "mlp": [3.0]}, plan={"corpus": corpus})
    lines = published_tables.sections(compare(EXP6, results, ""))[0].lines
    assert [line.startswith(said) for line in lines if line.startswith("measured on")] == [True] * bool(said)


def test_kendall_s_tau() -> None:
    """Printed order attention, baseline, moe, mlp; measured baseline, attention, mlp, moe: 4 of 6 pairs agree."""
    comparison = compared({"baseline": [1.0], "attention": [2.0], "mlp": [3.0], "moe": [4.0]})
    assert comparison.common == 4
    assert comparison.tau == pytest.approx((4 - 2) / 6)
    reversed_ = compared({"mlp": [1.0], "moe": [2.0], "baseline": [3.0], "attention": [4.0]})
    assert reversed_.tau == pytest.approx(-1.0)


@pytest.mark.parametrize(
    ("losses", "why"),
    [
        ({"baseline": [1.0], "mlp": [2.0]}, "fewer than 3 rows"),
        ({"baseline": [1.0], "mlp": [2.0], "moe": ["diverged", 3.0]}, "fewer than 3 rows"),
        ({"baseline": [1.0], "mlp": [1.0], "moe": [1.0]}, "they tie in all of 3 rows"),
    ],
)
def test_there_is_not_always_a_tau(losses: dict[str, list[float | str | None]], why: str) -> None:
    comparison = compared(losses)
    assert comparison.tau is None
    assert why in published_tables.sections(comparison)[0].lines[0]


def test_a_diverged_cell_has_no_rank_and_says_so() -> None:
    comparison = compared({"baseline": [2.0, 2.1], "mlp": [1.0, "diverged"], "moe": [3.0, 3.0], "rmsnorm": [2.5, 2.5]})
    rows = comparison.rows.set_index("variant")
    assert rows["rank"].isna()["mlp"]
    assert rows["rank_printed"].isna()["mlp"]
    assert rows.loc["baseline", "rank"] == 1
    text = {row[0]: row for row in published_tables.sections(comparison)[0].rows}
    assert "1 diverged" in text["mlp"][4]
    said = "no rank where runs diverged, and all figures, here and below, of the runs that finished: mlp"
    assert said in published_tables.sections(comparison)[0].lines
    assert not any("diverged" in line for line in published_tables.sections(compared({"baseline": [2.0]}))[0].lines)


def test_what_breaks_its_formula_is_marked_and_nothing_else() -> None:
    comparison = compared({"baseline": [4.0], "mlp": [3.0]})
    losses, others, derived = published_tables.sections(comparison)
    cells = [cell for section in (losses, others, derived) for row in section.rows for cell in row]
    marked = [cell for cell in cells if cell.endswith(published_tables.WRONG)]
    assert sorted(marked) == [f"{text} ✗" for text in ("0.006", "0.007", "0.019", "0.020", "0.056")]
    row = next(row for row in derived.rows if row[:2] == ("attention_mlp", EFFICIENCY))
    assert row[4:] == ("0.056 ✗", "2.712 [2.687, 2.737]", "–")
    assert "5 printed figures do not follow the formula" in derived.lines[-1]
    clean = published_tables.sections(compared({"baseline": [4.0]}, "exp5"))[-1]
    assert clean.lines[-1] == "every printed figure follows its formula"


def test_several_scales_are_compared_one_by_one(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "grid", cells=("baseline", "moe", "mlp"), seeds=2, scales=("cpu", "paper_256d"))
    small, large = compare_published("exp6", str(folder))
    assert (small.scale, large.scale) == ("cpu", "paper_256d")
    assert set(large.rows["cell"]) >= {"baseline@paper_256d", "moe@paper_256d"}
    assert (small.rows["val_loss"] - large.rows["val_loss"]).dropna().tolist() == pytest.approx([0.3] * 3, abs=0.02)


def study(folder: Path, script: str = "exp6_grid", written: float | None = None, **plan: Any) -> Path:
    """A small study with results; its plan names the script, its flaws (all cells') and when it was written."""
    cells = ("baseline", "moe", "mlp", "attention", "all_components")
    flaws = dict.fromkeys(cells, plan.get("flaws", ()))
    made = make_study(folder, cells=cells, seeds=2, flaws=flaws, plan={"script": script, **plan})
    if written is not None:
        os.utime(made / "plan.json", (written, written))
    return made


PUBLISHED_PLAN = {"protocol": "published", "flaws": ["leak.no_causal_mask", "split.overlapping_windows"]}


def test_without_a_source_the_newest_study_with_results_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for place, name in enumerate(("exp6_grid-new", "exp6_grid-old", "exp60_other-newer")):
        os.utime(study(tmp_path / "results" / name) / "plan.json", (1_000 - place, 1_000 - place))
    (tmp_path / "results" / "exp6_grid-empty").mkdir()
    (tmp_path / "results" / "exp6_grid-empty" / "plan.json").write_text("{}")
    assert newest_study("exp6_grid", SOUND) == Path("results/exp6_grid-new")
    assert main(["compare-published", "exp6", "--markdown", "table.md"]) == 0
    shown = capsys.readouterr().out
    assert "as measured in exp6_grid-new, scale cpu" in shown
    assert "Kendall's tau between the two rankings: " in shown
    written = (tmp_path / "table.md").read_text()
    assert written.startswith(
        "## exp6_grid: loss as printed, and as measured in exp6_grid-new, scale cpu\n\n| variant |"
    )
    assert "0.056 ✗" in shown
    assert "0.056 ✗" in written


def test_a_design_whose_names_are_other_models_is_neither_taken_nor_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In exp4's `claimed` the baseline has ReLU experts, in exp6's `orthogonal` mlp is no dense layer."""
    monkeypatch.chdir(tmp_path)
    results = tmp_path / "results"
    study(results / "exp6_grid-sound", written=1_000, design="default")
    other = study(results / "exp6_grid-orthogonal", written=2_000, design="orthogonal")
    assert newest_study("exp6_grid", SOUND) == Path("results/exp6_grid-sound")
    with pytest.raises(AnalysisError, match="are of --design orthogonal, in which a cell need not train what its name"):
        compare_published("exp6", str(other))


def test_sound_studies_are_taken_unless_published_ones_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    results = tmp_path / "results"
    study(results / "exp6_grid-published", written=2_000, **PUBLISHED_PLAN)
    assert newest_study("exp6_grid", SOUND) is None
    assert main(["compare-published", "exp6"]) == 1
    error = capsys.readouterr().err
    assert "no results of exp6_grid (sound protocol) under results/" in error
    assert "--protocol published shows those there are" in error
    study(results / "exp6_grid-undone", written=3_000, protocol="published", flaws=["split.overlapping_windows"])
    study(results / "exp6_grid-added", written=4_000, protocol="sound", flaws=["split.overlapping_windows"])
    study(results / "exp6_grid-sound", written=1_000)
    assert newest_study("exp6_grid", SOUND) == Path("results/exp6_grid-sound")
    assert newest_study("exp6_grid", PUBLISHED) == Path("results/exp6_grid-published")
    (sound,) = compare_published("exp6")
    assert (sound.study, sound.protocol) == ("exp6_grid-sound", SOUND)
    assert sound.beside is not None
    assert sound.beside.study == "exp6_grid-published"
    (flawed,) = compare_published("exp6", protocol=PUBLISHED)
    assert (flawed.study, flawed.protocol, flawed.beside) == ("exp6_grid-published", PUBLISHED, None)
    assert main(["compare-published", "exp3", "--protocol", "published"]) == 1
    assert "`python sweeps/exp3_rmsnorm.py --protocol published` makes them" in capsys.readouterr().err
    assert main(["compare-published", "exp6", str(results / "exp6_grid-sound"), "--protocol", "sound"]) == 1
    assert "--protocol chooses among the studies under results/" in capsys.readouterr().err


def test_the_published_protocol_has_the_published_names(tmp_path: Path) -> None:
    (flawed,) = compare_published("exp6", str(study(tmp_path / "a", **PUBLISHED_PLAN)))
    (sound,) = compare_published("exp6", str(study(tmp_path / "b")))
    assert flawed.rows.set_index("variant").loc["all_components", ["cell", "n"]].tolist() == ["all_components", 2]
    assert sound.rows.set_index("variant").loc["all_components", ["cell", "n"]].tolist() == ["attention_rmsnorm_moe", 0]


def test_every_measured_figure_of_a_flawed_study_is_marked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    study(tmp_path / "results" / "exp6_grid-published", **PUBLISHED_PLAN)
    (flawed,) = compare_published("exp6", protocol=PUBLISHED)
    losses, others, derived = published_tables.sections(flawed)
    measured = [(losses, 4), (losses, 7), *((others, place) for place in (2, 4, 6, 8)), (derived, 6)]
    for section, place in measured:
        cells = [row[place] for row in section.rows]
        assert all(cell == NOTHING or is_marked(cell) for cell in cells)
        assert any(is_marked(cell) for cell in cells)
    for section in (losses, others, derived):
        assert section.lines[-1] == f"{MARK} no result: trained under leak.no_causal_mask, split.overlapping_windows"
        places = {place for part, place in measured if part is section}
        printed = [cell for row in section.rows for place, cell in enumerate(row) if place not in places]
        assert not any(is_marked(cell) for cell in printed)
    text = published_tables.markdown([flawed])
    assert MARK not in text
    assert text.count("\N{LARGE RED CIRCLE} no result") == 3
    assert "protocol published" in text.splitlines()[0]


def test_both_protocols_stand_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    study(tmp_path / "results" / "exp6_grid-published", **PUBLISHED_PLAN)
    study(tmp_path / "results" / "exp6_grid-sound")
    (sound,) = compare_published("exp6")
    losses, others, _ = published_tables.sections(sound)
    assert losses.columns[3:7] == ("loss", "published protocol [95 %]", "sound [95 %]", "n (sound)")
    row = {row[0]: row for row in losses.rows}
    assert is_marked(row["moe"][4])
    assert not is_marked(row["moe"][5])
    assert row["moe"][5] == bare(row["moe"][4])  # the fake's runs are the same
    assert row["all_components"][5] == NOTHING
    assert is_marked(row["all_components"][4])
    assert losses.lines[-1].startswith(MARK)
    assert not any(is_marked(cell) for row in others.rows for cell in row)


def test_invalid_runs_are_left_out_of_studies_without_flaws_alone(tmp_path: Path) -> None:
    found = {("moe", seed): [Audit(name="causality", severity="invalid", evidence="it looks ahead")] for seed in (0, 1)}
    cells = ("baseline", "moe", "mlp")
    (sound,) = compare_published("exp6", str(make_study(tmp_path / "a", cells=cells, seeds=2, audits=found)))
    assert sound.rows.set_index("variant").loc["moe", ["n", "invalid", "flaws"]].tolist() == [0, 2, ""]
    assert "runs left out because an audit found them invalid: 2" in published_tables.sections(sound)[0].lines
    published = make_study(tmp_path / "b", cells=cells, seeds=2, audits=found, plan=PUBLISHED_PLAN)
    (flawed,) = compare_published("exp6", str(published))
    assert flawed.rows.set_index("variant").loc["moe", ["n", "invalid", "flaws"]].tolist() == [2, 0, "audit.causality"]
    undone = make_study(tmp_path / "c", cells=cells, seeds=2, audits=found, plan={**PUBLISHED_PLAN, "flaws": []})
    (undone_all,) = compare_published("exp6", str(undone))
    assert undone_all.rows.set_index("variant").loc["moe", ["n", "invalid", "flaws"]].tolist() == [0, 2, ""]


def test_a_csv_of_anybody_s_is_a_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("cell,seed,val_loss\nbaseline,0,2.0\ndeepseek_rmsnorm,0,2.0\n")
    assert main(["compare-published", "exp3", str(path)]) == 0
    assert "−0.8 ✗" in capsys.readouterr().out


def test_errors_are_one_line_and_say_what_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    other = study(tmp_path / "elsewhere", "exp4_mlp")
    foreign = tmp_path / "foreign.csv"
    foreign.write_text("cell,seed,val_loss\nbaseline_x,0,2.0\nb,0,2.0\n")
    study(tmp_path / "results" / "exp6_grid-cpu")
    for arguments, parts in (
        (
            ["exp3"],
            [
                "no results of exp3_rmsnorm (sound protocol) under results/",
                "`python sweeps/exp3_rmsnorm.py` makes them",
            ],
        ),
        (["epx6"], ["no published table of 'epx6'", "did you mean 'exp6'"]),
        (["exp6", str(other)], ["the results 'exp6_grid", "are of exp4_mlp, not of exp6_grid"]),
        (["exp6", "nowhere"], ["there is no 'nowhere'"]),
        (["exp6", str(foreign)], ["baseline"]),
        (["exp6", "--markdown", "no/such/file.md"], ["no/such/file.md cannot be written"]),
    ):
        assert main(["compare-published", *arguments]) == 1, arguments
        error = capsys.readouterr().err
        assert error.count("\n") == 1, error
        for part in parts if arguments != ["exp6", str(other)] else parts[1:]:
            assert part in error


def test_results_without_any_published_cell_are_refused() -> None:
    with pytest.raises(AnalysisError, match="no finished run of a cell that exp4_mlp published") as error:
        compare(load_published("exp4"), make_results({"a": [1.0], "b": [2.0]}, baseline="a"), "")
    assert "it has a and b" in str(error.value)
