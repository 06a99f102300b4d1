"""Implements coordination in memory, for a gateway without replicas or while Redis is away. No driver is needed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from vllm_service.domain.breakers import BreakerChange, ProbeAnswer, ProbeClaim


class MemoryBreakers:
    """Implements protocol.BreakerStore for one replica. The breaker itself limits its probes."""

    async def publish(self, change: BreakerChange) -> None:
        """Nothing to do."""

    async def claim_probe(self, claim: ProbeClaim, seconds: float) -> ProbeAnswer:
        """Grants every probe."""
        return ProbeAnswer(granted=True)

    async def release_probe(self, claim: ProbeClaim) -> None:
        """Nothing to do."""

    async def follow(self, apply: Callable[[BreakerChange], None]) -> None:
        """Waits until it is cancelled: there are no other replicas."""
        await asyncio.Event().wait()


class MemoryWakes:
    """Implements protocol.Wakes for one replica. clock: monotonic seconds. If it goes back, leases end."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        #: By endpoint: when the lease began, and for how long it lasts.
        self._leases: dict[str, tuple[float, float]] = {}

    async def claim(self, endpoint: str, seconds: float) -> bool:
        """Implements protocol.Wakes."""
        now = self._clock()
        since, lasting = self._leases.get(endpoint, (now, 0.0))
        if 0 <= now - since < lasting:
            return False
        self._leases[endpoint] = (now, seconds)
        return True

    async def shorten(self, endpoint: str, seconds: float) -> None:
        """Implements protocol.Wakes."""
        now = self._clock()
        since, lasting = self._leases.get(endpoint, (now, 0.0))
        if since + lasting > now + seconds:
            self._leases[endpoint] = (now, seconds)

    async def clear(self, endpoint: str) -> None:
        """Implements protocol.Wakes."""
        self._leases.pop(endpoint, None)


class MemoryTargets:
    """Implements protocol.Targets in one process. clock: monotonic seconds. If it goes back, targets end."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        #: By (endpoint, replica): workers, since when, and for how long.
        self._targets: dict[tuple[str, str], tuple[int, float, float]] = {}

    async def publish(self, endpoint: str, replica: str, workers: int, seconds: float) -> int:
        """Implements protocol.Targets."""
        self._targets[endpoint, replica] = (workers, self._clock(), seconds)
        return max(workers, self._highest(endpoint) or 0)

    async def withdraw(self, endpoint: str, replica: str) -> int | None:
        """Implements protocol.Targets."""
        self._targets.pop((endpoint, replica), None)
        return self._highest(endpoint)

    def _highest(self, endpoint: str) -> int | None:
        now = self._clock()
        counting = [
            workers
            for (target_of, _), (workers, since, lasting) in self._targets.items()
            if target_of == endpoint and 0 <= now - since < lasting
        ]
        return max(counting, default=None)
