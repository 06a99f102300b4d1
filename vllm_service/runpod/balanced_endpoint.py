"""A load-balancing endpoint's own API: it has no queue, so what wakes it is a request for its workers.

The request lists models, which generates nothing. RunPod lets it wait for a worker for two minutes (its documentation,
2026-08); it stays open meanwhile, since the number of open requests is what the endpoint scales by.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from vllm_service.catalog.model import Provider
from vllm_service.errors import UpstreamFailed
from vllm_service.runpod.endpoint import FAULTS, Reply, RunPodEndpoint, RunPodSettings, SendHttp

#: The load balancer's own two minutes, and some slack.
WAIT_SECONDS = 130.0
#: A refusal comes within this time.
REFUSAL_SECONDS = 1.0
#: Statuses that no worker will change: the key, the address.
_REFUSALS = frozenset({401, 403, 404, 405, 410})


class BalancedEndpoint(RunPodEndpoint):
    """One load-balancing endpoint. At most one request that wakes it is open."""

    def __init__(
        self, provider: Provider, send: SendHttp, clock: Callable[[], float], settings: RunPodSettings | None = None
    ) -> None:
        super().__init__(provider, send, clock, settings)
        self._models_url = f"{provider.base_url}/models"
        self._waking: asyncio.Task[Reply | None] | None = None

    async def wake(self, model: str) -> str:
        """Sends the request, and returns its name once it was not refused at once. Raises UpstreamFailed."""
        if self._waking is None or self._waking.done():
            self._waking = asyncio.create_task(self._ask())
        done, _ = await asyncio.wait({self._waking}, timeout=REFUSAL_SECONDS)
        for task in done:
            reply = task.result()
            if reply is None:
                raise UpstreamFailed(f"{self._name}: cannot be reached to wake it")
            if reply.status in _REFUSALS:
                raise UpstreamFailed(f"{self._name}: did not take the request that wakes it, status {reply.status}")
        return "the request that wakes it"

    async def cancel(self, job_id: str) -> None:
        """Ends the request that wakes the endpoint, if it is open."""
        if self._waking is not None:
            self._waking.cancel()

    async def _ask(self) -> Reply | None:
        try:
            return await self._send("GET", self._models_url, self._headers, b"", WAIT_SECONDS)
        except FAULTS:
            return None
