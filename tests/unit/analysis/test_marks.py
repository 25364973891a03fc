"""What was trained under a flaw carries a red mark wherever it is shown, and is never called a finding."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.text import Text

from analysis.comparing import marks
from analysis.figures import plots
from analysis.figures import style as figure_style
from analysis.loading.load import load_results
from analysis.reporting import render
from analysis.reporting.narrative import banner, verdict
from analysis.reporting.report import results_csv, results_json, write_report
from analysis.schema import Audit
from analysis.study.results import Results
from analysis.summary import COLUMNS, Analysis, analyse
from tests.fakes import GRID, make_study
from tests.fakes_results import figures

LEAK, SPLIT = "leak.no_causal_mask", "split.overlapping_windows"
EIGHT = sorted([LEAK, SPLIT, *(f"confound.number_{i}" for i in range(6))])
CELLS = ("baseline", "attention", "mlp", "moe", "mlp_moe")
RED = "\N{LARGE RED CIRCLE}"
DIVERGED = "mlp_moe"
CLAIMS = ("better", "worse", "not resolved")
HEADS = ("cell", "effect")


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """A study that marks are put on: both designs' tables, a diverged run, curves."""
    folder = tmp_path_factory.mktemp("marks") / "grid"
    return load_results(make_study(folder, cells=CELLS, seeds=4, diverged=[(DIVERGED, 2)]))


@pytest.fixture(scope="module")
def flawed(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Twelve cells, all under eight flaws, over a full grid with effects of whole factors."""
    cells = list(GRID)[:12]
    plan = {"protocol": "published", "flaws": EIGHT, "flaw_explanations": {LEAK: "It saw what <it> should predict."}}
    folder = tmp_path_factory.mktemp("flawed") / "grid"
    return load_results(make_study(folder, cells=cells, seeds=4, flaws=dict.fromkeys(cells, EIGHT), plan=plan))


def with_flaws(results: Results, flaws: dict[str, str]) -> Results:
    runs = results.runs.assign(flaws=results.runs["cell"].map(lambda cell: flaws.get(cell, "")))
    return dataclasses.replace(results, runs=runs)


def is_red(figure: Figure) -> Iterator[tuple[str, bool]]:
    """Yield the title of each panel, the label of each row and of each line in a key, and whether it is red."""
    for axes in figure.axes:
        legend = axes.get_legend()
        said = {axes.get_title(loc="left"), axes.get_title()} - {""}
        titles = [text for text in axes.findobj(Text) if isinstance(text, Text) and text.get_text() in said]
        for label in [*titles, *axes.get_yticklabels(), *(legend.get_texts() if legend else ())]:
            yield label.get_text(), label.get_color() == figure_style.FLAWED


def tables_of(document: str) -> Iterator[tuple[list[str], list[list[str]], str]]:
    """Yield the headers, the rows and what follows of each table of report.md that names cells or effects."""
    for block in re.findall(r"(?:^\|.*\n)+(?:\n.*\n)?", document, flags=re.MULTILINE):
        lines = block.splitlines()
        table = [re.split(r" \| ", line.strip("| ")) for line in lines if line.startswith("|")]
        if set(table[0]) & set(HEADS):
            yield table[0], table[2:], lines[-1]


def own_flaws(results: Results, cells: list[str]) -> set[str]:
    runs = results.runs[results.runs["cell"].isin(cells)]
    return {name for text in runs["flaws"] for name in text.split()}


@settings(max_examples=10)
@given(
    flaws=st.dictionaries(
        st.sampled_from(CELLS), st.lists(st.sampled_from(EIGHT), min_size=1, unique=True).map(" ".join), min_size=1
    )
)
def test_nothing_that_is_rendered_lacks_the_mark(sound: Results, flaws: dict[str, str]) -> None:
    results = with_flaws(sound, flaws)
    analysis = analyse(results)
    made = render.content(results, analysis)
    named = sorted({name for text in flaws.values() for name in text.split()})

    # Every table: a row has the mark if and only if a cell that it is made of is flawed; a caption names the flaws.
    for name, table in made.tables.items():
        data = getattr(analysis, name, results.runs)
        place = next(i for i, header in enumerate(table.headers) if header in HEADS)
        for row in table.rows:
            cell = marks.bare(row[place])
            made_of = [cell, *(marks.bare(words) for words in row if marks.bare(words) in CELLS)]
            if name in ("comparisons", "contributions", "divergence"):
                made_of.append(results.baselines[cell])
            if name == "negative_control":
                made_of.append(data.set_index("cell")["partner"][cell])
            expected = own_flaws(results, made_of)
            assert marks.is_marked(row[place]) == bool(expected), (name, cell)
            assert all(flaw in table.caption for flaw in expected), (name, cell)
        assert bool(table.caption) == any(marks.is_marked(row[place]) for row in table.rows)

    markdown, page, tex = render.markdown(made, ["ranking"]), render.html(made, {"ranking": b""}), render.latex(made)
    for document in (markdown, page):
        assert all(document.index(name) < document.index("Verdict") for name in named)  # the banner comes first
    for headers, rows, caption in tables_of(markdown):
        place = next(i for i, header in enumerate(headers) if header in HEADS)
        for row in rows:
            cell = row[place].removesuffix(f" {RED}")
            assert row[place].endswith(RED) or cell not in flaws
            assert row[place] == cell or caption.startswith(RED)
    red_rows = [row for row in re.findall(r"<tr.*?</tr>", page, flags=re.DOTALL) if '<tr class="flawed">' in row]
    assert all(marks.MARK in row for row in red_rows)
    assert page.count(marks.MARK) >= len(red_rows) > 0
    listed = re.findall(r"<li([^>]*)><span>([^<]*)</span>", page)
    assert all((style == ' class="flawed"') == marks.is_marked(name) for style, name in listed)
    lines = [line for line in tex.splitlines() if line.endswith(r"\\") and not line.startswith(r"\multi")][1:]
    for line, row in zip(lines, analysis.ranking.to_dict("records"), strict=True):
        parts = line.removesuffix(r" \\").split(" & ")
        is_flawed = bool(own_flaws(results, [row["cell"], results.baselines[row["cell"]]]))
        assert all(part.startswith(r"\textcolor{red}{") for part in parts) == is_flawed
        assert (r"$\dagger$" in line) == is_flawed
    assert rf"\multicolumn{{{len(parts)}}}" in tex
    assert all(name.replace("_", r"\_") in tex for name in named)

    # Words: a flawed cell is in no claim, not even through its baseline.
    for finding in verdict(results, analysis)[""]:
        for name, _ in finding.cells:
            if not marks.is_marked(name):
                assert name not in flaws
            assert finding.kind not in ("best", *CLAIMS, "identical", "not tested") or not marks.is_marked(name)
    assert not (set(analysis.comparisons.loc[analysis.comparisons["flaws"] != "", "verdict"]) & set(CLAIMS))
    said = results_json(results, analysis)
    assert said["flaws"] == named
    assert [row["flaws"] for row in said["ranking"]] == list(analysis.ranking["flaws"])
    assert all(" ".join(flaws[cell].split()) in results_csv(results.runs) for cell in flaws)


@settings(max_examples=4)
@given(cells=st.sets(st.sampled_from(CELLS), min_size=1))
def test_every_figure_names_the_flaws_and_its_flawed_labels_are_red(sound: Results, cells: set[str]) -> None:
    results = with_flaws(sound, dict.fromkeys(cells, f"{LEAK} {SPLIT}"))
    drawn = figures(results, analyse(results))
    fronts = drawn.pop("pareto", None)
    if fronts is not None:  # flawed cells are on none
        named = "\n".join(text.get_text() for axes in fronts.axes for text in axes.texts)
        assert not set(re.findall(r"^[a-z]  (\w+)", named, flags=re.MULTILINE)) & cells
    power = drawn.pop("power", None)  # of what sound cells could show: it has no labels
    untested = cells | {"baseline", DIVERGED}
    assert (power is not None) == ("baseline" not in cells and not set(CELLS) <= untested)
    assert power is None or any(LEAK in text.get_text() for text in power.texts)
    assert set(drawn) == {
        "ranking", "differences", "estimation", "contributions", "loss_tokens", "loss_seconds", "difference_tokens",
    }  # fmt: skip
    for name, figure in drawn.items():
        line = next(text for text in figure.texts if text.get_text().startswith(marks.MARK))
        assert line.get_color() == figure_style.FLAWED
        assert LEAK in line.get_text()
        assert SPLIT in line.get_text()
        tainted = (
            set(CELLS)
            if "baseline" in cells and name in ("differences", "estimation", "contributions", "difference_tokens")
            else cells
        )
        labels = [(text, red) for text, red in is_red(figure) if text.split() and text.split()[0] in CELLS]
        assert labels
        for text, red in labels:
            assert red == (text.split()[0] in tainted), (name, text)
            assert (marks.MARK in text) == red


def test_sound_results_have_no_trace_of_marks(sound: Results) -> None:
    analysis = analyse(sound)
    made = render.content(sound, analysis)
    assert made.banner is None
    assert all((getattr(analysis, name)["flaws"] == "").all() for name in COLUMNS)
    assert marks.MARK not in render.html(made, {})
    assert RED not in render.markdown(made, [])
    assert "red" not in render.latex(made)
    for figure in figures(sound, analysis).values():
        assert not any(red or marks.MARK in text for text, red in is_red(figure))
        assert not any(marks.MARK in text.get_text() for text in figure.texts)


def test_the_banner_says_what_every_flaw_is(flawed: Results) -> None:
    said = banner(flawed)
    assert said is not None
    assert said.claim.startswith("No number here is a finding")
    assert [name for name, _ in said.flaws] == EIGHT
    assert dict(said.flaws)[LEAK] == "It saw what <it> should predict."
    assert dict(said.flaws)[SPLIT] == ""
    made = render.content(flawed, analyse(flawed))
    page = render.html(made, {})
    assert page.index('<section class="banner"') < page.index("<h2>")
    assert "saw what &lt;it&gt; should" in page
    assert f"> - `{LEAK}`: It saw what \\<it> should predict.\n" in render.markdown(made, [])
    some = with_flaws(flawed, {"moe": LEAK})
    said = banner(some)
    assert said is not None
    assert said.claim.startswith(f"Numbers with the mark {marks.MARK} are no findings")
    assert "1 of 12 cells" in said.claim


def test_a_wholly_flawed_study_has_no_verdict(flawed: Results) -> None:
    findings = verdict(flawed, analyse(flawed))[""]
    assert [finding.kind for finding in findings] == ["flawed"]
    assert len(findings[0].cells) == 12
    assert set(analyse(flawed).comparisons["verdict"]) <= {
        marks.NO_FINDING,
        "within tolerance (0.005 nats): the same model up to rounding",
    }


def test_effects_over_a_grid_are_flawed_with_any_cell_of_it(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "grid", seeds=4, design="orthogonal", flaws={"moe": [LEAK]})
    results = load_results(folder)
    effects = analyse(results).main_effects
    table = render.content(results, analyse(results)).tables["main_effects"]
    assert all(marks.is_marked(row[table.headers.index("effect")]) for row in table.rows)
    assert len(effects) == 10
    assert (effects["flaws"] == LEAK).all()
    assert not any(text.startswith(CLAIMS) or "together" in text for text in effects["verdict"])
    two = make_study(tmp_path / "two", seeds=4, design="orthogonal", flaws={"moe": [LEAK]}, scales=("cpu", "large"))
    runs = load_results(two).runs
    runs.loc[runs["cell"].str.endswith("@large"), "flaws"] = ""
    effects = analyse(dataclasses.replace(load_results(two), runs=runs)).main_effects
    assert set(zip(effects["scale"], effects["flaws"], strict=True)) == {("cpu", LEAK), ("large", "")}


def test_flawed_cells_take_no_rank_from_results(sound: Results) -> None:
    first = analyse(sound).ranking["cell"].iloc[0]
    ranking = analyse(with_flaws(sound, {first: LEAK})).ranking
    assert ranking[ranking["flaws"] == ""]["rank"].dropna().tolist() == [1, 2, 3]
    assert ranking["flaws"].tolist() == sorted(ranking["flaws"])  # the flawed one is last
    assert ranking.set_index("cell")["rank"][first] == 1  # of the flawed ones


def test_eight_flaws_fit_into_a_figure(flawed: Results) -> None:
    """The red lines stay within the figure, and the subtitle below them."""
    with figure_style.style():
        for figure in figures(flawed, analyse(flawed)).values():
            figure.draw_without_rendering()
            title, warning, subtitle = figure.texts[:3]
            assert all(name in warning.get_text().replace("\n", " ") for name in EIGHT)
            boxes = [text.get_window_extent() for text in (title, warning, subtitle)]
            assert max(box.x1 for box in boxes) < figure.bbox.x1
            assert all(above.y0 >= below.y1 for above, below in itertools.pairwise(boxes))
            assert boxes[-1].y0 > max(axes.get_window_extent().y1 for axes in figure.axes)


def test_all_files_of_a_flawed_report_name_its_flaws(flawed: Results, tmp_path: Path) -> None:
    written = write_report(flawed, tmp_path)
    for path in (written.markdown, written.html, written.csv, written.json):
        assert all(name in path.read_text() for name in EIGHT), path.name
    assert json.loads(written.json.read_text())["flaws"] == EIGHT
    assert all(name.replace("_", r"\_") in written.latex.read_text() for name in EIGHT)
    assert written.latex.read_text().count("{") == written.latex.read_text().count("}")
    again = load_results(written.csv)
    assert again.marks == flawed.marks


# --- audits ---


def invalid(name: str = "causality", severity: str = "invalid") -> Audit:
    return Audit(name=name, severity=severity, evidence=f"{name} is off by 0.35")


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """All runs of `moe` and one of `mlp` are invalid; `attention` has warnings and notes."""
    found = {("moe", seed): [invalid()] for seed in range(4)} | {("mlp", 1): [invalid("split_overlap")]}
    found |= {("attention", seed): [invalid("budget", "warning"), invalid("confound", "note")] for seed in (1, 2)}
    folder = tmp_path_factory.mktemp("audited") / "grid"
    return load_results(make_study(folder, cells=CELLS, seeds=4, audits=found))


def report(results: Results) -> tuple[Analysis, str]:
    analysis = analyse(results)
    return analysis, render.markdown(render.content(results, analysis), [])


def test_invalid_runs_are_in_no_number(audited: Results, sound: Results) -> None:
    analysis, _ = report(audited)
    ranking = analysis.ranking.set_index("cell")
    assert ranking.loc[["moe", "mlp", "baseline"], "n"].tolist() == [0, 3, 4]
    assert ranking.loc[["moe", "mlp", "baseline"], "invalid"].tolist() == [4, 1, 0]
    kept = sound.finished("val_loss").loc["mlp", [0, 2, 3]]
    assert ranking["mean"]["mlp"] == pytest.approx(kept.mean(), abs=0.02)
    assert ranking["mean"]["mlp"] == audited.runs.query("cell == 'mlp' and seed != 1")["val_loss"].mean()
    assert ranking[["mean", "rank"]].isna().loc["moe"].all()
    comparisons = analysis.comparisons.set_index("cell")
    assert comparisons["n"]["mlp"] == 3
    assert comparisons["verdict"]["moe"] == "no valid run left: audits found 4 of 4 invalid"
    assert comparisons["p"].isna()["moe"]
    assert analysis.efficiency.set_index("cell")["n"]["moe"] == 0
    figure = plots.ranking_figure(audited, analysis)
    dots = [float(y) for line in figure.axes[0].lines if line.get_marker() == "o" for y in line.get_ydata()]
    assert sorted(Counter(dots).values()) == [3, 4, 4, 4]
    curves = plots.loss_figure(audited, "tokens")
    assert curves is not None
    assert "moe" not in {text for text, _ in is_red(curves)}


def test_what_is_left_out_is_counted_and_shown_apart(audited: Results) -> None:
    analysis, page = report(audited)
    assert "20 finished, of 20 planned; 5 found invalid and left out" in page
    assert "5 runs found invalid by an audit and in no number" in page
    assert "nothing is left of cells whose finished runs are all invalid: moe" in page
    apart = page.split("## Runs left out")[1].split("\n## ")[0]
    assert f"| moe {RED} | 4 | " in apart
    assert f"| mlp {RED} | 1 | " in apart
    assert f"{RED} no result: found invalid by causality, split_overlap" in apart
    found = {finding.kind: dict(finding.cells) for finding in verdict(audited, analysis)[""]}
    assert found["invalid"] == {"mlp": "1 seed", "moe": "4 seeds"}
    assert "moe" not in found["better"]


def test_include_invalid_takes_them_in_with_a_mark(audited: Results) -> None:
    results = dataclasses.replace(audited, include_invalid=True)
    analysis, page = report(results)
    ranking = analysis.ranking.set_index("cell")
    assert ranking["n"].tolist() == [4] * 5
    assert ranking["rank"].notna().all()
    assert ranking["flaws"]["moe"] == "audit.causality"
    assert ranking["flaws"]["attention"] == ""
    assert analysis.comparisons.set_index("cell").loc["moe", "verdict"] == marks.NO_FINDING
    assert analysis.comparisons.set_index("cell")["p"].notna()["moe"]
    assert "Runs left out" not in page
    assert "`audit.causality`: an audit found runs of moe invalid; they are in the numbers on request" in page
    assert "`audit.split_overlap`: an audit found runs of mlp invalid; they are in the numbers on request" in page
    assert f"{RED} no result: found invalid by causality, split_overlap" in page


def test_audits_are_summed_up_the_worst_first(audited: Results) -> None:
    analysis, page = report(audited)
    rows = analysis.audits[["audit", "severity", "runs", "cells"]].to_numpy().tolist()
    assert rows == [
        ["causality", "invalid", 4, "moe"],
        ["split_overlap", "invalid", 1, "mlp"],
        ["budget", "warning", 2, "attention"],
        ["confound", "note", 2, "attention"],
    ]
    evidence = analysis.audits["evidence"]
    assert evidence[0] == "moe, seed 0: causality is off by 0.35 (and 3 more)"
    assert evidence[1] == "mlp, seed 1: split_overlap is off by 0.35"
    section = page.split("## Audits")[1].split("\n## ")[0]
    assert all(f"| {name} | {severity} | {runs} |" in section for name, severity, runs, _ in rows)
    assert len(results_json(audited, analysis)["audits"]) == 4


def test_no_finding_is_not_the_same_as_no_audit(tmp_path: Path, sound: Results) -> None:
    clean = load_results(make_study(tmp_path / "clean", cells=CELLS, seeds=3, audits={}))
    _, page = report(clean)
    assert page.split("## Audits")[1].split("\n## ")[0].strip() == "No audit found anything."
    assert clean.plan["environment"]["audits"] == "causality,targets"
    partly = dataclasses.replace(clean, audited=3)
    assert "No audit found anything in the 3 of 15 runs that were audited." in report(partly)[1]
    assert "## Audits" not in report(sound)[1]


def test_a_study_of_which_nothing_is_left_is_a_report(tmp_path: Path) -> None:
    everything = {(cell, seed): [invalid()] for cell in CELLS for seed in range(3)}
    folder = make_study(tmp_path / "grid", cells=CELLS, seeds=3, audits=everything)
    written = write_report(load_results(folder), folder)
    page = written.markdown.read_text()
    assert "15 runs found invalid" in page
    assert "**Clearly better than baseline**: none" in page
    assert {path.name for path in written.figures} == {"ranking.png", "differences.png", "contributions.png"}


def test_an_invalid_baseline_leaves_nothing_to_compare_with(tmp_path: Path) -> None:
    found = {("baseline", seed): [invalid()] for seed in range(3)}
    results = load_results(make_study(tmp_path / "grid", cells=CELLS, seeds=3, audits=found))
    verdicts = analyse(results).comparisons["verdict"]
    assert set(verdicts) == {"no valid run of the baseline left: audits found 3 invalid"}
