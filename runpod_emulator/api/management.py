"""RunPod's management API (rest.runpod.io) for one endpoint: reads it, and changes its workersMin.

As in RunPod's reference of 2026-11, only the fields in the body change, and the response is the endpoint. The emulator
refuses a field that it does not emulate, because ignoring it would look like success, and workersMin above workersMax.
"""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import web

from runpod_emulator.api.client import ClientApi
from runpod_emulator.endpoint.state import Endpoint
from runpod_emulator.errors import BadRequest
from runpod_emulator.http import Handler, read_object

SCALERS = {"queue_delay": "QUEUE_DELAY", "request_count": "REQUEST_COUNT"}


class ManagementApi:
    """The management API of one endpoint."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    def add_routes(self, router: web.UrlDispatcher, client_api: ClientApi) -> None:
        """Adds /v1/endpoints/{endpoint_id}, with the same key as the endpoint's job API."""
        path = f"/v1/endpoints/{self._endpoint.settings.endpoint_id}"
        router.add_get(path, client_api.guarded("management", self._with_faults(self.show)))
        router.add_patch(path, client_api.guarded("management", self._with_faults(self.change)))

    async def show(self, request: web.Request) -> web.StreamResponse:
        """Answers the endpoint as it is now."""
        return web.json_response(self._document())

    async def change(self, request: web.Request) -> web.StreamResponse:
        """Sets workersMin; raises BadRequest."""
        document = await read_object(request, self._endpoint.settings.max_run_bytes)
        self._endpoint.set_min_workers(_workers_min(document, self._endpoint.settings.max_workers))
        return web.json_response(self._document())

    def _with_faults(self, handler: Handler) -> Handler:
        """Returns the handler wrapped with the fault `management`; while it is set nothing changes."""

        async def answer(request: web.Request) -> web.StreamResponse:
            fault = self._endpoint.injector.faults.management
            if fault == "error":
                return web.json_response({"error": "injected fault: management"}, status=500)
            if fault == "garbage":
                return web.Response(text="<html>200, and no answer</html>", content_type="text/html")
            if fault == "hang":
                await asyncio.Event().wait()  # aiohttp cancels this handler when the client disconnects
            return await handler(request)

        return answer

    def _document(self) -> dict[str, Any]:
        settings = self._endpoint.settings
        by_delay = settings.scaling == "queue_delay"
        return {
            "id": settings.endpoint_id,
            "name": settings.endpoint_id,
            "workersMin": settings.min_workers,
            "workersMax": settings.max_workers,
            "idleTimeout": settings.idle_timeout_seconds,
            "scalerType": SCALERS[settings.scaling],
            "scalerValue": settings.queue_delay_seconds if by_delay else settings.requests_per_worker,
        }


def _workers_min(document: dict[str, Any], max_workers: int) -> int:
    if others := sorted(document.keys() - {"workersMin"}):
        raise BadRequest(f"{', '.join(others)}: not emulated; only workersMin can be changed")
    workers = document.get("workersMin")
    if isinstance(workers, bool) or not isinstance(workers, int) or not 0 <= workers <= max_workers:
        raise BadRequest(f"workersMin: expected a whole number from 0 to {max_workers}, the endpoint's workersMax")
    return workers
