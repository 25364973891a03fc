"""The verdict answers what its study asks: whole factors, changes with size, sources of variance."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from analysis.reporting.narrative import OVER_SCALES, Finding, verdict
from analysis.study.results import Results
from analysis.summary import analyse
from tests.fakes_results import factorial_losses, make_results

NOISE = np.random.default_rng(2).normal(0, 0.001, (16, 4))


def found(results: Results, kind: str, part: str = "") -> Finding:
    (finding,) = [finding for finding in verdict(results, analyse(results))[part] if finding.kind == kind]
    return finding


def test_a_grid_says_what_each_factor_is_worth() -> None:
    def loss(level: dict[str, int], seed: int) -> float:
        return 5 - 0.1 * level["gate"] + NOISE[2 * level["silu"] + level["gate"], seed]

    losses, levels = factorial_losses(("silu", "gate"), 4, loss)
    said = dict(found(make_results(losses, levels=levels, plan={"factorial": True}), "main_effects").cells)
    assert list(said) == ["silu", "gate", "interactions"]
    assert said["silu"].startswith("not resolved (could detect")
    assert said["gate"].startswith("better: \u22120.0993 [")
    assert said["gate"].endswith(", n = 4")
    assert said["interactions"] == "1 not resolved"


def test_a_shown_equivalence_has_its_own_p() -> None:
    losses, levels = factorial_losses(("silu", "gate"), 4, lambda level, seed: 5 + NOISE[2 * level["silu"], seed])
    results = make_results(losses, levels=levels, plan={"factorial": True, "equivalence_margin": 0.004})
    effects = analyse(results).main_effects.set_index("effect")
    said = dict(found(results, "main_effects").cells)["silu"]
    assert said.startswith("equivalent within \u00b10.004 nats: ")
    assert f", p = {effects.loc['silu', 'p_equivalence']:.4f} of equivalence, n = 4" in said
    assert effects.loc["silu", "p_holm"] > 0.05


def test_a_ladder_says_how_each_difference_changes() -> None:
    scales = {"s1": 1e5, "s2": 3e5, "s3": 1e6}
    gains = {"s1": 0.0, "s2": 0.1, "s3": 0.2}
    cells = [("baseline", scale) for scale in scales] + [("mlp", scale) for scale in scales]
    losses = {
        f"{name}@{scale}": [5 - gains[scale] * (name == "mlp") + noise for noise in NOISE[place]]
        for place, (name, scale) in enumerate(cells)
    }
    results = make_results(
        losses,
        levels={f"{name}@{scale}": {"model": name, "scale": scale} for name, scale in cells},
        baseline=lambda name: f"baseline@{name.rpartition('@')[2]}",
    )
    sizes = results.runs["cell"].map(lambda name: scales[name.rpartition("@")[2]])
    results.runs["params_total"] = sizes
    assert list(verdict(results, analyse(results))) == [OVER_SCALES, *scales]  # what a ladder asks comes first
    finding = found(results, "growth", OVER_SCALES)
    assert finding.claim == "Difference from baseline, how it changes from s1 to s3"
    by_seed = [[a - b for a, b in zip(losses[f"mlp@{s}"], losses[f"baseline@{s}"], strict=True)] for s in ("s1", "s3")]
    change = np.subtract(by_seed[1], by_seed[0])
    ((cell, words),) = finding.cells
    assert cell == "mlp"
    assert words.startswith(f"gains as models grow: \u2212{-change.mean():.4f} [")
    assert f"at first, \u2212{-np.mean(by_seed[1]):.4f} at last" in words
    assert stats.ttest_1samp(change, 0).pvalue < 0.001
    laws = dict(found(results, "scaling", OVER_SCALES).cells)
    logs = np.log([losses[f"mlp@{scale}"] for scale in scales])
    fits = -np.polyfit(np.log(list(scales.values())), logs, 1)[0]
    assert laws["mlp"].startswith(f"b = {np.mean(fits):.4f} [")
    assert laws["mlp"].endswith("cannot be told: too few scales or seeds")


def test_nothing_is_said_of_a_ladder_above_its_alarms() -> None:
    scales = {"s1": 1e5, "s2": 3e5, "s3": 1e6}
    cells = [(name, scale) for scale in scales for name in ("baseline", "norm", "mlp")]
    results = make_results(
        {
            f"{name}@{scale}": [5 + 0.2 * (name == "norm") + noise for noise in NOISE[place]]
            for place, (name, scale) in enumerate(cells)
        },
        levels={
            f"{name}@{scale}": {"norm": int(name == "norm"), "mlp": int(name == "mlp"), "scale": scale}
            for name, scale in cells
        },
        baseline=lambda name: f"baseline@{name.rpartition('@')[2]}",
        plan={"negative_control": {"factor": "norm", "tolerance_nats": 0.005}},
    )
    results.runs["params_total"] = results.runs["cell"].map(lambda name: scales[name.rpartition("@")[2]])
    said = verdict(results, analyse(results))
    first, *others = said[OVER_SCALES]
    assert first.kind == "alarm"
    assert [cell for cell, _ in first.cells] == ["norm@s1", "norm@s2", "norm@s3"]
    assert others


def test_a_study_of_the_spread_says_where_it_comes_from() -> None:
    values = 4 + 0.05 * np.arange(4)[None, :] + NOISE[:3, :4]
    names = ["baseline", "baseline_1", "baseline_2", "baseline_3"]
    levels = {name: {"model": "plain", "data_order": order} for order, name in enumerate(names)}
    results = make_results({name: list(values[:, i]) for i, name in enumerate(names)}, levels=levels)
    finding = found(results, "variance")
    assert finding.claim == "Where the spread of baseline comes from, each source alone"
    row = analyse(results).variance.set_index("source").loc["data order"]
    assert dict(finding.cells)["data order"].startswith(f"sd {row['sd']:.4f} [{row['sd_low']:.4f}, ")
    assert dict(finding.cells)["data order"].endswith("100 % of the variance between runs")
    assert row["share"] == pytest.approx(1, abs=0.005)
