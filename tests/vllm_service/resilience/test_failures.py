"""Whose fault a failure is, and whether another place may be tried after it."""

from __future__ import annotations

import pytest

from vllm_service.resilience.failures import Failure, Kind, retry_after_seconds


@pytest.mark.parametrize(
    "failure",
    [Failure(kind) for kind in (Kind.CONNECT, Kind.TIMEOUT, Kind.GARBAGE, Kind.CUT)]
    + [Failure(Kind.STATUS, status) for status in (401, 402, 403, 404, 405, 408, 409, 429, 500, 502, 503, 504, 529)],
    ids=str,
)
def test_the_next_place_is_tried_unless_content_has_begun(failure: Failure) -> None:
    begun = Failure(failure.kind, failure.status, content_started=True)
    assert (failure.is_final, begun.is_final) == (False, True)


@pytest.mark.parametrize("status", [400, 413, 414, 415, 422, 451])
def test_the_callers_errors_are_final(status: int) -> None:
    assert Failure(Kind.STATUS, status).is_final


def test_a_caller_who_left_is_final_and_told_as_499() -> None:
    assert Failure(Kind.CANCELLED).is_final
    assert Failure(Kind.CANCELLED).breaker_status == 499


def test_a_garbled_200_is_told_as_no_answer() -> None:
    assert Failure(Kind.GARBAGE, 200).breaker_status == 0


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("7", 7.0),
        (" 0.5 ", 0.5),
        ("Fri, 15 Jan 2027 08:00:30 GMT", 30.0),
        ("Fri, 15 Jan 2027 07:00:00 GMT", 0.0),
        ("soon", None),
        ("-3", None),
        ("nan", None),
        ("", None),
        (".", None),
        ("²", None),
    ],
)
def test_retry_after_is_seconds_or_a_date_and_anything_else_says_nothing(
    header: str | None, seconds: float | None
) -> None:
    assert retry_after_seconds(header, now_utc_seconds=1_800_000_000) == seconds
