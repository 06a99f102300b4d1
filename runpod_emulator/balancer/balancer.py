"""The load balancer of one endpoint: health checks, a worker for each request, and its answer."""

from __future__ import annotations

import aiohttp
from aiohttp import web

from runpod_emulator.balancer.affinity import WORKER_HEADER, parse_affinity
from runpod_emulator.balancer.health_checks import HealthChecks
from runpod_emulator.balancer.pool import Pool
from runpod_emulator.balancer.proxy import Exchange, Limits
from runpod_emulator.endpoint.state import Endpoint
from runpod_emulator.errors import NotEmulated
from runpod_emulator.http import read_body
from runpod_emulator.workers.fleet import Fleet


class LoadBalancer:
    """Sends the requests of one endpoint to its workers. Made in a running event loop; needs close()."""

    def __init__(self, endpoint: Endpoint, fleet: Fleet) -> None:
        self._endpoint = endpoint
        # A connection for each request: a worker may close an idle one just when a request is sent on it.
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(),
            trust_env=False,
        )
        self._pool = Pool(endpoint, fleet.resume)
        self._checks = HealthChecks(endpoint, self._session, self._pool.assign)

    def look_after(self) -> None:
        """Begins to check new workers, and tells requests that wait what has changed. Called by the supervisor."""
        self._checks.watch()
        self._pool.assign()

    async def answer(self, request: web.Request, target: str) -> web.StreamResponse:
        """Answers with a worker's answer. target: the path with its query, encoded. Raises ApiError."""
        if "Upgrade" in request.headers:
            raise NotEmulated("Upgrade: WebSockets through the load balancer are not emulated")
        settings, counts = self._endpoint.settings, self._endpoint.requests
        affinity = parse_affinity(request.headers.get(WORKER_HEADER))
        self._endpoint.note_use()
        is_complete = False
        try:
            body = await read_body(request, settings.max_balanced_bytes)
            worker = await self._pool.acquire(affinity)
            try:
                exchange = Exchange(
                    request, worker, Limits(settings.processing_timeout_seconds, settings.max_balanced_bytes)
                )
                response = await exchange.run(self._session, target, body)
                is_complete = exchange.is_complete
                return response
            finally:
                self._pool.release(worker)
        finally:
            counts.completed += is_complete
            counts.failed += not is_complete

    async def close(self) -> None:
        """Refuses the requests that wait, and ends the health checks. Requests at workers go on until stop()."""
        self._pool.close()
        await self._checks.close()

    async def stop(self) -> None:
        """Closes the connections to workers."""
        await self._session.close()
