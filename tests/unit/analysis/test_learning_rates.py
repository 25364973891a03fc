"""Titles and leads say whether differences are claims about components; what no plan registers says so, too."""

from __future__ import annotations

from typing import Any

import pytest

from analysis.figures import plots
from analysis.reporting import render
from analysis.study.results import Results
from analysis.summary import COLUMNS, Analysis, analyse
from tests.fakes_plan import registered
from tests.fakes_results import make_results

LOSSES = {
    "baseline": [4.300, 4.320, 4.290, 4.310, 4.330],
    "attention": [4.281, 4.299, 4.268, 4.296, 4.311],
    "mlp": [4.330, 4.345, 4.325, 4.335, 4.368],
}


LEVELS = {cell: {"attention": int(cell == "attention"), "mlp": int(cell == "mlp")} for cell in LOSSES}


def analysed(plan: dict[str, Any]) -> tuple[Results, Analysis]:
    entries = [{**entry, "factors": LEVELS[entry["name"]]} for entry in plan.get("cells", ())]
    results = make_results(LOSSES, levels=LEVELS, plan={**plan, "cells": entries} if entries else plan)
    return results, analyse(results)


@pytest.mark.parametrize(
    ("plan", "title", "sentence"),
    [
        (registered(tuple(LOSSES)), ", at one learning rate", "differences between settings, not claims about"),
        (registered(tuple(LOSSES), tuned=True), ", learning rates tuned", "these differences are claims about compon"),
        ({}, "", None),
    ],
)
def test_titles_and_leads_say_what_differences_are_claims_about(
    plan: dict[str, Any], title: str, sentence: str | None
) -> None:
    results, analysis = analysed(plan)
    figure = plots.contributions_figure(results, analysis)
    assert figure is not None
    assert figure.texts[0].get_text() == f"What each component contributes{title}"
    made = render.content(results, analysis)
    document = render.markdown(made, ["contributions", "differences", "ranking"])
    assert f"![Contribution of each component with intervals{title}](contributions.png)" in document
    assert "![Difference of each cell from the baseline with intervals](differences.png)" in document
    for section in ("Against the baseline", "Components, one at a time"):
        lead = document.split(f"\n## {section}\n\n")[1].partition("\n")[0]
        assert ("claims about components" in lead) == (sentence is not None)
        assert sentence is None or sentence in lead
    said = [remark for remark in made.remarks if "claims about components" in remark]
    assert len(said) == (sentence is not None)


def test_effect_sizes_of_pairs_are_shown_and_say_what_they_depend_on() -> None:
    results, analysis = analysed(registered(tuple(LOSSES)))
    table = render.content(results, analysis).tables["comparisons"]
    place = table.headers.index("d_z [95 %], depends on the pairing")
    row = analysis.comparisons.iloc[0]
    assert table.rows[0][place] == f"{row['d_z']:+.2f} [{row['d_z_low']:+.2f}, {row['d_z_high']:+.2f}]".replace(
        "-", "\u2212"
    )
    assert "not comparable with unpaired studies" in dict(table.meaning)[table.headers[place]]


def test_what_no_plan_registers_is_called_exploratory() -> None:
    ranking = COLUMNS["ranking"]
    assert all("exploratory" in ranking[column] for column in ("p_best", "rank_low", "rank_high", "groups"))
    chances = [words for column, words in COLUMNS["pareto"].items() if column.endswith("_p_front")]
    assert len(chances) == 4
    assert all("exploratory" in words for words in chances)
    assert "Exploratory" in render.SECTIONS["pareto"][1]
