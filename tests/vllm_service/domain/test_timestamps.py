"""Moments as text and back: RFC 3339, in UTC."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_service.domain.timestamps import rfc3339, utc_seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        pytest.param("1970-01-01", 0.0, id="a date is its first moment"),
        pytest.param("1970-01-02T00:00:00", 86_400.0, id="without a zone it is UTC"),
        pytest.param("1970-01-01T00:00:00Z", 0.0, id="Z"),
        pytest.param("1970-01-01T02:00:00+02:00", 0.0, id="east of Greenwich"),
        pytest.param("1969-12-31T19:30:00-04:30", 0.0, id="west of Greenwich"),
        pytest.param("1970-01-01 00:00:01", 1.0, id="a space for the T"),
        pytest.param("1970-01-01T00:00:00.250Z", 0.25, id="milliseconds"),
        pytest.param("1970-01-01T00:00:00.000001Z", 0.000001, id="microseconds"),
        pytest.param("1969-12-31T23:59:59Z", -1.0, id="before 1970"),
        pytest.param("2028-02-29T00:00:00Z", 21_243 * 86_400.0, id="a leap day"),
        pytest.param("2027-01-01T00:00:00Z", 1_798_761_600.0, id="a new year"),
    ],
)
def test_text_is_seconds_since_1970(text: str, seconds: float) -> None:
    assert utc_seconds(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "now", "2027-02-29", "2027-13-01", "27-01-01", "2027-01-01T25:00", "1798761600", "2027-01-01T00:00Z0"]
)
def test_what_is_no_moment_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        utc_seconds(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1_798_761_599.9375, "2026-12-31T23:59:59.937Z"),  # cut, not rounded: it is still the old year
        (1_798_761_600, "2027-01-01T00:00:00.000Z"),
        (21_243 * 86_400 + 0.5, "2028-02-29T00:00:00.500Z"),
        (-1, "1969-12-31T23:59:59.000Z"),
    ],
)
def test_seconds_since_1970_are_text_to_the_millisecond(seconds: float, text: str) -> None:
    assert rfc3339(seconds) == text


@given(st.integers(0, 7_258_118_400_000))  # to the year 2200; from 2242 a float holds no whole microseconds
def test_every_millisecond_comes_back(milliseconds: int) -> None:
    text = rfc3339(milliseconds / 1000)
    assert utc_seconds(text) == milliseconds / 1000
    assert datetime.fromisoformat(text).tzinfo is UTC
