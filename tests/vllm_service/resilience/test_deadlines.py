"""A request's time shrinks with every attempt, and is never more than was granted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_service.errors import GatewayTimeout, InvalidRequest
from vllm_service.resilience.retry_schedule import DeadlineSettings, deadline

SETTINGS = DeadlineSettings(default_seconds=60, longest_seconds=120, reserve_seconds=10)


@pytest.mark.parametrize(("header", "seconds"), [(None, 60), ("1500", 1.5), ("999999999", 120)])
def test_it_comes_from_the_header_or_the_default_and_has_a_limit(header: str | None, seconds: float) -> None:
    assert deadline(header, SETTINGS, 100.0).left(100.0) == seconds


@pytest.mark.parametrize("header", ["0", "-1", "1.5", "ten", "", "1e3", "9" * 40, "١"])
def test_a_header_that_is_no_time_is_the_callers_error(header: str) -> None:
    with pytest.raises(InvalidRequest, match="x-request-timeout-ms"):
        deadline(header, SETTINGS, 0.0)


def test_each_attempt_gets_what_is_left_and_the_first_leaves_some_for_another() -> None:
    whole = deadline(None, SETTINGS, 100.0)
    first = whole.limits(5, 120, 100.0, is_last=False)
    assert (first.connect_seconds, first.first_byte_seconds, first.total_seconds) == (5, 50, 60)
    second = whole.limits(5, 120, 150.0, is_last=False)
    assert (second.connect_seconds, second.first_byte_seconds, second.total_seconds) == (5, 5, 10)
    last = whole.limits(5, 120, 157.0, is_last=True)
    assert (last.connect_seconds, last.first_byte_seconds, last.total_seconds) == (3, 3, 3)
    with pytest.raises(GatewayTimeout, match="60 s"):
        whole.limits(5, 120, 160.0, is_last=True)


@given(st.lists(st.floats(-1e6, 1e6), max_size=20), st.booleans())
def test_whatever_the_clock_does_no_attempt_gets_more_than_was_granted(jumps: list[float], is_last: bool) -> None:
    whole = deadline("5000", SETTINGS, 0.0)
    for now in jumps:
        if whole.left(now) > 0:
            limits = whole.limits(3, 4, now, is_last=is_last)
            assert 0 < limits.connect_seconds <= limits.first_byte_seconds <= limits.total_seconds <= 5


@pytest.mark.parametrize(
    ("header", "first_byte", "now", "is_last", "limits"),
    [
        (None, 30.0, 100.0, False, (True, True, True)),  # a stream in a request's whole time
        (None, float("inf"), 100.0, True, (True, False, True)),  # a whole answer in it
        (None, float("inf"), 140.0, True, (True, False, False)),  # other attempts have used most of it
        ("59999", float("inf"), 100.0, True, (True, False, False)),  # the caller has shortened it, if ever so little
        ("59999", 30.0, 100.0, True, (True, True, False)),
        ("3000", 30.0, 100.0, True, (False, False, False)),
        ("120000", float("inf"), 100.0, True, (True, False, True)),  # the caller grants more than the default
    ],
)
def test_an_attempt_knows_whether_a_limit_is_the_providers_own_or_its_requests(
    header: str | None, first_byte: float, now: float, is_last: bool, limits: tuple[bool, bool, bool]
) -> None:
    patience = deadline(header, SETTINGS, 100.0).limits(5, first_byte, now, is_last=is_last)
    assert (patience.connect_is_own, patience.first_byte_is_own, patience.is_whole) == limits
