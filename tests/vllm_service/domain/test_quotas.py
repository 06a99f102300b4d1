"""What a minute, a day and a month are to a limit: UTC, whatever the calendar does."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_service.domain.quotas import (
    ADDRESS_REQUESTS_PER_SECOND,
    ADDRESS_WINDOW,
    KEY_WINDOW,
    Limit,
    RateWindow,
    seconds_to_next_day,
    seconds_to_next_month,
    try_again,
    utc_day,
    utc_month,
)

MOMENTS = st.datetimes(datetime(1970, 1, 1), datetime(2400, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001,RUF100


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("moment", "day", "month", "to_day", "to_month"),
    [
        # (year, month) is counted as 12 x year + month - 1.
        pytest.param("1970-01-01T00:00:00", 0, 1970 * 12, 86_400, 31 * 86_400, id="the first moment"),
        pytest.param("1970-01-01T23:59:59", 0, 1970 * 12, 1, 31 * 86_400 - 86_399, id="a second before midnight"),
        pytest.param("1970-01-02T00:00:00", 1, 1970 * 12, 86_400, 30 * 86_400, id="midnight belongs to the new day"),
        pytest.param("2026-12-31T23:59:59.5", 20_818, 2026 * 12 + 11, 0.5, 0.5, id="half a second before a new year"),
        pytest.param("2027-01-01T00:00:00", 20_819, 2027 * 12, 86_400, 31 * 86_400, id="new year"),
        pytest.param("2027-02-28T12:00:00", 20_877, 2027 * 12 + 1, 43_200, 43_200, id="the end of a short month"),
        pytest.param("2028-02-28T12:00:00", 21_242, 2028 * 12 + 1, 43_200, 86_400 + 43_200, id="a leap year"),
        pytest.param("2028-02-29T00:00:00", 21_243, 2028 * 12 + 1, 86_400, 86_400, id="the leap day"),
        pytest.param("2100-02-28T00:00:00", 47_540, 2100 * 12 + 1, 86_400, 86_400, id="a century has no leap day"),
        pytest.param("2000-02-28T00:00:00", 11_015, 2000 * 12 + 1, 86_400, 2 * 86_400, id="every fourth century has"),
    ],
)
def test_days_and_months_by_hand(moment: str, day: int, month: int, to_day: float, to_month: float) -> None:
    now = at(moment)
    assert (utc_day(now), utc_month(utc_day(now))) == (day, month)
    assert (seconds_to_next_day(now), seconds_to_next_month(now)) == (to_day, to_month)


@given(MOMENTS)
def test_the_next_day_and_the_next_month_begin_when_the_wait_is_over(moment: datetime) -> None:
    moment = moment.replace(microsecond=0)  # a float holds the seconds exactly
    now = moment.timestamp()
    day, month = utc_day(now), utc_month(utc_day(now))
    assert month == moment.year * 12 + moment.month - 1
    assert datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=day) <= moment
    next_day, next_month = now + seconds_to_next_day(now), now + seconds_to_next_month(now)
    assert (utc_day(next_day), utc_day(next_day - 1)) == (day + 1, day)
    assert utc_month(utc_day(next_month)) == month + 1
    assert utc_month(utc_day(next_month - 1)) == month
    assert now < next_day <= next_month


def test_a_clock_before_1970_has_days_too() -> None:
    assert (utc_day(-1), utc_month(-1), seconds_to_next_day(-1)) == (-1, 1969 * 12 + 11, 1)


@pytest.mark.parametrize(
    ("window", "length_ms", "lifetime_ms"),
    [
        # A bucket counts until all of it is older than the window: one bucket longer than the window is.
        (KEY_WINDOW, 60_000, 61_000),
        (ADDRESS_WINDOW, 1_000, 1_050),
        (RateWindow(buckets=1, bucket_ms=1), 1, 2),
    ],
)
def test_a_bucket_counts_for_the_window_and_the_time_that_it_filled(
    window: RateWindow, length_ms: int, lifetime_ms: int
) -> None:
    assert (window.buckets * window.bucket_ms, window.lifetime_ms) == (length_ms, lifetime_ms)


def test_an_address_may_ask_fifty_times_a_second() -> None:
    assert ADDRESS_REQUESTS_PER_SECOND == 50


def test_limits_keep_the_order_in_which_the_scripts_number_them() -> None:
    assert [limit.value for limit in Limit] == [
        "requests_per_minute",
        "address_requests_per_second",
        "requests_per_day",
        "tokens_per_day",
        "tokens_per_month",
        "usd_per_month",
        "concurrent_requests",
        "organisation_concurrent_requests",
    ]


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.001, "0.1"), (0.04, "0.1"), (0.1, "0.1"), (0.7, "0.7"), (1.0, "1.0"), (59.91, "60.0"), (3600, "3,600.0")],
)
def test_a_wait_is_shown_in_tenths_rounded_up_and_never_as_none(seconds: float, shown: str) -> None:
    assert try_again(seconds) == f"try again in {shown} s"
