"""Own endpoints, while requests come: the gateway's keeper looks after them, a round at a time.

On the side of requests, never in their way; without requests nobody is asked anything. Looking wakes no worker.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import httpx2

from vllm_service.autoscaling.controller import EndpointController
from vllm_service.catalog.model import Catalog
from vllm_service.client.per_loop import PerLoop
from vllm_service.client.router.connections import Connections
from vllm_service.resilience.policy import Clock
from vllm_service.runpod.endpoint import Reply, RunPodSettings
from vllm_service.storage.coordination.memory import MemoryWakes


class EndpointWatch:
    """Of every endpoint of the catalog that is paid by the second and can be asked how it does."""

    def __init__(self, places: Connections) -> None:
        settings = RunPodSettings()
        self._places = places
        self._interval_seconds = settings.health_interval_seconds
        self._began_at: float | None = None
        wakes = MemoryWakes(places.clock)
        self._keepers = PerLoop("LLMRouter", lambda: _Keeping.begun(wakes, settings, places.clock), _Keeping.end)
        paid_by_the_second = {
            name: provider for name, provider in places.catalog.providers.items() if provider.second_price is not None
        }
        self._watched = Catalog(paid_by_the_second, places.catalog.models)

    def look(self) -> None:
        """Begins a round, unless one was begun lately; returns at once."""
        now = self._places.clock()
        if self._began_at is None or now - self._began_at >= self._interval_seconds:
            self._began_at = now
            self._keepers.get().keeper.round(self._watched, self._places.router)

    async def close(self) -> None:
        """Ends what is under way."""
        await self._keepers.close()


@dataclass(frozen=True, slots=True)
class _Keeping:
    """What looks after the endpoints in one event loop."""

    send: ControlRequests
    keeper: EndpointController

    @classmethod
    def begun(cls, wakes: MemoryWakes, settings: RunPodSettings, clock: Clock) -> _Keeping:
        """wakes: of all loops, so that no endpoint is woken twice."""
        send = ControlRequests()
        return cls(send, EndpointController(send, wakes, settings, clock=clock))

    async def end(self) -> None:
        """Ends what is under way."""
        self.keeper.stop()
        await self.keeper.idle()
        await self.send.close()


class ControlRequests:
    """Implements runpod.SendHttp on httpx2, which the client has anyway; it connects when it is first needed."""

    def __init__(self) -> None:
        self._client: httpx2.AsyncClient | None = None

    async def __call__(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes, timeout_seconds: float
    ) -> Reply:
        """See runpod.SendHttp."""
        if self._client is None:
            self._client = httpx2.AsyncClient()
        try:
            answer = await self._client.request(
                method, url, headers=dict(headers), content=body, timeout=timeout_seconds
            )
        except httpx2.HTTPError as error:
            raise OSError(type(error).__name__) from error
        return Reply(answer.status_code, answer.content, dict(answer.headers))

    async def close(self) -> None:
        """Closes every connection."""
        if self._client is not None:
            await self._client.aclose()
