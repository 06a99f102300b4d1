"""Decides which offer of a plan is tried when, how long each attempt may take, and when a request is given up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
from tenacity import RetryCallState, Retrying, wait_exponential_jitter

from vllm_service.domain.plan import Step
from vllm_service.domain.refusals import Meaning
from vllm_service.errors import (
    GatewayTimeout,
    InvalidRequest,
    ModelUnavailable,
    RateLimited,
    ServiceError,
    UpstreamFailed,
)
from vllm_service.http.upstream import Patience
from vllm_service.resilience.failures import Failure, Kind

HEADER = "x-request-timeout-ms"
_TOO_LATE = (Kind.TIMEOUT, Kind.DEADLINE)


@dataclass(frozen=True, kw_only=True)
class DeadlineSettings:
    """Settings for how long requests may take."""

    #: The time for a request without the header.
    default_seconds: float = 600.0
    #: The most that the header can set.
    longest_seconds: float = 3600.0
    #: The time kept back for another offer: while one can still be tried, an attempt's first byte must come so long
    #: before the deadline. It keeps back no more than half of the time that is left.
    reserve_seconds: float = 10.0


class Deadline(msgspec.Struct, frozen=True, gc=False):
    """The deadline of one request, all of its attempts together. Times are seconds of a monotonic clock."""

    started_at: float
    #: The time that the request has.
    seconds: float
    #: See DeadlineSettings.
    reserve_seconds: float = 0.0
    #: Whether the caller has set less than every request may take.
    is_shortened: bool = False

    def left(self, now: float) -> float:
        """Returns the seconds that are left; 0 when the deadline has passed.

        Should the clock go back, they are no more than at the start.
        """
        left = self.started_at + self.seconds - now
        return self.seconds if left > self.seconds else left if left > 0.0 else 0.0

    def limits(self, connect_seconds: float, first_byte_seconds: float, now: float, *, is_last: bool) -> Patience:
        """Returns how long an attempt may take at a provider with these limits of its own.

        is_last: no other offer can be tried after this one. Raises GatewayTimeout when the deadline has passed.
        """
        left = min(self.started_at + self.seconds - now, self.seconds)  # the clock may have gone back
        if left <= 0:
            raise GatewayTimeout(
                f"No provider answered within the {self.seconds:g} s this request may take.",
                details={"timeout_seconds": self.seconds},
            )
        until_first_byte = left if is_last else max(left / 2, left - self.reserve_seconds)
        is_within = first_byte_seconds <= until_first_byte
        first_byte = first_byte_seconds if is_within else until_first_byte
        # A whole answer may take as long as every request may. Where that is the limit, and no earlier attempt has used
        # much of it, a provider that has not answered is at fault: else one that hangs would never be found out.
        is_whole = not self.is_shortened and until_first_byte * 2 >= self.seconds
        if connect_seconds <= first_byte:
            return Patience(connect_seconds, first_byte, left, True, is_within, is_whole)
        return Patience(first_byte, first_byte, left, False, is_within, is_whole)


def deadline(header: str | None, settings: DeadlineSettings, now: float) -> Deadline:
    """Returns a request's deadline: by its header `x-request-timeout-ms`, or the default. Raises InvalidRequest."""
    if header is None:
        seconds = settings.default_seconds
    elif header.isascii() and header.isdigit() and len(header) <= 12 and int(header) > 0:
        seconds = int(header) / 1000
    else:
        raise InvalidRequest(f"The header {HEADER} is not a whole number of milliseconds above 0.", param=HEADER)
    seconds = min(seconds, settings.longest_seconds)
    return Deadline(now, seconds, settings.reserve_seconds, seconds < settings.default_seconds)


@dataclass(frozen=True, kw_only=True)
class RetrySettings:
    """Settings for how often a request is tried, and for the pauses in between.

    The pause before an offer is tried for the nth time again is first_wait_seconds x 2^(n-1) plus up to jitter_seconds,
    longest_wait_seconds at most. An offer whose Retry-After is longer than that is not tried again.
    """

    #: Attempts of one request, hedges included.
    attempts: int = 4
    #: Attempts of one request at one offer.
    attempts_per_offer: int = 2
    first_wait_seconds: float = 0.25
    #: A random part of each pause, so that callers who failed together do not come back together.
    jitter_seconds: float = 0.25
    longest_wait_seconds: float = 10.0

    def __post_init__(self) -> None:
        """Raises ValueError for counts below 1 and negative waits."""
        if min(self.attempts, self.attempts_per_offer) < 1:
            raise ValueError("retries: attempts and attempts_per_offer must be at least 1")
        if min(self.first_wait_seconds, self.jitter_seconds, self.longest_wait_seconds) < 0:
            raise ValueError("retries: first_wait_seconds, jitter_seconds and longest_wait_seconds must be at least 0")


class ScheduledAttempt(msgspec.Struct, frozen=True, gc=False):
    """An attempt that is due."""

    step: Step
    #: Counts a request's attempts from 1, over all offers.
    number: int
    #: How long to wait before it is sent.
    wait_seconds: float
    #: Whether no other offer can be tried after it.
    is_last: bool


class _OfferState(msgspec.Struct):
    """One request's attempts at one offer."""

    step: Step
    tries: int = 0
    #: When the next attempt may be sent.
    not_before: float = 0.0
    failure: Failure | None = None
    #: Whether the offer is not tried again.
    is_out: bool = False


class RetrySchedule(msgspec.Struct):
    """The schedule of one request. Times are seconds of a monotonic clock."""

    _steps: Sequence[Step]
    _settings: RetrySettings
    _deadline: Deadline
    #: How many attempts were sent.
    attempts: int = 0
    is_answered: bool = False
    _is_over: bool = False
    _offer_states: list[_OfferState] | None = None
    _failed: list[tuple[Step, Failure]] | None = None

    @property
    def failures(self) -> Sequence[tuple[Step, Failure]]:
        """The failures of the attempts so far, in their order."""
        return self._failed or ()

    @property
    def _offers(self) -> list[_OfferState]:
        """The states in the plan's order. They are made only when needed: most requests need one attempt and none."""
        if self._offer_states is None:
            self._offer_states = [_OfferState(step) for step in self._steps]
            self._offer_states[0].tries = self.attempts
        return self._offer_states

    def next(self, now: float) -> ScheduledAttempt | None:
        """Returns the next attempt, to be sent after its `wait_seconds`; None if nothing is to be tried any more."""
        if self._is_over or not self._steps:
            return None
        if self._offer_states is None and not self.attempts:  # the first attempt, without making any state
            self.attempts = 1
            return ScheduledAttempt(self._steps[0], 1, 0.0, len(self._steps) == 1 or self._settings.attempts == 1)
        offer = None if self.attempts >= self._settings.attempts else self._choose(now)
        if offer is None:
            self._is_over = True
            return None
        self.attempts += 1
        offer.tries += 1
        can_go_on = self.attempts < self._settings.attempts
        others = can_go_on and any(other is not offer and self._may_be_tried(other, now) for other in self._offers)
        return ScheduledAttempt(offer.step, self.attempts, max(0.0, offer.not_before - now), is_last=not others)

    def peek(self, now: float) -> Step | None:
        """Returns the first step that has not been tried yet, to which a hedge could go; None if there is none."""
        if self._is_over or not self._steps or self.attempts >= self._settings.attempts:
            return None
        return next((offer.step for offer in self._offers if not offer.is_out and offer.tries == 0), None)

    def hedge(self, step: Step) -> None:
        """Counts an attempt that is sent beside another one."""
        self._of(step).tries += 1
        self.attempts += 1

    def skip(self, step: Step) -> None:
        """Takes back an attempt that was not sent, because of its breaker. Its offer is not tried again."""
        offer = self._of(step)
        offer.is_out = True
        self.attempts -= 1

    def failed(self, step: Step, failure: Failure, now: float) -> None:
        """Records the failure of an attempt."""
        offer = self._of(step)
        offer.failure = failure
        self._failed = [*self.failures, (step, failure)]
        if failure.is_final:
            self._is_over = True
        # The request has waited for a free connection already, or too many others wait: other offers are more use.
        if failure.is_lasting or failure.kind is Kind.BUSY:
            offer.is_out = True
        if failure.may_be_running:
            self._leave(step.provider)
        wait = max(self._pause(offer.tries), failure.retry_after_seconds or 0.0)
        offer.not_before = now + wait
        if wait > self._settings.longest_wait_seconds:
            offer.is_out = True

    def succeeded(self) -> None:
        """Ends the schedule: the answer's content has begun, and nothing else is tried."""
        self._is_over = True
        self.is_answered = True

    def error(self, now: float, last: ServiceError) -> ServiceError:
        """Returns the error for the caller when every attempt has failed. last: the error of the last attempt.

        The last error is the most exact, unless the time is over or all providers throttle. One provider's 429 does not
        speak for the others, so it is replaced where the attempts failed in different ways.
        """
        failures = [failure for _, failure in self.failures]
        if all(failure.is_lasting for failure in failures):
            return last
        if self._deadline.left(now) <= 0 or all(failure.kind in _TOO_LATE for failure in failures):
            return GatewayTimeout(f"No provider answered in time; {len(failures)} attempts were made.")
        waits = [failure.retry_after_seconds for failure in failures if failure.retry_after_seconds is not None]
        soonest = min(waits, default=None)
        if all(failure.meaning is Meaning.THROTTLED for failure in failures):
            wait = 1.0 if soonest is None else soonest
            return RateLimited("Every provider of this model is at its limit.", retry_after_seconds=wait)
        if not isinstance(last, RateLimited):
            return last
        if any(failure.kind in (Kind.GARBAGE, Kind.CUT) for failure in failures):
            return UpstreamFailed(f"No provider gave a whole answer; {len(failures)} attempts were made.")
        return ModelUnavailable(
            f"No provider of this model answers; {len(failures)} attempts were made.", retry_after_seconds=soonest
        )

    def _choose(self, now: float) -> _OfferState | None:
        """Returns the offer that was tried least often; of several the one that is due first, then by the plan."""
        open_offers = [offer for offer in self._offers if self._may_be_tried(offer, now)]
        return min(open_offers, key=lambda offer: (offer.tries, offer.not_before), default=None)

    def _may_be_tried(self, offer: _OfferState, now: float) -> bool:
        wait = max(0.0, offer.not_before - now)
        return not offer.is_out and offer.tries < self._settings.attempts_per_offer and wait < self._deadline.left(now)

    def _pause(self, tries: int) -> float:
        """Returns the pause after an offer's nth attempt, by tenacity's formula; tenacity's own loop is not used."""
        settings = self._settings
        wait = wait_exponential_jitter(
            multiplier=settings.first_wait_seconds, jitter=settings.jitter_seconds, max=settings.longest_wait_seconds
        )
        state = RetryCallState(_NEVER_CALLED, None, (), {})
        state.attempt_number = max(1, tries)
        return wait(state)

    def _leave(self, provider: str) -> None:
        """Sends nothing more to a provider: it may be generating the answer, and would generate a second one."""
        for offer in self._offers:
            if offer.step.provider == provider:
                offer.is_out = True

    def _of(self, step: Step) -> _OfferState:
        return next(offer for offer in self._offers if offer.step is step or offer.step == step)


# tenacity's waits need a state that belongs to a loop; this one never runs.
_NEVER_CALLED = Retrying()
