"""Search spaces from the command line: what is read, and the one line that refuses the rest."""

from __future__ import annotations

import pytest

from moe_models.errors import ConfigError
from sweeps.engine.space import DEFAULT_SPACE, Axis, parse_space, space_to_json


def test_the_default_space_covers_decades_around_the_defaults() -> None:
    for axis, default in zip(parse_space(DEFAULT_SPACE), (0.01, 0.001), strict=True):
        assert axis.log
        assert axis.low * 9 < default < axis.high / 9


def test_a_space_is_read_with_its_scales() -> None:
    assert space_to_json(parse_space("muon_learning_rate=1e-3:0.1, warmup_fraction=0:0.5")) == {
        "muon_learning_rate": {"low": 0.001, "high": 0.1, "log": True},
        "warmup_fraction": {"low": 0.0, "high": 0.5, "log": False},
    }


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("muon_learning_rate", "'muon_learning_rate' has no range"),
        ("muon_learning_rate=0.1", "has no range"),
        ("muon_learning_rate=a:b", "has no range"),
        ("muon_learning_rate=1:2:3", "has no range"),
        ("muon_learning_rate=0.1:0.1", "the lower end must be below the upper one"),
        ("muon_learning_rate=0.1:0.01", "the lower end must be below the upper one"),
        ("muon_learning_rate=0:0.1", "the lower end must be > 0"),
        ("muon_learning_rate=0.1:inf", "must have finite ends"),
        ("warmup_fraction=0:1.5", "in \\[0, 1\\]"),
        ("muon_learning_rat=0.1:1", "did you mean 'muon_learning_rate'"),
        ("muon_learning_rate=0.1:1,muon_learning_rate=0.1:2", "names 'muon_learning_rate' twice"),
        ("", "empty name"),
    ],
)
def test_a_space_that_cannot_be_searched_is_one_line(text: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint) as error:
        parse_space(text)
    assert "\n" not in str(error.value)


def test_an_axis_ends_exactly_at_its_ends() -> None:
    axis = Axis(name="muon_learning_rate", low=3e-4, high=0.3)
    assert [axis.at(0), axis.at(1)] == [3e-4, 0.3]
    assert axis.at(0.5) == pytest.approx((3e-4 * 0.3) ** 0.5)
    assert Axis(name="warmup_fraction", low=0.1, high=0.3).at(0.5) == pytest.approx(0.2)


@pytest.mark.parametrize("axis", [*parse_space(DEFAULT_SPACE), Axis(name="warmup_fraction", low=0.1, high=0.3)])
def test_a_share_of_an_axis_is_where_its_value_lies(axis: Axis) -> None:
    shares = [0, 0.25, 0.5, 1]
    assert [axis.share(axis.at(share)) for share in shares] == pytest.approx(shares)
