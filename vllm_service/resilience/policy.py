"""The policy of all attempts: breakers, retries, deadlines and hedging."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from vllm_service.domain.plan import Plan
from vllm_service.domain.requests import RequestFacts
from vllm_service.errors import CircuitOpen
from vllm_service.resilience.breakers.breaker_settings import BreakerSettings
from vllm_service.resilience.breakers.shared import Breakers, SharedBreakers
from vllm_service.resilience.hedging import Hedging
from vllm_service.resilience.retry_schedule import DeadlineSettings, RetrySettings
from vllm_service.storage.coordination.protocol import BreakerStore

ALL_OPEN = "Every provider of this model has been failing and is left alone for now."
Clock = Callable[[], float]


@dataclass(frozen=True)
class ResiliencePolicy:
    """The policy and the state of all breakers. It outlives reloads: a provider that fails does so after one, too."""

    breakers: Breakers
    #: The same breakers, as attempts pass them; in step with other replicas while `shared.run()` runs.
    shared: SharedBreakers
    retries: RetrySettings = field(default_factory=RetrySettings)
    deadlines: DeadlineSettings = field(default_factory=DeadlineSettings)
    #: None: no request is hedged, whatever its headers say.
    hedging: Hedging | None = None
    #: Monotonic seconds. The router and the breakers must have the same clock.
    clock: Clock = time.monotonic

    @classmethod
    def of(
        cls,
        settings: BreakerSettings | None = None,
        store: BreakerStore | None = None,
        retries: RetrySettings | None = None,
        deadlines: DeadlineSettings | None = None,
        hedging: Hedging | None = None,
    ) -> ResiliencePolicy:
        """Returns a policy with new breakers. store None: there is no other replica."""
        settings = settings or BreakerSettings()
        breakers = Breakers(settings)
        shared = SharedBreakers(breakers, store, time.monotonic, probe_seconds=settings.probe_seconds)
        return cls(breakers, shared, retries or RetrySettings(), deadlines or DeadlineSettings(), hedging)

    def circuit_open(self, plan: Plan, facts: RequestFacts, now: float) -> CircuitOpen:
        """Returns the error for a plan without a step that may be tried; its Retry-After is when the first one may."""
        organisation = facts.organisation
        details = self.breakers.details(plan.steps, now, time.time(), organisation)
        waits = [self.breakers.for_organisation(step, organisation, now).seconds_shut(now) for step in plan.steps]
        return CircuitOpen(
            ALL_OPEN,
            details={"model": facts.model, "circuit_breaker": details},
            retry_after_seconds=max(1.0, min(waits)),
        )
