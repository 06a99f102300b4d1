"""Whose fault a failure is, and whether another place may be tried after it."""

from __future__ import annotations

import pytest

from vllm_service.domain.refusals import Meaning
from vllm_service.http.upstream import Patience
from vllm_service.resilience.failures import LEFT_BY_CALLER, Failure, Kind, retry_after_seconds


@pytest.mark.parametrize(
    "failure",
    [Failure(kind) for kind in (Kind.CONNECT, Kind.TIMEOUT, Kind.GARBAGE, Kind.CUT)]
    + [
        Failure(Kind.STATUS, status)
        for status in (401, 402, 403, 404, 405, 408, 409, 413, 424, 429, 451, 498, 499, 500)
    ]
    + [Failure(Kind.STATUS, status) for status in (501, 502, 503, 504, 524, 529)],
    ids=str,
)
def test_the_next_place_is_tried_unless_content_has_begun(failure: Failure) -> None:
    begun = Failure(failure.kind, failure.status, content_started=True)
    assert (failure.is_final, begun.is_final) == (False, True)


@pytest.mark.parametrize("status", [400, 411, 414, 415, 418, 422])
def test_the_callers_errors_are_final(status: int) -> None:
    assert Failure(Kind.STATUS, status).is_final


def test_a_caller_who_left_is_final_and_told_as_499() -> None:
    assert Failure(Kind.CANCELLED).is_final
    assert Failure(Kind.CANCELLED).breaker_status == 499


def test_no_free_connection_speaks_against_nobody_and_lets_the_next_offer_be_tried() -> None:
    failure = Failure(Kind.BUSY)
    assert failure.breaker_status == 499
    assert not failure.is_final
    assert not failure.is_lasting


def test_a_provider_that_sends_499_is_at_fault_itself() -> None:
    failure = Failure(Kind.STATUS, 499)
    assert (failure.is_final, failure.breaker_status) == (False, 500)


@pytest.mark.parametrize(
    ("status", "meaning", "counted"),
    [
        (400, Meaning.OFFER, 400),
        (400, Meaning.ACCOUNT, 402),
        (400, Meaning.THROTTLED, 429),
        (413, Meaning.OVERSIZED, 413),
        (429, Meaning.OVERSIZED, 413),
        (500, Meaning.CONTEXT, 400),
        (501, Meaning.OFFER, 404),
        (403, Meaning.ACCOUNT, 402),
        (403, Meaning.PROVIDER, 500),
        (429, Meaning.ACCOUNT, 402),
        (498, Meaning.THROTTLED, 429),
        (503, Meaning.PROVIDER, 503),
        (524, Meaning.UNFINISHED, 524),
    ],
)
def test_breaker_and_router_get_a_status_that_speaks_against_the_right_party(
    status: int, meaning: Meaning, counted: int
) -> None:
    assert Failure(Kind.STATUS, status, refusal=meaning).breaker_status == counted


def test_a_garbled_200_counts_as_no_answer() -> None:
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


OWN = Patience(5.0, 120.0, 600.0)
CUT = Patience(2.0, 2.0, 2.0, connect_is_own=False, first_byte_is_own=False, is_whole=False)
WHOLE = Patience(5.0, 590.0, 600.0, connect_is_own=True, first_byte_is_own=False, is_whole=True)


@pytest.mark.parametrize(
    ("kind", "patience", "seconds", "judged"),
    [
        (Kind.TIMEOUT, OWN, 120.0, Kind.TIMEOUT),
        (Kind.TIMEOUT, CUT, 2.0, Kind.DEADLINE),
        (Kind.TIMEOUT, CUT, 1.999, Kind.DEADLINE),  # a timer may fire a moment early
        (Kind.TIMEOUT, CUT, 1.0, Kind.TIMEOUT),  # the provider's idle time, which is shorter
        (Kind.TIMEOUT, WHOLE, 590.0, Kind.TIMEOUT),  # as long as every request may take: it hangs
        (Kind.CONNECT, OWN, 5.0, Kind.CONNECT),
        (Kind.CONNECT, CUT, 2.0, Kind.DEADLINE),
        (Kind.CONNECT, CUT, 0.1, Kind.CONNECT),  # refused
        (Kind.DEADLINE, WHOLE, 600.0, Kind.TIMEOUT),
        (Kind.DEADLINE, CUT, 2.0, Kind.DEADLINE),
        (Kind.CUT, CUT, 2.0, Kind.CUT),
        (Kind.STATUS, CUT, 2.0, Kind.STATUS),
    ],
)
def test_only_the_providers_own_limits_and_a_whole_requests_time_speak_against_it(
    kind: Kind, patience: Patience, seconds: float, judged: Kind
) -> None:
    failure = Failure(kind, 500 if kind is Kind.STATUS else 0).judged_by(patience, seconds)
    assert failure.kind is judged
    assert (failure.breaker_status == LEFT_BY_CALLER) is (judged is Kind.DEADLINE)
    assert not failure.is_final
