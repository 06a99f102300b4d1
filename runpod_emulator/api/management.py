"""RunPod's management call (rest.runpod.io) for this one endpoint: how many workers are always there, read and changed.

By RunPod's reference of 2026-11 only the fields present change, and the answer is the endpoint. What is a choice made
here: a field that is not emulated is refused, so that nobody takes it for done, and so is workersMin above workersMax.
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
    """The management side of one endpoint."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    def add_routes(self, router: web.UrlDispatcher, client_api: ClientApi) -> None:
        """/v1/endpoints/{endpoint_id}; with the key that the endpoint's other calls want."""
        path = f"/v1/endpoints/{self._endpoint.settings.endpoint_id}"
        router.add_get(path, client_api.guarded("management", self._failing_as_told(self.show)))
        router.add_patch(path, client_api.guarded("management", self._failing_as_told(self.change)))

    async def show(self, request: web.Request) -> web.StreamResponse:
        """The endpoint as it is now."""
        return web.json_response(self._document())

    async def change(self, request: web.Request) -> web.StreamResponse:
        """Sets workersMin; raises BadRequest."""
        document = await read_object(request, self._endpoint.settings.max_run_bytes)
        self._endpoint.set_min_workers(_workers_min(document, self._endpoint.settings.max_workers))
        return web.json_response(self._document())

    def _failing_as_told(self, handler: Handler) -> Handler:
        """The handler, unless management is what goes wrong; then nothing is changed."""

        async def answer(request: web.Request) -> web.StreamResponse:
            fails = self._endpoint.injector.faults.management
            if fails == "error":
                return web.json_response({"error": "management fails"}, status=500)
            if fails == "garbage":
                return web.Response(text="<html>200, and no answer</html>", content_type="text/html")
            if fails == "hang":
                await asyncio.Event().wait()  # the client leaves, and with it this handler
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
        raise BadRequest(f"workersMin: expected a whole number from 0 to workersMax, which is {max_workers}")
    return workers
