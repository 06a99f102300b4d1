"""Own endpoints, while requests come: the router is told of their workers, and those that it wants are woken.

On the side of requests, never in their way; without requests nobody is asked anything. Looking wakes no worker.
"""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import dataclass

from vllm_service.client.places import Places
from vllm_service.errors import ServiceError
from vllm_service.providers.configured import Provider, ProviderKind
from vllm_service.providers.runpod import RunPodSettings, warm_up_job
from vllm_service.providers.runpod_health import EndpointHealth, health_of
from vllm_service.routing.endpoint_keeper import is_to_be_woken
from vllm_service.routing.one_wake import WakeSettings

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Watched:
    provider: Provider
    model: str
    looked_at: float | None = None
    failures: int = 0
    left_alone_until: float = 0.0


class EndpointWatch:
    """Of every endpoint of the catalog that is paid by the second and can be asked how it does."""

    def __init__(self, places: Places, settings: RunPodSettings | None = None) -> None:
        self._places = places
        self._settings = settings or RunPodSettings()
        self._wake_settings = WakeSettings()
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
                task.add_done_callback(self._looked)

    def _looked(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("an endpoint could not be looked after: %s", type(error).__name__)

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
        await self._wake(watched, None if health is None else health_of(health))

    async def _wake(self, watched: _Watched, health: EndpointHealth | None) -> None:
        """By the gateway's rule, and not again while the last wake may still come to something."""
        now = self._places.clock()
        if health is not None and health.workers_warm:
            watched.left_alone_until = 0.0
        for target in self._places.router.worker_targets(now):
            if target.provider != watched.provider.name or now < watched.left_alone_until:
                continue
            if is_to_be_woken(target, health):
                watched.left_alone_until = now + self._wake_settings.lease_seconds
                await self._send_warm_up(watched)

    async def _send_warm_up(self, watched: _Watched) -> None:
        """A wake that fails is tried again at the next look."""
        body = json.loads(warm_up_job(watched.model, self._settings))
        try:
            await self._places.connection(watched.provider.name).control(
                "POST", f"{watched.provider.control_url}/run", body
            )
        except ServiceError as error:
            log.warning("%s could not be woken: %s", watched.provider.name, error.code)
            watched.left_alone_until = 0.0

    def _interval(self, watched: _Watched) -> float:
        grown = self._settings.health_interval_seconds * 2.0 ** min(watched.failures, 20)
        return min(grown, self._settings.longest_health_interval_seconds)


def _can_be_watched(provider: Provider) -> bool:
    return (
        provider.kind is ProviderKind.RUNPOD and provider.control_url is not None and provider.second_price is not None
    )
