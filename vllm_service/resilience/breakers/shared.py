"""The breakers of all offers, shared with other replicas: one probe at a time among all, changes published and applied.

A closed breaker needs no store, so most requests do not wait for Redis.
"""

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
    """Does nothing with a change."""


class Breakers:
    """The breakers of all offers: one per provider and model. Listeners are called with every change of any of them."""

    def __init__(self, settings: BreakerSettings, on_change: OnChange = ignore) -> None:
        self._settings = settings
        self._listeners: list[OnChange] = [on_change]
        #: By provider and the provider's name of the model.
        self.by_offer: dict[tuple[str, str], CircuitBreaker] = {}
        #: The offers for which `may_try` may be False. While there are none, plans need not look at any breaker.
        self.not_closed: set[tuple[str, str]] = set()

    def listen(self, on_change: OnChange) -> None:
        """Adds a listener. It is called in the middle of a change, so it must neither block nor raise."""
        self._listeners.append(on_change)

    def of(self, provider: str, model: str) -> CircuitBreaker:
        """Returns the breaker of an offer; a new one is closed."""
        breaker = self.by_offer.get((provider, model))
        if breaker is None:
            breaker = CircuitBreaker(provider, model, self._settings, self._notify)
            self.by_offer[provider, model] = breaker
        return breaker

    def admit(self, step: Step, now: float) -> Admission | None:
        """Returns the right to send a request to a step's offer, or None."""
        return self.of(step.provider, step.model).admit(now)

    def allows(self, step: Step, now: float) -> bool:
        """Returns whether `admit` would let a request by, without reserving anything, so that plans may call it."""
        return self.of(step.provider, step.model).allows(now)

    def may_try(self, provider: str, model: str, now: float) -> bool:
        """Returns whether `admit` would let a request by; the method that routing.router.BreakerView declares."""
        return self.of(provider, model).allows(now)

    def apply(self, change: BreakerChange, now: float) -> None:
        """Applies a change that another replica has published."""
        self.of(change.provider, change.model).apply(change, now)

    def states(self, now: float) -> dict[tuple[str, str], BreakerState]:
        """Returns the state of every offer that has a breaker."""
        return {offer: breaker.state(now) for offer, breaker in self.by_offer.items()}

    def details(self, steps: Iterable[Step], now: float, utc_seconds: float) -> dict[str, Any]:
        """Returns the `circuit_breaker` object of an error, for the step whose offer recovers first.

        utc_seconds: the same moment as `now`, in seconds since 1970. `fallback_available` is whether a step's offer
        lets requests by.
        """
        breakers = [self.of(step.provider, step.model) for step in steps]
        soonest = min(breakers, key=lambda breaker: breaker.seconds_shut(now))
        is_any_allowed = any(breaker.allows(now) for breaker in breakers)
        return {
            "status": soonest.state(now).value,
            "failure_count": soonest.failures,
            "last_failure_time": _rfc3339(soonest.last_failure_at, now, utc_seconds),
            "estimated_recovery_time": _rfc3339(now + soonest.seconds_shut(now), now, utc_seconds),
            "fallback_mode": "next_candidate" if len(breakers) > 1 else "none",
            "fallback_available": is_any_allowed,
        }

    def _notify(self, change: BreakerChange) -> None:
        if change.after is BreakerState.CLOSED:
            self.not_closed.discard((change.provider, change.model))
        else:
            self.not_closed.add((change.provider, change.model))
        for listener in self._listeners:
            listener(change)


def _rfc3339(at: float | None, now: float, utc_seconds: float) -> str | None:
    """Returns a moment of the monotonic clock as a date and time. utc_seconds: the moment `now`, since 1970."""
    return None if at is None else rfc3339(utc_seconds + at - now)


StoreWrite = Callable[[], Awaitable[None]]


class SharedBreakers:
    """Admits attempts and takes their failures, in agreement with other replicas. `run` must run beside it.

    Only a probe waits for the store; everything else is written to it later, by `run`. clock: monotonic seconds.
    store None: there is no other replica, and nothing to run.
    """

    def __init__(
        self, breakers: Breakers, store: BreakerStore | None, clock: Callable[[], float], *, probe_seconds: float
    ) -> None:
        #: A success is recorded at its breaker itself: if that changes the breaker, the change is published from there.
        self.breakers = breakers
        self._store = store
        self._clock = clock
        self._probe_seconds = probe_seconds
        # This replica's probes by offer, each with the token under which the store knows it.
        self._probes: dict[tuple[str, str], tuple[Admission, str]] = {}
        self._numbers = itertools.count()
        self._replica = uuid.uuid4().hex
        # One queue, so that the writes reach the store in their order.
        self._writes: asyncio.Queue[StoreWrite] = asyncio.Queue()
        if store is not None:
            breakers.listen(partial(self._publish, store))

    async def admit(self, step: Step) -> Admission | None:
        """Returns the right to send a request to a step's offer, or None. A probe needs the store's consent.

        Every admission ends in one call of `failed`, `cancelled`, or of its breaker's `succeeded`.
        """
        admission = self.breakers.admit(step, self._clock())
        if admission is None or not admission.is_probe or self._store is None:
            return admission
        token = f"{self._replica}:{next(self._numbers)}"
        self._probes[step.provider, step.model] = admission, token
        try:
            answer = await self._store.claim_probe(step.provider, step.model, token, self._probe_seconds)
        except BaseException:  # a probe that is not given back shuts its offer until it expires
            self.cancelled(step, admission)
            raise
        if answer.granted:
            return admission
        self._probes.pop((step.provider, step.model), None)
        breaker = self.breakers.of(step.provider, step.model)
        breaker.postpone(admission, answer.wait_seconds, answer.successes, self._clock())
        return None

    def failed(self, step: Step, admission: Admission, status: int, retry_after: float | None) -> None:
        """Records a failure. status: HTTP's; 0 for no answer. retry_after: the provider's, in seconds."""
        self.breakers.of(step.provider, step.model).failed(admission, status, retry_after, self._clock())
        self._release_probe(step, admission)

    def cancelled(self, step: Step, admission: Admission) -> None:
        """Records a request that ended for another reason than the provider."""
        self.breakers.of(step.provider, step.model).cancelled(admission)
        self._release_probe(step, admission)

    async def run(self) -> None:
        """Publishes changes and applies those of other replicas until it is cancelled. Without a store it returns."""
        if self._store is None:
            return
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._store.follow(lambda change: self.breakers.apply(change, self._clock())))
            tasks.create_task(self._write())

    async def _write(self) -> None:
        while True:
            write = await self._writes.get()
            await write()

    def _publish(self, store: BreakerStore, change: BreakerChange) -> None:
        """Queues a change for other replicas, unless it comes from one or they make it themselves when a pause ends."""
        is_progress = change.after is not BreakerState.HALF_OPEN or change.successes > 0
        rested = change.before is BreakerState.RESTING and change.after is BreakerState.CLOSED
        if not change.from_elsewhere and is_progress and not rested:
            _, token = self._probes.pop((change.provider, change.model), (None, ""))
            self._writes.put_nowait(lambda: store.publish(change, token))

    def _release_probe(self, step: Step, admission: Admission) -> None:
        """Queues the release of a probe, unless its result has been published, which releases it as well."""
        offer = (step.provider, step.model)
        probe, token = self._probes.get(offer, (None, ""))
        store = self._store
        if admission is probe and store is not None:
            del self._probes[offer]
            self._writes.put_nowait(lambda: store.release_probe(*offer, token))
