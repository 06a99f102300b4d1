"""Intervals on a stretch of time, compared with counting every microsecond one by one."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_service.accounting.timeline import Timeline

Interval = tuple[int, int]
INTERVALS = st.lists(
    st.tuples(st.integers(-5, 40), st.integers(0, 20)).map(lambda pair: (pair[0], pair[0] + pair[1])), max_size=8
).map(sorted)


@pytest.mark.parametrize(
    ("intervals", "busy", "gaps"),
    [
        # On 0 to 100 in each case.
        pytest.param([], 0, [(100, None)], id="nothing"),
        pytest.param([(0, 100)], 100, [], id="all of it"),
        pytest.param([(-50, 150)], 100, [], id="more than all of it"),
        pytest.param([(20, 50)], 30, [(20, None), (50, 0)], id="in the middle"),
        pytest.param([(0, 30), (30, 100)], 100, [], id="one after the other"),
        pytest.param([(0, 30), (31, 100)], 99, [(1, 0)], id="a microsecond between them"),
        pytest.param([(10, 90), (20, 30)], 80, [(10, None), (10, 0)], id="one within another"),
        pytest.param([(10, 30), (20, 40)], 30, [(10, None), (60, 1)], id="overlapping"),
        # Both end at 30: the later one in order kept the worker up.
        pytest.param([(10, 30), (20, 30)], 20, [(10, None), (70, 1)], id="ending together"),
        pytest.param([(-20, -10), (50, 60)], 10, [(50, None), (40, 1)], id="ended before it began"),
        pytest.param([(-20, 0)], 0, [(100, None)], id="ended as it began"),
        pytest.param([(100, 120)], 0, [(100, None)], id="began as it ended"),
        pytest.param([(150, 160)], 0, [(100, None)], id="began after it ended"),
        pytest.param([(50, 50)], 0, [(100, None)], id="without length"),
        pytest.param([(10, 20), (40, 40)], 10, [(10, None), (80, 0)], id="one without length keeps nothing up"),
    ],
)
def test_what_is_covered_and_what_is_not_by_hand(
    intervals: list[Interval], busy: int, gaps: list[tuple[int, int | None]]
) -> None:
    timeline = Timeline(intervals, 0, 100)
    assert (timeline.busy_us, timeline.idle_us) == (busy, 100 - busy)
    assert list(timeline.gaps()) == gaps


@pytest.mark.parametrize(
    ("intervals", "shares"),
    [
        pytest.param([(20, 50)], [30], id="alone"),
        pytest.param([(20, 50), (20, 50)], [15, 15], id="twice the same"),
        # 10 alone, then 10 shared by two, then 10 alone.
        pytest.param([(10, 30), (20, 40)], [15, 15], id="overlapping"),
        # 10 to 20 alone, 20 to 30 shared, 30 to 90 alone.
        pytest.param([(10, 90), (20, 30)], [75, 5], id="one within another"),
        pytest.param([(-50, 50), (0, 100)], [25, 75], id="one that began before the stretch"),
        pytest.param([(50, 50), (50, 60)], [0, 10], id="one without length"),
    ],
)
def test_shares_by_hand(intervals: list[Interval], shares: list[int]) -> None:
    timeline = Timeline(intervals, 0, 100)
    unit = Fraction(sum(timeline.shares), sum(shares))
    assert [share / unit for share in timeline.shares] == shares


def covering(intervals: list[Interval], microsecond: int) -> list[int]:
    return [number for number, (start, stop) in enumerate(intervals) if start <= microsecond < stop]


@given(INTERVALS, st.integers(0, 10), st.integers(0, 30))
def test_busy_idle_and_shares_are_those_of_every_microsecond_looked_at(
    intervals: list[Interval], begin: int, length: int
) -> None:
    timeline = Timeline(intervals, begin, begin + length)
    exact = [Fraction(0)] * len(intervals)
    busy = 0
    for microsecond in range(begin, begin + length):
        here = covering(intervals, microsecond)
        busy += bool(here)
        for number in here:
            exact[number] += Fraction(1, len(here))
    assert (timeline.busy_us, timeline.idle_us) == (busy, length - busy)
    # Thirds have no exact share; each of at most 16 stretches is rounded down by less than a 2^20th.
    for share, part in zip(timeline.shares, exact, strict=True):
        assert 0 <= part - Fraction(share, 1 << 20) < Fraction(16, 1 << 20)


@given(INTERVALS, st.integers(0, 10), st.integers(0, 30))
def test_gaps_are_the_uncovered_stretches_and_name_what_ended_as_they_began(
    intervals: list[Interval], begin: int, length: int
) -> None:
    end = begin + length
    uncovered = [moment for moment in range(begin, end) if not covering(intervals, moment)]
    starts = [moment for moment in uncovered if moment - 1 not in uncovered]
    expected: list[tuple[int, int | None]] = []
    for start in starts:
        stop = next(moment for moment in range(start, end + 1) if moment not in uncovered)
        ended = [
            number
            for number, (began, ended_at) in enumerate(intervals)
            if ended_at == start and began < ended_at and start > begin
        ]
        expected.append((stop - start, ended[-1] if ended else None))
    assert list(Timeline(intervals, begin, end).gaps()) == expected


@given(INTERVALS, st.integers(-(10**15), 10**15))
def test_a_timeline_is_the_same_at_another_time(intervals: list[Interval], by: int) -> None:
    here = Timeline(intervals, 0, 40)
    there = Timeline([(start + by, stop + by) for start, stop in intervals], by, 40 + by)
    assert (here.shares, here.busy_us, list(here.gaps())) == (there.shares, there.busy_us, list(there.gaps()))
