"""Diverged runs as results: rates with exact intervals, and the comparison in which they count as worst."""

from __future__ import annotations

from pathlib import Path

import pytest
from scipy import stats

from analysis import text
from analysis.comparing.divergence import divergence
from analysis.loading.load import load_results
from analysis.reporting.render import content, markdown
from analysis.reporting.tables import tables
from analysis.summary import analyse
from tests.fakes import make_study
from tests.fakes_plan import added, registered
from tests.fakes_results import make_results

D = "diverged"
LOSSES = {
    "baseline": [4.30, 4.32, 4.29, 4.31, 4.33, 4.30, 4.28],
    "wild": [4.20, D, 4.19, D, 4.24, 4.22, 4.21],
    "lost": [D, D, D, D, D, D, D],
    "calm": [4.31, 4.33, 4.30, 4.32, 4.34, 4.31, 4.29],
}


def rows() -> dict:
    return {row["cell"]: row for row in divergence(make_results(LOSSES)).to_dict("records")}


def test_only_what_diverged_is_there() -> None:
    assert list(rows()) == ["wild", "lost"]
    assert divergence(make_results({"baseline": [1.0, 2.0], "other": [1.0, 2.0]})).empty


def test_the_rate_has_its_exact_interval() -> None:
    found = rows()["wild"]
    assert (found["diverged"], found["runs"], found["rate"]) == (2, 7, pytest.approx(2 / 7))
    exact = stats.binomtest(2, 7).proportion_ci(0.95, method="exact")
    assert (found["rate_low"], found["rate_high"]) == pytest.approx((exact.low, exact.high), rel=1e-10)
    assert rows()["lost"]["rate_high"] == 1


def test_diverged_runs_count_as_worst_in_an_exact_sign_test() -> None:
    wild, lost = rows()["wild"], rows()["lost"]
    assert (wild["better"], wild["worse"], wild["tied"]) == (5, 2, 0)
    assert wild["p_sign"] == pytest.approx(stats.binomtest(5, 7).pvalue)
    assert (lost["better"], lost["worse"]) == (0, 7)
    assert lost["p_sign"] == pytest.approx(2 / 2**7)
    assert lost["p_holm"] == pytest.approx(3 * 2 / 2**7)  # `calm`, which has a t test, has its share, too
    assert (wild["verdict"], lost["verdict"]) == ("not resolved", "worse")


def test_every_table_that_shows_survivors_says_so(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "s", cells=("baseline", "mlp", "moe"), seeds=4, documents=8, diverged={("moe", 2)})
    results = load_results(folder)
    shown = tables(results, analyse(results))
    for name in ("efficiency", "evaluation_noise", "pareto"):
        place, table = shown[name].headers.index("survivors alone"), shown[name]
        said = {row[0]: row[place] for row in table.rows}
        assert said == {row[0]: text.NOTHING for row in table.rows} | {"moe": "diverged in 1 of 4 seeds"}
    sound = load_results(make_study(tmp_path / "t", cells=("baseline", "mlp"), seeds=3, documents=8))
    assert not any("survivors alone" in table.headers for table in tables(sound, analyse(sound)).values())


def test_the_median_counts_them_as_worst_and_the_mean_is_of_survivors() -> None:
    wild = rows()["wild"]
    assert wild["median"] == 4.22  # of 4.19 4.20 4.21 [4.22] 4.24 inf inf
    assert wild["mean"] == pytest.approx((4.20 + 4.19 + 4.24 + 4.22 + 4.21) / 5)
    assert rows()["lost"]["median"] != rows()["lost"]["median"]  # null: the median run diverged


def test_a_baseline_that_diverged_is_compared_too_and_few_seeds_are_said() -> None:
    table = divergence(make_results({"baseline": [D, 4.3, 4.3], "other": [4.2, 4.2, D]}))
    found = {row["cell"]: row for row in table.to_dict("records")}
    assert found["baseline"]["verdict"] == "not tested"
    assert (found["other"]["better"], found["other"]["worse"]) == (2, 1)
    assert found["other"]["verdict"] == "cannot reject with 3 seeds (smallest p 0.25)"


def test_a_family_that_no_sign_test_can_reject_in_says_so() -> None:
    """Six seeds: the smallest p is 0.031, and by Holm the smallest of three must be 0.017 or less."""
    losses = {cell: values[:6] for cell, values in LOSSES.items()}
    found = {row["cell"]: row for row in divergence(make_results(losses)).to_dict("records")}
    assert found["lost"]["p_sign"] == 2 / 2**6
    assert found["lost"]["verdict"] == "cannot reject with 6 seeds (smallest p 0.0312, times 3 comparisons 0.0938)"
    plan = registered(losses, n=6, primary="lost")
    found = {row["cell"]: row for row in divergence(make_results(losses, plan=plan)).to_dict("records")}
    assert found["lost"]["verdict"] == "worse"  # alone at 5 %
    assert found["wild"]["verdict"] == "cannot reject with 6 seeds (smallest p 0.0312, times 2 comparisons 0.0625)"


LATE = [4.30, 4.31, 4.29, 4.30, 4.28, 4.31, 4.30, 4.32, 4.29]


@pytest.mark.parametrize(("primary", "counts"), [("wild", (3, 2, 0)), (None, (1, 3, 0))], ids=["primary", "other"])
def test_it_rests_on_the_seeds_that_the_plan_foresaw(primary: str | None, counts: tuple[int, ...]) -> None:
    """Five seeds were planned; the four that were added later must not decide what they were added for."""
    losses = {"baseline": LATE, "wild": [4.2, D, 4.2, D, 4.2, D, D, D, 4.2]}
    plan = registered(losses, primary=primary, amendments=[added("seeds", [5, 6, 7, 8], ended=10)])
    (row,) = divergence(make_results(losses, plan={**plan, "seeds": list(range(9))})).to_dict("records")
    assert (row["better"], row["worse"], row["tied"]) == counts
    assert row["p_sign"] == pytest.approx(stats.binomtest(counts[0], sum(counts)).pvalue)
    assert row["plan"] == ("primary" if primary else "exploratory: seeds were added after the plan")
    assert (row["runs"], row["diverged"]) == (9, 5)  # the rate is of all runs
    early = registered(losses, primary=primary, amendments=[added("seeds", [5, 6, 7, 8], ended=0)])
    (row,) = divergence(make_results(losses, plan={**early, "seeds": list(range(9))})).to_dict("records")
    assert (row["better"], row["worse"]) == (4, 5)  # nothing was known yet


def test_the_primary_comparison_is_tested_alone() -> None:
    losses = {**LOSSES, "wild": [D] * 7}
    plan = registered(losses, n=7, primary="lost")
    found = {row["cell"]: row for row in divergence(make_results(losses, plan=plan)).to_dict("records")}
    assert found["lost"]["p_holm"] == found["lost"]["p_sign"] == found["wild"]["p_sign"]
    assert found["wild"]["p_holm"] == 2 * found["wild"]["p_sign"]  # its family is `calm` and it


def test_in_a_race_it_is_exploratory_and_of_the_seeds_up_to_the_look() -> None:
    losses = {"baseline": LATE, "wild": [4.2, D, 4.2, 4.2, 4.2, 4.2, D, D, D]}
    plan = registered(losses, n=7, looks=(3, 5, 7), primary=None)
    (row,) = divergence(make_results(losses, plan={**plan, "seeds": list(range(7))})).to_dict("records")
    assert (row["better"], row["worse"]) == (5, 2)
    assert row["plan"] == "exploratory: the looks are not made for a sign test"


def test_where_more_is_better_diverged_runs_are_still_worst() -> None:
    results = make_results(LOSSES, plan={"metric": "val_accuracy", "direction": "max"})
    found = {row["cell"]: row for row in divergence(results).to_dict("records")}
    assert (found["wild"]["better"], found["wild"]["worse"], found["wild"]["tied"]) == (0, 2, 5)  # accuracies are equal


def test_the_report_has_the_rate_in_the_ranking_and_a_table_of_its_own() -> None:
    results = make_results(LOSSES)
    analysis = analyse(results)
    text = markdown(content(results, analysis), [])
    assert "| 2 of 7 [0.04, 0.71] |" in text
    assert "## Runs that diverged" in text
    assert analysis.ranking.set_index("cell")["rank"].isna()[["wild", "lost"]].all()
