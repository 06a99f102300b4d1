"""The batch job API for clients: drafts, their requests, finalize, cancel, summaries, results page by page.

Shapes are those of RunPod's documentation of 2026-08. It does not show the answer to a list, an addition or a rename;
here these are `{"batches": [summaries]}` and the batch's summary.
"""

from __future__ import annotations

from typing import Any

from aiohttp import web

from runpod_emulator.api.client import ClientApi
from runpod_emulator.endpoint.state import Endpoint
from runpod_emulator.errors import BadRequest
from runpod_emulator.http import read_json
from runpod_emulator.jobs.batch import Batch, page, request_document, summary

#: Requests of one page without `?limit=`, and the most.
PAGE_REQUESTS, LONGEST_PAGE = 50, 1000


class BatchApi:
    """The batches of all endpoints."""

    def add_routes(self, router: web.UrlDispatcher, client_api: ClientApi) -> None:
        """Adds /v2/{endpoint}/batch, with the same key as the job API."""
        base = "/v2/{endpoint}/batch"
        one = base + "/{batch}"
        for method, path, handler in (
            ("POST", base, self.create),
            ("GET", base, self.list),
            ("GET", one, self.show),
            ("PUT", one, self.rename),
            ("POST", one + "/requests", self.add),
            ("GET", one + "/requests", self.requests),
            ("DELETE", one + "/requests/{request}", self.remove),
            ("POST", one + "/finalize", self.finalize),
            ("POST", one + "/cancel", self.cancel),
        ):
            router.add_route(method, path, client_api.guarded("batch", handler))

    async def create(self, endpoint: Endpoint, request: web.Request) -> web.StreamResponse:
        """Makes a draft of the requests in the body, a JSON array."""
        inputs = await read_json(request, endpoint.settings.max_batch_bytes)
        if not isinstance(inputs, list):
            raise BadRequest('expected a JSON array of requests, such as [{"input": {...}}], or [] for none yet')
        batch = endpoint.batches.create(inputs)
        return web.json_response({"id": batch.id, "status": batch.status.value})

    async def list(self, endpoint: Endpoint, request: web.Request) -> web.StreamResponse:
        """Answers the summary of each batch, the newest first."""
        name = endpoint.settings.endpoint_id
        return web.json_response({"batches": [summary(batch, name) for batch in endpoint.batches.newest_first()]})

    async def show(self, endpoint: Endpoint, request: web.Request) -> web.StreamResponse:
        """Answers the batch's summary."""
        return _summary(endpoint, _batch(endpoint, request))

    async def rename(self, endpoint: Endpoint, request: web.Request) -> web.StreamResponse:
        """Sets the batch's name."""
        batch = _batch(endpoint, request)
        document = await read_json(request, endpoint.settings.max_batch_bytes)
        name = document.get("name") if isinstance(document, dict) else None
        if not isinstance(name, str) or not name:
            raise BadRequest("name: expected text")
        batch.name = name
        return _summary(endpoint, batch)

    async def add(self, endpoint: Endpoint, request: web.Request) -> web.StreamResponse:
        """Adds the requests in the body, `{"requests": [{"input": ...}]}`, to a draft: all of them or none."""
        batch = _batch(endpoint, request)
        document = await read_json(request, endpoint.settings.max_batch_bytes)
        inputs = document.get("requests") if isinstance(document, dict) else None
        if not isinstance(inputs, list):
            raise BadRequest('requests: expected an array, such as {"requests": [{"input": {...}}]}')
        endpoint.batches.add(batch, inputs)
        return _summary(endpoint, batch)

    async def requests(self, endpoint: Endpoint, request: web.Request) -> web.StreamResponse:
        """Answers a page of the batch's requests, in the order in which they were added, with what became of them."""
        batch = _batch(endpoint, request)
        offset = _number(request, "offset", 0, 0)
        limit = min(_number(request, "limit", PAGE_REQUESTS, 1), LONGEST_PAGE)
        jobs = list(batch.requests.values())
        documents = [request_document(job, endpoint.iso_time) for job in jobs[offset : offset + limit]]
        return web.json_response({"requests": documents} | page(jobs, offset, limit))

    async def remove(self, endpoint: Endpoint, request: web.Request) -> web.StreamResponse:
        """Removes a request from a draft."""
        batch = _batch(endpoint, request)
        endpoint.batches.remove(batch, request.match_info["request"])
        return _summary(endpoint, batch)

    async def finalize(self, endpoint: Endpoint, request: web.Request) -> web.StreamResponse:
        """Locks a draft: its requests wait for batch workers now."""
        batch = _batch(endpoint, request)
        endpoint.batches.finalize(batch)
        return _summary(endpoint, batch)

    async def cancel(self, endpoint: Endpoint, request: web.Request) -> web.StreamResponse:
        """Cancels what waits; the batch is CANCELLED when what runs has ended."""
        batch = _batch(endpoint, request)
        endpoint.batches.cancel(batch)
        return _summary(endpoint, batch)


def _batch(endpoint: Endpoint, request: web.Request) -> Batch:
    return endpoint.batches.get(request.match_info["batch"])


def _summary(endpoint: Endpoint, batch: Batch) -> web.Response:
    document: dict[str, Any] = summary(batch, endpoint.settings.endpoint_id)
    return web.json_response(document)


def _number(request: web.Request, name: str, default: int, least: int) -> int:
    text = request.query.get(name)
    if text is None:
        return default
    if not text.isdecimal() or len(text) > 9 or int(text) < least:
        raise BadRequest(f"{name}: expected a whole number from {least}, got {text!r}")
    return int(text)
