"""Derived figures against their formulas, over what rounding hides."""

from __future__ import annotations

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from analysis.published import Printed, load_published, published_studies
from analysis.published.derived import CHANGE, EFFICIENCY, FORMULAS, LOSS_PER_MILLION, PERPLEXITY, Derived, derive


def figure(study: str, variant: str, name: str, remark: str = "") -> Derived:
    found = [
        item
        for item in derive(load_published(study))
        if (item.variant, item.figure, item.remark) == (variant, name, remark)
    ]
    return found[0]


def test_the_printed_efficiency_of_attention_mlp_is_not_its_formula_s() -> None:
    item = figure("exp6_grid", "attention_mlp", EFFICIENCY)
    assert item.value == pytest.approx(2.71, abs=0.005)
    # 1 / (0.655 x 0.03645 x 15.585472) and 1 / (0.645 x 0.03635 x 15.585472)
    assert item.interval == pytest.approx((2.68745, 2.73663), abs=2e-5)
    assert item.printed == Printed("0.056")
    assert not item.follows


@pytest.mark.parametrize(
    ("variant", "value", "printed"),
    [
        ("attention_rmsnorm", 0.615, "0.019"),
        ("attention_moe", 0.624, "0.020"),
        ("rmsnorm_mlp", 0.0576, "0.007"),
        ("mlp", 0.0539, "0.006"),
    ],
)
def test_nor_is_any_other(variant: str, value: float, printed: str) -> None:
    item = figure("exp6_grid", variant, EFFICIENCY)
    assert item.value == pytest.approx(value, rel=2e-3)
    assert item.printed == Printed(printed)
    assert not item.follows


def test_nothing_else_in_any_table_breaks_its_formula() -> None:
    """Over all tables: the five printed efficiencies, and the 0.8 % that exp5's report gives for exp3."""
    wrong = {
        (study, item.variant, item.figure, item.remark)
        for study in published_studies()
        for item in derive(load_published(study))
        if not item.follows
    }
    names = ("attention_mlp", "attention_rmsnorm", "attention_moe", "rmsnorm_mlp", "mlp")
    assert wrong == {
        *(("exp6_grid", name, EFFICIENCY, "") for name in names),
        ("exp3_rmsnorm", "deepseek_rmsnorm", CHANGE, "in exp5's report"),
    }


def test_percentages() -> None:
    own = figure("exp3_rmsnorm", "deepseek_rmsnorm", CHANGE, "in its own report")
    assert own.value == pytest.approx(-2.3989, abs=1e-4)  # 100 (2.0058 / 2.0551 - 1)
    assert own.follows
    assert figure("exp5_moe", "deepseek_moe", CHANGE).value == pytest.approx(-33.06, abs=0.005)
    assert figure("exp6_grid", "moe", CHANGE).value == pytest.approx(2.637, abs=0.001)


def test_loss_per_million_parameters() -> None:
    item = figure("exp1_attention_768d", "lora", LOSS_PER_MILLION)
    assert item.value == pytest.approx(6.4031 / 427.605504)
    assert item.printed == Printed("0.0150")
    assert item.follows


def test_rounding_is_allowed_for_and_no_more() -> None:
    """exp(0.0364) = 1.03707 prints as 1.0371; 1.0370 is right only because the loss is rounded too."""
    item = figure("exp6_grid", "attention_mlp", PERPLEXITY)
    assert item.printed == Printed("1.0370")
    assert round(item.value, 4) == 1.0371
    assert item.follows
    low, high = item.interval
    assert (low, high) == pytest.approx((math.exp(0.03635), math.exp(0.03645)))
    for text, follows in (("1.0371", True), ("1.0372", False), ("1.0369", False)):
        other = Derived(
            variant="a", figure=PERPLEXITY, against=None, value=item.value, interval=(low, high), printed=Printed(text)
        )
        assert other.follows is follows, text


positive = st.floats(0.01, 20)


@given(loss=positive, other=positive, minutes=positive, million=st.floats(0.1, 500), decimals=st.integers(2, 6))
@example(loss=0.1484375, other=9.0, minutes=1.0, million=1.0, decimals=6)  # the very end of what rounds to it
def test_what_was_computed_and_then_rounded_always_follows(
    loss: float, other: float, minutes: float, million: float, decimals: int
) -> None:
    exact = {"loss": loss, "other": other, "minutes": minutes, "million": million}
    printed = {name: Printed(f"{value:.{decimals}f}") for name, value in exact.items()}
    if any(number.interval[0] <= 0 for number in printed.values()):
        return
    for name, formula in FORMULAS.items():
        value = formula.value(exact)
        low, high = formula.interval({key: number.interval for key, number in printed.items()})
        rounding = 1e-9 * (1 + abs(value))
        assert low - rounding <= value <= high + rounding, name
        item = Derived(
            variant="a",
            figure=name,
            against=None,
            value=value,
            interval=(low, high),
            printed=Printed(f"{value:.{decimals}f}"),
        )
        assert item.follows, name


def test_a_missing_or_senseless_input_gives_no_figure() -> None:
    formula = FORMULAS[EFFICIENCY]
    assert formula.value({"minutes": 2.0, "loss": 0.5, "million": 4.0}) == 0.25
    for bad in (math.nan, 0.0, -1.0):
        assert math.isnan(formula.value({"minutes": bad, "loss": 0.5, "million": 4.0}))
