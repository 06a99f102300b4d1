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

from vllm_service.domain.breakers import BreakerChange, BreakerState, ProbeClaim
from vllm_service.domain.plan import Step
from vllm_service.domain.timestamps import rfc3339
from vllm_service.resilience.breakers.breaker_settings import BreakerSettings
from vllm_service.resilience.breakers.circuit_breaker import CircuitBreaker, OnChange
from vllm_service.resilience.breakers.offer_breaker import OfferBreaker
from vllm_service.resilience.breakers.probes import Admission
from vllm_service.storage.coordination.protocol import BreakerStore


def ignore(change: BreakerChange) -> None:
    """Does nothing with a change."""


class Breakers:
    """The breakers of all offers: one per provider and model. Listeners are called with every change of any of them."""

    def __init__(self, settings: BreakerSettings, on_change: OnChange = ignore) -> None:
        self._settings = settings
        self._listeners: list[OnChange] = [on_change]
        #: By provider and the provider's name of the model.
        self.by_offer: dict[tuple[str, str], OfferBreaker] = {}
        #: The offers for which `may_try` may be False. While there are none, plans need not look at any breaker.
        self.not_closed: set[tuple[str, str]] = set()

    def listen(self, on_change: OnChange) -> None:
        """Adds a listener. It is called in the middle of a change, so it must neither block nor raise."""
        self._listeners.append(on_change)

    def of(self, provider: str, model: str) -> OfferBreaker:
        """Returns the breaker of an offer; a new one is closed."""
        breaker = self.by_offer.get((provider, model))
        if breaker is None:
            breaker = OfferBreaker(provider, model, self._settings, self._notify)
            self.by_offer[provider, model] = breaker
        return breaker

    def told_apart(self, organisation: str) -> str:
        """Returns the organisation by which breakers go; empty where they tell none apart."""
        return organisation if self._settings.by_organisation else ""

    def admit(self, step: Step, now: float, organisation: str = "") -> Admission | None:
        """Returns the right to send a request to a step's offer, or None."""
        return self.of(step.provider, step.model).admit(now, self.told_apart(organisation))

    def allows(self, step: Step, now: float, organisation: str = "") -> bool:
        """Returns whether `admit` would let a request by, without reserving anything, so that plans may call it."""
        return self.may_try(step.provider, step.model, now, organisation)

    def may_try(self, provider: str, model: str, now: float, organisation: str) -> bool:
        """Returns whether `admit` would let a request by; the method that routing.router.BreakerView declares."""
        return self.of(provider, model).allows(now, self.told_apart(organisation))

    def for_organisation(self, step: Step, organisation: str, now: float) -> CircuitBreaker:
        """Returns the breaker by which a step's offer is closed or not to an organisation."""
        return self.of(step.provider, step.model).for_organisation(self.told_apart(organisation), now)

    def apply(self, change: BreakerChange, now: float) -> None:
        """Applies a change that another replica has published."""
        self.of(change.provider, change.model).apply(change, now)

    def states(self, now: float) -> dict[tuple[str, str], BreakerState]:
        """Returns the state of every offer that has a breaker, as it is for everyone."""
        return {offer: breaker.state(now) for offer, breaker in self.by_offer.items()}

    def details(self, steps: Iterable[Step], now: float, utc_seconds: float, organisation: str = "") -> dict[str, Any]:
        """Returns the `circuit_breaker` object of an error, for the step whose offer recovers first.

        utc_seconds: the same moment as `now`, in seconds since 1970. `fallback_available` is whether a step's offer
        lets requests by.
        """
        breakers = [self.for_organisation(step, organisation, now) for step in steps]
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
        offer = (change.provider, change.model)
        if self.of(*offer).is_closed:
            self.not_closed.discard(offer)
        else:
            self.not_closed.add(offer)
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
        # This replica's probes, each with the claim by which the store knows it.
        self._probes: dict[Admission, ProbeClaim] = {}
        self._numbers = itertools.count()
        self._replica = uuid.uuid4().hex
        # One queue, so that the writes reach the store in their order.
        self._writes: asyncio.Queue[StoreWrite] = asyncio.Queue()
        if store is not None:
            breakers.listen(partial(self._publish, store))

    async def admit(self, step: Step, organisation: str = "") -> Admission | None:
        """Returns the right to send a request to a step's offer, or None. A probe needs the store's consent.

        Every admission ends in one call of `failed`, `cancelled`, or of its breaker's `succeeded`; one that is not its
        breaker's `while_closed` has a call of `first_content` before that, where the answer begins.
        """
        admission = self.breakers.admit(step, self._clock(), organisation)
        if admission is None or not admission.probes_any or self._store is None:
            return admission
        sender = self.breakers.told_apart(organisation)
        token = f"{self._replica}:{next(self._numbers)}"
        # A probe of everyone's breaker is claimed there alone, also where it is one of the organisation's own as well.
        claim = ProbeClaim(step.provider, step.model, None if admission.is_probe else sender, sender, token)
        self._probes[admission] = claim
        try:
            answer = await self._store.claim_probe(claim, self._probe_seconds)
        except BaseException:  # a probe that is not given back shuts its offer until it expires
            self.cancelled(step, admission, organisation)
            raise
        if answer.granted:
            return admission
        self._probes.pop(admission, None)
        breaker = self.breakers.of(step.provider, step.model)
        breaker.postpone(admission, answer.wait_seconds, answer.successes, self._clock(), sender)
        return None

    def first_content(self, step: Step, admission: Admission, organisation: str = "") -> None:
        """Records an answer's first content: a probe has succeeded with that, and the next one may be sent."""
        breaker = self.breakers.of(step.provider, step.model)
        breaker.first_content(admission, self._clock(), self.breakers.told_apart(organisation))
        self._release_probe(admission)

    def succeeded(self, step: Step, admission: Admission, now: float, organisation: str = "") -> None:
        """Records a whole answer, where its admission is not the breaker's `while_sound`."""
        breaker = self.breakers.of(step.provider, step.model)
        breaker.succeeded(admission, now, self.breakers.told_apart(organisation))
        self._release_probe(admission)

    def failed(
        self, step: Step, admission: Admission, status: int, retry_after: float | None, organisation: str = ""
    ) -> None:
        """Records a failure. status: HTTP's; 0 for no answer. retry_after: the provider's, in seconds."""
        breaker = self.breakers.of(step.provider, step.model)
        breaker.failed(admission, status, retry_after, self._clock(), self.breakers.told_apart(organisation))
        self._release_probe(admission)

    def cancelled(self, step: Step, admission: Admission, organisation: str = "") -> None:
        """Records a request that ended for another reason than the provider."""
        breaker = self.breakers.of(step.provider, step.model)
        breaker.cancelled(admission, self.breakers.told_apart(organisation))
        self._release_probe(admission)

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
            self._writes.put_nowait(lambda: store.publish(change))

    def _release_probe(self, admission: Admission) -> None:
        """Queues the end of a probe's claim, behind the change that its result may have made."""
        claim = self._probes.pop(admission, None)
        store = self._store
        if claim is not None and store is not None:
            self._writes.put_nowait(lambda: store.release_probe(claim))
