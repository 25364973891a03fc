"""How runs are laid over slots."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeps.engine.packing import schedule

SECONDS = st.lists(st.integers(1, 50), min_size=1, max_size=5)


@given(data=st.data(), seconds=SECONDS, slots=st.integers(1, 6))
def test_a_schedule_is_between_what_must_be_and_one_run_more(
    data: st.DataObject, seconds: list[int], slots: int
) -> None:
    order = data.draw(st.lists(st.integers(0, len(seconds) - 1), max_size=30))
    laid = schedule(order, [seconds] * slots)
    durations = [seconds[kind] for kind in order]
    assert laid.busy_seconds == sum(durations)
    longest = max(durations, default=0)
    assert max(sum(durations) / slots, longest) <= laid.seconds <= sum(durations) / slots + longest


def test_the_longest_first_leaves_no_slot_waiting() -> None:
    seconds = (1.0, 4.0)
    assert schedule([0, 0, 0, 0, 1], [seconds] * 2).seconds == 6.0
    assert schedule([1, 0, 0, 0, 0], [seconds] * 2).seconds == 4.0


def test_a_slower_slot_takes_fewer_runs() -> None:
    laid = schedule([0] * 4, [(1.0,), (3.0,)])
    assert (laid.seconds, laid.busy_seconds) == (pytest.approx(3.0), pytest.approx(6.0))


def test_nothing_takes_no_time() -> None:
    assert schedule([], [(1.0,)]).seconds == 0.0
