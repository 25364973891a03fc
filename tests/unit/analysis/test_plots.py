"""The figures show the analysis' numbers: their data is tested, not their pixels."""

from __future__ import annotations

import dataclasses
import itertools
import warnings
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from scipy import stats

from analysis.comparing.outcomes import outcome
from analysis.figures import plots
from analysis.figures import style as figure_style
from analysis.figures.curves import loss_figure, mean_curves, panels
from analysis.figures.estimation import estimation_figure
from analysis.figures.pareto import pareto_figure
from analysis.figures.power import power_figure
from analysis.loading.load import load_results
from analysis.reporting.tables import tables
from analysis.study.registered import HASH, REGISTERED
from analysis.study.results import Results
from analysis.summary import Analysis, analyse
from tests.fakes import GRID, make_study
from tests.fakes_plan import registered
from tests.fakes_results import figures, make_results

ALL = (
    "ranking", "differences", "estimation", "power", "contributions", "loss_tokens", "loss_seconds",
    "difference_tokens", "pareto",
)  # fmt: skip


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, Analysis]:
    folder = tmp_path_factory.mktemp("plots") / "grid"
    results = load_results(make_study(folder, seeds=5, diverged=[("attention_moe", 3)], failed=[("mlp_moe", 1)]))
    return results, analyse(results)


def data(line: Line2D) -> tuple[list[float], list[float]]:
    """Return the x and y of a line's points."""
    x, y = line.get_data()
    return np.asarray(x, dtype=float).tolist(), np.asarray(y, dtype=float).tolist()


def diamonds(axes: Axes) -> dict[str, tuple[float, str]]:
    """Return (x, colour) of the estimate in each row, by the row's label."""
    labels = [label.get_text() for label in axes.get_yticklabels()]
    found = {}
    for line in axes.lines:
        if line.get_marker() == "D":
            for x, y in zip(*data(line), strict=True):
                found[labels[int(y)]] = (x, str(line.get_color()))
    return found


def words(figure: Figure) -> str:
    axes = [text.get_text() for panel in figure.axes for text in panel.texts]
    return " | ".join([*(text.get_text() for text in figure.texts), *axes])


def test_all_figures_are_drawn_and_leave_the_global_style_alone(grid: tuple[Results, Analysis]) -> None:
    before = dict(matplotlib.rcParams)
    with figure_style.style():
        drawn = figures(*grid)
    assert tuple(drawn) == ALL
    assert dict(matplotlib.rcParams) == before


def test_ranking_shows_means_seeds_and_the_baseline(grid: tuple[Results, Analysis]) -> None:
    results, analysis = grid
    figure = plots.ranking_figure(results, analysis)
    axes = figure.axes[0]
    shown = {label.split()[0]: x for label, (x, _) in diamonds(axes).items()}
    expected = analysis.ranking.set_index("cell")["mean"]
    assert shown == pytest.approx(expected.to_dict())
    order = [label.get_text().split()[0] for label in axes.get_yticklabels()]
    assert order == list(analysis.ranking["cell"])
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first row is on top
    dots: dict[str, list[float]] = {}
    for line in axes.lines:
        if line.get_marker() == "o":
            for x, y in zip(*data(line), strict=True):
                dots.setdefault(order[int(y)], []).append(x)
    finished = results.runs[results.runs["status"] == "finished"]
    assert dots == {cell: list(finished.loc[finished["cell"] == cell, "val_loss"]) for cell in order}
    vertical = [data(line)[0][0] for line in axes.lines if data(line)[1] == [0, 1]]
    assert vertical == [expected["baseline"]]
    assert "1 diverged" in words(figure)
    assert "1 failed" in words(figure)
    assert "nats per token" in axes.get_xlabel()


def test_differences_show_the_comparisons_in_the_colour_of_their_verdict(grid: tuple[Results, Analysis]) -> None:
    results, analysis = grid
    figure = plots.differences_figure(results, analysis)
    assert figure is not None
    shown = diamonds(figure.axes[0])
    table = analysis.comparisons.set_index("cell")
    assert {cell: x for cell, (x, _) in shown.items()} == pytest.approx(table["difference"].to_dict())
    assert shown["moe"][1] == figure_style.BETTER
    assert shown["mlp"][1] == figure_style.WORSE
    assert shown["attention_moe"][1] == figure_style.OPEN  # diverged: not tested
    assert f"over {table['family'].iloc[0]} comparisons" in words(figure)
    (bars,) = figure.axes[0].collections
    assert isinstance(bars, LineCollection)
    ends = [segment[:, 0] for segment in bars.get_segments() if len(segment)]
    expected = table[["difference_low", "difference_high"]].dropna()
    np.testing.assert_allclose(ends, expected)


def test_what_one_analysis_alone_shows_and_what_is_equal_have_colours_of_their_own(
    grid: tuple[Results, Analysis],
) -> None:
    results, analysis = grid

    def key(table: pd.DataFrame) -> list[str]:
        figure = plots.differences_figure(results, dataclasses.replace(analysis, comparisons=table))
        assert figure is not None
        shown = diamonds(figure.axes[0])
        assert all(shown[cell][1] == colour for cell, colour in zip(table["cell"], colours, strict=True))
        return [entry.get_text() for entry in figure.legends[0].get_texts()]

    table = analysis.comparisons
    colours = figure_style.verdict_colours(table)
    assert key(table) == ["better", "worse", "neither is shown"]
    verdicts = ["depends on equal variances: better by the joint analysis alone", "equivalent within 0.01 nats"]
    table = table.assign(verdict=[*verdicts, *table["verdict"][2:]])
    colours = [figure_style.COLOURS[3], figure_style.COLOURS[2], *colours[2:]]
    assert key(table) == [
        "better", "worse", "equal within the margin", "by one of two analyses alone", "neither is shown",
    ]  # fmt: skip


def test_contributions_show_both_analyses_of_an_orthogonal_grid(tmp_path: Path) -> None:
    results = load_results(make_study(tmp_path / "grid", seeds=4, design="orthogonal"))
    analysis = analyse(results)
    figure = plots.contributions_figure(results, analysis)
    assert figure is not None
    alone, whole = (diamonds(axes) for axes in figure.axes[:2])
    assert {name: x for name, (x, _) in alone.items()} == pytest.approx(
        analysis.contributions.set_index("factor")["difference"].to_dict()
    )
    assert {name: x for name, (x, _) in whole.items()} == pytest.approx(
        analysis.main_effects.set_index("effect")["difference"].to_dict()
    )


def test_contributions_of_a_study_of_one_factor_are_its_differences_and_not_drawn_twice(grid: tuple) -> None:
    results = make_results({"baseline": [4.0, 4.1, 4.3], "wide": [4.1, 4.1, 4.4], "deep": [4.2, 4.5, 4.4]})
    analysis = analyse(results)
    assert list(analysis.contributions["cell"]) == list(analysis.comparisons["cell"])
    assert plots.contributions_figure(results, analysis) is None
    assert "contributions" not in tables(results, analysis)
    assert "contributions" in tables(*grid)


def test_contributions_say_what_is_taken_from_what(tmp_path: Path) -> None:
    losses = {"baseline": [4.0, 4.1, 4.3], "wide": [4.1, 4.1, 4.4], "deep": [4.2, 4.5, 4.4]}
    of_levels = {cell: {"size": cell, "depth": "2"} for cell in ("baseline", "wide")} | {
        "deep": {"size": "baseline", "depth": "4"}
    }
    switched = {cell: {"wide": int(cell == "wide"), "deep": int(cell == "deep")} for cell in losses}
    said = []
    for levels in (of_levels, switched):
        results = make_results(losses, levels=levels)
        figure = plots.contributions_figure(results, analyse(results))
        assert figure is not None
        said.append(figure.axes[-1].get_xlabel().partition(", ")[2])
    assert said == ["cell \u2212 baseline", "with \u2212 without"]
    taken_out = {cell: {name: 1 - on for name, on in levels.items()} for cell, levels in switched.items()}
    figure = plots.contributions_figure(made := make_results(losses, levels=taken_out), analyse(made))
    assert figure is not None
    assert figure.axes[-1].get_xlabel() == "difference in validation loss (nats per token)"
    assert [label.get_text().strip() for label in figure.axes[0].get_yticklabels()] == ["without wide", "without deep"]


@pytest.mark.parametrize("warning", ["", "trained under " + ", ".join(f"confound.flaw_{i}" for i in range(12))])
def test_the_label_on_the_left_is_level_with_the_panels_and_clear_of_the_words_above(warning: str) -> None:
    with figure_style.style():
        figure = figure_style.new_figure(7.0, 3.45, "Title", "How to read it. " * 9, warning)
        axes = figure.subplots()
        figure_style.label_left(figure, "validation loss (nats per token)")
        figure.draw_without_rendering()
    label = next(words for words in figure.texts if words.get_text().startswith("validation loss"))
    box, panel = label.get_window_extent(), axes.get_window_extent()
    assert (box.y0 + box.y1) / 2 == pytest.approx((panel.y0 + panel.y1) / 2, abs=0.2 * panel.height)
    assert all(box.y1 < words.get_window_extent().y0 for words in figure.texts if words is not label)


def test_hollow_dots_are_explained_where_there_are_any() -> None:
    whole = {"baseline": [4.0, 4.1, 4.3], "wide": [4.1, 4.1, 4.4]}
    for losses in (whole, {**whole, "wide": [4.1, 4.1, None]}):
        results = make_results(losses)
        figure = estimation_figure(results, analyse(results))
        assert figure is not None
        said = any("Hollow" in words.get_text() for words in figure.texts)
        assert said == (losses is not whole)


def test_levels_of_one_component_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "sizes.csv"
    cells = {"baseline": "mid,1", "wide": "large,1", "narrow": "small,1", "deep": "mid,2"}
    rows = [f"{cell},{levels},{seed},{len(levels) + seed / 9}" for cell, levels in cells.items() for seed in range(3)]
    path.write_text("\n".join(["cell,size,depth,seed,val_loss", *rows]))
    results = load_results(path)
    assert set(diamonds(figures(results, analyse(results))["contributions"].axes[0])) == {
        "size  (wide)",
        "size  (narrow)",
        "depth",
    }


def test_panels_say_with_and_without_of_switches_alone() -> None:
    orders = {f"{model}_{order}": {"model": model, "data_order": order} for order in range(3) for model in "abcd"}
    results = make_results({cell: [4.0] for cell in orders}, levels=orders, baseline="a_0")
    assert [title for title, _ in panels(results, list(orders))] == ["data_order 0", "data_order 1", "data_order 2"]
    switched = {cell: levels for cell, levels in orders.items() if levels["data_order"] < 2}
    results = make_results({cell: [4.0] for cell in switched}, levels=switched, baseline="a_0")
    assert [title for title, _ in panels(results, list(switched))] == ["without data_order", "with data_order"]


def test_long_names_of_panels_do_not_overlap() -> None:
    names = ["attention_norm_final_norm_placement_gating_routing", "attention_placement_gating_routing"]
    names += [f"{name}_{other}" for name in names for other in ("wide", "deep")]
    losses = {name: [4.0 + place / 9, 4.1, 4.3] for place, name in enumerate(["baseline", *names])}
    results = make_results(losses)
    with figure_style.style():
        figure = estimation_figure(results, analyse(results))
        assert figure is not None
        figure.draw_without_rendering()
    titles = [
        words
        for axes in figure.axes
        for words in axes.findobj(Text)
        if axes.get_visible() and words.get_text() == axes.get_title(loc="left") != ""
    ]
    assert sorted(title.get_text().replace("\n", "") for title in titles) == sorted(names)
    boxes = [title.get_window_extent() for title in titles]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    assert all(box.x1 <= figure.bbox.x1 for box in boxes)


def test_a_study_of_one_cell_has_no_differences(tmp_path: Path) -> None:
    results = load_results(make_study(tmp_path / "grid", cells=("baseline",), seeds=2))
    drawn = figures(results, analyse(results))
    assert "ranking" in drawn
    assert "differences" not in drawn
    assert "contributions" not in drawn


def test_each_scale_has_its_own_panel(tmp_path: Path) -> None:
    results = load_results(make_study(tmp_path / "grid", cells=("baseline", "moe"), seeds=2, scales=("cpu", "large")))
    with figure_style.style():
        figure = plots.ranking_figure(results, analyse(results))
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["cpu", "large"]


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [
        ("better", "better"),
        ("together worse than the sum", "worse"),
        ("not resolved (could detect 0.02 nats)", "not resolved"),
        ("identical in 5 of 5 seeds", "identical"),
        ("within tolerance (0.005 nats): the same model up to rounding", "identical"),
        ("exactly zero in 5 of 5 seeds", "identical"),
        ("diverged in 1 of 5 seeds", "not tested"),
    ],
)
def test_a_verdict_says_its_outcome(verdict: str, expected: str) -> None:
    assert outcome(verdict) == expected


# --- every seed ---


def test_the_estimation_plot_shows_every_seed_its_pair_and_the_difference(grid: tuple[Results, Analysis]) -> None:
    results, analysis = grid
    with figure_style.style():
        figure = estimation_figure(results, analysis)
    assert figure is not None
    shown = {axes.get_title(loc="left"): axes for axes in figure.axes if axes.get_visible()}
    assert list(shown) == list(analysis.comparisons["cell"])
    table = analysis.comparisons.set_index("cell")
    losses = results.finished("val_loss")
    for cell, axes in shown.items():
        dots = sorted(y for line in axes.lines if line.get_marker() == "o" for y in data(line)[1])
        assert dots == sorted([*losses.loc["baseline"], *losses.loc[cell].dropna()])
        pairs = axes.collections[0]
        assert isinstance(pairs, LineCollection)
        assert [tuple(segment[:, 1]) for segment in pairs.get_segments()] == [
            pair for pair in zip(losses.loc["baseline"], losses.loc[cell], strict=True) if not np.isnan(pair[1])
        ]
        zero = losses.loc["baseline"][losses.loc[cell].notna()].mean()
        (diamond,) = (data(line)[1][0] for line in axes.lines if line.get_marker() == "D")
        assert diamond - zero == pytest.approx(table.loc[cell, "difference"])
        bars = [data(line)[1] for line in axes.lines if line.get_linestyle() == "-" and line.get_marker() == "None"]
        interval = table.loc[cell, ["difference_low", "difference_high"]].dropna().to_list()
        assert (np.array(bars) - zero).ravel() == pytest.approx(interval)


def test_the_estimation_plot_says_what_it_leaves_out(tmp_path: Path) -> None:
    path = tmp_path / "many.csv"
    rows = [
        f"{'baseline' if cell == 0 else f'v{cell}'},{seed},{cell + seed % 2}" for cell in range(20) for seed in range(3)
    ]
    path.write_text("cell,seed,val_loss\n" + "\n".join(rows))
    results = load_results(path)
    figure = estimation_figure(results, analyse(results))
    assert figure is not None
    assert "The first 15 of 19 comparisons" in words(figure)
    assert sum(axes.get_visible() for axes in figure.axes) == 15


@pytest.mark.parametrize("size", [1e-9, 2e-4, 0.1, 1e6])
def test_the_scale_of_differences_tells_its_ticks_apart(tmp_path: Path, size: float) -> None:
    path = tmp_path / "small.csv"
    rows = [
        f"{cell},{seed},{size * (10 + place + seed)}"
        for place, cell in enumerate(("baseline", "a"))
        for seed in range(3)
    ]
    path.write_text("cell,seed,val_loss\n" + "\n".join(rows))
    results = load_results(path)
    figure = estimation_figure(results, analyse(results))
    assert figure is not None
    figure.draw_without_rendering()
    (right,) = (axis for axis in figure.axes[0].child_axes)
    ticks = right.yaxis.get_major_ticks()
    shown = [float(tick.label2.get_text().replace("\u2212", "-")) for tick in ticks]
    assert shown == pytest.approx([tick.get_loc() for tick in ticks], abs=size / 1000)


def test_a_panel_below_a_full_line_parts_none_of_it(tmp_path: Path) -> None:
    """The scale right of the last panel needs no room: nothing is there."""
    path = tmp_path / "line.csv"
    rows = [f"{'baseline' if cell == 0 else f'v{cell}'},{seed},{cell + seed}" for cell in range(7) for seed in range(3)]
    path.write_text("cell,seed,val_loss\n" + "\n".join(rows))
    results = load_results(path)
    figure = estimation_figure(results, analyse(results))
    assert figure is not None
    figure.draw_without_rendering()
    left = [axes.get_position().x0 for axes in figure.axes[:5]]
    assert np.diff(left) == pytest.approx(np.diff(left)[0], rel=0.01)


def test_names_too_long_for_a_figure_are_shown_by_both_ends(tmp_path: Path) -> None:
    path = tmp_path / "long.csv"
    most = "attention_norm_final_norm_placement_gating_routing"  # of the studies here
    cells = ["baseline", "long_" * 30 + "1", "long_" * 30 + "2", "x" * 150, most]
    rows = [f"{cell},{seed},{place + seed}" for place, cell in enumerate(cells) for seed in range(3)]
    path.write_text("cell,seed,val_loss\n" + "\n".join(rows))
    results = load_results(path)
    for figure in figures(results, analyse(results)).values():
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # matplotlib says so where there is no room left
            figure_style.png(figure)
    shown = [figure_style.short(cell) for cell in cells]
    assert len(set(shown)) == len(cells)
    assert shown[-1] == most
    assert max(map(len, shown)) <= figure_style.LONGEST


def test_where_nothing_is_tested_no_colour_is_of_a_correction(tmp_path: Path) -> None:
    path = tmp_path / "two.csv"
    path.write_text("cell,seed,val_loss\nbaseline,0,4\nbaseline,1,4.1\na,0,4.2\na,1,4.4\n")
    results = load_results(path)
    figure = plots.differences_figure(results, analyse(results))
    assert figure is not None
    assert "Holm" not in words(figure)


def test_seeds_without_a_pair_have_no_line(tmp_path: Path) -> None:
    path = tmp_path / "apart.csv"
    path.write_text(
        "cell,seed,val_loss\n" + "".join(f"baseline,{s},{4 + s / 9}\nnew,{s + 3},{3 + s / 7}\n" for s in range(3))
    )
    results = load_results(path)
    figure = estimation_figure(results, analyse(results))
    assert figure is not None
    lines = figure.axes[0].collections[0]
    assert isinstance(lines, LineCollection)
    assert lines.get_segments() == []
    hollow = [data(line)[1] for line in figure.axes[0].lines if line.get_markerfacecolor() == "white"]
    assert sorted(y for ys in hollow for y in ys) == sorted(results.runs["val_loss"])


def test_figures_of_many_cells_show_the_first_and_say_so(tmp_path: Path) -> None:
    path = tmp_path / "many.csv"
    names = ["baseline", *(f"v{i}" for i in range(99))]
    rows = [f"{name},{seed},{4 + place / 50 + seed % 2}" for place, name in enumerate(names) for seed in range(3)]
    path.write_text("cell,seed,val_loss\n" + "\n".join(rows))
    results = load_results(path)
    figure = plots.ranking_figure(results, analyse(results))
    assert "The first 60 rows of 100: the table has all." in words(figure)
    assert len(diamonds(figure.axes[0])) == 60


# --- fronts ---


def test_the_front_is_drawn_and_named(grid: tuple[Results, Analysis]) -> None:
    results, analysis = grid
    with figure_style.style():
        figure = pareto_figure(results, analysis)
    assert figure is not None
    axes = next(axes for axes in figure.axes if axes.get_xlabel() == "live parameters (millions)")
    table = analysis.pareto[analysis.pareto["live_parameters_front"].notna()]
    front = table[table["live_parameters_front"].astype(bool)]
    drawn = sorted(point for line in axes.lines if line.get_marker() == "D" for point in zip(*data(line), strict=True))
    assert drawn == sorted(zip(front["live_parameters"] / 1e6, front["mean"], strict=True))
    cells = [point for line in axes.lines if line.get_marker() in ("D", "o") for point in zip(*data(line), strict=True)]
    assert len(cells) == len(table) == 15  # one cell diverged
    named = axes.texts[-1].get_text()
    assert all(f"  {cell}" in named for cell in front["cell"])
    assert "peak memory" not in " ".join(axes.get_xlabel() for axes in figure.axes)  # unknown here


@pytest.mark.parametrize(("direction", "side"), [("min", "top"), ("max", "bottom")])
def test_letters_of_points_close_together_stay_apart(grid: tuple[Results, Analysis], direction: str, side: str) -> None:
    """Five points of a front within a hair, and five further on that are apart."""
    results, analysis = grid
    table = analysis.pareto[analysis.pareto["live_parameters_front"].notna()].iloc[:10].copy()
    steps = np.array([0, 0.01, 0.02, 0.03, 0.04, 2, 4, 6, 8, 10])
    better = 1 if direction == "max" else -1
    table["live_parameters"], table["mean"] = 1e6 * (1 + steps), 5 + better * steps
    table["ci_low"], table["ci_high"] = table["mean"] - 0.5, table["mean"] + 0.5
    table["live_parameters_front"] = True
    results = dataclasses.replace(results, plan={**results.plan, "direction": direction})
    figure = pareto_figure(results, dataclasses.replace(analysis, pareto=table))
    assert figure is not None
    figure.draw_without_rendering()
    axes = next(axes for axes in figure.axes if axes.get_xlabel() == "live parameters (millions)")
    *labels, _ = axes.texts
    assert [label.get_text() for label in labels] == ["a, b, c, d, e", "f", "g", "h", "i", "j"]
    assert {label.get_va() for label in labels} == {side}  # where no cell is
    boxes = [label.get_window_extent() for label in labels]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))


def test_no_empty_panel_is_seen_beside_three_costs(grid: tuple[Results, Analysis]) -> None:
    figure = pareto_figure(*grid)
    assert figure is not None
    assert [bool(axes.lines) for axes in figure.axes] == [axes.get_visible() for axes in figure.axes]
    assert sum(axes.get_visible() for axes in figure.axes) == 3


# --- words ---


def test_words_on_top_stay_within_narrow_figures(tmp_path: Path) -> None:
    results = load_results(make_study(tmp_path / "grid", cells=("baseline", "moe"), seeds=4))
    with figure_style.style():
        for name, figure in figures(results, analyse(results)).items():
            figure.draw_without_rendering()
            boxes = [said.get_window_extent() for said in figure.texts]
            assert max(box.x1 for box in boxes) < figure.bbox.x1, name
            assert boxes[1].y0 > max(axes.get_window_extent().y1 for axes in figure.axes), name


def test_words_of_disjoint_seeds_speak_of_no_pairs(tmp_path: Path) -> None:
    path = tmp_path / "apart.csv"
    rows = [f"{cell},{seed + 10 * place},{4 + place + seed / 9}" for place, cell in enumerate(("baseline", "new"))
            for seed in range(4)]  # fmt: skip
    path.write_text("cell,seed,val_loss\n" + "\n".join(rows))
    results = load_results(path)
    said = " ".join(words(figure) for figure in figures(results, analyse(results)).values())
    assert "paired" not in said


# --- curves ---


@pytest.mark.parametrize(("kept", "cut"), [([300], None), ([50, 300], False), ([50, 200, 300], True)])
def test_curves_of_few_evaluations(tmp_path: Path, kept: list[int], cut: bool | None) -> None:
    """One evaluation is no curve, and two are not cut to one."""
    results = load_results(make_study(tmp_path / "grid", cells=("baseline", "moe"), seeds=2))
    results.curves.loc[~results.curves["step"].isin(kept), "val_loss"] = np.nan
    drawn = [plots.loss_figure(results, "tokens"), plots.loss_figure(results, "tokens", relative=True)]
    assert [figure is None for figure in drawn] == [cut is None] * 2
    if drawn[0] is not None:
        assert ("The first third of training is cut off." in words(drawn[0]).replace("\n", " ")) == cut
        assert [len(data(line)[0]) for line in drawn[0].axes[0].lines] == [2, 2]


def test_each_scale_is_cut_by_its_own_length(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "grid", cells=("baseline", "moe"), seeds=2, scales=("cpu", "large"))
    results = load_results(folder)
    longer = results.curves["cell"].str.endswith("@large")
    results.curves.loc[longer, "step"] *= 10
    figure = plots.loss_figure(results, "tokens")
    assert figure is not None
    drawn = {line.get_label(): len(data(line)[0]) for axes in figure.axes for line in axes.lines}
    assert drawn == {"baseline@cpu": 5, "moe@cpu": 5, "baseline@large": 5, "moe@large": 5}


def test_a_single_evaluation_is_no_curve(tmp_path: Path) -> None:
    results = load_results(make_study(tmp_path / "grid", cells=("baseline", "moe", "mlp"), seeds=2))
    curves = results.curves
    early = (curves["cell"] == "mlp") & (curves["step"] < 300)
    results = dataclasses.replace(results, curves=curves.assign(val_loss=curves["val_loss"].mask(early)))
    for relative in (False, True):
        figure = loss_figure(results, "tokens", relative)
        assert figure is not None
        assert {str(line.get_label()) for axes in figure.axes for line in axes.lines} == {"baseline", "moe"}


def test_mean_curves_average_finished_seeds(grid: tuple[Results, Analysis]) -> None:
    results, _ = grid
    table = mean_curves(results, "tokens")
    row = table.query("cell == 'moe' and step == 300").iloc[0]
    losses = results.runs.query("cell == 'moe'")["val_loss"]
    assert row["mean"] == pytest.approx(losses.mean())
    assert (row["low"], row["high"], row["n"]) == (losses.min(), losses.max(), 5)
    assert row["x"] == 307_200
    assert set(table.query("cell == 'attention_moe'")["n"]) == {4}  # without the diverged seed, at every update
    seconds = mean_curves(results, "train_seconds").query("cell == 'moe' and step == 300").iloc[0]["x"]
    assert seconds == pytest.approx(results.runs.query("cell == 'moe'")["train_seconds"].mean())


def test_relative_curves_are_paired_by_seed(grid: tuple[Results, Analysis]) -> None:
    results, analysis = grid
    table = mean_curves(results, "tokens", relative=True)
    ends = table[table["step"] == 300].set_index("cell")
    expected = analysis.comparisons.set_index("cell")["difference"]
    pd.testing.assert_series_equal(ends.loc[expected.index, "mean"], expected, check_names=False)
    assert (table.query("cell == 'baseline'")[["mean", "low", "high"]] == 0).all(axis=None)
    paired = results.finished("val_loss")
    gaps = (paired.loc["mlp"] - paired.loc["baseline"]).dropna()
    assert ends.loc["mlp", "low"] == pytest.approx(gaps.min())


def test_panels_keep_few_cells_together(grid: tuple[Results, Analysis]) -> None:
    results, _ = grid
    groups = panels(results, list(GRID))
    assert [title for title, _ in groups] == [
        "without mlp, without moe",
        "with mlp, without moe",
        "without mlp, with moe",
        "with mlp, with moe",
    ]
    assert sorted(cell for _, cells in groups for cell in cells) == sorted(GRID)
    assert groups[1][1] == ["mlp", "attention_mlp", "rmsnorm_mlp", "attention_rmsnorm_mlp"]
    assert panels(results, ["baseline", "moe"]) == [("", ["baseline", "moe"])]


def test_panels_without_factors_are_split_in_order(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    names = ["baseline", *(f"v{i}" for i in range(12))]
    path.write_text("cell,seed,val_loss\n" + "".join(f"{name},0,1\n" for name in names))
    assert [cells for _, cells in panels(load_results(path), names)] == [names[:6], names[6:12], names[12:]]


def test_each_column_of_curves_has_its_scale(tmp_path: Path) -> None:
    """Of three panels the second one is the lowest of its column."""
    cells = [name for name, factors in GRID.items() if not (factors["mlp"] and factors["moe"])]
    results = load_results(make_study(tmp_path / "study", cells=cells, seeds=2))
    figure = plots.loss_figure(results, "tokens")
    assert figure is not None
    written = [axes.xaxis.get_tick_params()["labelbottom"] for axes in figure.axes if axes.get_visible()]
    assert written == [False, True, True]


def test_a_panel_draws_its_cells_over_the_others(grid: tuple[Results, Analysis]) -> None:
    results, _ = grid
    figure = plots.loss_figure(results, "tokens")
    assert figure is not None
    axes = figure.axes[1]
    legend = axes.get_legend()
    assert legend is not None
    key = [text.get_text() for text in legend.get_texts()]
    ends = mean_curves(results, "tokens").groupby("cell")["mean"].last()
    assert key == list(ends[["mlp", "attention_mlp", "rmsnorm_mlp", "attention_rmsnorm_mlp", "baseline"]]
                       .sort_values(ascending=False, kind="stable").index)  # fmt: skip
    line = next(line for line in axes.lines if line.get_label() == "mlp")
    curve = mean_curves(results, "tokens").query("cell == 'mlp' and step >= 100")
    assert data(line) == (list(curve["x"] / 1000), list(curve["mean"]))
    (others,) = (drawn for drawn in axes.collections if isinstance(drawn, LineCollection))
    assert len(others.get_segments()) == 11
    assert "4 to 5 seeds" in words(figure)


def test_results_without_curves_have_no_curve_figures(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("cell,seed,val_loss\nbaseline,0,1\nbaseline,1,2\nbaseline,2,3\nnew,0,1\nnew,1,1\nnew,2,1\n")
    results = load_results(path)
    assert tuple(figures(results, analyse(results))) == ("ranking", "differences", "estimation", "power")


# --- whole factors ---


def test_interactions_and_shapley_values_of_an_orthogonal_grid(tmp_path: Path) -> None:
    results = load_results(make_study(tmp_path / "grid", seeds=4, design="orthogonal"))
    analysis = analyse(results)
    with figure_style.style():
        figure = plots.interactions_figure(results, analysis)
    assert figure is not None
    titles = {axes.get_title(loc="left").split("\n")[0]: axes for axes in figure.axes}
    assert set(titles) == {"mlp x moe", "attention x moe", "attention x mlp"}  # without the negative control
    means = analysis.interactions.set_index(["across", "by", "by_level", "level"])["mean"].sort_index()
    for line in titles["mlp x moe"].lines:
        level = str(line.get_label()).removeprefix("moe: ")
        assert data(line)[1] == pytest.approx(means.loc[("mlp", "moe", level)].tolist())
    bars = plots.shapley_figure(results, analysis)
    assert bars is not None
    widths = [patch.get_width() for patch in bars.axes[0].patches]  # type: ignore[attr-defined]
    assert widths == pytest.approx(analysis.shapley["shapley"].tolist())
    assert widths[-1] == pytest.approx(sum(widths[:-1]))


def test_the_default_design_has_interactions_and_no_shapley_values(tmp_path: Path) -> None:
    results = load_results(make_study(tmp_path / "grid", seeds=3))
    analysis = analyse(results)
    with figure_style.style():
        figure = plots.interactions_figure(results, analysis)
    assert figure is not None
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["feed_forward x attention"]
    assert plots.shapley_figure(results, analysis) is None


def test_power_is_80_percent_at_the_detectable_difference(grid: tuple[Results, Analysis]) -> None:
    results, analysis = grid
    figure = power_figure(results, analysis)
    assert figure is not None
    (axes,) = figure.axes
    tested = analysis.comparisons[analysis.comparisons["p"].notna()]
    own, family = int(tested["n"].median()), int(tested["family"].max())
    (label,) = [str(line.get_label()) for line in axes.lines if "this study" in str(line.get_label())]
    (curve,) = [line for line in axes.lines if line.get_linewidth() == 2.6 and len(data(line)[0]) > 1]
    differences, found = data(curve)
    critical = stats.t.isf(0.05 / family / 2, own - 1)
    sd = tested["sd_difference"].median()
    expected = [stats.nct.sf(critical, own - 1, x / sd * np.sqrt(own)) for x in differences]
    assert found == pytest.approx(expected)
    at_80 = float(np.interp(0.8, found, differences))
    assert float(label.split(": ")[1]) == pytest.approx(at_80, rel=0.05)


def test_a_race_has_no_power_of_a_fixed_design(grid: tuple[Results, Analysis]) -> None:
    results, analysis = grid
    planned = registered(list(results.cells.index), looks=(3, 5))
    race = dataclasses.replace(results, plan={**results.plan, **{name: planned[name] for name in (REGISTERED, HASH)}})
    assert power_figure(race, analysis) is None
