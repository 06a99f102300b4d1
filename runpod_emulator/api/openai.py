"""/v2/{id}/openai/v1/*: an OpenAI client's request becomes a job, the job's chunks or output become the response."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any

from aiohttp import web

from runpod_emulator.api.client import ClientApi, until_final
from runpod_emulator.endpoint.state import Endpoint
from runpod_emulator.http import read_object
from runpod_emulator.jobs.job import Job, Json, Policy, Status

#: The HTTP status and error code for a job whose error is not JSON.
FAILURES = {
    Status.FAILED: (HTTPStatus.INTERNAL_SERVER_ERROR, "job_failed"),
    Status.TIMED_OUT: (HTTPStatus.GATEWAY_TIMEOUT, "job_timed_out"),
    Status.CANCELLED: (HTTPStatus.CONFLICT, "job_cancelled"),
}
ERROR = b'"error"'


class OpenAIApi:
    """RunPod's proxy for OpenAI clients. A client that disconnects cancels its job."""

    def add_routes(self, router: web.UrlDispatcher, client_api: ClientApi) -> None:
        """Adds the route for all methods. As on RunPod, the job does not contain the method."""
        router.add_route("*", "/v2/{endpoint}/openai/{route:v1/.*}", client_api.guarded("openai", self.answer))

    async def answer(self, endpoint: Endpoint, request: web.Request) -> web.StreamResponse:
        """Runs the request as one job."""
        body = await read_object(request, endpoint.settings.max_runsync_bytes)
        job = _add(endpoint, request, body)
        try:
            return await self._streamed(request, job) if body.get("stream") is True else await self._plain(job)
        finally:
            endpoint.store.cancel(job)  # no effect unless the client disconnected: the job has ended

    async def _plain(self, job: Job) -> web.StreamResponse:
        await until_final(job)
        return plain_answer(job)

    async def _streamed(self, request: web.Request, job: Job) -> web.StreamResponse:
        while not job.chunks and not job.is_final:
            await job.changed.wait()
        if not job.chunks:
            return plain_answer(job)
        response = web.StreamResponse(headers=_headers(job) | {"Cache-Control": "no-cache"})
        response.content_type = "text/event-stream"
        response.charset = "utf-8"
        await response.prepare(request)
        # Of the last event, which may come in several chunks, cut anywhere.
        is_between, has_error, before = True, False, b""
        while job.chunks or not job.is_final:
            if not job.chunks:
                await job.changed.wait()
            for chunk in job.read_chunks():
                text = event(chunk)
                has_error = ERROR in before + text or (has_error and not is_between)
                is_between = text.endswith(b"\n\n")
                before = b"" if is_between else (before + text)[1 - len(ERROR) :]
                await response.write(text)
        if job.status is not Status.COMPLETED and not has_error:
            # The worker was lost or stopped, so it sent no error event of its own. One that was cut short ends first.
            end = b"" if is_between else b"\n\n"
            await response.write(end + event(failure(job)[1]))
        await response.write_eof()
        return response


def event(chunk: object) -> bytes:
    """Returns a chunk as server-sent events: text is passed on as it is, anything else becomes one event."""
    return (chunk if isinstance(chunk, str) else f"data: {json.dumps(chunk)}\n\n").encode()


def plain_answer(job: Job) -> web.Response:
    """Returns the response for a job that has ended: its output, or its error with the error's own status."""
    if job.status is not Status.COMPLETED:
        status, document = failure(job)
        return web.json_response(document, status=status, headers=_headers(job))
    output: Any = job.output
    if isinstance(output, list) and len(output) == 1:
        (output,) = output  # the SDK's return_aggregate_stream makes a list even of a single yield
    if isinstance(output, str):
        kind = "text/event-stream" if output.startswith(("data:", "event:")) else "text/plain"
        return web.Response(text=output, content_type=kind, headers=_headers(job))
    return web.json_response(output, headers=_headers(job))


def failure(job: Job) -> tuple[int, Json]:
    """Returns the HTTP status and body for a job that did not complete.

    An error text of the form `{"error": {...}, "status": N}` is passed on. Any other becomes an OpenAI-style error.
    """
    status, code = FAILURES[job.status]
    text = job.error or f"the job ended as {job.status}"
    try:
        document = json.loads(text)
    except ValueError:
        document = None
    if isinstance(document, dict) and isinstance(document.get("error"), dict):
        own = document.get("status")
        if isinstance(own, int):  # a redirect of the engine is no status for this answer
            return own if 400 <= own < 600 else HTTPStatus.BAD_GATEWAY, document
    return status, {"error": {"message": text, "type": "RunPodError", "code": code, "param": None}}


def _headers(job: Job) -> dict[str, str]:
    return {"X-RunPod-Job-Id": job.id}


def _add(endpoint: Endpoint, request: web.Request, body: Json) -> Job:
    query = f"?{request.query_string}" if request.query_string else ""
    job_input = {"openai_route": f"/{request.match_info['route']}{query}", "openai_input": body}
    policy = Policy.parse(None, endpoint.settings)
    return endpoint.store.add(job_input, policy, keep_seconds=endpoint.settings.keep_runsync_seconds)
