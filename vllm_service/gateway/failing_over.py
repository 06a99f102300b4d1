"""What attempts are driven by: breakers, how often to try again, how long a request may take, and hedging."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from vllm_service.errors import CircuitOpen
from vllm_service.gateway.hedging import Hedging
from vllm_service.routing.breaker_settings import BreakerSettings
from vllm_service.routing.breakers import Breakers
from vllm_service.routing.coordination import BreakerStore
from vllm_service.routing.deadlines import DeadlineSettings
from vllm_service.routing.fallback import ALL_LEFT_ALONE, RetrySettings
from vllm_service.routing.plan import Plan
from vllm_service.routing.shared_breakers import SharedBreakers
from vllm_service.storage.memory_coordination import MemoryBreakers


@dataclass(frozen=True)
class FailingOver:
    """Outlives reloads of the configuration: a provider that fails still fails when a file was read again.

    shared: the same breakers, asked and told; in step with other replicas while `shared.run()` runs.
    """

    breakers: Breakers
    shared: SharedBreakers
    retries: RetrySettings = field(default_factory=RetrySettings)
    deadlines: DeadlineSettings = field(default_factory=DeadlineSettings)
    hedging: Hedging | None = None

    @classmethod
    def of(
        cls,
        settings: BreakerSettings | None = None,
        store: BreakerStore | None = None,
        retries: RetrySettings | None = None,
        deadlines: DeadlineSettings | None = None,
        hedging: Hedging | None = None,
    ) -> FailingOver:
        """store None: no other replica. hedging None: nobody may ask for it."""
        settings = settings or BreakerSettings()
        breakers = Breakers(settings)
        shared = SharedBreakers(
            breakers, store or MemoryBreakers(), time.monotonic, probe_seconds=settings.probe_seconds
        )
        return cls(breakers, shared, retries or RetrySettings(), deadlines or DeadlineSettings(), hedging)

    def all_left_alone(self, plan: Plan, model: str, now: float) -> CircuitOpen:
        """When no place of a plan may be tried; the caller may come back when the first of them may."""
        details = self.breakers.details(plan.steps, now, time.time())
        waits = [self.breakers.of(step.provider, step.model).seconds_shut(now) for step in plan.steps]
        return CircuitOpen(
            ALL_LEFT_ALONE,
            details={"model": model, "circuit_breaker": details},
            retry_after_seconds=max(1.0, min(waits)),
        )
