"""Logs the changes of circuit breakers, and sums their states up by provider for health and metrics."""

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
    """Counts and logs the breakers' changes from its creation on.

    A provider counts as open when the breakers of all its models are open for everyone.
    """

    def __init__(self, breakers: Breakers, clock: Callable[[], float] = time.monotonic) -> None:
        self._breakers = breakers
        self._clock = clock
        self._openings: Counter[str] = Counter()
        breakers.listen(self._on_change)

    def status(self) -> BreakersState:
        """Returns the state of every provider that has been tried. One that rests after a Retry-After is closed."""
        now = self._clock()
        by_provider: defaultdict[str, list[tuple[BreakerState, str]]] = defaultdict(list)
        for (provider, model), state in self._breakers.states(now).items():
            by_provider[provider].append((state, model))
        return BreakersState(
            {provider: self._of_provider(provider, offers, now) for provider, offers in by_provider.items()}
        )

    def _of_provider(self, provider: str, offers: list[tuple[BreakerState, str]], now: float) -> ProviderCircuit:
        states = {state for state, _ in offers}
        breakers = [self._breakers.of(provider, model) for _, model in offers]
        circuit = Circuit.CLOSED
        # One model that is closed or rests makes the provider closed; else one that is probed makes it half open.
        if states <= {BreakerState.OPEN, BreakerState.HALF_OPEN}:
            circuit = Circuit.OPEN if states == {BreakerState.OPEN} else Circuit.HALF_OPEN
        retry_at = None
        if circuit is Circuit.OPEN:
            retry_at = time.time() + min(breaker.seconds_shut(now) for breaker in breakers)
        failures = max(breaker.failures for breaker in breakers)
        organisations = max(breaker.organisations_shut_out(now) for breaker in breakers)
        return ProviderCircuit(circuit, failures, self._openings[provider], retry_at, organisations)

    def _on_change(self, change: BreakerChange) -> None:
        # A pause that is made longer is no further opening, and what one organisation meets there is none.
        is_opening = change.after is BreakerState.OPEN and change.before is not BreakerState.OPEN
        self._openings[change.provider] += is_opening and change.organisation is None
        level = logging.INFO if change.after is BreakerState.CLOSED else logging.WARNING
        _log.log(
            level,
            "circuit breaker of %s, %s%s: %s, was %s: %s%s",
            change.provider,
            change.model,
            "" if change.organisation is None else f", for the organisation {change.organisation!r} alone",
            change.after.value,
            change.before.value,
            change.reason,
            " (seen by another replica)" if change.from_elsewhere else "",
        )
