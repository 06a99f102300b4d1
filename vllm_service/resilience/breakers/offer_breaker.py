"""The circuit breaker of one offer, so built that no organisation can shut the offer for the others.

What one organisation's requests provoke at a provider (an odd body that makes it fail, a prompt that it cannot end in
time, a 429) is no sign that the others' would fail. So each organisation has a breaker of its own, from its first
failure on. The breaker for everyone opens by what is left without the loudest organisation: its failures are left out,
whatever their number. An installation with one organisation loses nothing, as that one's own breaker opens.

Requests without an organisation are all of one caller, as in LLMRouter: they go by everyone's breaker alone.
"""

from __future__ import annotations

from collections.abc import Iterable

from vllm_service.domain.breakers import BreakerChange
from vllm_service.resilience.breakers.breaker_settings import BreakerSettings
from vllm_service.resilience.breakers.circuit_breaker import CLOSED, HALF_OPEN, CircuitBreaker, OnChange
from vllm_service.resilience.breakers.error_window import ErrorWindow
from vllm_service.resilience.breakers.probes import Admission
from vllm_service.resilience.failures import Blame, blame
from vllm_service.storage.coordination.protocol import MOST_PROBES

#: How many organisations' breakers are kept at one offer; the one whose failure is the oldest goes first.
MOST_ORGANISATIONS = 256
#: How often breakers that are of no use any more are looked for.
LOOK_SECONDS = 1.0
#: Of so many organisations a probe must fail until an offer that was shut for everyone is shut again.
FAILED_PROBES = 2
_NEVER_REFUSED = Admission(0)


class _Organisation:
    """The state of the offer for one organisation, by what its requests have met there."""

    __slots__ = ("breaker", "failed_at", "failures", "rest_until", "run", "throttles", "window")

    def __init__(self, breaker: CircuitBreaker, window_seconds: float) -> None:
        self.breaker = breaker
        #: Its failures alone.
        self.window = ErrorWindow(window_seconds)
        self.failed_at = 0.0
        #: The run in which the following three were counted; a run ends with a success of any organisation.
        self.run = -1
        self.failures = 0
        self.throttles = 0
        #: When the longest Retry-After of the run is over.
        self.rest_until = 0.0

    def count(self, run: int, now: float, rest: float, *, is_throttled: bool) -> None:
        """Counts a failure."""
        if run != self.run:
            self.run, self.failures, self.throttles, self.rest_until = run, 0, 0, 0.0
        self.failed_at = now
        self.rest_until = max(self.rest_until, now + rest)
        if is_throttled:
            self.throttles += 1
        else:
            self.failures += 1
            self.window.add(now, failed=True)

    def is_over(self, now: float, keep_seconds: float) -> bool:
        """Returns whether nothing is left to remember, or its last failure was too long ago."""
        breaker = self.breaker
        self.failed_at = min(self.failed_at, now)  # a clock that went back
        if breaker.state(now) not in (CLOSED, HALF_OPEN) or breaker.is_probing or self.window.failed_by(now):
            return False
        return breaker.is_sound or now - self.failed_at >= keep_seconds


class OfferBreaker(CircuitBreaker):
    """The breaker of one offer for everyone, and one for each organisation that it has lately failed."""

    most_probes = MOST_PROBES

    def __init__(self, provider: str, model: str, settings: BreakerSettings, on_change: OnChange) -> None:
        super().__init__(provider, model, settings, on_change)
        # The longest without a failure comes first.
        self._organisations: dict[str, _Organisation] = {}
        # Ends with a success of any organisation.
        self._run = 0
        # Whose probes have failed since one succeeded, while HALF_OPEN.
        self._failed_probes: set[str] = set()
        self._looked_at = 0.0

    @property
    def is_closed(self) -> bool:
        """True if it lets every request of every organisation by, as far as is known without a look at the clock."""
        return super().is_closed and all(one.breaker.is_closed for one in self._organisations.values())

    def organisations_shut_out(self, now: float) -> int:
        """Returns how many organisations are refused, or probe, while others are not."""
        return sum(one.breaker.state(now) is not CLOSED for one in list(self._organisations.values()))

    def for_organisation(self, organisation: str, now: float) -> CircuitBreaker:
        """Returns the breaker that keeps this organisation away for the longest: everyone's, or its own."""
        one = self._organisations.get(organisation)
        if one is None or one.breaker.state(now) is CLOSED:
            return self
        return self if self.seconds_shut(now) > one.breaker.seconds_shut(now) else one.breaker

    def allows(self, now: float, organisation: str = "") -> bool:
        """Returns whether `admit` would let a request of the organisation by, without reserving anything."""
        one = self._organisations.get(organisation)
        return (one is None or one.breaker.allows(now)) and super().allows(now, organisation)

    def admit(self, now: float, organisation: str = "") -> Admission | None:
        """Returns the right to send a request, or None."""
        self._forget(now)
        if not self.allows(now, organisation):
            return None
        admission = super().admit(now, organisation)
        one = self._organisations.get(organisation)
        if one is None or admission is None:
            return admission
        with_own = Admission(admission.generation, admission.is_probe, one.breaker.admit(now))
        if admission.is_probe:
            self._probes.send(organisation, with_own, now, self._settings.probe_seconds)
        return with_own

    def first_content(self, admission: Admission, now: float, organisation: str = "") -> None:
        """Records an answer's first content, with which a probe has succeeded."""
        super().first_content(admission, now, organisation)
        one = self._organisations.get(organisation)
        if one is not None and admission.own is not None:
            one.breaker.first_content(admission.own, now)

    def cancelled(self, admission: Admission, organisation: str = "") -> None:
        """Records a request that ended for another reason than the provider."""
        super().cancelled(admission, organisation)
        one = self._organisations.get(organisation)
        if one is not None and admission.own is not None:
            one.breaker.cancelled(admission.own)

    def postpone(
        self, admission: Admission, seconds: float, successes: int, now: float, organisation: str = ""
    ) -> None:
        """Takes back a probe that is not sent, since another replica probes for this organisation."""
        one = self._organisations.get(organisation)
        if one is not None and admission.own is not None:
            if admission.is_probe:
                one.breaker.cancelled(admission.own)
            else:
                one.breaker.postpone(admission.own, seconds, successes, now)
        super().postpone(admission, seconds, successes, now, organisation)

    def apply(self, change: BreakerChange, now: float) -> None:
        """Applies a change that another replica has published."""
        if change.organisation is None:
            super().apply(change, now)
        elif change.organisation in self._organisations or change.after is not CLOSED:
            one = self._organisation(change.organisation)
            one.failed_at = now
            one.breaker.apply(change, now)

    def _succeeded(self, admission: Admission, now: float, organisation: str) -> None:
        self._run += 1
        one = self._organisations.get(organisation)
        if one is not None:
            one.breaker.succeeded(admission.own or _NEVER_REFUSED, now)
        if admission.is_probe and self._is_current(admission, organisation):
            self._failed_probes.clear()
        super()._succeeded(admission, now, organisation)

    def _failed(self, admission: Admission, status: int, rest: float, now: float, organisation: str) -> None:
        if not organisation:
            super()._failed(admission, status, rest, now, organisation)
            return
        one = self._organisation(organisation)
        one.count(self._run, now, rest, is_throttled=blame(status) is Blame.THROTTLED)
        one.breaker.failed(admission.own or _NEVER_REFUSED, status, rest, now)
        if not self._is_current(admission, organisation):
            return
        if admission.is_probe:
            self._probe_failed(one, organisation, status, now)
        else:
            self._count_for_everyone(status, now)

    def _probe_failed(self, one: _Organisation, organisation: str, status: int, now: float) -> None:
        """Keeps an organisation whose probe failed away; everyone, when those of several organisations have failed."""
        self._probes.end(organisation)
        one.breaker.shut(f"a probe failed with {status}", now)
        self._failed_probes.add(organisation)
        if len(self._failed_probes) >= FAILED_PROBES:
            self.last_failure_at = now
            if blame(status) is Blame.THROTTLED:
                self._openings = max(0, self._openings - 1)
            self._open(f"probes of {len(self._failed_probes)} organisations failed, the last with {status}", 0.0, now)

    def _count_for_everyone(self, status: int, now: float) -> None:
        """Opens the breaker for everyone, or lets it rest, where that does not rest on one organisation alone."""
        settings = self._settings
        run = [one for one in self._organisations.values() if one.run == self._run]
        self.while_sound = None
        self.failures = sum(one.failures for one in run)
        throttles = sum(one.throttles for one in run)
        if blame(status) is not Blame.THROTTLED:
            self.last_failure_at = now
            self.window.add(now, failed=True)
        elif throttles == 1 or now < self._throttled_at:
            self._throttled_at = now
        rest = _second(one.rest_until for one in run) - now
        failed = [one.window.failed_by(now) for one in self._organisations.values()]
        loudest = max(failed, default=0)
        answered = self.window.answered - loudest
        failed_of_others = self.window.failed - loudest
        throttled_seconds = now - self._throttled_at
        least = settings.consecutive_failures
        if _without_most(one.failures for one in run) >= least:
            self._open(f"{self.failures} failures in a row at {len(run)} organisations, the last {status}", rest, now)
        elif answered >= settings.minimum_requests and failed_of_others >= settings.error_rate * answered:
            self._open(f"{self.window.failed} of {self.window.answered} failed, the last with {status}", rest, now)
        elif _without_most(one.throttles for one in run) >= least and throttled_seconds >= settings.throttled_seconds:
            self._open(f"nothing but 429 for {throttled_seconds:.0f} s", rest, now)
        elif rest > 0:
            self._rest(rest, now)

    def _open(self, reason: str, rest: float, now: float) -> None:
        self._failed_probes.clear()
        super()._open(reason, rest, now)

    def _close(self, reason: str, *, from_elsewhere: bool = False) -> None:
        self._run += 1
        self._failed_probes.clear()
        for one in self._organisations.values():
            one.window.clear()
        super()._close(reason, from_elsewhere=from_elsewhere)

    def _look(self) -> None:
        super()._look()
        if self._organisations:
            self.while_closed = None

    def _organisation(self, name: str) -> _Organisation:
        """Returns what is known of an organisation that fails now, and puts it last."""
        one = self._organisations.pop(name, None)
        if one is None:
            if len(self._organisations) >= MOST_ORGANISATIONS:
                self._drop(next(iter(self._organisations)))
            breaker = CircuitBreaker(self.provider, self.model, self._settings, self._on_change, name)
            # How many of the earlier successes were its own is not known; with one organisation all of them were.
            breaker.window = self.window.of_successes()
            one = _Organisation(breaker, self._settings.window_seconds)
        self._organisations[name] = one
        self._look()
        return one

    def _forget(self, now: float) -> None:
        """Drops organisations whose failures are over, so that requests need not look at any breaker."""
        if not self._organisations or 0 <= now - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = now
        keep_seconds = self._settings.longest_open_seconds
        for name, one in list(self._organisations.items()):
            if one.is_over(now, keep_seconds):
                self._drop(name)
        self._look()

    def _drop(self, name: str) -> None:
        self._organisations.pop(name).breaker.forget()


def _without_most(counts: Iterable[int]) -> int:
    """Returns the sum without the largest number."""
    numbers = list(counts)
    return sum(numbers) - max(numbers, default=0)


def _second(moments: Iterable[float]) -> float:
    """Returns the second latest; 0 if there are fewer than two."""
    latest = sorted(moments, reverse=True)
    return latest[1] if len(latest) > 1 else 0.0
