"""The next place after a failure, then the same again after a pause; never more attempts than configured."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_service.domain.plan import Step
from vllm_service.errors import GatewayTimeout, ModelUnavailable, RateLimited, ServiceError, UpstreamFailed
from vllm_service.resilience.failures import Failure, Kind
from vllm_service.resilience.retry_schedule import Deadline, RetrySchedule, RetrySettings, ScheduledAttempt

A, B, C = (Step(name, "m") for name in "abc")
DOWN = Failure(Kind.CONNECT)
SETTINGS = RetrySettings(
    attempts=5, attempts_per_offer=2, first_wait_seconds=1, jitter_seconds=0, longest_wait_seconds=8
)
LAST = ServiceError("in the last provider's words")


def course(*steps: Step, settings: RetrySettings = SETTINGS, seconds: float = 100.0) -> RetrySchedule:
    return RetrySchedule(steps, settings, Deadline(0.0, seconds))


def tried(course: RetrySchedule, *failures: Failure) -> list[tuple[str, float]]:
    """Place and second of each attempt; the last failure goes on for ever."""
    now, places = 0.0, []
    while (attempt := course.next(now)) is not None:
        now += attempt.wait_seconds
        places.append((attempt.step.provider, now))
        course.failed(attempt.step, failures[min(len(places), len(failures)) - 1], now)
    return places


def test_every_place_is_tried_at_once_and_then_again_after_a_pause_until_attempts_are_used_up() -> None:
    assert tried(course(A, B, C), DOWN) == [("a", 0), ("b", 0), ("c", 0), ("a", 1), ("b", 1)]


def test_pauses_at_one_place_double_up_to_a_limit() -> None:
    settings = RetrySettings(
        attempts=6, attempts_per_offer=6, first_wait_seconds=1, jitter_seconds=0, longest_wait_seconds=5
    )
    assert [second for _, second in tried(course(A, settings=settings), DOWN)] == [0, 1, 3, 7, 12, 17]


def test_jitter_is_added_to_a_pause() -> None:
    settings = RetrySettings(first_wait_seconds=1, jitter_seconds=1)
    pauses = [tried(course(A, settings=settings), DOWN)[1][1] for _ in range(20)]
    assert all(1 <= pause <= 2 for pause in pauses)
    assert len(set(pauses)) > 1


def test_retry_after_is_kept_and_the_place_that_is_due_first_goes_first() -> None:
    busy = Failure(Kind.STATUS, 429, retry_after_seconds=6)
    assert tried(course(A, B), busy, DOWN) == [("a", 0), ("b", 0), ("b", 1), ("a", 6)]


def test_a_place_that_wants_longer_than_the_longest_pause_or_the_deadline_is_not_tried_again() -> None:
    assert tried(course(A), Failure(Kind.STATUS, 503, retry_after_seconds=9)) == [("a", 0)]
    assert tried(course(A, seconds=3), Failure(Kind.STATUS, 503, retry_after_seconds=4)) == [("a", 0)]


@pytest.mark.parametrize("status", [401, 402, 403, 404])
def test_a_revoked_key_or_a_model_that_is_not_there_goes_to_the_next_place_and_is_not_tried_again(status: int) -> None:
    assert tried(course(A, B), Failure(Kind.STATUS, status), DOWN) == [("a", 0), ("b", 0), ("b", 1)]


def test_an_offer_without_a_free_connection_is_not_tried_again() -> None:
    assert tried(course(A, B), Failure(Kind.BUSY), DOWN) == [("a", 0), ("b", 0), ("b", 1)]


@pytest.mark.parametrize(
    "final",
    [Failure(Kind.STATUS, 400), Failure(Kind.CANCELLED), Failure(Kind.CUT, content_started=True)],
    ids=str,
)
def test_nothing_is_tried_after_a_final_failure(final: Failure) -> None:
    assert tried(course(A, B), final) == [("a", 0)]


def test_nothing_is_tried_after_success() -> None:
    begun = course(A, B)
    begun.next(0.0)
    begun.succeeded()
    assert begun.next(0.0) is None


def test_a_place_that_the_breaker_leaves_alone_costs_no_attempt() -> None:
    skipping = course(A, B)
    first = skipping.next(0.0)
    assert first is not None
    skipping.skip(first.step)
    assert tried(skipping, DOWN) == [("b", 0), ("b", 1)]
    assert skipping.attempts == 2


def test_a_hedge_counts_as_an_attempt_and_takes_the_place_out_of_its_turn() -> None:
    hedging = course(A, B, settings=RetrySettings(attempts=2))
    hedging.next(0.0)
    assert hedging.peek(0.0) == B
    hedging.hedge(B)
    hedging.failed(A, DOWN, 0.0)
    hedging.failed(B, DOWN, 0.0)
    assert hedging.next(0.0) is None
    assert hedging.peek(0.0) is None


def test_an_attempt_knows_whether_it_is_the_last() -> None:
    steps = course(A, B, settings=RetrySettings(attempts=3, attempts_per_offer=1))
    first = steps.next(0.0)
    assert first == ScheduledAttempt(A, 1, 0.0, is_last=False)
    steps.failed(A, DOWN, 0.0)
    assert steps.next(0.0) == ScheduledAttempt(B, 2, 0.0, is_last=True)


@pytest.mark.parametrize(
    ("failures", "expected"),
    [
        ((Failure(Kind.TIMEOUT), Failure(Kind.TIMEOUT)), GatewayTimeout),
        ((Failure(Kind.STATUS, 429, retry_after_seconds=30), Failure(Kind.STATUS, 429)), RateLimited),
        ((Failure(Kind.GARBAGE), Failure(Kind.STATUS, 429)), UpstreamFailed),
        ((DOWN, Failure(Kind.STATUS, 429)), ModelUnavailable),
        ((Failure(Kind.STATUS, 429), Failure(Kind.STATUS, 500)), ServiceError),
        ((Failure(Kind.STATUS, 401), Failure(Kind.STATUS, 404)), ServiceError),
    ],
)
def test_the_error_is_the_one_that_says_most(failures: tuple[Failure, ...], expected: type[ServiceError]) -> None:
    ended = course(A, B)
    for step, failure in zip((A, B), failures, strict=True):
        ended.next(0.0)
        ended.failed(step, failure, 0.0)
    last = RateLimited("") if failures[-1].status == 429 else LAST
    assert type(ended.error(0.0, last)) is expected


def test_the_shortest_wait_is_passed_on_when_all_are_at_their_limit() -> None:
    ended = course(A, B)
    for step, seconds in ((A, 30.0), (B, 12.0)):
        ended.failed(step, Failure(Kind.STATUS, 429, retry_after_seconds=seconds), 0.0)
    assert ended.error(0.0, LAST).retry_after_seconds == 12


FAILURES = st.builds(
    Failure,
    st.sampled_from([Kind.CONNECT, Kind.STATUS, Kind.CUT, Kind.GARBAGE, Kind.TIMEOUT]),
    st.sampled_from([200, 401, 408, 429, 500, 503]),
    retry_after_seconds=st.none() | st.floats(0, 20),
)


@given(
    st.integers(1, 5),
    st.integers(1, 7),
    st.integers(1, 4),
    st.lists(FAILURES, min_size=1, max_size=20),
    st.floats(0.001, 60),
)
def test_never_more_attempts_than_configured_and_none_after_the_deadline(
    places: int, attempts: int, per_place: int, failures: list[Failure], seconds: float
) -> None:
    settings = RetrySettings(attempts=attempts, attempts_per_offer=per_place)
    steps = [Step(str(number), "m") for number in range(places)]
    made = tried(RetrySchedule(steps, settings, Deadline(0.0, seconds)), *failures)
    names = [name for name, _ in made]
    assert len(made) <= attempts
    assert all(names.count(name) <= per_place for name in names)
    assert all(second < seconds for _, second in made)
