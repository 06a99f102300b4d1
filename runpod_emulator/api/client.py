"""The job API for clients: run, runsync, status, stream, cancel, retry, purge-queue, health, billing, faults."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Awaitable, Callable

from aiohttp import web

from runpod_emulator.account.account import Account
from runpod_emulator.endpoint.faults import Faults
from runpod_emulator.endpoint.state import Endpoint
from runpod_emulator.errors import BadRequest, NotFound, Unauthorized
from runpod_emulator.http import Handler, answering_errors, read_object
from runpod_emulator.jobs.job import Job, Json, Policy, Status

#: Answers a request to one endpoint.
EndpointHandler = Callable[[Endpoint, web.Request], Awaitable[web.StreamResponse]]

#: The operations of an endpoint that is a load balancer.
WITHOUT_QUEUE = frozenset({"health", "billing", "faults", "management", "balance"})


class ClientApi:
    """The job API of all endpoints."""

    def __init__(self, account: Account) -> None:
        self._account = account

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Adds everything under /v2/{endpoint_id}/ except the OpenAI route."""
        base = "/v2/{endpoint}"
        router.add_post(base + "/run", self.guarded("run", self.run))
        router.add_post(base + "/runsync", self.guarded("runsync", self.runsync))
        router.add_get(base + "/status/{job}", self.guarded("status", self.status))
        for add in (router.add_get, router.add_post):
            add(base + "/stream/{job}", self.guarded("stream", self.stream))
        router.add_post(base + "/cancel/{job}", self.guarded("cancel", self.cancel))
        router.add_post(base + "/retry/{job}", self.guarded("retry", self.retry))
        router.add_post(base + "/purge-queue", self.guarded("purge-queue", self.purge_queue))
        router.add_get(base + "/health", self.guarded("health", self.health))
        router.add_get(base + "/billing", self.guarded("billing", self.billing))
        router.add_get(base + "/faults", self.guarded("faults", self.faults))
        router.add_post(base + "/faults", self.guarded("faults", self.inject))

    def guarded(self, operation: str, handler: EndpointHandler) -> Handler:
        """Returns the handler with its endpoint, and with the check of the key and of the operation's rate limit."""

        async def admit(request: web.Request) -> web.StreamResponse:
            found = self._account.endpoints.get(request.match_info["endpoint"])
            if found is None:
                return await no_such_endpoint(request)
            self._require_key(request)
            if found.state.settings.is_balanced and operation not in WITHOUT_QUEUE:
                raise BadRequest(
                    f"{operation}: this endpoint is a load balancer and has no queue; send requests to "
                    f"{self._account.balanced_url(found.id)}/ and a path of its workers"
                )
            with found.state.limiter.admit(operation):
                return await handler(found.state, request)

        return answering_errors(admit)

    async def run(self, endpoint: Endpoint, request: web.Request) -> web.StreamResponse:
        """Queues a job and answers its id."""
        document = await read_object(request, endpoint.settings.max_run_bytes)
        job = _add(endpoint, document, endpoint.settings.keep_run_seconds)
        return web.json_response({"id": job.id, "status": Status.IN_QUEUE.value})

    async def runsync(self, endpoint: Endpoint, request: web.Request) -> web.StreamResponse:
        """Queues a job, waits for its end at most `?wait=` milliseconds, and answers its status."""
        seconds = _wait_seconds(endpoint, request)
        document = await read_object(request, endpoint.settings.max_runsync_bytes)
        job = _add(endpoint, document, endpoint.settings.keep_runsync_seconds)
        await until_final(job, seconds)
        return web.json_response(job.for_client(endpoint.clock()))

    async def status(self, endpoint: Endpoint, request: web.Request) -> web.StreamResponse:
        """Answers the job's status, with its output once there is one."""
        return web.json_response(_job(endpoint, request).for_client(endpoint.clock()))

    async def stream(self, endpoint: Endpoint, request: web.Request) -> web.StreamResponse:
        """Answers the chunks that have not been read yet; waits up to `stream_wait_seconds` for the first."""
        job = _job(endpoint, request)
        deadline = time.monotonic() + endpoint.settings.stream_wait_seconds
        while not job.chunks and not job.is_final:
            if not await job.changed.wait(deadline - time.monotonic()):
                break
        # The answer to HEAD has no body, so it reads none of the chunks.
        chunks = [{"output": chunk} for chunk in (job.chunks if request.method == "HEAD" else job.read_chunks())]
        document = job.for_client(endpoint.clock()) | {"stream": chunks}
        document.pop("output", None)  # it repeats the chunks
        return web.json_response(document)

    async def cancel(self, endpoint: Endpoint, request: web.Request) -> web.StreamResponse:
        """Cancels a job that waits or runs; one that has ended stays unchanged."""
        job = _job(endpoint, request)
        endpoint.store.cancel(job)
        return web.json_response({"id": job.id, "status": job.status.value})

    async def retry(self, endpoint: Endpoint, request: web.Request) -> web.StreamResponse:
        """Queues a failed or timed-out job again under its own id."""
        job = _job(endpoint, request)
        endpoint.store.retry(job)
        return web.json_response({"id": job.id, "status": job.status.value})

    async def purge_queue(self, endpoint: Endpoint, request: web.Request) -> web.StreamResponse:
        """Cancels all jobs in the queue."""
        return web.json_response({"removed": endpoint.store.purge(), "status": "completed"})

    async def health(self, endpoint: Endpoint, request: web.Request) -> web.StreamResponse:
        """Answers the numbers of jobs and workers, or 503 while the fault `health_silent` is set."""
        faults = endpoint.injector.faults
        document = endpoint.health.document(faults.health_late_seconds)
        if faults.health_silent:
            return web.json_response({"error": "injected fault: health_silent"}, status=503)
        return web.json_response(document)

    async def billing(self, endpoint: Endpoint, request: web.Request) -> web.StreamResponse:
        """Answers the bill until now."""
        return web.json_response(endpoint.registry.bill(endpoint.clock_began_at).to_json())

    async def faults(self, endpoint: Endpoint, request: web.Request) -> web.StreamResponse:
        """Answers the faults that are set."""
        return web.json_response(endpoint.injector.faults.to_json())

    async def inject(self, endpoint: Endpoint, request: web.Request) -> web.StreamResponse:
        """Replaces all faults by those in the body."""
        endpoint.inject(Faults.parse(await read_object(request, endpoint.settings.max_run_bytes)))
        return await self.faults(endpoint, request)

    def _require_key(self, request: web.Request) -> None:
        key = self._account.settings.api_key
        if key is not None and not hmac.compare_digest(
            request.headers.get("Authorization", "").encode(), f"Bearer {key}".encode()
        ):
            raise Unauthorized("expected the header Authorization: Bearer <the endpoint's API key>")


async def until_final(job: Job, seconds: float | None = None) -> bool:
    """Waits at most `seconds` for the job's end. Returns whether the job has ended."""
    try:
        async with asyncio.timeout(seconds):
            while not job.is_final:
                await job.changed.wait()
    except TimeoutError:
        pass
    return job.is_final


async def no_such_endpoint(request: web.Request) -> web.StreamResponse:
    """Answers every URL that has no route of its own with 404."""
    raise NotFound(f"{request.method} {request.path}: no such endpoint or operation")


def _job(endpoint: Endpoint, request: web.Request) -> Job:
    return endpoint.store.get(request.match_info["job"])


def _add(endpoint: Endpoint, document: Json, keep_seconds: float) -> Job:
    if document.get("input") is None:
        raise BadRequest('input: missing; a job is an object like {"input": {...}}')
    webhook = document.get("webhook")
    if not isinstance(webhook, str | None):
        raise BadRequest("webhook: expected a URL")
    policy = Policy.parse(document.get("policy"), endpoint.settings)
    return endpoint.store.add(document["input"], policy, keep_seconds=keep_seconds, webhook=webhook)


def _wait_seconds(endpoint: Endpoint, request: web.Request) -> float:
    text = request.query.get("wait")
    if text is None:
        return endpoint.settings.runsync_wait_seconds
    shortest = endpoint.settings.shortest_wait_ms
    longest = endpoint.settings.longest_wait_ms
    if not text.isdecimal() or not shortest <= int(text) <= longest:
        raise BadRequest(f"wait: expected whole milliseconds from {shortest} to {longest}, got {text!r}")
    return int(text) / 1000
