"""Laws over scales, and differences that change with scale."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis import text
from analysis.comparing.comparisons import negative_control
from analysis.comparing.scaling import scaling as scaling_with
from analysis.figures.scaling import scaling_figure
from analysis.figures.style import style
from analysis.reporting.narrative import OVER_SCALES, verdict
from analysis.reporting.report import write_report
from analysis.reporting.tables import tables
from analysis.study.registered import SCALE_CHANGES, Family, registration
from analysis.study.results import Results
from analysis.study.runs import curves_table
from analysis.summary import analyse
from tests.fakes_plan import added, registered
from tests.fakes_results import make_results

SIZES = {"s1": 1e5, "s2": 3e5, "s3": 1e6, "s4": 4e6}
SEEDS = 4


def results_of(
    loss: Callable[[str, float, int], float], cells: tuple[str, ...] = ("baseline", "mlp"), seeds: int = SEEDS
) -> Results:
    """Make a study at all SIZES in which a cell's loss is a function of its name, the parameters and the seed."""
    names = [(f"{cell}@{scale}", cell, scale) for scale in SIZES for cell in cells]
    losses = {name: [loss(cell, SIZES[scale], seed) for seed in range(seeds)] for name, cell, scale in names}
    results = make_results(
        losses,
        levels={name: {"model": cell, "scale": scale} for name, cell, scale in names},
        baseline=lambda name: f"baseline@{name.rpartition('@')[2]}",
    )
    sizes = results.runs["cell"].map(lambda name: SIZES[name.rpartition("@")[2]])
    return dataclasses.replace(results, runs=results.runs.assign(params_total=sizes, params_active=sizes / 2))


def power(cell: str, size: float, seed: int) -> float:
    return (20 + seed) * size ** -(0.1 + 0.01 * seed if cell == "baseline" else 0.12)


def noisy(cell: str, size: float, seed: int) -> float:
    return power(cell, size, seed) + 0.01 * np.random.default_rng([seed, int(size), len(cell)]).normal()


def scaling(results: Results) -> tuple[pd.DataFrame, pd.DataFrame]:
    return scaling_with(results, negative_control(results))


def without(results: Results, cell: str, seeds: tuple[int, ...], status: str | None = "diverged") -> Results:
    """Return the results with these runs of a cell ended so; None takes them away."""
    chosen = (results.runs["cell"] == cell) & results.runs["seed"].isin(seeds)
    if status is None:
        return dataclasses.replace(results, runs=results.runs[~chosen].reset_index(drop=True))
    runs = results.runs.assign(
        status=results.runs["status"].mask(chosen, status), val_loss=results.runs["val_loss"].mask(chosen)
    )
    return dataclasses.replace(results, runs=runs)


def gaining(cell: str, size: float, seed: int) -> float:
    """Return a loss of which `mlp` surely gains more the larger the model."""
    return power("baseline", size, seed) - (0.01 * math.log(size) * (1 + 0.01 * seed) if cell == "mlp" else 0)


def test_an_exact_power_law_is_found() -> None:
    laws, _ = scaling(results_of(power))
    law = laws[(laws["cell"] == "baseline") & (laws["against"] == "parameters")].iloc[0]
    exponents = 0.1 + 0.01 * np.arange(SEEDS)
    assert law["exponent"] == pytest.approx(exponents.mean(), abs=1e-10)
    low, high = stats.t.interval(0.95, SEEDS - 1, exponents.mean(), stats.sem(exponents))
    assert (law["exponent_low"], law["exponent_high"]) == pytest.approx((low, high), abs=1e-9)
    assert law["loss_at_end"] == pytest.approx(np.mean([power("baseline", 4e6, seed) for seed in range(SEEDS)]))
    assert law["curvature"] == pytest.approx(0, abs=1e-10)
    assert (law["n"], law["scales"]) == (SEEDS, len(SIZES))
    fixed = laws[(laws["cell"] == "mlp") & (laws["against"] == "active parameters")].iloc[0]
    assert fixed["exponent"] == pytest.approx(0.12, abs=1e-10)


def test_what_bends_is_no_power_law() -> None:
    bent = results_of(lambda cell, size, seed: 2 + power(cell, size, seed) + 0.001 * seed)
    laws, _ = scaling(bent)
    verdicts = laws[laws["against"] == "parameters"].set_index("cell")["verdict"]
    assert verdicts["baseline"] == "bends up: no pure power law"


def test_what_does_not_grow_with_the_scales_has_no_law() -> None:
    results = results_of(power)
    seconds = results.runs["cell"].map(lambda name: {"s1": 70, "s2": 30, "s3": 80, "s4": 280}[name[-2:]])
    busy = dataclasses.replace(results, runs=results.runs.assign(train_seconds=seconds.astype(float)))
    laws, _ = scaling(busy)
    of_time = laws[laws["against"] == "training seconds"]
    assert set(of_time["verdict"]) == {"no law: it does not grow from s1 to s2"}
    assert of_time[["exponent", "loss_at_end", "curvature"]].isna().all(axis=None)
    assert laws.loc[laws["against"] == "parameters", "exponent"].notna().all()


def test_a_crossing_within_the_noise_is_one_of_means_alone() -> None:
    gaps, noise = {1e5: 0.1, 3e5: -0.001, 1e6: 0.05, 4e6: 0.08}, [0.003, -0.002, 0.002, -0.004]
    _, growth = scaling(results_of(lambda cell, size, seed: 4 + (gaps[size] + noise[seed] if cell == "mlp" else 0)))
    assert growth.loc[0, "crossings"] == "s1 to s2 by means alone; s2 to s3 by means alone"


def test_a_difference_that_changes_its_sign_is_a_crossing() -> None:
    gaps = {1e5: 0.1, 3e5: 0.02, 1e6: -0.05, 4e6: -0.08}
    noise = [0.003, -0.001, 0.002, -0.004]
    crossing = results_of(
        lambda cell, size, seed: 4 + (gaps[size] + noise[seed] * math.log(size) / 15 if cell == "mlp" else 0)
    )
    _, growth = scaling(crossing)
    row = growth.iloc[0]
    assert (row["cell"], row["baseline"], row["from_scale"], row["to_scale"]) == ("mlp", "baseline", "s1", "s4")
    assert row["crossings"] == "s2 to s3"
    change = [-0.18 + e * (math.log(4e6) - math.log(1e5)) / 15 for e in noise]
    assert row["difference"] == pytest.approx(np.mean(change))
    assert row["p"] == pytest.approx(stats.ttest_1samp(change, 0).pvalue)
    assert row["verdict"] == "gains as models grow"


@pytest.mark.parametrize("named", [True, False])
def test_changes_are_as_planned_where_the_plan_names_them(named: bool) -> None:
    results = results_of(power)
    families = [Family(name=SCALE_CHANGES, metric="val_loss", size=1)] if named else []
    plan = registered(list(results.baselines), n=SEEDS, primary=None, families=tuple(families))
    del plan["cells"]
    found = analyse(dataclasses.replace(results, plan={**results.plan, **plan}))
    assert list(found.growth["plan"]) == ["planned" if named else "exploratory: not in the plan"]
    assert set(found.scaling["plan"]) == {"exploratory: not in the plan"}
    rows = found.plan_check.set_index("item")
    assert (f"family: {SCALE_CHANGES}" in rows.index) == named
    if named:
        assert list(rows.loc[f"family: {SCALE_CHANGES}", ["done", "agrees"]]) == ["1 test", "yes"]


def test_too_few_scales_have_no_law() -> None:
    full = results_of(power)
    few = dataclasses.replace(
        full,
        runs=full.runs[full.runs["scale"].isin(["s1", "s2"])].reset_index(drop=True),
        baselines={cell: base for cell, base in full.baselines.items() if cell.endswith(("s1", "s2"))},
    )
    laws, growth = scaling(few)
    assert laws.empty
    assert growth.empty
    assert scaling_figure(few, analyse(few).scaling) is None


def test_a_seed_that_lacks_a_scale_is_not_in_the_law() -> None:
    full = results_of(power)
    gone = (full.runs["cell"] == "mlp@s3") & (full.runs["seed"] == 1)
    laws, growth = scaling(dataclasses.replace(full, runs=full.runs[~gone].reset_index(drop=True)))
    assert set(laws.loc[laws["cell"] == "mlp", "n"]) == {SEEDS - 1}
    assert set(laws.loc[laws["cell"] == "baseline", "n"]) == {SEEDS}
    assert growth.iloc[0]["n"] == SEEDS


@pytest.mark.parametrize(
    ("cell", "words"),
    [("mlp@s4", "diverged in 1 of 4 seeds at s4"), ("baseline@s1", "baseline diverged in 1 of 4 seeds at s1")],
)
def test_survivors_at_either_end_are_no_finding(cell: str, words: str) -> None:
    whole = results_of(gaining, ("baseline", "mlp", "moe"))
    assert scaling(whole)[1].set_index("cell").loc["mlp", "verdict"] == "gains as models grow"
    laws, growth = scaling(without(whole, cell, (2,)))
    row = growth.set_index("cell").loc["mlp"]
    assert row["verdict"] == words
    assert row[["p", "p_holm"]].isna().all()
    assert row["crossings"] == f"unknown at {cell[-2:]}"
    verdicts = laws[laws["against"] == "parameters"].set_index("cell")["verdict"]
    assert verdicts[cell[:-3]] == words.removeprefix("baseline ")
    assert verdicts.drop(cell[:-3]).str.contains("bend").all()


def test_a_run_that_diverged_in_between_leaves_the_ends_tested() -> None:
    _, growth = scaling(without(results_of(gaining), "mlp@s3", (0, 1)))
    assert growth.loc[0, ["verdict", "crossings"]].tolist() == ["gains as models grow", "unknown at s3"]


def test_the_ends_are_over_the_seeds_of_their_difference() -> None:
    results = without(results_of(gaining), "mlp@s4", (0,), status=None)
    values = results.finished("val_loss").drop(columns=0)
    _, growth = scaling(results)
    row = growth.iloc[0]
    assert row["at_last"] - row["at_first"] == pytest.approx(row["difference"], abs=1e-12)
    for end, scale in (("at_first", "s1"), ("at_last", "s4")):
        expected = (values.loc[f"mlp@{scale}"] - values.loc[f"baseline@{scale}"]).mean()
        assert row[end] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("size", "verdict"), [(1e-3, "equivalent within \u00b10.01 nats"), (1e-1, "not resolved")])
def test_a_change_within_the_margin_is_a_finding(size: float, verdict: str) -> None:
    noise = [1, -1, 1.5, -1.2]
    results = results_of(
        lambda cell, params, seed: (
            power("baseline", params, seed)
            + (size * noise[seed] * math.log(params) / 15 if cell != "baseline" else 0) * (2 if cell == "moe" else 1)
        ),
        ("baseline", "mlp", "moe"),
    )
    plain = analyse(results)
    found = analyse(dataclasses.replace(results, plan={"equivalence_margin": 0.01}))
    assert plain.growth["verdict"].str.startswith("not resolved").all()
    assert found.growth["verdict"].str.startswith(verdict).all()
    row = found.growth.iloc[0]
    change = [size * e * (math.log(4e6) - math.log(1e5)) / 15 for e in noise]
    interval = stats.t.interval(0.975, SEEDS - 1, np.mean(change), stats.sem(change))
    assert (row["simultaneous_low"], row["simultaneous_high"]) == pytest.approx(interval, abs=1e-9)
    shown = tables(results, found)["growth"]
    place = shown.headers.index("interval [95 %, all together]")
    assert shown.rows[0][place] == text.interval(*interval, sign=True)


def test_what_the_control_finds_to_be_one_model_does_not_grow_apart() -> None:
    twin = results_of(
        lambda cell, size, seed: power("baseline", size, seed) + (1e-9 * (seed + 2) * size if cell == "mlp" else 0)
    )
    assert scaling(twin)[1]["p"].notna().all()
    plan = {"negative_control": {"factor": "model", "tolerance_nats": 0.1}}
    (row,) = scaling(dataclasses.replace(twin, plan=plan))[1].to_dict("records")
    assert row["verdict"] == "within tolerance (0.1 nats): the same model up to rounding"
    assert math.isnan(row["p"])


def test_the_figure_says_which_laws_are_of_survivors() -> None:
    results = without(results_of(power, ("baseline", "mlp", "moe")), "mlp@s4", (0, 1))
    results = without(results, "moe@s2", tuple(range(SEEDS)))  # of which there is no law
    with style():
        figure = scaling_figure(results, analyse(results).scaling)
    assert figure is not None
    assert figure.legends[0].get_texts()[0].get_text() == "baseline"
    assert {words.get_text() for words in figure.legends[0].get_texts()[1:]} == {"mlp (survivors)", "moe (survivors)"}
    drawn = [line for line in figure.axes[0].lines if line.get_linestyle() in (":", "-")]
    assert sorted(str(line.get_linestyle()) for line in drawn) == ["-", ":"]


def test_the_verdict_says_that_no_plan_names_a_law() -> None:
    results = results_of(power)
    plan = registered(list(results.cells.index), n=SEEDS, primary=None)
    planned = dataclasses.replace(results, plan={**plan, "cells": []})  # the levels are those of the runs
    found = verdict(planned, analyse(planned))[OVER_SCALES]
    claims = [finding.claim for finding in found if finding.kind == "scaling"]
    assert claims == ["Loss against parameters, as a x^-b; exploratory: not in the plan"]


def test_a_change_that_rests_on_added_seeds_is_exploratory_and_the_others_are_not() -> None:
    """Of three planned seeds the baseline and `mlp` had three more, after results were known; `moe` had none."""
    results = results_of(noisy, ("baseline", "mlp", "moe"), seeds=6)
    for scale in SIZES:
        results = without(results, f"moe@{scale}", (3, 4, 5), status=None)
    changes = Family(name=SCALE_CHANGES, metric="val_loss", size=2)
    plan = registered(list(results.cells.index), n=3, primary=None, amendments=[added("seeds", [3, 4, 5], ended=36)])
    families = (*registration(plan).registered.families, changes)
    plan = registered(list(results.cells.index), n=3, primary=None, amendments=plan["amendments"], families=families)
    growth = analyse(dataclasses.replace(results, plan={**plan, "cells": []})).growth.set_index("cell")
    assert growth.loc["mlp", ["n", "n_tested"]].tolist() == [6, 3]
    assert growth.loc["mlp", "plan"] == "exploratory: seeds were added after the plan"
    assert growth.loc["moe", ["n", "n_tested"]].tolist() == [3, 3]
    assert growth.loc["moe", "plan"] == "planned"


def test_no_change_is_as_planned_while_seeds_of_another_cell_are_to_come() -> None:
    """It would be tested in a smaller family than the one registered, and could be lost again."""
    results = without(results_of(noisy, ("baseline", "mlp", "moe")), "moe@s4", (3,), status=None)
    plan = registered(list(results.cells.index), n=SEEDS, primary=None)
    changes = Family(name=SCALE_CHANGES, metric="val_loss", size=2)
    families = (*registration(plan).registered.families, changes)
    plan = registered(list(results.cells.index), n=SEEDS, primary=None, families=families)
    growth = analyse(dataclasses.replace(results, plan={**plan, "cells": []})).growth
    assert set(growth["plan"]) == {f"exploratory: tested after 3 of the {SEEDS} seeds planned"}


def test_flawed_cells_make_no_finding() -> None:
    full = results_of(power)
    flaws = full.runs["flaws"].mask(full.runs["cell"] == "mlp@s2", "leak.no_causal_mask")
    found = analyse(dataclasses.replace(full, runs=full.runs.assign(flaws=flaws)))
    assert set(found.growth["verdict"]) == {"flawed: no finding"}
    assert set(found.scaling.loc[found.scaling["cell"] == "mlp", "flaws"]) == {"leak.no_causal_mask"}


def test_the_report_has_the_laws_and_their_figure(tmp_path: Path) -> None:
    results = dataclasses.replace(results_of(power), curves=curves_table([]))
    with style():
        figure = scaling_figure(results, analyse(results).scaling)
    assert figure is not None
    labels = [axes.get_xlabel() for axes in figure.axes]
    assert labels == ["parameters", "active parameters"]
    written = write_report(results, tmp_path)
    assert "## Scaling" in written.markdown.read_text()
    assert (tmp_path / "scaling.png").is_file()
