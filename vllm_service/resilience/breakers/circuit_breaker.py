"""A circuit breaker: stops requests to an offer that keeps failing, and probes when it is sound again.

CLOSED lets requests by. RESTING lets none by until a Retry-After is over; the offer is sound, so no probe follows.
OPEN lets none by for a time, which doubles with each failed probe. HALF_OPEN lets one request at a time by as a probe;
some probes in a row that succeed close the breaker, one that fails opens it again.
"""

from __future__ import annotations

from collections.abc import Callable

from vllm_service.domain.breakers import BreakerChange, BreakerState
from vllm_service.resilience.breakers.breaker_settings import BreakerSettings
from vllm_service.resilience.breakers.error_window import ErrorWindow
from vllm_service.resilience.breakers.probes import Admission, Probes
from vllm_service.resilience.failures import Blame, blame

OnChange = Callable[[BreakerChange], None]
CLOSED, RESTING, OPEN, HALF_OPEN = BreakerState


class CircuitBreaker:
    """One breaker. Every admission ends in one call of succeeded, failed or cancelled.

    organisation: whose requests it is about; None: everyone's.
    """

    #: How many probes may be out at a time, each of another organisation.
    most_probes = 1

    def __init__(
        self,
        provider: str,
        model: str,
        settings: BreakerSettings,
        on_change: OnChange,
        organisation: str | None = None,
    ) -> None:
        self.provider = provider
        self.model = model
        self.organisation = organisation
        #: Failures in a row.
        self.failures = 0
        self.last_failure_at: float | None = None
        self._settings = settings
        self._on_change = on_change
        #: The requests that ended lately. Where `while_sound` is a request's admission, its success counts here alone.
        self.window = ErrorWindow(settings.window_seconds)
        self._state = CLOSED
        # One object for all requests of a generation, so that the hot path makes none.
        self._admission = Admission(0)
        #: The result of `admit` for every request, without a call; None: call `admit`.
        self.while_closed: Admission | None = self._admission
        #: The same while nothing has failed, so that a success changes nothing but the window.
        self.while_sound: Admission | None = self._admission
        self._shut_at = 0.0
        self._shut_seconds = 0.0
        # How often it has opened since it was last closed; each time doubles the pause.
        self._openings = 0
        # Probes in a row that have succeeded.
        self._successes = 0
        self._probes = Probes()
        # 429s in a row, and when the first of them came.
        self._throttles = 0
        self._throttled_at = 0.0

    @property
    def is_closed(self) -> bool:
        """True if it lets every request by, as far as is known without a look at the clock."""
        return self._state is CLOSED

    @property
    def is_sound(self) -> bool:
        """True if it is closed, and the last request that ended did not fail."""
        return self._state is CLOSED and not self.failures and not self._throttles

    @property
    def is_probing(self) -> bool:
        """True if a probe is out, or may be."""
        return self._probes.are_out

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

    def allows(self, now: float, organisation: str = "") -> bool:
        """Returns whether `admit` would let a request by, without reserving anything."""
        if self._state is CLOSED:
            return True
        state = self.state(now)
        return state is CLOSED or (state is HALF_OPEN and self._probes.have_room(organisation, self.most_probes, now))

    def admit(self, now: float, organisation: str = "") -> Admission | None:
        """Returns the right to send a request, or None. A half-open breaker gives it to probes alone."""
        if self._state is CLOSED:
            return self._admission
        if not self.allows(now, organisation):
            return None
        if self._state is not HALF_OPEN:
            return self._admission
        probe = Admission(self._admission.generation, is_probe=True)
        self._probes.send(organisation, probe, now, self._settings.probe_seconds)
        return probe

    def first_content(self, admission: Admission, now: float, organisation: str = "") -> None:
        """Records an answer's first content. A probe has succeeded with that: the next need not wait for its end."""
        if admission.is_probe:
            self._succeeded(admission, now, organisation)

    def succeeded(self, admission: Admission, now: float, organisation: str = "") -> None:
        """Records a whole answer."""
        if admission is self.while_sound:
            self.window.add(now, failed=False)
        else:
            self._succeeded(admission, now, organisation)

    def failed(
        self, admission: Admission, status: int, retry_after: float | None, now: float, organisation: str = ""
    ) -> None:
        """Records a request that failed. status: HTTP's; 0 for no answer. retry_after: the provider's, in seconds."""
        at_fault = blame(status)
        if at_fault in (Blame.CALLER, Blame.NONE):
            self.cancelled(admission, organisation)
            return
        rest = min(retry_after or 0.0, self._settings.longest_retry_after_seconds)
        self._failed(admission, status, rest, now, organisation)

    def cancelled(self, admission: Admission, organisation: str = "") -> None:
        """Records a request that ended for another reason than the provider."""
        if admission.is_probe and self._is_current(admission, organisation):
            self._probes.end(organisation)

    def postpone(
        self, admission: Admission, seconds: float, successes: int, now: float, organisation: str = ""
    ) -> None:
        """Takes back a probe that is not sent, since another replica probes. None is sent within these seconds.

        successes: probes in a row that have succeeded at all replicas.
        """
        if admission.is_probe and self._is_current(admission, organisation):
            self._successes = max(self._successes, successes)
            self._probes.send(organisation, None, now, seconds)

    def apply(self, change: BreakerChange, now: float) -> None:
        """Applies a change that another replica has published, as if it had happened here."""
        if change.after is CLOSED:
            if self._state is not CLOSED:
                self._close(change.reason, from_elsewhere=True)
        elif change.after is HALF_OPEN:
            self._successes = max(self._successes, change.successes) if self._state is not CLOSED else 0
        elif change.after is OPEN or self._state in (CLOSED, RESTING):
            self._shut_from_elsewhere(change, now)

    def shut(self, reason: str, now: float) -> None:
        """Opens it, unless it is open already."""
        if self._state is not OPEN:
            self.last_failure_at = now
            self._open(reason, 0.0, now)

    def forget(self) -> None:
        """Closes it, because nothing that it has seen matters any more."""
        if self._state is not CLOSED:
            self._close("its failures are long over")

    def _succeeded(self, admission: Admission, now: float, organisation: str) -> None:
        if not self._is_current(admission, organisation):
            return
        self._throttles = 0
        if self._state is not HALF_OPEN:
            self.failures = 0
            self.window.add(now, failed=False)
            self.while_sound = self.while_closed
            return
        self._probes.end(organisation)
        self._successes += 1
        if self._successes >= self._settings.successes_to_close:
            self._close("its probes succeeded")
        else:
            self._move(HALF_OPEN, "a probe succeeded")

    def _failed(self, admission: Admission, status: int, rest: float, now: float, organisation: str) -> None:
        """Records a failure that speaks against the provider. rest: its Retry-After, 0 if it gave none."""
        if not self._is_current(admission, organisation):
            return
        if blame(status) is Blame.THROTTLED:
            self._count_throttle(rest, now)
        else:
            self._count_failure(status, rest, now)

    def _count_failure(self, status: int, rest: float, now: float) -> None:
        settings = self._settings
        window = self.window
        self.while_sound = None
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
        self.while_sound = None
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
            self._begin_generation()
        self._look()

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
        self.window.clear()
        self._begin_generation()
        self._move(CLOSED, reason, from_elsewhere=from_elsewhere)

    def _begin_generation(self) -> None:
        """Makes the results of all requests under way count for nothing, probes among them."""
        self._probes.clear()
        self._admission = Admission(self._admission.generation + 1)

    def _look(self) -> None:
        """Follows a change of the state or the admission."""
        self.while_closed = self._admission if self._state is CLOSED else None
        self.while_sound = None

    def _is_current(self, admission: Admission, organisation: str) -> bool:
        """Returns whether the result of a request still counts; that of a probe does once."""
        if admission.is_probe:
            return self._probes.is_out(organisation, admission)
        return admission.generation == self._admission.generation

    def _move(self, state: BreakerState, reason: str, *, from_elsewhere: bool = False) -> None:
        before = self._state
        self._state = state
        self._look()
        self._notify(before, reason, from_elsewhere=from_elsewhere)

    def _notify(self, before: BreakerState, reason: str, *, from_elsewhere: bool = False) -> None:
        self._on_change(
            BreakerChange(
                self.provider,
                self.model,
                before,
                self._state,
                reason,
                self._shut_seconds if self._state in (OPEN, RESTING) else 0.0,
                self.failures,
                self._successes,
                from_elsewhere,
                self.organisation,
            )
        )
