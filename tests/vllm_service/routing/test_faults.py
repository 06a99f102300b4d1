"""Fifty requests a second against places that fail in every way, in virtual time: none is lost, nobody is stampeded."""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from vllm_service.domain.plan import Step
from vllm_service.resilience.breakers.breaker_settings import BreakerSettings
from vllm_service.resilience.breakers.probes import Admission
from vllm_service.resilience.breakers.shared import Breakers
from vllm_service.resilience.failures import Failure, Kind
from vllm_service.resilience.retry_schedule import Deadline, RetrySchedule, RetrySettings, ScheduledAttempt

OWN, HOSTED = Step("own", "m"), Step("hosted", "m")
RATE = 50
# Answers to what was sent before a place failed keep coming for 0.2 s, and each begins the count of failures anew.
LATE_ANSWERS = 10
# When a request is sent to a place: how long until it ends, and how it fails, if it does.
Behaviour = Callable[[float], tuple[float, Failure | None]]


def well(now: float) -> tuple[float, Failure | None]:
    return 0.2, None


def between(start: float, end: float, seconds: float, failure: Failure) -> Behaviour:
    return lambda now: (seconds, failure) if start <= now < end else well(now)


def flapping(period: float, failure: Failure) -> Behaviour:
    return lambda now: (0.01, failure) if now % (2 * period) < period else well(now)


@dataclass
class World:
    """Two places, one gateway, and a clock that jumps from event to event."""

    own: Behaviour
    hosted: Behaviour = well
    now: float = 0.0
    sent: list[tuple[float, str]] = field(default_factory=list)
    answered: Counter[str] = field(default_factory=Counter)
    lost: list[float] = field(default_factory=list)
    _events: list[tuple[float, int, Iterator[float]]] = field(default_factory=list)

    def run(self, seconds: float) -> None:
        self.breakers = Breakers(BreakerSettings(open_seconds=5))
        order = itertools.count()
        for number in range(round(seconds * RATE)):
            heapq.heappush(self._events, (number / RATE, next(order), self._request()))
        while self._events:
            self.now, _, request = heapq.heappop(self._events)
            for pause in request:
                heapq.heappush(self._events, (self.now + pause, next(order), request))
                break

    def _request(self) -> Iterator[float]:
        """Yields how long it waits; what the gateway does around each attempt."""
        course = RetrySchedule((OWN, HOSTED), RetrySettings(), Deadline(self.now, 60))
        while (attempt := course.next(self.now)) is not None:
            yield attempt.wait_seconds
            admission = self.breakers.admit(attempt.step, self.now)
            if admission is None:
                course.skip(attempt.step)
                continue
            yield from self._attempt(course, attempt, admission)
        if not course.is_answered:
            self.lost.append(self.now)

    def _attempt(self, course: RetrySchedule, attempt: ScheduledAttempt, admission: Admission) -> Iterator[float]:
        place = attempt.step.provider
        self.sent.append((self.now, place))
        seconds, failure = (self.own if place == "own" else self.hosted)(self.now)
        yield seconds
        breaker = self.breakers.of(place, "m")
        if failure is None:
            breaker.succeeded(admission, self.now)
            course.succeeded()
            self.answered[place] += 1
        else:
            breaker.failed(admission, failure.breaker_status, failure.retry_after_seconds, self.now)
            course.failed(attempt.step, failure, self.now)

    def sent_to_own(self, start: float, end: float) -> int:
        return sum(place == "own" and start <= at < end for at, place in self.sent)


@pytest.mark.parametrize(
    "failure",
    [
        Failure(Kind.CONNECT),
        Failure(Kind.STATUS, 500),
        Failure(Kind.GARBAGE, 200),
        Failure(Kind.CUT),
        Failure(Kind.TIMEOUT),
    ],
    ids=lambda failure: failure.kind.value,
)
def test_a_place_that_fails_gets_a_few_requests_and_then_probes_and_is_used_again_when_it_is_well(
    failure: Failure,
) -> None:
    world = World(own=between(10, 70, 0.01, failure))
    world.run(120)
    assert world.lost == []
    assert sum(world.answered.values()) == 120 * RATE
    assert world.sent_to_own(10, 70) <= LATE_ANSWERS + 5 + 1 + 4  # in a row, one under way, probes after 5, 10, 20 s
    assert world.sent_to_own(115, 120) == 5 * RATE


def test_a_place_that_hangs_gets_no_more_once_the_first_have_timed_out() -> None:
    world = World(own=between(10, 70, 3.0, Failure(Kind.TIMEOUT)))
    world.run(80)
    assert world.lost == []
    assert world.sent_to_own(10, 13) == 3 * RATE  # nobody can know yet
    assert world.sent_to_own(13.2, 70) <= 5


def test_a_flapping_place_is_not_trusted_at_once_and_loses_nobody() -> None:
    world = World(own=flapping(7, Failure(Kind.STATUS, 503)))
    world.run(140)
    assert world.lost == []
    assert world.answered["own"] > 0
    failures = sum(place == "own" and at % 14 < 7 for at, place in world.sent)
    assert failures < 140 * RATE / 2 * 0.05


def test_a_storm_of_429s_is_waited_out_as_long_as_the_place_asks() -> None:
    storm = Failure(Kind.STATUS, 429, retry_after_seconds=5)
    world = World(own=between(10, 50, 0.05, storm))
    world.run(80)
    assert world.lost == []
    under_way = round(0.05 * RATE) + 1
    assert world.sent_to_own(10, 50) <= 8 * under_way  # each time Retry-After is over
    assert world.sent_to_own(60, 80) == 20 * RATE


def test_when_both_places_are_down_requests_end_soon_with_few_attempts_and_come_back_with_the_places() -> None:
    down = Failure(Kind.CONNECT)
    world = World(own=between(10, 40, 0.01, down), hosted=between(10, 40, 0.01, down))
    world.run(100)
    during = [at for at, _ in world.sent if 10 <= at < 40]
    assert len(during) <= 2 * (LATE_ANSWERS + 5 + 1 + 3)
    assert all(10 <= at <= 52 for at in world.lost)
    assert sum(world.answered.values()) + len(world.lost) == 100 * RATE
