"""The analysis as a whole: its tables, its warnings and its speed."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from analysis.summary import COLUMNS, Analysis, analyse
from tests.fakes_results import factorial_losses, make_results

BASE = [5.00, 5.20, 5.10]


def note(analysis: Analysis, *words: str) -> str:
    """The one note that holds all the words."""
    found = [line for line in analysis.notes if all(word in line for word in words)]
    assert len(found) == 1, analysis.notes
    return found[0]


@pytest.mark.parametrize(
    "losses", [{"baseline": [5.0]}, {"baseline": BASE, "a": [4.9, 5.0, 5.05]}, {"baseline": ["failed"]}]
)
def test_every_table_has_its_documented_columns(losses: dict) -> None:
    analysis = analyse(make_results(losses))
    for name, columns in COLUMNS.items():
        assert list(getattr(analysis, name).columns) == list(columns)
        assert all(columns.values())


def test_one_seed_is_said_to_allow_nothing() -> None:
    analysis = analyse(make_results({"baseline": [5.0], "a": [4.0]}))
    note(analysis, "n = 1", "no interval, no effect size and no test")
    assert analysis.comparisons["verdict"][0] == "n too small (1 of the 3 pairs needed)"


def test_small_n_says_what_it_cannot_do() -> None:
    losses = {"baseline": BASE} | {name: [x - 0.1 + k / 100 for k, x in enumerate(BASE)] for name in "ab"}
    analysis = analyse(make_results(losses))
    note(analysis, "n = 3, Holm over 2 comparisons", "4.6 sd")
    note(analysis, "n = 3: exact sign flips cannot reject", "0.25", "0.5")
    six = {"baseline": [5.0] * 6} | {name: list(np.random.default_rng(6).normal(5, 0.1, 6)) for name in "ab"}
    note(
        analyse(make_results(six)), "n = 6: exact sign flips with Holm's correction cannot", "0.0312", "0.0625", "max-t"
    )
    many = {"baseline": [5.0] * 12, "a": list(np.random.default_rng(0).normal(5, 0.1, 12))}
    assert not [line for line in analyse(make_results(many)).notes if "sign flips" in line]


def test_one_comparison_is_no_family() -> None:
    analysis = analyse(make_results({"baseline": BASE, "a": [4.9, 5.0, 5.05]}))
    note(analysis, "n = 3: 80 % power needs a true difference of 3.3 sd")
    note(analysis, "n = 3: exact sign flips cannot reject", "(smallest p 0.25);")
    assert not [line for line in analysis.notes if "family" in line or "comparisons" in line]


def test_no_p_is_said_to_be_above_1() -> None:
    apart = {f"v{place}": [x - place * y for x, y in zip(BASE, (1, 1.1, 1.3), strict=True)] for place in range(1, 6)}
    analysis = analyse(make_results({"baseline": BASE, **apart}))
    note(analysis, "n = 3: exact sign flips cannot reject", "(smallest p 0.25; times 5 comparisons 1 or more)")


def test_disjoint_seeds_are_said_to_be_unpaired() -> None:
    analysis = analyse(make_results({"baseline": [*BASE, None, None, None], "a": [None, None, None, *BASE]}))
    note(analysis, "unpaired: a and the baseline have no seed in common", "Welch")
    assert not [line for line in analysis.notes if "Holm over" in line or "joint analysis" in line]


def test_a_study_of_disjoint_seeds_says_what_it_cannot_find() -> None:
    """Two arms of 3 runs and one sd: the t test of 4 degrees of freedom finds the named difference in 80 %."""
    cells = {
        name: [None] * 3 * place + BASE + [None] * 3 * (2 - place) for place, name in enumerate(("baseline", *"ab"))
    }
    named = note(
        analyse(make_results(cells)), "n = 3 runs an arm, no common seeds, Holm over 2 comparisons", "80 % power"
    )
    effect = float(named.partition("difference of ")[2].partition(" sd of a run")[0])
    found = stats.nct.sf(stats.t.isf(0.05 / 2 / 2, 4), 4, effect * np.sqrt(3 / 2))
    assert found == pytest.approx(0.8, abs=0.01)


def test_intervals_of_means_name_their_assumption() -> None:
    note(analyse(make_results({"baseline": BASE, "a": [4.9, 5.0, 5.05]})), "intervals of means assume roughly normal")
    assert not [line for line in analyse(make_results({"baseline": [5.0]})).notes if "intervals of means" in line]


def test_runs_that_are_in_no_number_are_counted() -> None:
    losses = {"baseline": BASE, "a": [4.0, "diverged", "diverged"], "b": [4.0, "failed", None]}
    analysis = analyse(make_results(losses, plan={"seeds": [0, 1, 2]}))
    note(analysis, "2 runs diverged", "a (2)")
    note(analysis, "1 run failed", "b (1)")
    note(analysis, "1 run planned but without a record", "b (1)")
    note(analysis, "between 1 and 3 finished seeds")
    note(analysis, "b against baseline", "over 1 common seed;", "0 finished seeds of b and 2 of baseline")


def test_ties_and_one_model_under_two_names() -> None:
    analysis = analyse(make_results({"baseline": BASE, "a": BASE}))
    note(analysis, "ties", "baseline = a")
    note(analysis, "WARNING: a equals baseline in every seed", "variant")


def test_the_declared_control_is_no_warning_but_an_alarm_is() -> None:
    plan = {"negative_control": {"factor": "norm", "tolerance_nats": 1e-3}}
    losses, levels = factorial_losses(
        ("norm", "moe"), 3, lambda level, seed: 5 + 0.1 * seed - level["moe"] * 0.01 * seed
    )
    calm = analyse(make_results(losses, levels=levels, plan=plan))
    assert not [line for line in calm.notes if "WARNING" in line or "ALARM" in line]
    losses["norm_moe"][2] += 0.5
    note(analyse(make_results(losses, levels=levels, plan=plan)), "ALARM", "norm_moe against moe", "0.5")


def test_rows_follow_the_ranking() -> None:
    analysis = analyse(make_results({"baseline": BASE, "a": [5.5, 5.4, 5.6], "b": [4.0, 4.1, 4.3]}))
    assert analysis.ranking["cell"].tolist() == analysis.efficiency["cell"].tolist() == ["b", "baseline", "a"]
    assert analysis.comparisons["cell"].tolist() == ["b", "a"]


def test_of_hundreds_of_cells_none_is_lost() -> None:
    rng = np.random.default_rng(0)
    losses = {
        "baseline" if cell == 0 else f"c{cell}": list(row) for cell, row in enumerate(rng.normal(5, 0.1, (300, 3)))
    }
    analysis = analyse(make_results(losses))
    assert len(analysis.ranking) == 300
    assert len(analysis.comparisons) == 299
    assert (analysis.comparisons["family"] == 299).all()
