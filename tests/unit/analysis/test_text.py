"""How figures look in words."""

from __future__ import annotations

import pytest

from analysis.text import duration, probability, spread


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (185, "3 min 5 s"), (3600, "1 h 0 min"), (7800, "2 h 10 min")],
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("p", "words"),
    [
        (0.5, "0.5000"), (0.00004, "< 0.0001"), (0.05, "0.0500"), (0.0499, "0.0499"),
        (0.04996, "0.04996"), (0.05004, "0.05004"), (0.0500000001, "0.0500000001"),
    ],
)  # fmt: skip
def test_a_p_beside_5_percent_shows_its_side(p: float, words: str) -> None:
    assert probability(p) == words


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.01234, "0.0123"),
        (0.00012345, "0.00012"),
        (0.0009, "0.00090"),
        (0.0, "0.0000"),
        (None, "\u2013"),
        (12.0, "12.0000"),
    ],
)
def test_a_spread_is_not_shown_as_none(value: float | None, words: str) -> None:
    assert spread(value) == words
