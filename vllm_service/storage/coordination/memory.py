"""Breakers, wakes and targets of a gateway without replicas, or without Redis for now. No driver is imported here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from vllm_service.domain.breakers import BreakerChange, ProbeAnswer


class MemoryBreakers:
    """For a gateway without replicas: the breaker itself lets one probe out at a time, and there is nobody to tell."""

    async def publish(self, change: BreakerChange, token: str) -> None:
        """Nothing to do."""

    async def claim_probe(self, provider: str, model: str, token: str, seconds: float) -> ProbeAnswer:
        """Always granted."""
        return ProbeAnswer(granted=True)

    async def release_probe(self, provider: str, model: str, token: str) -> None:
        """Nothing to do."""

    async def follow(self, apply: Callable[[BreakerChange], None]) -> None:
        """Hears of nothing until it is cancelled."""
        await asyncio.Event().wait()


class MemoryWakes:
    """For one replica. clock: seconds, monotonic; should it go back, a lease does not last longer for that."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._leases: dict[str, tuple[float, float]] = {}  # since when, for how long

    async def claim(self, endpoint: str, seconds: float) -> bool:
        """See coordination.Wakes."""
        now = self._clock()
        since, lasting = self._leases.get(endpoint, (now, 0.0))
        if 0 <= now - since < lasting:
            return False
        self._leases[endpoint] = now, seconds
        return True

    async def shorten(self, endpoint: str, seconds: float) -> None:
        """See coordination.Wakes."""
        now = self._clock()
        since, lasting = self._leases.get(endpoint, (now, 0.0))
        if since + lasting > now + seconds:
            self._leases[endpoint] = now, seconds

    async def clear(self, endpoint: str) -> None:
        """See coordination.Wakes."""
        self._leases.pop(endpoint, None)


class MemoryTargets:
    """For one replica, or several in one process. clock: seconds, monotonic; should it go back, no word counts."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._words: dict[tuple[str, str], tuple[int, float, float]] = {}  # workers, since when, for how long

    async def publish(self, endpoint: str, replica: str, workers: int, seconds: float) -> int:
        """See coordination.Targets."""
        self._words[endpoint, replica] = workers, self._clock(), seconds
        return max(workers, self._highest(endpoint) or 0)

    async def withdraw(self, endpoint: str, replica: str) -> int | None:
        """See coordination.Targets."""
        self._words.pop((endpoint, replica), None)
        return self._highest(endpoint)

    def _highest(self, endpoint: str) -> int | None:
        now = self._clock()
        counting = [
            workers
            for (place, _), (workers, since, lasting) in self._words.items()
            if place == endpoint and 0 <= now - since < lasting
        ]
        return max(counting, default=None)
