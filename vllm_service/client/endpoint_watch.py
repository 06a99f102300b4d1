"""Own endpoints, while requests come: the router is told of their workers, and those that it wants are woken.

On the side of requests, never in their way; without requests nobody is asked anything. Looking wakes no worker.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass

from vllm_service.client.places import Places
from vllm_service.errors import ServiceError
from vllm_service.providers.configured import Provider, ProviderKind
from vllm_service.providers.runpod import RunPodSettings, warm_up_job


@dataclass(slots=True)
class _Watched:
    provider: Provider
    model: str
    looked_at: float | None = None
    failures: int = 0
    woken: int = 0


class EndpointWatch:
    """Of every endpoint of the catalog that is paid by the second and can be asked how it does."""

    def __init__(self, places: Places, settings: RunPodSettings | None = None) -> None:
        self._places = places
        self._settings = settings or RunPodSettings()
        self._tasks: set[asyncio.Task[None]] = set()
        self._watched = {
            offer.provider: _Watched(places.catalog.providers[offer.provider], offer.model)
            for model in places.catalog.models.values()
            for offer in model.offers
            if _can_be_watched(places.catalog.providers[offer.provider])
        }

    def look(self) -> None:
        """Begins to look at endpoints that were not looked at lately; returns at once."""
        now = self._places.clock()
        for watched in self._watched.values():
            if watched.looked_at is None or now - watched.looked_at >= self._interval(watched):
                watched.looked_at = now
                task = asyncio.create_task(self._refresh(watched))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Ends what is under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _refresh(self, watched: _Watched) -> None:
        provider = watched.provider
        try:
            health = await self._places.connection(provider.name).control("GET", f"{provider.control_url}/health")
            watched.failures = 0
        except ServiceError:
            health = None
            watched.failures += 1
        self._places.router.observe_health(provider.name, health, self._places.clock())
        await self._wake()

    async def _wake(self) -> None:
        for target in self._places.router.worker_targets(self._places.clock()):
            watched = self._watched.get(target.provider)
            if watched is not None and target.workers > watched.woken:
                missing, watched.woken = target.workers - watched.woken, target.workers
                await asyncio.gather(*(self._send_warm_up(watched) for _ in range(missing)))
            elif watched is not None:
                watched.woken = target.workers

    async def _send_warm_up(self, watched: _Watched) -> None:
        """A wake that fails is wished for again at the next look."""
        body = json.loads(warm_up_job(watched.model, self._settings))
        try:
            await self._places.connection(watched.provider.name).control(
                "POST", f"{watched.provider.control_url}/run", body
            )
        except ServiceError:
            watched.woken -= 1

    def _interval(self, watched: _Watched) -> float:
        grown = self._settings.health_interval_seconds * 2.0 ** min(watched.failures, 20)
        return min(grown, self._settings.longest_health_interval_seconds)


def _can_be_watched(provider: Provider) -> bool:
    return (
        provider.kind is ProviderKind.RUNPOD and provider.control_url is not None and provider.second_price is not None
    )
