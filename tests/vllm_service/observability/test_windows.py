"""The last hour, the last day and all time, compared with a list of everything that ever happened."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.vllm_service.observability.records import COMPLETED, everything_in, record, tally_of
from vllm_service.domain.requests import RequestRecord
from vllm_service.observability.tally import Tally, combined
from vllm_service.observability.windows import SLOT_SECONDS, Windows

HOUR, DAY = 12, 288  # in slots
# (slots that pass, requests then): mostly a few, sometimes hours or days.
STEPS = st.lists(
    st.tuples(st.integers(0, 3) | st.sampled_from([11, 12, 13, 287, 288, 289, 3000]), st.integers(0, 3)), max_size=40
)


def taken_in(windows: Windows, number: int, cost_picousd: int = 7) -> list[RequestRecord]:
    records = [record(cost_picousd=cost_picousd)] * number
    windows.current.merge(tally_of(records))
    return records


def counts(windows: Windows) -> tuple[int, int, int]:
    """Requests of the last hour, the last day and all time."""
    hour, day, always = windows.last_hour(), windows.last_day(), windows.all_time()
    return combined(hour).requests, combined(day).requests, combined(always).requests


@pytest.mark.parametrize(
    ("begins_at", "passed", "expected"),
    [
        pytest.param(0, 0, (1, 1, 1), id="the same slot"),
        pytest.param(0, 1, (1, 1, 1), id="the next slot"),
        pytest.param(0, HOUR - 1, (1, 1, 1), id="the last slot of the hour"),
        pytest.param(0, HOUR, (0, 1, 1), id="an hour later"),
        # The day is counted in whole hours: from the first slot of an hour, 24 hours; from its last, 23 and a slot.
        pytest.param(0, DAY - 1, (0, 1, 1), id="the last slot of the day"),
        pytest.param(0, DAY, (0, 0, 1), id="a day later"),
        pytest.param(11, DAY - 12, (0, 1, 1), id="23 hours later, from the last slot of an hour"),
        pytest.param(11, DAY - 11, (0, 0, 1), id="23 hours and a slot later, from the last slot of an hour"),
        pytest.param(5, 1000 * DAY, (0, 0, 1), id="years later"),
    ],
)
def test_how_long_a_request_counts(begins_at: int, passed: int, expected: tuple[int, int, int]) -> None:
    windows = Windows(begins_at)
    taken_in(windows, 1)
    windows.turn(begins_at + passed)
    assert counts(windows) == expected


def test_a_slot_is_five_minutes() -> None:
    assert HOUR * SLOT_SECONDS == 3600


def test_what_ended_is_returned_once_and_the_present_is_empty() -> None:
    windows = Windows(3)
    taken_in(windows, 2)
    present = windows.current
    assert windows.turn(3).requests == 0, "the slot goes on"
    assert windows.current is present
    ended = windows.turn(4)
    assert everything_in(ended) == everything_in(tally_of([COMPLETED] * 2))
    assert everything_in(windows.current) == everything_in(Tally())
    assert windows.turn(5).requests == 0


def test_what_is_added_later_does_not_change_what_has_ended() -> None:
    windows = Windows(0)
    taken_in(windows, 1)
    ended = windows.turn(1)
    taken_in(windows, 5)
    windows.turn(2)
    assert (ended.requests, counts(windows)) == (1, (6, 6, 6))


@given(st.integers(0, 10_000), STEPS)
def test_windows_are_those_of_a_list_of_everything(begins_at: int, steps: list[tuple[int, int]]) -> None:
    windows, log, slot = Windows(begins_at), list[tuple[int, RequestRecord]](), begins_at
    returned = list[Tally]()
    for step, (passed, number) in enumerate(steps):
        slot += passed
        returned.append(windows.turn(slot))
        log += [(slot, one) for one in taken_in(windows, number, cost_picousd=10**18 + step)]
        naive_hour = [one for at, one in log if slot - at < HOUR]
        naive_day = [one for at, one in log if slot // HOUR - at // HOUR < DAY // HOUR]
        assert everything_in(combined(windows.last_hour())) == everything_in(tally_of(naive_hour))
        assert everything_in(combined(windows.last_day())) == everything_in(tally_of(naive_day))
        assert everything_in(combined(windows.all_time())) == everything_in(tally_of([one for _, one in log]))
    returned.append(windows.turn(slot + 1))
    assert everything_in(combined(returned)) == everything_in(tally_of([one for _, one in log]))


@given(st.lists(st.tuples(st.integers(-3000, 3000), st.integers(0, 3)), max_size=30))
def test_a_clock_that_jumps_loses_nothing_of_all_time(steps: list[tuple[int, int]]) -> None:
    windows, slot, total = Windows(0), 0, 0
    for passed, number in steps:
        slot += passed
        windows.turn(slot)
        total += len(taken_in(windows, number))
        hour, day, always = counts(windows)
        assert always == total
        assert number <= hour <= total
        assert number <= day <= total


def test_memory_is_bounded_however_long_it_runs() -> None:
    windows = Windows(0)
    for slot in range(3 * DAY):
        windows.turn(slot)
        taken_in(windows, 1)
    assert (len(windows.last_hour()), len(windows.last_day()), len(windows.all_time())) == (HOUR, 25, 2)
    assert counts(windows) == (HOUR, DAY, 3 * DAY)
