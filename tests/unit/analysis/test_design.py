"""Fractional designs are the textbooks', and their analysis finds what can be found."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest

from analysis.errors import AnalysisError
from analysis.factors.factorial import ALIASED, main_effects
from analysis.factors.interactions import interactions
from analysis.factors.shapley import shapley
from analysis.statistics.design import STANDARD, Fraction, pair_sum, standard_fraction
from analysis.study.results import Results
from tests.fakes_results import make_results

LETTERS = "abcdefghijk"
TEXTBOOK = {
    6: ("abce bcdf adef", "ab=ce ac=be ad=ef ae=bc=df af=de bd=cf bf=cd"),
    7: ("abce bcdf acdg adef bdeg abfg cefg", "ab=ce=fg ac=be=dg ad=cg=ef ae=bc=df af=bg=de ag=bf=cd bd=cf=eg"),
    8: (
        "bcde acdf abcg abdh abef adeg aceh bdfg bcfh cdgh cefg defh begh afgh abcdefgh",
        "ab=cg=dh=ef ac=bg=df=eh ad=bh=cf=eg ae=bf=ch=dg af=be=cd=gh ag=bc=de=fh ah=bd=ce=fg",
    ),
}
"""Factors -> defining relation and aliased two-way interactions (Montgomery, Design and Analysis of Experiments, table
X), main effects being free of both."""


@pytest.mark.parametrize("k", TEXTBOOK)
def test_the_textbooks_aliases(k: int) -> None:
    fraction = standard_fraction(LETTERS[:k])
    words, aliases = TEXTBOOK[k]
    assert set(fraction.defining_relation()) == {frozenset(word) for word in words.split()}
    groups = {frozenset("".join(pair) for pair, _ in group) for group in fraction.aliased_pairs()}
    assert groups == {frozenset(group.split("=")) for group in aliases.split()}
    assert fraction.resolution == 4
    assert len(fraction.cells()) == 16


@pytest.mark.parametrize("k", STANDARD)
def test_every_standard_fraction_is_what_it_says(k: int) -> None:
    fraction = standard_fraction(LETTERS[:k])
    cells = fraction.cells()
    signs = pd.DataFrame(cells) * 2 - 1
    assert len({tuple(level.values()) for level in cells}) == len(cells) == 2 ** (k - len(STANDARD[k]))
    assert list(cells[0].values()) == [0] * k  # the baseline
    assert (signs.sum() == 0).all()
    for size in range(1, k + 1):
        for word in itertools.combinations(LETTERS[:k], size):
            product = signs[list(word)].prod(axis=1)
            constant = fraction.defining_relation().get(frozenset(word))
            assert (product == constant).all() if constant else product.sum() == 0
            assert constant is None or size >= fraction.resolution >= 4
    of_groups = [signs[a] * signs[b] * sign for group in fraction.aliased_pairs() for (a, b), sign in group]
    firsts = [signs[a] * signs[b] for group in fraction.aliased_pairs() for (a, b) in [group[0][0]] * len(group)]
    assert all((x == y).all() for x, y in zip(of_groups, firsts, strict=True))
    assert len(of_groups) == math.comb(k, 2)


def study(k: int, effect: dict[str, float], seeds: int = 4, noise: float = 0.001) -> Results:
    """Losses with effects and interactions: `{"a": 0.1, "ab": -0.2}` on levels 0 and 1."""
    fraction = standard_fraction(LETTERS[:k])
    rng = np.random.default_rng(k)
    levels = {"_".join(f for f, on in level.items() if on) or "baseline": level for level in fraction.cells()}
    losses = {
        cell: [
            5 + 0.1 * seed + sum(size * all(level[f] for f in word) for word, size in effect.items())
            + noise * rng.standard_normal()
            for seed in range(seeds)
        ]
        for cell, level in levels.items()
    }  # fmt: skip
    return make_results(losses, levels=levels, plan={"factorial": True, "fraction": fraction.to_json()})


@pytest.mark.parametrize("k", STANDARD)
def test_main_effects_are_free_of_two_way_interactions(k: int) -> None:
    table, notes = main_effects(study(k, {"a": 0.1, "bc": 0.2, "ae": 0.08}, noise=0.0))
    table = table.set_index("effect")
    truth = {"a": 0.1 + 0.08 / 2, "b": 0.1, "c": 0.1, "e": 0.04}
    for factor in LETTERS[:k]:
        assert table.loc[factor, "difference"] == pytest.approx(truth.get(factor, 0), abs=1e-12)
    found = {name: row["difference"] for name, row in table.iterrows() if row["kind"] != "main effect"}
    for name, value in found.items():
        names = str(name).replace(" + ", "|").replace(" - ", "|-").split("|")
        sign = {pair.lstrip("-"): -1 if pair.startswith("-") else 1 for pair in names}
        assert value == pytest.approx(0.2 * sign.get("b x c", 0) + 0.08 * sign.get("a x e", 0), abs=1e-12)
    assert not notes


def test_aliased_sums_have_their_kind_and_words() -> None:
    table, _ = main_effects(study(6, {"ab": -0.2}))
    row = table.set_index("effect").loc["a x b + c x e"]
    assert row["kind"] == ALIASED
    assert row["difference"] == pytest.approx(-0.2, abs=0.01)
    assert row["verdict"] == "better together than the sum: one or more of these"
    assert len(table) == 6 + 7
    assert table["family"].eq(13).all()
    assert table["pooled_df"].eq(15 * 3).all()


def test_no_shapley_values_and_no_interaction_plots_of_a_fraction() -> None:
    results = study(6, {"a": 0.1})
    assert shapley(results).empty
    assert interactions(results).empty


def test_a_missing_cell_of_the_fraction_is_named() -> None:
    results = study(6, {"a": 0.1})
    runs = results.runs[results.runs["cell"] != "a_e"]
    fewer = make_results(
        {str(cell): list(rows["val_loss"]) for cell, rows in runs.groupby("cell", sort=False)},
        levels={row["cell"]: {f: row[f] for f in LETTERS[:6]} for row in runs.to_dict("records")},
        plan=results.plan,
    )
    table, (note,) = main_effects(fewer)
    assert table.empty
    assert "1 of its cells are missing" in note


def test_in_words() -> None:
    lines = list(standard_fraction(("attention", "norm", "mlp", "moe", "bias", "gate")).describe())
    assert lines[0] == (
        "Fractional design 2^(6 - 2): 16 of 64 cells, resolution IV. Generated: bias = attention x norm x mlp; "
        "gate = norm x mlp x moe."
    )
    assert "attention x norm x mlp x bias" in lines[1]
    assert "attention x norm = mlp x bias" in lines[2]
    assert "attention x bias = norm x mlp = moe x gate" in lines[2]
    signed = list(standard_fraction(LETTERS[:9]).describe())
    assert "-f = b x c x d x e" in signed[0]
    assert pair_sum([(("a", "b"), 1), (("c", "d"), -1)]) == "a x b - c x d"
    half = Fraction(tuple("abcde"), {"e": ("a", "b", "c", "d")})
    assert half.resolution == 5
    assert "free of each other" in list(half.describe())[2]


def test_what_is_no_fraction() -> None:
    with pytest.raises(AnalysisError, match=r"resolution IV or more, but this one has 3: a x b x c is constant"):
        Fraction(tuple("abc"), {"c": ("a", "b")})
    with pytest.raises(AnalysisError, match=r"has 2: d x e is constant"):
        Fraction(tuple("abcde"), {"d": ("a", "b", "c"), "e": ("a", "b", "c")})
    with pytest.raises(AnalysisError, match=r"'x' is no factor"):
        Fraction(tuple("abc"), {"c": ("a", "x")})
    with pytest.raises(AnalysisError, match=r"not generated"):
        Fraction(tuple("abcdef"), {"e": ("a", "b", "c"), "f": ("a", "b", "e")})
    with pytest.raises(AnalysisError, match=r"for 6 to 11 factors, but got 5: with fewer, train the full grid"):
        standard_fraction("abcde")
    with pytest.raises(AnalysisError, match=r"must differ"):
        standard_fraction("aabcdef")
    with pytest.raises(AnalysisError, match=r"cannot be read"):
        Fraction.from_json({"factors": ["a"]})


def test_json_and_back() -> None:
    fraction = standard_fraction(LETTERS[:7])
    assert Fraction.from_json(fraction.to_json()) == fraction
