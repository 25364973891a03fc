"""How runs are laid over slots, and how many share a device."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeps.engine.packing import Measured, Packing, choose_packing, levels, schedule

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


@st.composite
def measurements(draw: st.DrawFn) -> tuple[list[Measured], list[int]]:
    """Kinds of devices, each measured at some numbers of runs at a time, and runs of up to three kinds."""
    kinds = draw(st.integers(1, 3))
    seconds = st.lists(st.integers(1, 40), min_size=kinds, max_size=kinds)
    devices = [
        Measured(
            count=draw(st.integers(1, 3)),
            free_bytes=draw(st.one_of(st.none(), st.integers(10, 100))),
            run_bytes=draw(st.integers(1, 10)),
            run_seconds={1: draw(seconds), **draw(st.dictionaries(st.integers(2, 12), seconds))},
        )
        for _ in range(draw(st.integers(1, 2)))
    ]
    return devices, draw(st.lists(st.integers(0, kinds - 1), min_size=1, max_size=20))


def ends(devices: list[Measured], order: list[int], together: int) -> float:
    slots = [device.run_seconds[together] for device in devices for _ in range(device.count)] * together
    return schedule(order, slots).seconds


@given(measurements())
def test_no_packing_exceeds_memory_or_ends_later_than_another_that_was_measured(
    measured: tuple[list[Measured], list[int]],
) -> None:
    devices, order = measured
    packing = choose_packing(devices, order)
    for device in devices:
        assert device.free_bytes is None or packing.together * device.run_bytes <= device.free_bytes
    fitting = min(device.fitting for device in devices)
    for together in set.intersection(*(set(device.run_seconds) for device in devices)):
        if together <= fitting:
            assert packing.schedule.seconds <= ends(devices, order, together)
            if packing.schedule.seconds == ends(devices, order, together):
                assert packing.together <= together, "of equals the fewest"
    assert packing.together * packing.share <= 1
    assert int(1 / packing.share + 1e-9) == packing.together, "Ray fits as many as were chosen"


@given(measurements(), st.integers(1, 30))
def test_no_more_run_at_a_time_than_were_asked_for(measured: tuple[list[Measured], list[int]], limit: int) -> None:
    devices, order = measured
    packing = choose_packing(devices, order, limit)
    for together, laid in packing.schedules.items():
        slots = min(limit, together * sum(device.count for device in devices))
        assert laid.busy_seconds <= slots * laid.seconds + 1e-9


@given(st.integers(1, 100))
def test_all_shares_fit_on_a_gpu_and_no_more(together: int) -> None:
    share = Packing(together=together, run_bytes=1, schedules={}).share
    assert share >= 0.01
    assert together * share <= 1 < (together + 1) * share


def test_more_at_a_time_that_only_take_turns_are_not_taken() -> None:
    turns = Measured(count=1, free_bytes=None, run_bytes=1, run_seconds={1: (5.0,), 2: (10.0,), 4: (20.0,)})
    assert choose_packing([turns], [0] * 8).together == 1


def test_the_densest_is_not_the_soonest() -> None:
    device = Measured(
        count=1, free_bytes=100, run_bytes=10, run_seconds={1: (5.0,), 2: (6.0,), 4: (13.0,), 10: (40.0,)}
    )
    packing = choose_packing([device], [0] * 20)
    assert packing.together == 2
    assert {together: laid.seconds for together, laid in packing.schedules.items()} == {1: 100, 2: 60, 4: 65, 10: 80}


def test_unequal_gpus_take_as_many_as_the_smallest_holds_and_the_fast_one_more_of_the_runs() -> None:
    large = Measured(count=1, free_bytes=80, run_bytes=10, run_seconds={1: (1.0,), 2: (1.0,), 4: (1.0,)})
    small = Measured(count=1, free_bytes=25, run_bytes=10, run_seconds={1: (3.0,), 2: (3.0,), 4: (3.0,)})
    packing = choose_packing([large, small], [0] * 8)
    assert packing.together == 2
    assert packing.schedule.seconds == 3.0  # six runs on the large one, two on the small


@pytest.mark.parametrize(
    ("most", "tried"), [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (8, [1, 2, 4, 8]), (10, [1, 2, 4, 8, 10])]
)
def test_what_is_tried_doubles_up_to_the_most(most: int, tried: list[int]) -> None:
    assert levels(most) == tried
