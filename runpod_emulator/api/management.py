"""RunPod's former management API (rest.runpod.io): reads an endpoint, and changes its workersMin.

As in RunPod's reference of 2026-11, only the fields in the body change, and the response is the endpoint. The emulator
refuses a field that it does not emulate, because ignoring it would look like success, and workersMin above workersMax.
"""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import web

from runpod_emulator.api.client import ClientApi, EndpointHandler
from runpod_emulator.api.rest.door import problem_response
from runpod_emulator.endpoint.state import Endpoint
from runpod_emulator.errors import BadRequest
from runpod_emulator.http import read_object
from runpod_emulator.settings import EndpointSettings

SCALERS = {"queue_delay": "QUEUE_DELAY", "request_count": "REQUEST_COUNT"}


class ManagementApi:
    """Version 1 of the management API, for all endpoints."""

    def add_routes(self, router: web.UrlDispatcher, client_api: ClientApi) -> None:
        """Adds /v1/endpoints/{endpoint_id}, with the same key as the endpoint's job API."""
        path = "/v1/endpoints/{endpoint}"
        router.add_get(path, client_api.guarded("management", self._with_faults(self.show)))
        router.add_patch(path, client_api.guarded("management", self._with_faults(self.change)))

    async def show(self, endpoint: Endpoint, request: web.Request) -> web.StreamResponse:
        """Answers the endpoint as it is now."""
        return web.json_response(_document(endpoint.settings))

    async def change(self, endpoint: Endpoint, request: web.Request) -> web.StreamResponse:
        """Sets workersMin; raises BadRequest."""
        document = await read_object(request, endpoint.settings.max_run_bytes)
        endpoint.set_min_workers(_workers_min(document, endpoint.settings.max_workers))
        return web.json_response(_document(endpoint.settings))

    def _with_faults(self, handler: EndpointHandler) -> EndpointHandler:
        """Returns the handler wrapped with the fault `management`; while it is set nothing changes."""

        async def answer(endpoint: Endpoint, request: web.Request) -> web.StreamResponse:
            fault = endpoint.injector.faults.management
            if fault == "error":
                return web.json_response({"error": "injected fault: management"}, status=500)
            if fault == "garbage":
                return web.Response(text="<html>200, and no answer</html>", content_type="text/html")
            if fault == "hang":
                await asyncio.Event().wait()  # aiohttp cancels this handler when the client disconnects
            return await handler(endpoint, request)

        return answer


def _document(settings: EndpointSettings) -> dict[str, Any]:
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


async def retired(request: web.Request) -> web.StreamResponse:
    """Answers 410 to every request to version 1, and says what to use."""
    return problem_response(
        410,
        "REST API version 1 is retired. Use version 2, /v2/serverless/{id} on https://api.runpod.io or on this "
        'emulator: PATCH it with {"workers": {"min": 1}} instead of {"workersMin": 1}. The emulator serves version 1 '
        "with --management-v1, or Emulator(..., management_v1=True)",
    )
