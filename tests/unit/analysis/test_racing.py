"""Races read off records: the rule of the calibration, whatever the order, and what a report says of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from analysis import schema
from analysis.comparing.racing import FUTILE, Race, Stop, race, race_notes, race_table
from analysis.reporting.render import content, markdown
from analysis.statistics.looks import repeated_p
from analysis.statistics.significance import t_test
from analysis.statistics.stopping import median_unbiased
from analysis.study.registered import AGAINST_BASELINE, HASH, REGISTERED, Comparison, Family, Registered, sha256
from analysis.study.results import Results
from analysis.summary import analyse
from benchmarks.calibration import generator, normal, repeated
from benchmarks.calibration import race as simulated_race
from tests.fakes_results import make_results

LOOKS = (3, 5, 7, 10)


def plan(looks: tuple[int, ...] = LOOKS, margin: float | None = None) -> dict[str, Any]:
    registered = Registered(
        metric="val_loss", direction="min", primary=None, families=(), cells=(), n=looks[-1], looks=looks,
        equivalence_margin=margin, divergence_limit=None, exclusions=(), tuned=False, final_test=False,
    ).to_json()  # fmt: skip
    return {"seeds": list(range(looks[-1])), REGISTERED: registered, HASH: sha256(registered)}


def race_of(results: Results) -> Race:
    found = race(results)
    assert found is not None
    return found


def results_of(losses: np.ndarray, used: Mapping[str, int] | None = None, **more: Any) -> Results:
    """Results of losses (cells, seeds), the first cell the baseline; of a cell in `used` its first seeds alone."""
    names = ["baseline", *(f"c{place}" for place in range(1, len(losses)))]
    cut = {name: list(map(float, row[: (used or {}).get(name)])) for name, row in zip(names, losses, strict=True)}
    return make_results(cut, plan=plan(**more))


@pytest.mark.parametrize("margin", [0.0, 1.5])
def test_a_race_of_records_is_the_race_that_was_calibrated(margin: float) -> None:
    losses = normal(0.5)(generator(9), 3, 4, LOOKS[-1])
    losses[:, 1] += 2
    losses[0, 2] += 10
    found, used, alphas = simulated_race(losses, LOOKS, repeated(LOOKS), margin)
    assert 0 < found.sum() < found.size
    assert len(np.unique(used)) > 1
    more = {"margin": margin or None}
    for study, better, seeds, errors in zip(losses, found, used.astype(int), alphas, strict=True):
        whole = race_of(results_of(study, **more))
        stops = whole.stops
        for place, made in enumerate(errors, start=1):
            by_look = whole.alphas[f"c{place}"]
            assert by_look == pytest.approx(made[: len(by_look)].tolist())
        assert [stops[f"c{place}"].n for place in (1, 2, 3)] == seeds.tolist()
        verdicts = [stops[f"c{place}"].why in ("better", "worse") for place in (1, 2, 3)]
        assert verdicts == better.tolist()
        # What the race would have trained suffices for the same race.
        needed = {f"c{place}": int(n) for place, n in enumerate(seeds, start=1)} | {"baseline": int(max(seeds))}
        cut = race_of(results_of(study, needed, **more))
        assert cut.stops == stops
        assert cut.asked() == needed
    table = analyse(results_of(study, needed, **more)).comparisons.set_index("cell")  # the report says the same
    assert table["verdict"].isin(["better", "worse"]).loc[["c1", "c2", "c3"]].tolist() == better.tolist()


@pytest.mark.parametrize("margin", [None, 1.5])
def test_the_report_adjusts_what_could_have_stopped_earlier(margin: float | None) -> None:
    losses = normal(0.5)(generator(2), 1, 4, LOOKS[-1])[0]
    losses[1] += 1.5
    losses[2] += 8
    found = race_of(results_of(losses, margin=margin))
    results = results_of(losses, found.asked(), margin=margin)
    analysis = analyse(results)
    table = analysis.comparisons.set_index("cell")
    assert len({found.stops[cell].n for cell in ("c1", "c2", "c3")}) > 1
    for cell in ("c1", "c2", "c3"):
        row, made = table.loc[cell], found.alphas[cell]
        by = [*made, *[made[-1]] * 3][:3]
        expected = median_unbiased(row["difference"], row["sd_difference"], LOOKS, by, margin)
        assert row["adjusted_difference"] == expected
        assert row["percent"] == pytest.approx(100 * np.expm1(expected))
        assert row["difference_low"] < expected < row["difference_high"]
    assert table.loc["c1", "adjusted_difference"] < table.loc["c1", "difference"]
    sizes = ["cohens_d", "hedges_g", "d_z", "d_z_low", "improvement", "improvement_low"]
    assert table[sizes].isna().all(axis=None)
    words = markdown(content(results, analysis), [])
    adjusted, mean = (f"{table.loc['c1', name]:+.4f}" for name in ("adjusted_difference", "difference"))
    assert f"{adjusted} [" in words
    assert f"{mean} [" not in words
    assert f"| {mean} |" in words
    assert "difference, adjusted for its looks [95 %]" in words


def test_what_is_open_is_adjusted_for_the_looks_so_far_and_a_late_seed_takes_it_away() -> None:
    losses = clear()
    going = results_of(losses[:, :3])
    table = analyse(going).comparisons.set_index("cell")
    assert table.loc["c2", "adjusted_difference"] == table.loc["c2", "difference"]  # the first look is all there was
    going = results_of(losses[:, :5])
    row = analyse(going).comparisons.set_index("cell").loc["c2"]
    by = race_of(going).alphas["c2"][:1]
    assert by == [0.05 / 2]  # c1 was found at the first look: Holm's second step, of the boundaries of all four looks
    expected = median_unbiased(row["difference"], row["sd_difference"], LOOKS, by)
    assert row["adjusted_difference"] == expected
    assert abs(expected - row["difference"]) > 1e-9
    overrun = analyse(results_of(losses)).comparisons.set_index("cell")  # c1 was decided at 3 seeds, and has 10
    assert np.isnan(overrun.loc["c1", "adjusted_difference"])
    assert not np.isnan(overrun.loc["c3", "adjusted_difference"])
    fixed = analyse(make_results({"baseline": [4.0, 4.1, 4.2], "c1": [4.1, 4.1, 4.4]})).comparisons
    assert fixed["adjusted_difference"].isna().all()


def clear() -> np.ndarray:
    """c1 is decided by the first look, c2 by the last, c3 is the baseline up to noise."""
    losses = np.random.default_rng(1).normal(0, 0.01, (4, 10)) + 4
    losses[1] -= 2
    losses[2] += 0.012
    return losses


def test_a_decision_depends_on_the_seeds_up_to_its_look_alone() -> None:
    losses = clear()
    first = race_of(results_of(losses[:, :3], {}))
    assert first.next_look == 5
    assert first.stops == {"c1": Stop(3, "better")}
    assert first.running == ["c2", "c3"]
    assert first.asked() == {"c1": 3, "c2": 5, "c3": 5, "baseline": 5}
    other = losses.copy()
    other[:, 3:] = 5
    other[:, 3] = 7
    assert race_of(results_of(other)).stops["c1"] == first.stops["c1"]
    whole = results_of(losses)
    mixed = dataclasses.replace(whole, runs=whole.runs.sample(frac=1, random_state=0))
    assert race_of(mixed) == race_of(whole)


def test_a_look_waits_for_all_runs_it_is_made_of() -> None:
    losses = clear()
    assert race_of(results_of(losses, {"c2": 4})).next_look == 5
    assert race_of(results_of(losses, {"baseline": 4})).next_look == 5
    assert race_of(results_of(losses, {"c1": 3})).next_look is None  # it had stopped
    failed = make_results({"baseline": [4.0, 4.1, 4.2], "c1": [4.0, "failed", 4.3]}, plan=plan((3, 5)))
    assert race_of(failed) == dataclasses.replace(race_of(failed), stops={}, next_look=3)


def test_divergence_ends_a_comparison() -> None:
    values = [4.0, 4.1, 4.2]
    found = race_of(
        make_results({"baseline": values, "c1": [4.0, "diverged", 4.3], "c2": [4.1, 4.1, 4.2]}, plan=plan())
    )
    assert found.stops == {"c1": Stop(3, "diverged in 1 of 3 seeds")}
    found = race_of(make_results({"baseline": [4.0, "diverged", 4.2], "c1": values, "c2": values}, plan=plan()))
    assert found.next_look is None
    assert set(found.stops) == {"c1", "c2"}
    assert (found.runs, found.fixed_runs) == (9, 30)


def test_one_model_stops_at_the_first_look() -> None:
    values = [4.0, 4.1, 4.2]
    assert race_of(make_results({"baseline": values, "c1": values}, plan=plan())).stops == {
        "c1": Stop(3, "identical in 3 of 3 seeds")
    }


def test_the_margin_stops_what_cannot_reach_it() -> None:
    rng = np.random.default_rng(3)
    losses = np.stack([rng.normal(4, 0.001, 10), rng.normal(4, 0.001, 10), rng.normal(4.004, 0.001, 10)])
    assert "c1" not in race_of(results_of(losses[:, :3])).stops
    stops = race_of(results_of(losses[:, :3], margin=0.01)).stops
    assert stops["c1"].why == FUTILE.format(0.01)
    later = race_of(results_of(losses[:, :3], margin=1.0)).stops
    assert later["c1"].why == "equivalent within \u00b11 nats"


def test_numbers_hold_at_all_looks() -> None:
    losses = clear()
    table = analyse(results_of(losses)).comparisons.set_index("cell")
    difference = losses[3] - losses[0]
    plain = t_test(difference.mean(), difference.std(ddof=1), 10)
    assert table.loc["c3", "p"] == pytest.approx(float(repeated_p(plain, 10, LOOKS)))
    assert table["p_joint"].isna().all()
    assert table["p_max_t"].isna().all()
    cut = analyse(results_of(losses, {"c3": 6})).comparisons.set_index("cell")
    assert cut.loc["c3", "n"] == 5
    assert cut.loc["c3", "difference"] == pytest.approx(difference[:5].mean())
    early = analyse(results_of(losses, {"c3": 2})).comparisons.set_index("cell")
    assert early.loc["c3", "verdict"] == "n too small (2 of the 3 pairs needed)"


def test_what_a_report_says_of_a_race() -> None:
    stopped = race_of(results_of(clear())).asked()
    results = results_of(clear(), stopped)
    table = race_table(results, race(results)).set_index("cell")
    assert table.loc["c1", ["n", "look", "decision"]].tolist() == [3, "1 of 4", "better"]
    saved = 40 - sum(stopped.values())
    assert any(f"{saved} runs ({100 * saved / 40:.0f} %) were saved" in note for note in race_notes(race(results)))
    analysis = analyse(results)
    assert (analysis.ranking["missing"] == 0).all()
    assert not any("no record" in note for note in analysis.notes)
    text = markdown(content(results, analysis), [])
    assert "## The race" in text
    assert "Without a result yet" not in text
    assert "on average too large" in text
    going = results_of(clear()[:, :3])
    assert any("the look at 5 seeds is to come for c2, c3" in note for note in race_notes(race(going)))
    assert race_table(going, race(going)).set_index("cell").loc["c2", "decision"] == "open"
    assert analyse(going).ranking.set_index("cell")["missing"].to_dict() == {"baseline": 2, "c1": 0, "c2": 2, "c3": 2}


def test_scales_race_on_when_all_contenders_of_another_have_stopped() -> None:
    losses = clear()
    cells = {"baseline@s": losses[0], "c@s": losses[1], "baseline@t": losses[3], "c@t": losses[3] + losses[2] - 4}
    pairs = tuple(Comparison(cell=f"c@{scale}", baseline=f"baseline@{scale}") for scale in "st")
    family = Family(name=AGAINST_BASELINE, metric="val_loss", comparisons=pairs, size=2)
    declared = plan()
    registered = {**declared[REGISTERED], "families": [dataclasses.asdict(family)], "cells": list(cells)}
    declared |= {REGISTERED: registered, HASH: sha256(registered)}

    def of(used: Mapping[str, int]) -> Results:
        return make_results(
            {name: list(map(float, row[: used.get(name)])) for name, row in cells.items()},
            levels={name: {"model": name[0], "scale": name[-1]} for name in cells},
            baseline=lambda name: f"baseline@{name[-1]}",
            plan=declared,
        )

    whole = race_of(of({}))
    assert whole.stops["c@s"] == Stop(3, "better")
    assert whole.stops["c@t"].n > 3
    assert whole.asked() == {"baseline@s": 3, "c@s": 3, **dict.fromkeys(("baseline@t", "c@t"), whole.stops["c@t"].n)}
    assert whole.alphas["c@t"][1:] == [0.05] * (len(whole.alphas["c@t"]) - 1), "c@s was found, and shares no more"
    assert race_of(of(whole.asked())) == whole


def test_one_look_is_no_race() -> None:
    results = make_results({"baseline": [4.0, 4.1, 4.2], "c1": [4.1, 4.1, 4.4]}, plan=plan((3,)))
    assert results.looks == ()
    assert race(results) is None
    assert race_notes(race(results)) == []
    assert race_table(results, race(results)).empty
    assert schema.CELL in race_table(results, race(results))
