"""The report says what the analysis says, in every format, and is written all or none."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import stat
from pathlib import Path

import pandas as pd
import pytest
from scipy import stats

from analysis import text
from analysis.comparing import outcomes
from analysis.errors import AnalysisError
from analysis.figures import style as figure_style
from analysis.figures.plots import FIGURES as DRAWN
from analysis.loading.load import load_results
from analysis.reporting import render, report
from analysis.reporting.narrative import facts, verdict
from analysis.reporting.report import Report, write_report
from analysis.reporting.tables import tables
from analysis.study.registered import HASH, REGISTERED
from analysis.study.results import Results
from analysis.study.runs import with_metric
from analysis.summary import COLUMNS, Analysis, analyse
from tests.fakes import make_study
from tests.fakes_plan import registered
from tests.fakes_results import make_results

FILES = {
    "report.md", "report.html", "results.csv", "results.json", "ranking.tex", "ranking.png", "differences.png",
    "estimation.png", "power.png", "contributions.png", "loss_tokens.png", "loss_seconds.png", "difference_tokens.png",
    "pareto.png",
}  # fmt: skip


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp("study") / "grid"
    return load_results(make_study(folder, diverged=[("attention_moe", 3)], failed=[("mlp_moe", 1)]))


@pytest.fixture(scope="module")
def analysis(results: Results) -> Analysis:
    return analyse(results)


@pytest.fixture(scope="module")
def written(results: Results, tmp_path_factory: pytest.TempPathFactory) -> Report:
    return write_report(results, tmp_path_factory.mktemp("report") / "new" / "folder")


def markdown_table(document: str, title: str) -> list[dict[str, str]]:
    """Return the rows of the table in a section of report.md."""
    section = document.split(f"\n## {title}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    header, _, *rows = ([cell.strip() for cell in line.strip("|").split(" | ")] for line in lines)
    return [dict(zip(header, row, strict=True)) for row in rows]


def tiny_study(folder: Path, **losses: list[float]) -> Results:
    rows = [f"{cell},{seed},{loss!r}" for cell, values in losses.items() for seed, loss in enumerate(values)]
    folder.mkdir(exist_ok=True)
    path = folder / "mine.csv"
    path.write_text("\n".join(["cell,seed,val_loss", *rows]) + "\n")
    return load_results(path)


def test_all_files_are_there_and_nothing_else(written: Report) -> None:
    assert {path.name for path in written.folder.iterdir()} == FILES
    assert {path.name for path in written.files} == FILES
    for path in written.figures:
        assert path.read_bytes().startswith(b"\x89PNG")


def test_markdown_holds_the_ranking(written: Report, analysis: Analysis) -> None:
    rows = markdown_table(written.markdown.read_text(), "Ranking")
    assert [row["cell"] for row in rows] == list(analysis.ranking["cell"])
    for shown, row in zip(rows, analysis.ranking.to_dict("records"), strict=True):
        mean, low, high = (f"{row[name]:.4f}" for name in ("mean", "ci_low", "ci_high"))
        assert shown["val_loss [95 %]"] == f"{mean} [{low}, {high}]"
        assert shown["parameters"] == f"{int(row['params_total']):,}"
        exact = stats.binomtest(row["diverged"], 5).proportion_ci(0.95, method="exact")
        rate = f"{row['diverged']} of 5 [{exact.low:.2f}, {exact.high:.2f}]"
        assert shown["diverged [95 % of rate]"] == (rate if row["diverged"] else "0")
    assert rows[-1]["rank"] == text.NOTHING  # diverged: no rank


def test_markdown_holds_the_comparisons(written: Report, analysis: Analysis) -> None:
    rows = markdown_table(written.markdown.read_text(), "Against the baseline")
    for shown, row in zip(rows, analysis.comparisons.to_dict("records"), strict=True):
        figures = [float(x) for x in re.findall(r"[+-]?\d+\.\d+", shown["difference [95 %]"].replace("\u2212", "-"))]
        expected = [row["difference"], row["difference_low"], row["difference_high"]]
        assert figures == pytest.approx([x for x in expected if not math.isnan(x)], abs=5.1e-5)
        assert shown["verdict"] == row["verdict"]
        assert shown["family"] == str(row["family"])
        holm = text.NOTHING if pd.isna(row["p_holm"]) else f"{row['p_holm']:.4f}"
        assert shown["Holm p"] == holm


def test_the_same_figures_stand_in_every_format(written: Report, analysis: Analysis) -> None:
    row = next(row for row in analysis.comparisons.to_dict("records") if row["cell"] == "moe")
    figures = text.estimate(row["difference"], row["difference_low"], row["difference_high"], sign=True)
    assert f"moe: {figures} nats" in written.markdown.read_text()
    assert figures in written.html.read_text()
    assert figures.replace("\u2212", "$-$") in written.latex.read_text()


def test_html_needs_nothing_but_itself(written: Report) -> None:
    page = written.html.read_text()
    assert "http:" not in page
    assert "https:" not in page
    sources = re.findall(r'(?:src|href)="([^"]{0,40})', page)
    assert len(sources) == len(written.figures)
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert "<script" not in page
    assert "@import" not in page
    assert '<meta name="viewport"' in page


def test_what_a_column_with_an_interval_holds_is_no_end_of_it(results: Results, analysis: Analysis) -> None:
    said = [(header, words) for table in tables(results, analysis).values() for header, words in table.meaning]
    assert not [header for header, words in said if words.startswith("lower end")]
    (joint,) = {words for header, words in said if header.startswith("joint interval")}
    assert joint.startswith("the simultaneous 95 % interval of the difference")


def test_letters_are_of_one_size_in_all_figures_of_a_page(written: Report) -> None:
    widths = re.findall(r'<img [^>]*style="max-width: (\d+)px"', written.html.read_text())
    inches = [figure_style.inches(path.read_bytes()) for path in written.figures]
    assert sorted(map(int, widths)) == sorted(round(render.PIXELS * width) for width in inches)
    assert inches[written.figures.index(written.folder / "ranking.png")] == 9.0
    assert len(set(inches)) > 1
    assert render.PIXELS * max(inches) <= 1240 - 40  # of the page's width, what its margins leave


def test_html_and_markdown_escape_what_came_from_outside(tmp_path: Path) -> None:
    results = tiny_study(tmp_path, baseline=[1.0, 2.0, 3.0], **{"<b>|x*": [1.5, 2.25, 3.5]})
    made = write_report(results, tmp_path / "out")
    assert "<b>|x*" not in made.html.read_text()
    assert "&lt;b&gt;|x*" in made.html.read_text()
    assert markdown_table(made.markdown.read_text(), "Ranking")[1]["cell"] == r"\<b>\|x\*"
    assert r"$<$b$>$$|$x*" in made.latex.read_text()


def test_a_baseline_s_name_is_escaped_where_it_is_said(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    rows = [f"{cell},{seed},{loss + 0.01 * seed}" for cell, loss in (("<b>", 3), ("a", 2)) for seed in range(3)]
    path.write_text("\n".join(["cell,seed,val_loss", *rows]))
    made = write_report(load_results(path, baseline="<b>"), tmp_path / "out")
    assert r"**Clearly better than \<b>**" in made.markdown.read_text()


@pytest.mark.parametrize("name", [r"$\frac$", "$5 or $6"])
def test_dollars_in_a_name_are_no_formula(tmp_path: Path, name: str) -> None:
    results = tiny_study(tmp_path, baseline=[1.0, 2.0, 3.0], **{name: [1.5, 2.25, 3.5]})
    analysis = analyse(results)
    with figure_style.style():
        made = DRAWN["ranking"](results, analysis)
        assert made is not None
        figure_style.png(made)
        labels = {label.get_text(): label.get_parse_math() for label in made.axes[0].get_yticklabels()}
    assert [math for text, math in labels.items() if text.startswith(name)] == [False]


def test_csv_reads_back_as_the_same_results(written: Report, results: Results) -> None:
    again = load_results(written.csv)
    pd.testing.assert_frame_equal(again.runs, results.runs, check_exact=True)
    assert (again.study, again.factors, again.baselines) == (results.study, results.factors, results.baselines)
    first = written.csv.read_text().splitlines()[1].split(",")
    assert first[:8] == ["grid", "baseline", "0", "0", "0", "0", "0", "finished"]
    assert first[10] == repr(float(results.runs["val_loss"].iloc[0]))
    assert first[16] == "622592"


def test_json_holds_every_number_and_null_for_none(written: Report, analysis: Analysis) -> None:
    data = json.loads(written.json.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    for name in COLUMNS:
        table = getattr(analysis, name)
        assert len(data[name]) == len(table)
        assert data["columns"][name] == COLUMNS[name]
    best = data["ranking"][0]
    assert best["mean"] == analysis.ranking["mean"].iloc[0]
    assert best["rank"] == 1
    assert data["ranking"][-1]["rank"] is None
    assert data["plan"]["corpus"] == "web"
    assert "cells" not in data["plan"]
    assert len(data["cells"]) == 16
    assert data["notes"][0].startswith("attention trains mla_rope_only")


def test_latex_is_a_whole_tabular(written: Report, analysis: Analysis) -> None:
    lines = written.latex.read_text().splitlines()
    assert lines[1].startswith(r"\begin{tabular}{rlrrrrrr}")  # one of them of divergence
    assert lines[-1] == r"\end{tabular}"
    rows = [line for line in lines if line.endswith(r"\\")]
    assert len(rows) == 1 + len(analysis.ranking)
    assert all(line.count(" & ") == 7 for line in rows)
    assert not re.search(r"(?<!\\)[_%#]", "\n".join(rows))


def test_latex_says_what_is_of_survivors_and_what_was_not_planned(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "grid", cells=("baseline", "mlp", "moe"), seeds=4, diverged=[("moe", 2)])
    results = load_results(folder)
    named = registered(list(results.cells.index), n=5, primary="mlp")
    plan = {**results.plan, **{part: named[part] for part in (REGISTERED, HASH)}}
    made = write_report(dataclasses.replace(results, plan=plan), tmp_path / "out")
    rows = {line.split(" & ")[1]: line for line in made.latex.read_text().splitlines() if " & " in line}
    assert "exploratory: tested after 4 of the 5 seeds planned" in rows["mlp"]
    assert " & 1 of 4 [0.01, 0.81] & " in rows["moe"]


def test_the_verdict_follows_the_comparisons(results: Results, analysis: Analysis) -> None:
    findings = {finding.kind: dict(finding.cells) for finding in verdict(results, analysis)[""]}
    table = analysis.comparisons.set_index("cell")["verdict"]
    for kind in ("better", "worse"):
        assert list(findings[kind]) == list(table.index[table.map(outcomes.outcome) == kind])
        assert findings[kind]
    unresolved = table.index[table.str.startswith("not resolved")]
    assert list(findings["not resolved"]) == list(unresolved)
    assert all("could detect 0.0" in words for words in findings["not resolved"].values())
    assert list(findings["best"]) == [analysis.ranking["cell"].iloc[0]]
    assert findings["diverged"] == {"attention_moe": "1 seed"}
    assert findings["failed"] == {"mlp_moe": "1 seed"}
    named = {
        cell
        for kind in ("better", "worse", "not resolved", "identical", "not tested")
        for cell in findings.get(kind, ())
    }
    assert named == set(table.index)  # no cell is passed over


def test_an_alarm_of_the_negative_control_comes_first(results: Results, analysis: Analysis) -> None:
    control = analysis.negative_control.assign(verdict="ALARM: differs by 1 nats")
    first = verdict(results, dataclasses.replace(analysis, negative_control=control))[""][0]
    assert first.kind == "alarm"
    assert dict(first.cells)["rmsnorm"] == "against baseline: differs by 1 nats"


def test_nothing_resolved_is_said(tmp_path: Path) -> None:
    results = tiny_study(tmp_path, baseline=[2.0, 2.1, 2.2], new=[2.1, 2.0, 2.25])
    made = write_report(results, tmp_path / "out").markdown.read_text()
    assert "**Clearly better than baseline**: none" in made
    assert "**Clearly worse than baseline**: none" in made
    assert "**Not resolved with 3 seeds**" in made


def test_one_seed_makes_a_report_without_effect_sizes(tmp_path: Path) -> None:
    made = write_report(tiny_study(tmp_path, baseline=[2.0], new=[1.0]), tmp_path / "out")
    row = markdown_table(made.markdown.read_text(), "Against the baseline")[0]
    assert row["difference [95 %]"] == "\u22121.0000"
    assert "Hedges' g [95 %]" not in row
    assert "n too small" in row["verdict"]


def test_what_was_run_is_said(results: Results, written: Report) -> None:
    said = dict(facts(results))
    assert said["runs"] == "78 finished, 1 diverged, 1 failed, of 80 planned"
    assert said["seeds"] == "5 (0 to 4)"
    assert said["updates a run"] == "300"
    assert said["training tokens a run"] == "307,200"
    assert said["precision"] == "fp32 (cpu)"  # given, measured or published: the plan does not tell which
    assert said["hardware"] == "2 cores of Intel Xeon, 8 GiB memory"
    page = written.markdown.read_text()
    assert all(f"| {name} | {value} |" in page for name, value in said.items())


def test_one_cell_is_no_cells() -> None:
    results = make_results({"baseline": [5.0, 5.1, 5.2]})
    assert " \u00b7 1 cell \u00b7 " in render.content(results, analyse(results)).byline


def test_all_warnings_are_in_the_report(written: Report, results: Results, analysis: Analysis) -> None:
    page = written.markdown.read_text()
    for note in (*results.plan["notes"], *results.notes, *analysis.notes):
        assert f"- {note}" in page


def test_what_loading_left_out_is_in_the_report(tmp_path: Path) -> None:
    results = tiny_study(tmp_path, baseline=[1.0, 2.0, 3.0], new=[1.5, math.nan, 3.5])
    page = write_report(results, tmp_path / "out").markdown.read_text()
    assert "- rows with NaN or infinite val_loss, counted as diverged: 1" in page


def test_columns_without_news_are_left_out(tmp_path: Path) -> None:
    results = tiny_study(tmp_path, baseline=[1.0, 2.0, 3.0], new=[1.5, 2.0, 3.5])
    page = write_report(results, tmp_path / "out").markdown.read_text()
    assert list(markdown_table(page, "Ranking")[0]) == [
        "rank", "cell", "n", "val_loss [95 %]", "sd", "P(best)", "likely ranks", "groups",
    ]  # fmt: skip


def test_what_cells_are_ranked_by_stands_once(results: Results) -> None:
    for metric, headers in (("val_loss", ["accuracy"]), ("val_accuracy", ["val_accuracy [95 %]"])):
        of = dataclasses.replace(results, plan=with_metric(results.plan, metric))
        ranking = tables(of, analyse(of))["ranking"]
        assert [header for header in ranking.headers if "accuracy" in header] == headers


def test_efficiency_shows_its_formulas(written: Report, analysis: Analysis) -> None:
    rows = markdown_table(written.markdown.read_text(), "Efficiency")
    header = "score = 1 / (minutes x loss x million live parameters)"
    assert [float(row[header]) for row in rows] == pytest.approx(list(analysis.efficiency["score"]), rel=1e-3)
    assert not any("loss / GB" in name for name in rows[0])  # no memory was measured: the column says nothing


def test_scales_are_kept_apart(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "grid", cells=("baseline", "moe"), seeds=3, scales=("cpu", "large"))
    made = write_report(load_results(folder), folder)
    rows = markdown_table(made.markdown.read_text(), "Ranking")
    assert [(row["scale"], row["rank"]) for row in rows] == [("cpu", "1"), ("cpu", "2"), ("large", "1"), ("large", "2")]
    assert made.latex.read_text().splitlines()[3].startswith("scale & rank & cell & n & val")


def test_a_failure_leaves_the_old_report_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_report(tiny_study(tmp_path, baseline=[1.0, 2.0], new=[1.0, 2.0]), tmp_path / "out")
    results = tiny_study(tmp_path, baseline=[1.0, 2.0], new=[3.0, 4.0])
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}

    def no_space(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report.os, "fsync", no_space)
    with pytest.raises(AnalysisError, match=r"cannot be written to .*: No space left on device"):
        write_report(results, tmp_path / "out")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_a_figure_that_no_longer_applies_goes(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    write_report(load_results(make_study(tmp_path / "grid", cells=("baseline", "moe"), seeds=2)), folder)
    (folder / "mine.png").write_bytes(b"kept")
    assert (folder / "contributions.png").exists()
    write_report(tiny_study(tmp_path, baseline=[1.0, 2.0], new=[1.0, 2.5]), folder)
    assert not (folder / "contributions.png").exists()
    assert (folder / "mine.png").exists()


def test_the_report_may_be_read_by_others(written: Report) -> None:
    assert stat.S_IMODE(written.html.stat().st_mode) & 0o044


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    results = tiny_study(tmp_path, baseline=[1.0, 2.0], new=[1.0, 2.5])
    path = tmp_path / "file"
    path.write_text("mine")
    with pytest.raises(AnalysisError, match=f"the report cannot be written to {path}"):
        write_report(results, path)
    assert path.read_text() == "mine"


# --- how a number looks ---


def test_numbers_look_alike_everywhere() -> None:
    assert text.number(-0.04544) == "\u22120.0454"
    assert text.number(0.04544, sign=True) == "+0.0454"
    assert text.number(-1e-9, sign=True) == "0.0000"
    assert text.number(float("nan")) == text.number(None) == text.NOTHING
    assert text.estimate(1.0, 0.5, 1.5, decimals=1) == "1.0 [0.5, 1.5]"
    assert text.estimate(1.0, float("nan"), float("nan")) == "1.0000"
    assert text.estimate(2e-5, 1e-5, 3e-5, sign=True) == "+0.00002 [+0.00001, +0.00003]"  # not 0 and about 0
    assert text.interval(-1e-5, 0.02) == "[\u22120.00001, 0.02000]"
    assert text.interval(0.0, 0.02) == "[0.0000, 0.0200]"
    assert text.probability(0.00001) == "< 0.0001"
    assert text.probability(0.0312) == "0.0312"
    assert text.significant(6.86) == "6.860"
    assert text.significant(12345.6) == "1.235e+04"
    assert text.tiny(3e-7) == "3e\u221207"
    assert text.whole(1234567) == "1,234,567"
