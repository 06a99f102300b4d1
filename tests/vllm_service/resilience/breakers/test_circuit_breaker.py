"""A place that fails is left alone, probed by one request at a time, and used again when it is well."""

from __future__ import annotations

import pytest

from vllm_service.domain.breakers import BreakerChange, BreakerState
from vllm_service.domain.plan import Step
from vllm_service.resilience.breakers.breaker_settings import BreakerSettings
from vllm_service.resilience.breakers.circuit_breaker import CircuitBreaker
from vllm_service.resilience.breakers.probes import Admission
from vllm_service.resilience.breakers.shared import Breakers

SETTINGS = BreakerSettings(
    consecutive_failures=3, minimum_requests=10, open_seconds=10, longest_open_seconds=40, throttled_seconds=20
)


class Place:
    """A breaker, its clock, and what it told."""

    def __init__(self, settings: BreakerSettings = SETTINGS) -> None:
        self.now = 1000.0
        self.told: list[BreakerChange] = []
        self.breaker = CircuitBreaker("p", "m", settings, self.told.append)

    def send(self, *statuses: int, retry_after: float | None = None) -> None:
        for status in statuses:
            self.end(self.admitted(), status, retry_after)

    def end(self, admission: Admission, status: int, retry_after: float | None = None) -> None:
        if status == 200:
            self.breaker.succeeded(admission, self.now)
        else:
            self.breaker.failed(admission, status, retry_after, self.now)

    def admitted(self) -> Admission:
        admission = self.breaker.admit(self.now)
        assert admission is not None
        return admission

    def state(self) -> BreakerState:
        return self.breaker.state(self.now)


@pytest.fixture
def place() -> Place:
    return Place()


@pytest.mark.parametrize("status", [0, 401, 402, 408, 500, 502, 503, 504, 529])
def test_failures_in_a_row_open_it(place: Place, status: int) -> None:
    place.send(status, status)
    assert place.state() is BreakerState.CLOSED
    place.send(status)
    assert place.state() is BreakerState.OPEN
    assert place.breaker.admit(place.now) is None


@pytest.mark.parametrize("status", [400, 403, 404, 409, 413, 415, 422, 499])
def test_the_callers_errors_and_leavings_never_open_it_nor_keep_it_closed(place: Place, status: int) -> None:
    place.send(*[status] * 100)
    assert place.state() is BreakerState.CLOSED
    place.send(500, status, 500, status, 500)
    assert place.state() is BreakerState.OPEN


def test_a_share_of_failures_opens_it_from_the_minimum_volume_on(place: Place) -> None:
    place.send(*[500, 200] * 4, 500)
    assert place.state() is BreakerState.CLOSED
    place.send(500)
    assert place.state() is BreakerState.OPEN


def test_failures_that_have_left_the_window_do_not_count(place: Place) -> None:
    place.send(*[500, 200] * 4)
    place.now += SETTINGS.window_seconds * 1.1
    place.send(*[200] * 9, 500)
    assert place.state() is BreakerState.CLOSED


def test_half_open_lets_exactly_one_probe_out_until_enough_have_succeeded(place: Place) -> None:
    place.send(500, 500, 500)
    place.now += 10
    assert place.state() is BreakerState.HALF_OPEN
    first = place.admitted()
    assert first.is_probe
    assert [place.breaker.admit(place.now) for _ in range(5)] == [None] * 5
    place.end(first, 200)
    second = place.admitted()
    assert place.breaker.admit(place.now) is None
    place.end(second, 200)
    assert place.state() is BreakerState.CLOSED
    assert not place.admitted().is_probe


def test_each_failed_probe_doubles_the_time_up_to_a_limit(place: Place) -> None:
    place.send(500, 500, 500)
    for seconds in (10, 20, 40, 40):
        assert place.breaker.seconds_shut(place.now) == seconds
        place.now += seconds
        place.send(0)


def test_a_cancelled_probe_and_a_callers_error_leave_the_probe_to_the_next(place: Place) -> None:
    place.send(500, 500, 500)
    place.now += 10
    place.breaker.cancelled(place.admitted())
    place.send(422)
    assert place.state() is BreakerState.HALF_OPEN
    assert place.admitted().is_probe


def test_a_probe_counts_once_its_answer_begins_and_what_comes_of_it_later_does_not(place: Place) -> None:
    place.send(500, 500, 500)
    place.now += 10
    first, second = place.admitted(), None
    place.breaker.first_content(first, place.now)
    second = place.admitted()
    place.end(first, 500)
    assert place.state() is BreakerState.HALF_OPEN
    place.breaker.first_content(second, place.now)
    assert place.state() is BreakerState.CLOSED


def test_a_lost_probe_gives_way_after_its_time_and_its_late_result_counts_for_nothing(place: Place) -> None:
    place.send(500, 500, 500)
    place.now += 10
    lost = place.admitted()
    place.now += SETTINGS.probe_seconds
    late = place.admitted()
    place.end(lost, 500)
    assert place.state() is BreakerState.HALF_OPEN
    assert place.breaker.admit(place.now) is None
    place.end(late, 200)


def test_results_of_requests_sent_before_it_opened_do_not_count_as_the_probes(place: Place) -> None:
    old = [place.admitted() for _ in range(3)]
    place.send(500, 500, 500)
    place.now += 10
    place.admitted()
    for admission, status in zip(old, (200, 500, 429), strict=True):
        place.end(admission, status)
    assert place.state() is BreakerState.HALF_OPEN


def test_retry_after_of_a_429_rests_the_place_without_holding_it_for_broken(place: Place) -> None:
    place.send(429, retry_after=7)
    assert place.state() is BreakerState.RESTING
    assert place.breaker.admit(place.now) is None
    place.now += 7
    assert place.state() is BreakerState.CLOSED
    assert not place.admitted().is_probe
    assert place.breaker.failures == 0


def test_a_429_without_retry_after_keeps_nobody_away_unless_nothing_else_comes_for_long(place: Place) -> None:
    place.send(*[429] * 50)
    assert place.state() is BreakerState.CLOSED
    place.now += SETTINGS.throttled_seconds
    place.send(429)
    assert place.state() is BreakerState.OPEN


def test_a_success_between_429s_shows_that_the_place_works(place: Place) -> None:
    for _ in range(20):
        place.send(429, 429, 429, 429, 200)
        place.now += 10
    assert place.state() is BreakerState.CLOSED


@pytest.mark.parametrize("status", [429, 500, 503])
def test_it_stays_open_for_at_least_retry_after_also_when_a_probe_is_told_so(place: Place, status: int) -> None:
    place.send(500, 500)
    place.send(503, retry_after=25)
    assert place.breaker.seconds_shut(place.now) == 25
    place.now += 25
    place.send(status, retry_after=60)
    assert place.breaker.seconds_shut(place.now) == 60


def test_a_retry_after_of_a_year_is_not_believed(place: Place) -> None:
    place.send(503, retry_after=3e7)
    assert place.breaker.seconds_shut(place.now) == SETTINGS.longest_retry_after_seconds


def test_a_429_to_a_probe_opens_it_again_but_not_for_longer(place: Place) -> None:
    place.send(500, 500, 500)
    for _ in range(4):
        place.now += 10
        place.send(429)
        assert place.breaker.seconds_shut(place.now) == 10


@pytest.mark.parametrize("jump", [-1e9, -3600, -1, 1, 3600, 1e9])
def test_a_clock_that_jumps_neither_keeps_it_shut_for_longer_nor_lets_two_probes_out(place: Place, jump: float) -> None:
    place.send(500, 500, 500)
    place.now += jump
    assert place.breaker.seconds_shut(place.now) <= 10
    place.now += 10
    probe = place.admitted()
    assert place.breaker.admit(place.now) is None
    place.now += min(jump, 100)
    assert place.breaker.admit(place.now) is None
    place.end(probe, 200)
    place.send(200)
    assert place.state() is BreakerState.CLOSED
    place.now += jump
    place.send(500, 500)
    assert place.state() is BreakerState.CLOSED


def test_every_change_is_told_with_its_reason(place: Place) -> None:
    place.send(500, 500, 500)
    place.now += 10
    place.send(200, 200)
    assert [(change.before.value, change.after.value, change.reason) for change in place.told] == [
        ("closed", "open", "3 failures in a row, the last with 500"),
        ("open", "half_open", "the pause is over"),
        ("half_open", "half_open", "a probe succeeded"),
        ("half_open", "closed", "its probes succeeded"),
    ]


def test_details_are_those_that_callers_are_promised() -> None:
    breakers = Breakers(SETTINGS)
    steps = [Step("p", "m"), Step("q", "m")]
    for step in steps:
        for _ in range(3):
            admission = breakers.admit(step, 100.0)
            assert admission is not None
            breakers.of(step.provider, step.model).failed(admission, 500, None, 100.0)
    assert not any(breakers.allows(step, 104.0) for step in steps)
    assert breakers.details(steps, 104.0, utc_seconds=1_800_000_004.0) == {
        "status": "open",
        "failure_count": 3,
        "last_failure_time": "2027-01-15T08:00:00.000Z",
        "estimated_recovery_time": "2027-01-15T08:00:10.000Z",
        "fallback_mode": "next_candidate",
        "fallback_available": False,
    }


@pytest.mark.parametrize(
    "wrong",
    [
        {"consecutive_failures": 0},
        {"error_rate": 0.0},
        {"error_rate": 1.1},
        {"open_seconds": 0.0},
        {"open_seconds": 999.0},
    ],
)
def test_settings_that_cannot_be_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="circuit breaker"):
        BreakerSettings(**wrong)  # type: ignore[arg-type]
