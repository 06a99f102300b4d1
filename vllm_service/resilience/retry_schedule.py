"""When which offer of a plan is tried, how long each attempt may take, and when to give up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
from tenacity import RetryCallState, Retrying, wait_exponential_jitter

from vllm_service.domain.plan import Step
from vllm_service.errors import (
    GatewayTimeout,
    InvalidRequest,
    ModelUnavailable,
    RateLimited,
    ServiceError,
    UpstreamFailed,
)
from vllm_service.http.upstream import Patience
from vllm_service.resilience.failures import ONLY_HERE, OUR_ACCOUNT, Blame, Failure, Kind, blame

HEADER = "x-request-timeout-ms"


@dataclass(frozen=True, kw_only=True)
class DeadlineSettings:
    """Seconds. default: for who asks for nothing; longest: nobody gets more.

    reserve: while another place can still be tried, an attempt waits for its first byte until so long before the end,
    at most for half of what is left, so that the other place has time to answer.
    """

    default_seconds: float = 600.0
    longest_seconds: float = 3600.0
    reserve_seconds: float = 10.0


class Deadline(msgspec.Struct, frozen=True, gc=False):
    """Of one request, whatever is tried for it. Seconds of a monotonic clock."""

    started_at: float
    seconds: float
    reserve_seconds: float = 0.0

    def left(self, now: float) -> float:
        """Seconds; never more than it had, should the clock go back; 0 when it is over."""
        left = self.started_at + self.seconds - now
        return self.seconds if left > self.seconds else left if left > 0.0 else 0.0

    def limits(self, connect_seconds: float, first_byte_seconds: float, now: float, *, is_last: bool) -> Patience:
        """What an attempt may take at a provider with these limits of its own. Raises GatewayTimeout when it is over.

        is_last: no other place can be tried after this one.
        """
        left = min(self.started_at + self.seconds - now, self.seconds)  # the clock may have gone back
        if left <= 0:
            raise GatewayTimeout(
                f"No provider answered within the {self.seconds:g} s this request may take.",
                details={"timeout_seconds": self.seconds},
            )
        until_first_byte = left if is_last else max(left / 2, left - self.reserve_seconds)
        first_byte = min(first_byte_seconds, until_first_byte)
        return Patience(min(connect_seconds, first_byte), first_byte, left)


def deadline(header: str | None, settings: DeadlineSettings, now: float) -> Deadline:
    """From `x-request-timeout-ms`, whole milliseconds, or the default. Raises InvalidRequest."""
    if header is None:
        seconds = settings.default_seconds
    elif header.isascii() and header.isdigit() and len(header) <= 12 and int(header) > 0:
        seconds = int(header) / 1000
    else:
        raise InvalidRequest(f"{HEADER}: expected whole milliseconds above 0", param=HEADER)
    return Deadline(now, min(seconds, settings.longest_seconds), settings.reserve_seconds)


@dataclass(frozen=True, kw_only=True)
class RetrySettings:
    """attempts: of one request, hedges included; attempts_per_place: how often one place is tried.

    The pause before a place is tried for the nth time again is first_wait_seconds x 2^(n-1) plus up to jitter_seconds,
    longest_wait_seconds at most; a place whose Retry-After is longer is not tried again.
    """

    attempts: int = 4
    attempts_per_place: int = 2
    first_wait_seconds: float = 0.25
    jitter_seconds: float = 0.25
    longest_wait_seconds: float = 10.0

    def __post_init__(self) -> None:
        """Raises ValueError for what cannot be."""
        if min(self.attempts, self.attempts_per_place) < 1:
            raise ValueError("retries: attempts and attempts_per_place are at least 1")
        if min(self.first_wait_seconds, self.jitter_seconds, self.longest_wait_seconds) < 0:
            raise ValueError("retries: waits are not negative")


class ScheduledAttempt(msgspec.Struct, frozen=True, gc=False):
    """One sending of the request. number: from 1, over all places. wait_seconds: before it is sent."""

    step: Step
    number: int
    wait_seconds: float
    is_last: bool


class _Place(msgspec.Struct):
    step: Step
    tries: int = 0
    not_before: float = 0.0
    failure: Failure | None = None
    is_out: bool = False


class RetrySchedule(msgspec.Struct):
    """Of one request. Times are seconds of a monotonic clock. attempts: how many were sent."""

    _steps: Sequence[Step]
    _settings: RetrySettings
    _deadline: Deadline
    attempts: int = 0
    is_answered: bool = False
    _is_over: bool = False
    _tried: list[_Place] | None = None
    _failed: list[tuple[Step, Failure]] | None = None

    @property
    def failures(self) -> Sequence[tuple[Step, Failure]]:
        """What has become of the attempts that failed, in their order."""
        return self._failed or ()

    @property
    def _places(self) -> list[_Place]:
        """Made when they are needed: most requests are answered by the first place."""
        if self._tried is None:
            self._tried = [_Place(step) for step in self._steps]
            self._tried[0].tries = self.attempts
        return self._tried

    def next(self, now: float) -> ScheduledAttempt | None:
        """What to try now, or after its `wait_seconds`; None: it is over, by success, failure or time."""
        if self._is_over or not self._steps:
            return None
        if self._tried is None and not self.attempts:
            self.attempts = 1
            return ScheduledAttempt(self._steps[0], 1, 0.0, len(self._steps) == 1 or self._settings.attempts == 1)
        place = None if self.attempts >= self._settings.attempts else self._choose(now)
        if place is None:
            self._is_over = True
            return None
        self.attempts += 1
        place.tries += 1
        can_go_on = self.attempts < self._settings.attempts
        others = can_go_on and any(other is not place and self._may_be_tried(other, now) for other in self._places)
        return ScheduledAttempt(place.step, self.attempts, max(0.0, place.not_before - now), is_last=not others)

    def peek(self, now: float) -> Step | None:
        """The place that would be tried next, at once, and is a different one: where a hedge could go."""
        if self._is_over or not self._steps or self.attempts >= self._settings.attempts:
            return None
        return next((place.step for place in self._places if not place.is_out and place.tries == 0), None)

    def hedge(self, step: Step) -> None:
        """The request has been sent there as well, which counts as an attempt."""
        self._of(step).tries += 1
        self.attempts += 1

    def skip(self, step: Step) -> None:
        """The attempt was not sent: the breaker leaves this place alone. It does not count, nor is it tried again."""
        place = self._of(step)
        place.is_out = True
        self.attempts -= 1

    def failed(self, step: Step, failure: Failure, now: float) -> None:
        """What has become of an attempt at this place."""
        place = self._of(step)
        place.failure = failure
        self._failed = [*self.failures, (step, failure)]
        if failure.is_final:
            self._is_over = True
        if failure.told_status in OUR_ACCOUNT | ONLY_HERE:
            place.is_out = True
        wait = max(self._pause(place.tries), failure.retry_after_seconds or 0.0)
        place.not_before = now + wait
        if wait > self._settings.longest_wait_seconds:
            place.is_out = True

    def succeeded(self) -> None:
        """The answer's content has begun: nothing else is tried."""
        self._is_over = self.is_answered = True

    def error(self, now: float, last: ServiceError) -> ServiceError:
        """What the caller gets when every attempt has failed. `last`: the error of the attempt that failed last.

        Its own words say most, unless time is over, or every provider throttles; and a 429 of one of several says
        nothing about the others.
        """
        kinds = [failure for _, failure in self.failures]
        if all(failure.told_status in ONLY_HERE | OUR_ACCOUNT for failure in kinds):
            return last
        if self._deadline.left(now) <= 0 or all(failure.kind is Kind.TIMEOUT for failure in kinds):
            return GatewayTimeout(f"No provider answered in time; {len(kinds)} attempts were made.")
        waits = [failure.retry_after_seconds for failure in kinds if failure.retry_after_seconds is not None]
        soonest = min(waits, default=None)
        if all(blame(failure.told_status) is Blame.THROTTLED for failure in kinds):
            wait = 1.0 if soonest is None else soonest
            return RateLimited("Every provider of this model is at its limit.", retry_after_seconds=wait)
        if not isinstance(last, RateLimited):
            return last
        if any(failure.kind in (Kind.GARBAGE, Kind.CUT) for failure in kinds):
            return UpstreamFailed(f"No provider gave a whole answer; {len(kinds)} attempts were made.")
        return ModelUnavailable(
            f"No provider of this model answers; {len(kinds)} attempts were made.", retry_after_seconds=soonest
        )

    def _choose(self, now: float) -> _Place | None:
        """The first that was tried least often and is due soonest."""
        open_places = [place for place in self._places if self._may_be_tried(place, now)]
        return min(open_places, key=lambda place: (place.tries, place.not_before), default=None)

    def _may_be_tried(self, place: _Place, now: float) -> bool:
        wait = max(0.0, place.not_before - now)
        return not place.is_out and place.tries < self._settings.attempts_per_place and wait < self._deadline.left(now)

    def _pause(self, tries: int) -> float:
        settings = self._settings
        wait = wait_exponential_jitter(
            multiplier=settings.first_wait_seconds, jitter=settings.jitter_seconds, max=settings.longest_wait_seconds
        )
        state = RetryCallState(_NEVER_CALLED, None, (), {})
        state.attempt_number = max(1, tries)
        return wait(state)

    def _of(self, step: Step) -> _Place:
        return next(place for place in self._places if place.step is step or place.step == step)


_NEVER_CALLED = Retrying()
