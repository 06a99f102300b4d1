"""Leaves an offer alone that keeps failing, and finds out with one request at a time when it is well again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vllm_service.domain.breakers import BreakerChange, BreakerState
from vllm_service.resilience.failures import Blame, blame


@dataclass(frozen=True, kw_only=True)
class BreakerSettings:
    """When a breaker opens and closes. Raises ValueError for what cannot be.

    error_rate: share of failures in the window that opens it, from `minimum_requests` on.
    open_seconds: the first time; doubled by each probe that fails, up to `longest_open_seconds`.
    longest_retry_after_seconds: more than this is not believed.
    probe_seconds: a probe of which nothing was heard for so long is lost; more than any first byte may take.
    throttled_seconds: 429s alone for so long, and at least `consecutive_failures` of them, open it.
    """

    consecutive_failures: int = 5
    error_rate: float = 0.5
    window_seconds: float = 30.0
    minimum_requests: int = 20
    open_seconds: float = 10.0
    longest_open_seconds: float = 300.0
    longest_retry_after_seconds: float = 3600.0
    successes_to_close: int = 2
    probe_seconds: float = 150.0
    throttled_seconds: float = 60.0

    def __post_init__(self) -> None:
        """Counts are at least one, times above zero, the rate a share."""
        if min(self.consecutive_failures, self.minimum_requests, self.successes_to_close) < 1:
            raise ValueError("circuit breaker: counts are at least 1")
        times = (self.window_seconds, self.open_seconds, self.longest_retry_after_seconds, self.probe_seconds)
        if min(times) <= 0 or self.longest_open_seconds < self.open_seconds or self.throttled_seconds < 0:
            raise ValueError("circuit breaker: times are above 0, longest_open_seconds at least open_seconds")
        if not 0 < self.error_rate <= 1:
            raise ValueError(f"circuit breaker: error_rate is above 0 and at most 1, got {self.error_rate}")


SLICES = 10


class ErrorWindow:
    """Counts over the last `seconds`, a tenth of them more or less. A clock that goes back starts it afresh."""

    def __init__(self, seconds: float) -> None:
        self._slice_seconds = seconds / SLICES
        self._slice = 0
        self._answered = [0] * SLICES
        self._failed = [0] * SLICES
        self.answered = 0
        self.failed = 0

    def add(self, now_seconds: float, *, failed: bool) -> None:
        """One request has ended."""
        number = int(now_seconds / self._slice_seconds)
        if number != self._slice:
            self._move_to(number)
        place = number % SLICES
        self._answered[place] += 1
        self.answered += 1
        if failed:
            self._failed[place] += 1
            self.failed += 1

    def clear(self) -> None:
        """Nothing has happened."""
        self._answered = [0] * SLICES
        self._failed = [0] * SLICES
        self.answered = self.failed = 0

    def _move_to(self, number: int) -> None:
        if not 0 < number - self._slice < SLICES:
            self.clear()
        else:
            for passed in range(self._slice + 1, number + 1):
                place = passed % SLICES
                self.answered -= self._answered[place]
                self.failed -= self._failed[place]
                self._answered[place] = self._failed[place] = 0
        self._slice = number


OnChange = Callable[[BreakerChange], None]
CLOSED, RESTING, OPEN, HALF_OPEN = BreakerState


@dataclass(frozen=True, slots=True)
class Admission:
    """Leave to send one request. Tells its result apart from those that were sent before the breaker moved on."""

    generation: int
    is_probe: bool = False


class CircuitBreaker:
    """Of one provider and one model there. Every admission ends in one call of succeeded, failed or cancelled."""

    def __init__(self, provider: str, model: str, settings: BreakerSettings, on_change: OnChange) -> None:
        self.provider, self.model = provider, model
        self.failures = 0
        self.last_failure_at: float | None = None
        self._settings = settings
        self._on_change = on_change
        self._window = ErrorWindow(settings.window_seconds)
        self._state = CLOSED
        self._admission = Admission(0)
        self._shut_at = self._shut_seconds = 0.0
        self._openings = 0  # without having been closed in between
        self._successes = 0
        self._probe_at: float | None = None
        self._probe_seconds = 0.0
        self._throttles = 0
        self._throttled_at = 0.0

    @property
    def while_closed(self) -> Admission | None:
        """What `admit` gives while it is closed; None: ask `admit`."""
        return self._admission if self._state is CLOSED else None

    def state(self, now: float) -> BreakerState:
        """Where it stands; time alone may have moved it."""
        if self._state in (OPEN, RESTING) and not self.seconds_shut(now):
            self._move(CLOSED if self._state is RESTING else HALF_OPEN, "the time to leave it alone is over")
        return self._state

    def seconds_shut(self, now: float) -> float:
        """Seconds until it lets a request by again; 0 unless it is open or resting."""
        if self._state not in (OPEN, RESTING):
            return 0.0
        self._shut_at = min(self._shut_at, now)  # the clock went back: not shut for longer because of that
        return max(0.0, self._shut_at + self._shut_seconds - now)

    def allows(self, now: float) -> bool:
        """Whether `admit` would let a request by; takes nothing."""
        if self._state is CLOSED:
            return True
        state = self.state(now)
        return state is CLOSED or (state is HALF_OPEN and not self._is_probing(now))

    def admit(self, now: float) -> Admission | None:
        """Leave to send a request, or None; while half open for one probe at a time."""
        if self._state is CLOSED:
            return self._admission
        if not self.allows(now):
            return None
        if self._state is HALF_OPEN:
            self._hold_probes(self._settings.probe_seconds, now)
            self._admission = Admission(self._admission.generation + 1, is_probe=True)
        return self._admission

    def answers(self, admission: Admission, now: float) -> None:
        """The first byte of content has come: for a probe that is success, or the next would wait for a long answer."""
        if admission.is_probe:
            self.succeeded(admission, now)

    def succeeded(self, admission: Admission, now: float) -> None:
        """The answer came, whole."""
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
        """No answer came (status 0), or one with this status. retry_after: seconds, if the place named them."""
        if admission.generation != self._admission.generation:
            return
        culprit = blame(status)
        if culprit in (Blame.CALLER, Blame.NOBODY):
            self.cancelled(admission)
            return
        rest = min(retry_after or 0.0, self._settings.longest_retry_after_seconds)
        if culprit is Blame.THROTTLED:
            self._count_throttle(rest, now)
        else:
            self._count_failure(status, rest, now)

    def cancelled(self, admission: Admission) -> None:
        """It came to nothing that tells anything of the place."""
        if admission.is_probe and admission.generation == self._admission.generation:
            self._end_probe()

    def postpone(self, admission: Admission, seconds: float, successes: int, now: float) -> None:
        """Another replica probes, or knows better: this probe is not sent, nor another within these seconds."""
        if admission.is_probe and admission.generation == self._admission.generation:
            self._end_probe()
            self._successes = max(self._successes, successes)
            self._hold_probes(seconds, now)

    def apply(self, change: BreakerChange, now: float) -> None:
        """What another replica saw, as if it had been seen here."""
        if change.after is CLOSED:
            if self._state is not CLOSED:
                self._close(change.reason, from_elsewhere=True)
        elif change.after is HALF_OPEN:
            self._successes = max(self._successes, change.successes) if self._state is not CLOSED else 0
        elif change.after is OPEN or self._state in (CLOSED, RESTING):
            self._shut_from_elsewhere(change, now)

    def _count_failure(self, status: int, rest: float, now: float) -> None:
        settings, window = self._settings, self._window
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
        if not self._throttles or now < self._throttled_at:
            self._throttled_at = now
        self._throttles += 1
        lasted = now - self._throttled_at
        if self._state is HALF_OPEN:
            self._openings = max(0, self._openings - 1)  # a place that answers 429 is not getting worse
            self._open("a probe was answered 429", rest, now)
        elif self._throttles >= self._settings.consecutive_failures and lasted >= self._settings.throttled_seconds:
            self.last_failure_at = now
            self._open(f"nothing but 429 for {lasted:.0f} s", rest, now)
        else:
            self._rest(rest, now)

    def _rest(self, seconds: float, now: float) -> None:
        if seconds > self.seconds_shut(now):
            before = self._state
            self._shut(RESTING, seconds, now)
            self._tell(before, f"it asked to be left alone for {seconds:g} s")

    def _open(self, reason: str, rest: float, now: float) -> None:
        before = self._state
        seconds = min(self._settings.open_seconds * 2.0 ** min(self._openings, 60), self._settings.longest_open_seconds)
        self._openings += 1
        self._shut(OPEN, max(seconds, rest), now)
        self._successes = 0
        self._tell(before, reason)

    def _shut(self, state: BreakerState, seconds: float, now: float) -> None:
        self._state, self._shut_at, self._shut_seconds = state, now, seconds
        if state is OPEN:
            self._end_probe()

    def _shut_from_elsewhere(self, change: BreakerChange, now: float) -> None:
        shut, before = self.seconds_shut(now), self._state
        if before is change.after and shut >= change.seconds:
            return
        if change.after is OPEN:
            self.failures = max(self.failures, change.failures)
            self.last_failure_at = now
            self._openings += before is not OPEN
            self._successes = 0
        self._shut(change.after, max(change.seconds, shut), now)
        self._tell(before, change.reason, from_elsewhere=True)

    def _close(self, reason: str, *, from_elsewhere: bool = False) -> None:
        self.failures = self._openings = self._successes = self._throttles = 0
        self._window.clear()
        self._admission = Admission(self._admission.generation + 1)
        self._move(CLOSED, reason, from_elsewhere=from_elsewhere)

    def _hold_probes(self, seconds: float, now: float) -> None:
        self._probe_at, self._probe_seconds = now, seconds

    def _end_probe(self) -> None:
        self._probe_at = None
        self._admission = Admission(self._admission.generation + 1)  # what else is told of it comes too late

    def _is_probing(self, now: float) -> bool:
        if self._probe_at is None:
            return False
        self._probe_at = min(self._probe_at, now)
        return now - self._probe_at < self._probe_seconds

    def _move(self, state: BreakerState, reason: str, *, from_elsewhere: bool = False) -> None:
        before, self._state = self._state, state
        self._tell(before, reason, from_elsewhere=from_elsewhere)

    def _tell(self, before: BreakerState, reason: str, *, from_elsewhere: bool = False) -> None:
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
