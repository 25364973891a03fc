"""The page about the published flaws: its estimates, its text and its figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from analysis.reporting.what_was_wrong import (
    ALONE,
    DIFFERENCE,
    LEAK_CURVES,
    LOSS,
    OVERVIEW,
    PUBLISHED,
    SCORE,
    SOUND,
    SPREAD,
    UNDONE,
    Demonstration,
    Quantity,
    spread,
    write_page,
)
from analysis.schema import TrialRecord


def runs(losses: Sequence[float], minutes: float = 1.0, params: int = 10**6) -> list[TrialRecord]:
    """Make one run a loss, with two evaluations each."""
    return [
        TrialRecord(
            study="s", cell="c", scale="cpu", factors={}, seed=seed, config_hash=f"{seed}", status="finished",
            rows=[
                {"step": 50, "val_loss": 2 * loss, "train_seconds": 30.0 * minutes, "params_total": params},
                {"step": 75, "val_loss": None, "train_seconds": 45.0 * minutes, "params_total": params},
                {"step": 100, "val_loss": loss, "train_seconds": 60.0 * minutes, "params_total": params},
            ],
        )
        for seed, loss in enumerate(losses)
    ]  # fmt: skip


def demonstration(quantity: Quantity, flaw: str = "leak.no_causal_mask", **conditions: Any) -> Demonstration:
    return Demonstration(
        flaw=flaw, explanation="Something was wrong.", study="exp6_grid", quantity=quantity, cell="attention",
        reference="baseline", updates=100, runs=conditions,
    )  # fmt: skip


LEAK = demonstration(
    DIFFERENCE,
    **{
        PUBLISHED: {"baseline": runs([4.0, 4.1, 4.2]), "attention": runs([1.0, 1.2, 1.1])},
        UNDONE: {"baseline": runs([4.0, 4.1, 4.2]), "attention": runs([3.9, 4.05, 4.2])},
        SOUND: {"baseline": runs([4.0, 4.1, 4.2]), "attention": runs([4.0, 4.1, 4.2])},
        ALONE: {"baseline": runs([4.0, 4.1, 4.2]), "attention": runs([2.0, 2.3, 2.1])},
    },
)


def test_a_difference_is_paired_by_seed() -> None:
    values = np.array([-3.0, -2.9, -3.1])
    mean, low, high = LEAK.estimate(PUBLISHED)
    reference = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (mean, low, high) == pytest.approx((values.mean(), reference.low, reference.high))


def test_what_a_flaw_is_worth_is_the_paired_change_of_the_quantity() -> None:
    worth = LEAK.worth(PUBLISHED, UNDONE)
    change = np.array([-3.0, -2.9, -3.1]) - np.array([-0.1, -0.05, 0.0])
    assert worth is not None
    assert worth[0] == pytest.approx(change.mean())
    assert worth[2] - worth[1] == pytest.approx(2 * stats.t.ppf(0.975, 2) * change.std(ddof=1) / math.sqrt(3))


def test_a_loss_is_the_last_evaluation_s_and_a_score_follows_its_formula() -> None:
    slow = runs([2.0, 4.0], minutes=2.0, params=5_000_000)
    both = {"baseline": runs([9.0, 9.0]), "attention": slow}
    assert demonstration(LOSS, published=both).values(PUBLISHED) == pytest.approx([2.0, 4.0])
    assert demonstration(SCORE, published=both).values(PUBLISHED) == pytest.approx([1 / 20, 1 / 40])


@given(st.lists(st.floats(-10, 10), min_size=3, max_size=12, unique=True))
def test_a_spread_lies_in_its_interval(values: list[float]) -> None:
    sd, low, high = spread(np.array(values))
    assert sd == pytest.approx(np.std(values, ddof=1))
    assert low <= sd <= high or sd == 0


def test_the_spread_s_interval_covers_what_it_promises() -> None:
    samples = np.random.default_rng(5).normal(0, 2.0, (4_000, 5))
    covered = [low <= 2.0 <= high for _, low, high in map(spread, samples)]
    assert 0.94 < np.mean(covered) < 0.96


def test_page_and_figures(tmp_path: Path) -> None:
    same = {"baseline": runs([4.0, 4.1, 4.2]), "attention": runs([4.0, 4.1, 4.2])}
    other = {"baseline": runs([4.0, 4.1, 4.2]), "attention": runs([4.05, 4.0, 4.3])}
    seeds = demonstration(SPREAD, "init.one_seed_for_all", published=other, undone=same, sound=same, alone=other)
    loss = demonstration(LOSS, "schedule.horizon_in_micro_steps", **LEAK.runs)
    duplicates = {"baseline": runs([2.0, 2.1, 2.2]), "moe": runs([2.1, 2.0, 2.2]), "mlp_moe": runs([2.0, 2.2, 2.1])}
    page = write_page([LEAK, seeds, loss], duplicates, "python make.py", tmp_path, "a machine")
    text = page.read_text()
    for flaw in ("leak.no_causal_mask", "init.one_seed_for_all", "schedule.horizon_in_micro_steps"):
        assert f"## `{flaw}`" in text
    assert "| published | \u22123.000 [" in text
    assert "0 in every seed" in text, "the spread of equal runs"
    assert "| moe | 2.1135 | +0.0543 |" in text, "printed loss and printed gap"
    assert "python make.py" in text
    for name in (OVERVIEW, LEAK_CURVES):
        assert (tmp_path / "images" / name).stat().st_size > 10_000
        assert f"images/{name}" in text
