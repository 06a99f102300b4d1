"""What the headers of RunPod's rate limits mean, and what means nothing."""

from __future__ import annotations

import pytest

from vllm_service.runpod.rate_limits import (
    LONGEST_HOLD_SECONDS,
    MOST_GROUPS,
    RateLimits,
    group_of,
    retry_after_seconds,
)

POLICY = '"minute";q=60;w=60, "hour";q=3000;w=3600, "day";q=50000;w=86400'


def waits(status: int = 200, **headers: str) -> float:
    limits = RateLimits()
    limits.note("g", status, {name.replace("_", "-"): value for name, value in headers.items()}, 100.0)
    return limits.wait_seconds("g", 100.0)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ('"minute";r=0;t=12, "hour";r=2800;t=1812, "day";r=49500;t=45012', 12),
        ('"minute";r=1;t=12', 0),
        ('"minute";r=0;t=12, "hour";r=0;t=200', 200),
        ('"day";r=0;t=45012', LONGEST_HOLD_SECONDS),
        ("minute;r=0;t=0", 0),
        # none of these changes anything
        ('"minute";r=0;t=61', 0),  # longer than its window
        ('"minute";r=0;t=-5', 0),
        ('"minute";r=-1;t=5', 0),
        ('"minute";r=0;t=1e3', 0),
        ('"minute";r=0;t=NaN', 0),
        ('"minute";r=0;t=inf', 0),
        ('"minute";r=0;t=99999999999999999999', 0),
        ('"other";r=0;t=86401', 0),
        ('"minute";r=0', 0),
        ('"minute";t=5', 0),
        ("0;0;0,,;=;,", 0),
        ("", 0),
        ("\x00\xff", 0),
        ('"minute";r=0;t=12,' * 10_000, 0),
        ('"minute";r=٠;t=١', 0),
    ],
)
def test_a_window_without_requests_left_is_waited_out_and_what_is_not_plausible_changes_nothing(
    header: str, seconds: float
) -> None:
    assert waits(ratelimit=header, ratelimit_policy=POLICY) == seconds


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry_after": "12"}, 12),
        ({"retry_after": "12", "ratelimit": '"minute";r=0;t=40'}, 12),
        ({"ratelimit": '"minute";r=0;t=40'}, 40),
        ({"retry_after": "40000"}, LONGEST_HOLD_SECONDS),
        *(({"retry_after": odd}, 5) for odd in ("-1", "NaN", "1e9", "99999999", "Fri, 01 Jan 2027 00:00:00 GMT", "")),
        ({}, 5),
    ],
)
def test_a_429_is_waited_out_even_if_it_says_nothing(headers: dict[str, str], seconds: float) -> None:
    assert waits(429, **headers) == seconds


def test_a_later_answer_does_not_end_a_wait_and_time_does() -> None:
    limits = RateLimits()
    limits.note("g", 429, {"retry-after": "20"}, 0.0)
    limits.note("g", 200, {"ratelimit": '"minute";r=9;t=20'}, 1.0)
    limits.note("g", 429, {"retry-after": "2"}, 1.0)
    assert [limits.wait_seconds("g", now) for now in (1.0, 19.0, 20.0, 21.0)] == [19.0, 1.0, 0.0, 0.0]
    assert limits.wait_seconds("other", 1.0) == 0.0


def test_it_remembers_a_bounded_number_of_groups() -> None:
    limits = RateLimits()
    for number in range(3 * MOST_GROUPS):
        limits.note(str(number), 429, {}, 0.0)
    known = [number for number in range(3 * MOST_GROUPS) if limits.wait_seconds(str(number), 0.0)]
    assert known == list(range(2 * MOST_GROUPS, 3 * MOST_GROUPS))


def test_a_group_is_of_one_key_method_and_resource_and_does_not_hold_the_key() -> None:
    one = group_of("https://a", "a-secret-key", "GET", "/v2/serverless/ep")
    assert one == group_of("https://a", "a-secret-key", "GET", "/v2/serverless/ep/workers")
    others = {
        group_of("https://b", "a-secret-key", "GET", "/v2/serverless/ep"),
        group_of("https://a", "another-key", "GET", "/v2/serverless/ep"),
        group_of("https://a", "a-secret-key", "PATCH", "/v2/serverless/ep"),
        group_of("https://a", "a-secret-key", "GET", "/v2/billing/serverless"),
    }
    assert len(others - {one}) == 4
    assert "secret" not in one


def test_retry_after_is_a_whole_number_of_seconds_up_to_a_day() -> None:
    assert [retry_after_seconds({"retry-after": text}) for text in (" 7 ", "0", "86400", "86401", "7.5")] == [
        *(7.0, 0.0, 86400.0, None, None)
    ]
