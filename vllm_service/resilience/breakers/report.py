"""What circuit breakers did, for the log, and how they stand by provider, for health and metrics."""

from __future__ import annotations

import logging
import time
from collections import Counter, defaultdict
from collections.abc import Callable

from vllm_service.domain.breakers import BreakerChange, BreakerState
from vllm_service.domain.status import BreakersState, Circuit, ProviderCircuit
from vllm_service.resilience.breakers.shared import Breakers

_log = logging.getLogger(__name__)


class BreakerReport:
    """Listens to the breakers from when it is made. A provider is open when none of its models may be tried."""

    def __init__(self, breakers: Breakers, clock: Callable[[], float] = time.monotonic) -> None:
        self._breakers = breakers
        self._clock = clock
        self._openings: Counter[str] = Counter()
        breakers.listen(self._heard)

    def status(self) -> BreakersState:
        """Returns the state of every provider that was ever tried. One that rests after a Retry-After is closed."""
        now = self._clock()
        places: defaultdict[str, list[tuple[BreakerState, str]]] = defaultdict(list)
        for (provider, model), state in self._breakers.states(now).items():
            places[provider].append((state, model))
        return BreakersState(
            {provider: self._of_provider(provider, states, now) for provider, states in places.items()}
        )

    def _of_provider(self, provider: str, places: list[tuple[BreakerState, str]], now: float) -> ProviderCircuit:
        states = {state for state, _ in places}
        breakers = [self._breakers.of(provider, model) for _, model in places]
        circuit = Circuit.CLOSED
        if states <= {BreakerState.OPEN, BreakerState.HALF_OPEN}:
            circuit = Circuit.OPEN if states == {BreakerState.OPEN} else Circuit.HALF_OPEN
        retry_at = None
        if circuit is Circuit.OPEN:
            retry_at = time.time() + min(breaker.seconds_shut(now) for breaker in breakers)
        failures = max(breaker.failures for breaker in breakers)
        return ProviderCircuit(circuit, failures, self._openings[provider], retry_at)

    def _heard(self, change: BreakerChange) -> None:
        self._openings[change.provider] += change.after is BreakerState.OPEN and change.before is not BreakerState.OPEN
        level = logging.INFO if change.after is BreakerState.CLOSED else logging.WARNING
        _log.log(
            level,
            "circuit breaker of %s, %s: %s, was %s: %s%s",
            change.provider,
            change.model,
            change.after.value,
            change.before.value,
            change.reason,
            " (seen by another replica)" if change.from_elsewhere else "",
        )
