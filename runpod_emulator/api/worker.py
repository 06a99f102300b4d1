"""The API for the runpod SDK in a worker: job-take(-batch), job-stop, job-stream, job-done, ping."""

from __future__ import annotations

import asyncio
import contextlib
import select
import time
from typing import Any

from aiohttp import web

from runpod_emulator.account.account import Account
from runpod_emulator.api.client import EndpointHandler, no_such_endpoint
from runpod_emulator.endpoint.registry import Worker
from runpod_emulator.endpoint.state import Endpoint
from runpod_emulator.errors import BadRequest
from runpod_emulator.http import Handler, answering_errors, read_object
from runpod_emulator.jobs.job import Job

#: The delay before 204 to a stopping or unhealthy worker, whose SDK would otherwise poll in a busy loop.
PAUSE_SECONDS = 0.5
#: POLLRDHUP exists on Linux only; unlike POLLHUP it also detects a half-closed connection.
HUNG_UP = getattr(select, "POLLRDHUP", select.POLLHUP)


class WorkerApi:
    """The worker API of all endpoints. A post about a job that the worker does not hold is answered but ignored."""

    def __init__(self, account: Account) -> None:
        self._account = account

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Adds the URLs that settings.worker_environment gives to workers."""
        base = "/v2/{endpoint}"
        # A HEAD would take jobs, or stops, and have no body to hand them over.
        router.add_get(base + "/job-take/{worker}", self._found(self.take), allow_head=False)
        router.add_get(base + "/job-take-batch/{worker}", self._found(self.take), allow_head=False)
        router.add_get(base + "/job-stop/{worker}", self._found(self.stop), allow_head=False)
        router.add_post(base + "/job-stream/{worker}/{job}", self._post(self.stream))
        router.add_post(base + "/job-done/{worker}/{job}", self._post(self.done))
        router.add_get(base + "/ping/{worker}", self._found(self.ping))

    async def take(self, endpoint: Endpoint, request: web.Request) -> web.StreamResponse:
        """Answers a job, or a list of jobs on job-take-batch; 204 if none came while the poll was open."""
        worker = endpoint.registry.mark_ready(request.match_info["worker"])
        is_batch = "batch_size" in request.query
        if not worker.gets_jobs:
            await asyncio.sleep(PAUSE_SECONDS)
            return web.Response(status=204)
        jobs = await _jobs_for(endpoint, worker, _batch_size(request), request)
        if not jobs:
            return web.Response(status=204)
        documents = [job.for_worker() for job in jobs]
        response = web.json_response(documents if is_batch else documents[0])
        try:
            await response.prepare(request)
            await response.write_eof()
        except (ConnectionError, asyncio.CancelledError):
            endpoint.store_of(worker.id).undo_take(worker.id, jobs)
            raise
        for job in jobs:
            if endpoint.injector.delivers_again():
                endpoint.store_of(worker.id).deliver_again(job)
        return response

    async def stop(self, endpoint: Endpoint, request: web.Request) -> web.StreamResponse:
        """Answers `{"jobsToStop": [ids]}` as soon as there are any; 204 if none came while the poll was open."""
        worker = endpoint.registry.get(request.match_info["worker"])
        if not (worker.stop_ids or worker.is_stopping):
            await worker.stops.wait(endpoint.settings.stop_poll_seconds)
        elif not worker.stop_ids:
            await worker.stops.wait(PAUSE_SECONDS)
        if not _is_connected(request) or not (job_ids := worker.take_stop_ids()):
            return web.Response(status=204)
        return web.json_response({"jobsToStop": job_ids})

    async def stream(self, endpoint: Endpoint, request: web.Request) -> web.StreamResponse:
        """Records one chunk of a job's output; the body is `{"output": chunk}`."""
        document = await read_object(request, endpoint.settings.max_chunk_bytes)
        if "output" not in document:
            raise BadRequest('output: missing; a chunk is posted as {"output": ...}')
        worker_id = request.match_info["worker"]
        kept = endpoint.store_of(worker_id).add_chunk(request.match_info["job"], worker_id, document["output"])
        return _receipt(kept)

    async def done(self, endpoint: Endpoint, request: web.Request) -> web.StreamResponse:
        """Records a job's result; the body is `{"output": ...}` or `{"error": ...}`.

        With `"status": "IN_PROGRESS"` it is a progress update.
        """
        document = await read_object(request, endpoint.settings.max_result_bytes)
        worker_id = request.match_info["worker"]
        kept = endpoint.store_of(worker_id).finish(request.match_info["job"], worker_id, document)
        if kept and document.get("stopPod"):  # the SDK's refresh_worker
            endpoint.retire(endpoint.registry.workers[worker_id])
        return _receipt(kept)

    async def ping(self, endpoint: Endpoint, request: web.Request) -> web.StreamResponse:
        """Records a heartbeat."""
        worker_id = request.match_info["worker"]
        if not endpoint.injector.loses_heartbeat(worker_id):
            endpoint.registry.ping(worker_id)
        return web.json_response({})

    def _found(self, handler: EndpointHandler) -> Handler:
        """Returns the handler with its endpoint; the workers of a deleted one are answered until they have ended."""

        async def receive(request: web.Request) -> web.StreamResponse:
            name = request.match_info["endpoint"]
            found = self._account.endpoints.get(name) or self._account.closing(name)
            return await (no_such_endpoint(request) if found is None else handler(found.state, request))

        return answering_errors(receive)

    def _post(self, handler: EndpointHandler) -> Handler:
        """Returns the handler wrapped with the latency and losses of the injected faults."""

        async def receive(endpoint: Endpoint, request: web.Request) -> web.StreamResponse:
            half = endpoint.injector.faults.post_latency_seconds / 2
            if half:
                await asyncio.sleep(half)
            if endpoint.injector.drops_post():
                _abort_connection(request)
                return web.Response(status=503)  # never sent: aiohttp needs a return value
            response = await handler(endpoint, request)
            if half:
                await asyncio.sleep(half)
            return response

        return self._found(receive)


async def _jobs_for(endpoint: Endpoint, worker: Worker, limit: int, request: web.Request) -> list[Job]:
    deadline = time.monotonic() + endpoint.settings.take_poll_seconds
    store = endpoint.store_of(worker.id)
    while worker.gets_jobs and not endpoint.is_closing and _is_connected(request):
        if jobs := store.take(worker.id, limit):
            return jobs
        if not await store.available.wait(deadline - time.monotonic()):
            return []
    # This poll may have used up a wake-up: without this, a job would wait although another poll is open.
    store.available.notify_one()
    return []


def _batch_size(request: web.Request) -> int:
    text = request.query.get("batch_size", "1")
    with contextlib.suppress(ValueError):
        if (size := int(text)) >= 1:
            return size
    raise BadRequest(f"batch_size: expected a whole number from 1, got {text!r}")


def _is_connected(request: web.Request) -> bool:
    """Returns whether the worker's connection is still open."""
    # The kernel may know of the end of a connection before the event loop has read it. A job that is handed to a
    # closed connection would be lost until its time-out.
    if request.transport is None or request.transport.is_closing():
        return False
    poll = select.poll()
    poll.register(request.transport.get_extra_info("socket").fileno(), HUNG_UP)
    return not poll.poll(0)


def _abort_connection(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()


def _receipt(kept: bool) -> web.Response:
    answer: dict[str, Any] = {"status": "ok" if kept else "ignored"}
    return web.json_response(answer)
