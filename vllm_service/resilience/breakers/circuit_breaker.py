"""The circuit breaker of one offer: stops requests to an offer that keeps failing, and probes when it is sound again.

CLOSED lets requests by. RESTING lets none by until a Retry-After is over; the offer is sound, so no probe follows.
OPEN lets none by for a time, which doubles with each failed probe. HALF_OPEN lets one request at a time by as a probe;
some probes in a row that succeed close the breaker, one that fails opens it again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vllm_service.domain.breakers import BreakerChange, BreakerState
from vllm_service.resilience.failures import Blame, blame


@dataclass(frozen=True, kw_only=True)
class BreakerSettings:
    """Settings for when a breaker opens and closes."""

    #: So many failures in a row open it.
    consecutive_failures: int = 5
    #: The share of failures in the window that opens it.
    error_rate: float = 0.5
    window_seconds: float = 30.0
    #: With fewer requests in the window the share is not looked at.
    minimum_requests: int = 20
    #: How long it is open at first; each probe that fails doubles this, up to `longest_open_seconds`.
    open_seconds: float = 10.0
    longest_open_seconds: float = 300.0
    #: The longest Retry-After that is obeyed.
    longest_retry_after_seconds: float = 3600.0
    #: So many probes in a row that succeed close it.
    successes_to_close: int = 2
    #: A probe without a result after so long is taken for lost; longer than any first byte may take.
    probe_seconds: float = 150.0
    #: Nothing but 429s for so long, and at least `consecutive_failures` of them, open it.
    throttled_seconds: float = 60.0

    def __post_init__(self) -> None:
        """Raises ValueError for a count below 1, a time that is not positive, or a rate that is not a share."""
        if min(self.consecutive_failures, self.minimum_requests, self.successes_to_close) < 1:
            raise ValueError("circuit breaker: the counts must be at least 1")
        times = (self.window_seconds, self.open_seconds, self.longest_retry_after_seconds, self.probe_seconds)
        if min(times) <= 0 or self.longest_open_seconds < self.open_seconds or self.throttled_seconds < 0:
            raise ValueError("circuit breaker: times must be above 0, longest_open_seconds at least open_seconds")
        if not 0 < self.error_rate <= 1:
            raise ValueError(f"circuit breaker: error_rate must be above 0 and at most 1, got {self.error_rate}")


SLICES = 10


class ErrorWindow:
    """Counts requests and failures over the last `seconds`, in ten slices of time. A clock that goes back clears it.

    The oldest slice is dropped as a whole, so the window is up to a tenth shorter than `seconds`.
    """

    def __init__(self, seconds: float) -> None:
        self._slice_seconds = seconds / SLICES
        # The number of the current slice, counted from the clock's zero; its counts lie at this number modulo SLICES.
        self._slice = 0
        self._answered = [0] * SLICES
        self._failed = [0] * SLICES
        #: The sums over all slices: requests that ended, and those of them that failed.
        self.answered = 0
        self.failed = 0

    def add(self, now_seconds: float, *, failed: bool) -> None:
        """Counts a request that has ended."""
        number = int(now_seconds / self._slice_seconds)
        if number != self._slice:
            self._move_to(number)
        index = number % SLICES
        self._answered[index] += 1
        self.answered += 1
        if failed:
            self._failed[index] += 1
            self.failed += 1

    def clear(self) -> None:
        """Sets all counts to 0."""
        self._answered = [0] * SLICES
        self._failed = [0] * SLICES
        self.answered = 0
        self.failed = 0

    def _move_to(self, number: int) -> None:
        if not 0 < number - self._slice < SLICES:
            self.clear()
        else:
            for passed in range(self._slice + 1, number + 1):
                index = passed % SLICES
                self.answered -= self._answered[index]
                self.failed -= self._failed[index]
                self._answered[index] = 0
                self._failed[index] = 0
        self._slice = number


OnChange = Callable[[BreakerChange], None]
CLOSED, RESTING, OPEN, HALF_OPEN = BreakerState


@dataclass(frozen=True, slots=True)
class Admission:
    """The right to send one request."""

    #: A result of an older generation is ignored: that request was sent before the breaker's last change.
    generation: int
    is_probe: bool = False


class CircuitBreaker:
    """The breaker of one provider's model. Every admission ends in one call of succeeded, failed or cancelled."""

    def __init__(self, provider: str, model: str, settings: BreakerSettings, on_change: OnChange) -> None:
        self.provider = provider
        self.model = model
        #: Failures in a row.
        self.failures = 0
        self.last_failure_at: float | None = None
        self._settings = settings
        self._on_change = on_change
        self._window = ErrorWindow(settings.window_seconds)
        self._state = CLOSED
        # One object for all requests of a generation, so that the hot path makes none.
        self._admission = Admission(0)
        self._shut_at = 0.0
        self._shut_seconds = 0.0
        # How often it has opened since it was last closed; each time doubles the pause.
        self._openings = 0
        # Probes in a row that have succeeded.
        self._successes = 0
        # While a probe is out, or another replica's is, no further one is sent for so many seconds.
        self._probe_at: float | None = None
        self._probe_seconds = 0.0
        # 429s in a row, and when the first of them came.
        self._throttles = 0
        self._throttled_at = 0.0

    @property
    def while_closed(self) -> Admission | None:
        """The result of `admit` while the breaker is closed, without a call; None: call `admit`."""
        return self._admission if self._state is CLOSED else None

    def state(self, now: float) -> BreakerState:
        """Returns the state now. A pause that is over changes it, since no timer does that."""
        if self._state in (OPEN, RESTING) and not self.seconds_shut(now):
            self._move(CLOSED if self._state is RESTING else HALF_OPEN, "the pause is over")
        return self._state

    def seconds_shut(self, now: float) -> float:
        """Returns the seconds until it lets a request by again; 0 unless it is open or resting."""
        if self._state not in (OPEN, RESTING):
            return 0.0
        self._shut_at = min(self._shut_at, now)  # a clock that went back must not make the pause longer
        return max(0.0, self._shut_at + self._shut_seconds - now)

    def allows(self, now: float) -> bool:
        """Returns whether `admit` would let a request by, without reserving anything."""
        if self._state is CLOSED:
            return True
        state = self.state(now)
        return state is CLOSED or (state is HALF_OPEN and not self._is_probing(now))

    def admit(self, now: float) -> Admission | None:
        """Returns the right to send a request, or None. A half-open breaker gives it to one probe at a time."""
        if self._state is CLOSED:
            return self._admission
        if not self.allows(now):
            return None
        if self._state is HALF_OPEN:
            self._hold_probes(self._settings.probe_seconds, now)
            self._admission = Admission(self._admission.generation + 1, is_probe=True)
        return self._admission

    def first_content(self, admission: Admission, now: float) -> None:
        """Records an answer's first content. A probe has succeeded with that: the next need not wait for its end."""
        if admission.is_probe:
            self.succeeded(admission, now)

    def succeeded(self, admission: Admission, now: float) -> None:
        """Records a whole answer."""
        if admission.generation != self._admission.generation:
            return
        self._throttles = 0
        if self._state is not HALF_OPEN:
            self.failures = 0
            self._window.add(now, failed=False)
            return
        self._end_probe()
        self._successes += 1
        if self._successes >= self._settings.successes_to_close:
            self._close("its probes succeeded")
        else:
            self._move(HALF_OPEN, "a probe succeeded")

    def failed(self, admission: Admission, status: int, retry_after: float | None, now: float) -> None:
        """Records a request that failed. status: HTTP's; 0 for no answer. retry_after: the provider's, in seconds."""
        if admission.generation != self._admission.generation:
            return
        at_fault = blame(status)
        if at_fault in (Blame.CALLER, Blame.NONE):
            self.cancelled(admission)
            return
        rest = min(retry_after or 0.0, self._settings.longest_retry_after_seconds)
        if at_fault is Blame.THROTTLED:
            self._count_throttle(rest, now)
        else:
            self._count_failure(status, rest, now)

    def cancelled(self, admission: Admission) -> None:
        """Records a request that ended for another reason than the provider."""
        if admission.is_probe and admission.generation == self._admission.generation:
            self._end_probe()

    def postpone(self, admission: Admission, seconds: float, successes: int, now: float) -> None:
        """Takes back a probe that is not sent, since another replica probes. None is sent within these seconds.

        successes: probes in a row that have succeeded at all replicas.
        """
        if admission.is_probe and admission.generation == self._admission.generation:
            self._end_probe()
            self._successes = max(self._successes, successes)
            self._hold_probes(seconds, now)

    def apply(self, change: BreakerChange, now: float) -> None:
        """Applies a change that another replica has published, as if it had happened here."""
        if change.after is CLOSED:
            if self._state is not CLOSED:
                self._close(change.reason, from_elsewhere=True)
        elif change.after is HALF_OPEN:
            self._successes = max(self._successes, change.successes) if self._state is not CLOSED else 0
        elif change.after is OPEN or self._state in (CLOSED, RESTING):
            self._shut_from_elsewhere(change, now)

    def _count_failure(self, status: int, rest: float, now: float) -> None:
        settings = self._settings
        window = self._window
        self.failures += 1
        self.last_failure_at = now
        window.add(now, failed=True)
        if self._state is HALF_OPEN:
            self._open(f"a probe failed with {status}", rest, now)
        elif self.failures >= settings.consecutive_failures:
            self._open(f"{self.failures} failures in a row, the last with {status}", rest, now)
        elif window.answered >= settings.minimum_requests and window.failed >= settings.error_rate * window.answered:
            self._open(f"{window.failed} of {window.answered} failed, the last with {status}", rest, now)
        else:
            self._rest(rest, now)

    def _count_throttle(self, rest: float, now: float) -> None:
        """Counts a 429. The provider is sound, so it rests; `throttled_seconds` of nothing else open the breaker."""
        if not self._throttles or now < self._throttled_at:
            self._throttled_at = now
        self._throttles += 1
        lasted = now - self._throttled_at
        if self._state is HALF_OPEN:
            self._openings = max(0, self._openings - 1)  # it answers, so the pause need not become longer
            self._open("a probe was answered 429", rest, now)
        elif self._throttles >= self._settings.consecutive_failures and lasted >= self._settings.throttled_seconds:
            self.last_failure_at = now
            self._open(f"nothing but 429 for {lasted:.0f} s", rest, now)
        else:
            self._rest(rest, now)

    def _rest(self, seconds: float, now: float) -> None:
        """Stops requests for the provider's Retry-After, unless they are stopped for longer already."""
        if seconds > self.seconds_shut(now):
            before = self._state
            self._shut(RESTING, seconds, now)
            self._notify(before, f"the provider's Retry-After is {seconds:g} s")

    def _open(self, reason: str, rest: float, now: float) -> None:
        before = self._state
        # The exponent is limited because 2.0 ** 1024 overflows; the pause has reached its limit long before.
        seconds = min(self._settings.open_seconds * 2.0 ** min(self._openings, 60), self._settings.longest_open_seconds)
        self._openings += 1
        self._shut(OPEN, max(seconds, rest), now)
        self._successes = 0
        self._notify(before, reason)

    def _shut(self, state: BreakerState, seconds: float, now: float) -> None:
        self._state = state
        self._shut_at = now
        self._shut_seconds = seconds
        if state is OPEN:
            self._end_probe()

    def _shut_from_elsewhere(self, change: BreakerChange, now: float) -> None:
        """Opens or rests as another replica does; of two pauses the longer one holds."""
        shut = self.seconds_shut(now)
        before = self._state
        if before is change.after and shut >= change.seconds:
            return
        if change.after is OPEN:
            self.failures = max(self.failures, change.failures)
            self.last_failure_at = now
            self._openings += before is not OPEN
            self._successes = 0
        self._shut(change.after, max(change.seconds, shut), now)
        self._notify(before, change.reason, from_elsewhere=True)

    def _close(self, reason: str, *, from_elsewhere: bool = False) -> None:
        self.failures = 0
        self._openings = 0
        self._successes = 0
        self._throttles = 0
        self._window.clear()
        self._admission = Admission(self._admission.generation + 1)
        self._move(CLOSED, reason, from_elsewhere=from_elsewhere)

    def _hold_probes(self, seconds: float, now: float) -> None:
        self._probe_at = now
        self._probe_seconds = seconds

    def _end_probe(self) -> None:
        self._probe_at = None
        # A new generation: a second result of the same probe is ignored.
        self._admission = Admission(self._admission.generation + 1)

    def _is_probing(self, now: float) -> bool:
        if self._probe_at is None:
            return False
        self._probe_at = min(self._probe_at, now)  # as in `seconds_shut`
        return now - self._probe_at < self._probe_seconds

    def _move(self, state: BreakerState, reason: str, *, from_elsewhere: bool = False) -> None:
        before = self._state
        self._state = state
        self._notify(before, reason, from_elsewhere=from_elsewhere)

    def _notify(self, before: BreakerState, reason: str, *, from_elsewhere: bool = False) -> None:
        seconds = self._shut_seconds if self._state in (OPEN, RESTING) else 0.0
        self._on_change(
            BreakerChange(
                self.provider,
                self.model,
                before,
                self._state,
                reason,
                seconds,
                self.failures,
                self._successes,
                from_elsewhere,
            )
        )
