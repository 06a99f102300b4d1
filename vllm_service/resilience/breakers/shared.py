"""The breakers of all offers, kept in step with other replicas: one probe at a time, changes published and received."""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any

from vllm_service.domain.breakers import BreakerChange, BreakerState
from vllm_service.domain.plan import Step
from vllm_service.domain.timestamps import rfc3339
from vllm_service.resilience.breakers.circuit_breaker import Admission, BreakerSettings, CircuitBreaker, OnChange
from vllm_service.storage.coordination.protocol import BreakerStore


def ignore(change: BreakerChange) -> None:
    """For those who do not listen."""


class Breakers:
    """One per provider and model there. Listeners hear of every change, from here or from another replica."""

    def __init__(self, settings: BreakerSettings, on_change: OnChange = ignore) -> None:
        self._settings = settings
        self._listeners: list[OnChange] = [on_change]
        self.by_place: dict[tuple[str, str], CircuitBreaker] = {}
        #: Of these `may_try` may be False; while there is none, a plan has no breaker to look at.
        self.not_closed: set[tuple[str, str]] = set()

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
        """The same by names: see routing.router.BreakerView."""
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
        if change.after is BreakerState.CLOSED:
            self.not_closed.discard((change.provider, change.model))
        else:
            self.not_closed.add((change.provider, change.model))
        for listener in self._listeners:
            listener(change)


def _rfc3339(at: float | None, now: float, utc_seconds: float) -> str | None:
    return None if at is None else rfc3339(utc_seconds + at - now)


Errand = Callable[[], Awaitable[None]]


class SharedBreakers:
    """Lets attempts by, or not, where their breaker is not closed, and takes failures. `run` must run beside it.

    Only a probe asks the store first. clock: seconds, monotonic. store None: no other replica, and nothing to run.
    """

    def __init__(
        self, breakers: Breakers, store: BreakerStore | None, clock: Callable[[], float], *, probe_seconds: float
    ) -> None:
        #: A success goes to its breaker itself: what it changes is published like every change.
        self.breakers = breakers
        self._store = store
        self._clock = clock
        self._probe_seconds = probe_seconds
        self._probes: dict[tuple[str, str], tuple[Admission, str]] = {}
        self._numbers = itertools.count()
        self._replica = uuid.uuid4().hex
        self._errands: asyncio.Queue[Errand] = asyncio.Queue()
        if store is not None:
            breakers.listen(partial(self._tell_others, store))

    async def admit(self, step: Step) -> Admission | None:
        """Leave to send a request to this place, or None.

        Every admission ends in one call of `failed`, `cancelled`, or of its breaker's `succeeded`.
        """
        admission = self.breakers.admit(step, self._clock())
        if admission is None or not admission.is_probe or self._store is None:
            return admission
        token = f"{self._replica}:{next(self._numbers)}"
        self._probes[step.provider, step.model] = admission, token
        try:
            answer = await self._store.claim_probe(step.provider, step.model, token, self._probe_seconds)
        except asyncio.CancelledError:
            self.cancelled(step, admission)
            raise
        if answer.granted:
            return admission
        self._probes.pop((step.provider, step.model), None)
        breaker = self.breakers.of(step.provider, step.model)
        breaker.postpone(admission, answer.wait_seconds, answer.successes, self._clock())
        return None

    def failed(self, step: Step, admission: Admission, status: int, retry_after: float | None) -> None:
        """No answer (status 0), or one with this status."""
        self.breakers.of(step.provider, step.model).failed(admission, status, retry_after, self._clock())
        self._release_probe(step, admission)

    def cancelled(self, step: Step, admission: Admission) -> None:
        """The request came to nothing that tells anything of the place."""
        self.breakers.of(step.provider, step.model).cancelled(admission)
        self._release_probe(step, admission)

    async def run(self) -> None:
        """Tells and hears, until it is cancelled. Returns at once where there is no store."""
        if self._store is None:
            return
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._store.follow(lambda change: self.breakers.apply(change, self._clock())))
            tasks.create_task(self._run_errands())

    async def _run_errands(self) -> None:
        while True:
            errand = await self._errands.get()
            await errand()

    def _tell_others(self, store: BreakerStore, change: BreakerChange) -> None:
        is_progress = change.after is not BreakerState.HALF_OPEN or change.successes > 0
        rested = change.before is BreakerState.RESTING and change.after is BreakerState.CLOSED
        if not change.from_elsewhere and is_progress and not rested:
            _, token = self._probes.pop((change.provider, change.model), (None, ""))
            self._errands.put_nowait(lambda: store.publish(change, token))

    def _release_probe(self, step: Step, admission: Admission) -> None:
        """Unless what became of the probe has been published, which ends it as well."""
        place = step.provider, step.model
        probe, token = self._probes.get(place, (None, ""))
        store = self._store
        if admission is probe and store is not None:
            del self._probes[place]
            self._errands.put_nowait(lambda: store.release_probe(*place, token))
