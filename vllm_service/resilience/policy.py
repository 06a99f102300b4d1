"""The policy of all attempts: breakers, how often to try again, how long a request may take, and hedging."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from vllm_service.domain.plan import Plan
from vllm_service.errors import CircuitOpen
from vllm_service.resilience.breakers.circuit_breaker import BreakerSettings
from vllm_service.resilience.breakers.shared import Breakers, SharedBreakers
from vllm_service.resilience.hedging import Hedging
from vllm_service.resilience.retry_schedule import DeadlineSettings, RetrySettings
from vllm_service.storage.coordination.protocol import BreakerStore

ALL_LEFT_ALONE = "Every provider of this model has been failing and is left alone for now."
Clock = Callable[[], float]


@dataclass(frozen=True)
class ResiliencePolicy:
    """Outlives reloads of the configuration: a provider that fails still fails when a file was read again."""

    breakers: Breakers
    #: The same breakers, as attempts pass them; in step with other replicas while `shared.run()` runs.
    shared: SharedBreakers
    retries: RetrySettings = field(default_factory=RetrySettings)
    deadlines: DeadlineSettings = field(default_factory=DeadlineSettings)
    #: None: no request is hedged, whatever it asks for.
    hedging: Hedging | None = None
    #: Seconds, monotonic; the router and the breakers are given the same.
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
        """Makes the breakers too. store None: there is no other replica."""
        settings = settings or BreakerSettings()
        breakers = Breakers(settings)
        shared = SharedBreakers(breakers, store, time.monotonic, probe_seconds=settings.probe_seconds)
        return cls(breakers, shared, retries or RetrySettings(), deadlines or DeadlineSettings(), hedging)

    def all_left_alone(self, plan: Plan, model: str, now: float) -> CircuitOpen:
        """The error where no step of a plan may be tried; the caller may come back when the first of them may."""
        details = self.breakers.details(plan.steps, now, time.time())
        waits = [self.breakers.of(step.provider, step.model).seconds_shut(now) for step in plan.steps]
        return CircuitOpen(
            ALL_LEFT_ALONE,
            details={"model": model, "circuit_breaker": details},
            retry_after_seconds=max(1.0, min(waits)),
        )
