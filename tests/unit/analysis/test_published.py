"""The published tables as data."""

from __future__ import annotations

import itertools

import pytest

from analysis.errors import AnalysisError
from analysis.published import FOLDER, PublishedTable, load_published, published_studies
from analysis.published.derived import EFFECT_SIZE, FORMULAS, TIMES_LOWER

TABLES = {study: load_published(study) for study in published_studies()}


@pytest.mark.parametrize("table", TABLES.values(), ids=str)
def test_a_table_is_whole_and_ranked_by_its_loss(table: PublishedTable) -> None:
    assert [row.rank for row in table.rows] == list(range(1, len(table.rows) + 1))
    losses = [row.val_loss.value for row in table.rows]
    assert losses == sorted(losses)
    assert len(table.by_variant) == len(table.rows) == len({row.cell for row in table.rows})
    assert table.by_variant["baseline"].really == "baseline"
    for claim in table.claims:
        assert claim.figure in (*FORMULAS, EFFECT_SIZE)
        assert {claim.variant, claim.against} <= set(table.by_variant)


def test_rows_of_the_six_studies() -> None:
    assert {study: len(table.rows) for study, table in TABLES.items()} == {
        "exp1_attention_768d": 3,
        "exp1_components_512d": 5,
        "exp3_rmsnorm": 2,
        "exp4_mlp": 2,
        "exp5_moe": 2,
        "exp6_grid": 12,
    }


def test_a_row_is_typed() -> None:
    row = TABLES["exp1_attention_768d"].by_variant["enhanced"]
    assert (row.rank, row.cell, row.really, row.params_total) == (3, "enhanced", "baseline", 444_821_504)
    assert (row.val_loss.value, row.val_accuracy.value, row.val_perplexity.value) == (6.4035, 0.1654, 603.95)
    assert row.train_minutes.text == "1.20"
    assert row.peak_memory_gb is not None
    assert row.peak_memory_gb.value == 16.53
    assert row.loss_per_million_params is not None
    assert row.loss_per_million_params.text == "0.0144"
    assert row.efficiency_score is None
    assert row.final_step_train_loss is None
    final = TABLES["exp5_moe"].by_variant["deepseek_moe"].final_step_train_loss
    assert final is not None
    assert final.value == 2.1578


def test_a_printed_number_stands_for_all_that_round_to_it() -> None:
    row = TABLES["exp6_grid"].by_variant["rmsnorm_mlp"]
    assert row.train_minutes.text == "0.50"
    assert row.train_minutes.interval == (0.495, 0.505)
    assert row.val_loss.interval == (2.20575, 2.20585)
    assert TABLES["exp6_grid"].claims[0].value.interval == (66.5, 67.5)


def test_exp6_s_twelve_names_were_seven_architectures() -> None:
    rows = TABLES["exp6_grid"].by_variant
    assert len({row.really for row in rows.values()}) == 7
    assert {name for name, row in rows.items() if row.really == "baseline"} == {"baseline", "moe", "mlp_moe"}
    assert {name for name, row in rows.items() if row.really == "rmsnorm"} == {"rmsnorm", "rmsnorm_moe"}
    assert {name for name, row in rows.items() if row.really == "attention"} == {"attention", "attention_moe"}
    assert rows["all_components"].really == rows["attention_rmsnorm"].really == "attention_rmsnorm"
    assert rows["all_components"].cell == "attention_rmsnorm_moe"
    assert {name for name, row in rows.items() if row.cell != name} == {"all_components"}


def test_one_architecture_has_one_printed_size() -> None:
    """Except in the 768d study, whose sizes are of models that were not trained."""
    for study, table in TABLES.items():
        if study != "exp1_attention_768d":
            sizes = {(row.really, row.params_total) for row in table.rows if row.really}
            assert len(sizes) == len({really for really, _ in sizes}), study


def test_67_is_the_best_against_the_worst_and_no_other_pair() -> None:
    table = TABLES["exp6_grid"]
    formula, losses = FORMULAS[TIMES_LOWER], {row.variant: row.val_loss.value for row in table.rows}
    pairs = {
        (one, other)
        for one, other in itertools.permutations(losses, 2)
        if round(formula.value({"loss": losses[one], "other": losses[other]})) == 67
    }
    assert pairs == {("attention_rmsnorm", "mlp")} == {(table.rows[0].variant, table.rows[-1].variant)}


def test_the_beginning_of_a_name_is_enough() -> None:
    assert load_published("exp6").study == "exp6_grid"
    assert load_published("exp1_c").study == "exp1_components_512d"


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("exp1", ["'exp1' may be exp1_attention_768d or exp1_components_512d"]),
        ("epx6", ["no published table of 'epx6'", "did you mean 'exp6'", "exp4_mlp"]),
        ("exp6_gird", ["did you mean 'exp6_grid'"]),
        ("significance", ["no published table of 'significance': there are those of exp1_attention_768d"]),
        ("claims", ["no published table of 'claims'"]),
        ("", ["no published table of ''"]),
    ],
)
def test_a_name_that_says_nothing(name: str, parts: list[str]) -> None:
    with pytest.raises(AnalysisError) as error:
        load_published(name)
    assert "\n" not in str(error.value)
    for part in parts:
        assert part in str(error.value)


def test_the_tables_are_packaged() -> None:
    pyproject = (FOLDER.parent.parent / "pyproject.toml").read_text()
    assert '"published/*.csv"' in pyproject
