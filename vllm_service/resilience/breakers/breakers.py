"""The breakers of all places, made when a place is first named; what callers and operators are told of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from vllm_service.domain.breakers import BreakerChange, BreakerState
from vllm_service.domain.plan import Step
from vllm_service.domain.timestamps import rfc3339
from vllm_service.resilience.breakers.circuit_breaker import Admission, CircuitBreaker, OnChange
from vllm_service.resilience.breakers.settings import BreakerSettings


def ignore(change: BreakerChange) -> None:
    """For those who do not listen."""


class Breakers:
    """One per provider and model there. Listeners hear of every change, from here or from another replica."""

    def __init__(self, settings: BreakerSettings, on_change: OnChange = ignore) -> None:
        self._settings = settings
        self._listeners: list[OnChange] = [on_change]
        self.by_place: dict[tuple[str, str], CircuitBreaker] = {}

    def listen(self, on_change: OnChange) -> None:
        """For metrics and logs; called in the middle of things, so it must neither block nor raise."""
        self._listeners.append(on_change)

    def of(self, provider: str, model: str) -> CircuitBreaker:
        """The breaker of a place, closed when it is new."""
        breaker = self.by_place.get((provider, model))
        if breaker is None:
            breaker = CircuitBreaker(provider, model, self._settings, self._tell)
            self.by_place[provider, model] = breaker
        return breaker

    def admit(self, step: Step, now: float) -> Admission | None:
        """Leave to send a request to this place, or None."""
        return self.of(step.provider, step.model).admit(now)

    def allows(self, step: Step, now: float) -> bool:
        """Whether a request would be let by; for the router's plans, takes nothing."""
        return self.of(step.provider, step.model).allows(now)

    def may_try(self, provider: str, model: str, now: float) -> bool:
        """The same by names: a CostRouter's `may_try`."""
        return self.of(provider, model).allows(now)

    def apply(self, change: BreakerChange, now: float) -> None:
        """What another replica saw."""
        self.of(change.provider, change.model).apply(change, now)

    def states(self, now: float) -> dict[tuple[str, str], BreakerState]:
        """Of every place that was ever named, for /health and metrics."""
        return {place: breaker.state(now) for place, breaker in self.by_place.items()}

    def details(self, steps: Iterable[Step], now: float, utc_seconds: float) -> dict[str, Any]:
        """Returns the `circuit_breaker` object of an error, for the place among these that recovers first.

        utc_seconds: the same moment as `now`, in seconds since 1970. fallback: another of the places lets requests by.
        """
        breakers = [self.of(step.provider, step.model) for step in steps]
        soonest = min(breakers, key=lambda breaker: breaker.seconds_shut(now))
        others = any(breaker.allows(now) for breaker in breakers)
        return {
            "status": soonest.state(now).value,
            "failure_count": soonest.failures,
            "last_failure_time": _rfc3339(soonest.last_failure_at, now, utc_seconds),
            "estimated_recovery_time": _rfc3339(now + soonest.seconds_shut(now), now, utc_seconds),
            "fallback_mode": "next_candidate" if len(breakers) > 1 else "none",
            "fallback_available": others,
        }

    def _tell(self, change: BreakerChange) -> None:
        for listener in self._listeners:
            listener(change)


def _rfc3339(at: float | None, now: float, utc_seconds: float) -> str | None:
    return None if at is None else rfc3339(utc_seconds + at - now)
