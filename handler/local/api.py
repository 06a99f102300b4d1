"""`python handler.py --rp_serve_api`: the SDK's development API on the worker's own engine.

The routes are the SDK's (`/run`, `/runsync`, `/status/{id}`, `/stream/{id}`). Unlike the SDK's server it reports a
failed job as FAILED and lets a stream be read while it grows.
"""

from __future__ import annotations

import asyncio
import json
import math
import threading
import uuid
from contextlib import aclosing

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from handler.dispatch import Dispatcher
from handler.door.body import ClientGone, read_body
from handler.door.flags import Door
from handler.door.guard import behind_door, warn_of_an_open_door
from handler.door.listener import open_listener
from handler.door.server import server
from handler.engine.protocol import Engine
from handler.errors import InvalidInput, WorkerError
from handler.local.kept_jobs import KeptJobs, LocalJob
from handler.settings import WorkerSettings
from handler.start.failure import log_failed_start
from handler.start.signals import STOP_SIGNALS, sigterm_interrupts_loading, stop_signals


class LocalApi:
    """Keeps jobs in memory and answers them with one engine."""

    def __init__(self, engine: Engine, settings: WorkerSettings, jobs: KeptJobs | None = None) -> None:
        self._engine = engine
        self._dispatcher = Dispatcher(engine, settings)
        self._most_body_bytes = settings.max_body_bytes
        self._jobs = KeptJobs() if jobs is None else jobs

    def app(self) -> Starlette:
        """Returns the API as an ASGI app. The engine has been started."""
        routes = [
            Route("/run", self._run, methods=["POST"]),
            Route("/runsync", self._runsync, methods=["POST"]),
            Route("/status/{job_id}", self._status, methods=["GET", "POST"]),
            Route("/stream/{job_id}", self._stream, methods=["GET", "POST"]),
        ]
        handlers = {WorkerError: _error_response, ClientGone: _nothing}
        return Starlette(routes=routes, exception_handlers=handlers)

    async def _run(self, request: Request) -> JSONResponse:
        job = await self._submit(request)
        return JSONResponse({"id": job.id, "status": "IN_PROGRESS"})

    async def _runsync(self, request: Request) -> JSONResponse:
        job = await self._submit(request)
        if job.task:
            await job.task
        return JSONResponse(job.report())

    async def _status(self, request: Request) -> JSONResponse:
        return JSONResponse(self._jobs.find(request.path_params["job_id"]).report())

    async def _stream(self, request: Request) -> JSONResponse:
        job = self._jobs.find(request.path_params["job_id"])
        read = job.read
        answer = JSONResponse(job.unread())
        if request.method == "HEAD":  # its answer has no body, so the outputs were not handed out
            job.read = read
        return answer

    async def _submit(self, request: Request) -> LocalJob:
        body = await read_body(request.scope, request.receive, self._most_body_bytes)
        job = LocalJob(id=f"local-{uuid.uuid4()}", held_bytes=len(body))
        job_input = _job_input(body)
        self._jobs.add(job)
        job.task = asyncio.create_task(self._answer(job, job_input, len(body)))
        return job

    async def _answer(self, job: LocalJob, job_input: object, input_bytes: int) -> None:
        try:
            parsed = self._dispatcher.parse(job_input)
            async with aclosing(self._dispatcher.outputs(parsed)) as outputs:
                async for output in outputs:
                    self._jobs.keep(job, output)
            job.final_output = parsed.form.final_output(job.outputs)
        except WorkerError as error:
            job.error = error
        finally:
            self._jobs.ended(job, input_bytes)


def _job_input(body: bytes) -> object:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"body: not valid JSON: {type(error).__name__}", param="body") from None
    if not isinstance(document, dict) or "input" not in document:
        raise InvalidInput('body: expected an object with "input"', param="input")
    return document["input"]


async def serve(engine: Engine, settings: WorkerSettings, door: Door, host: str, port: int) -> int:
    """Serves until interrupted; returns the exit code. `door` decides who may call."""
    warn_of_an_open_door(door, host)
    app = behind_door(LocalApi(engine, settings).app(), door)
    try:
        with open_listener(host, port, "--rp_api_port") as listener:
            # Loading blocks the event loop, so only an exception from the signal's handler ends it in time.
            with sigterm_interrupts_loading(threading.Event(), STOP_SIGNALS):
                await engine.start()
            grace = math.ceil(settings.grace_seconds)
            serving = server(app, door.tls, log_level=settings.log_level.lower(), timeout_graceful_shutdown=grace)
            with stop_signals(serving.end):
                await serving.serve([listener])
    except WorkerError as error:
        log_failed_start(error)
        return 1
    finally:
        await engine.stop()
    return 0


async def _error_response(request: Request, error: Exception) -> JSONResponse:
    del request
    assert isinstance(error, WorkerError)
    return JSONResponse(error.to_json(), status_code=error.status)


async def _nothing(request: Request, error: Exception) -> Response:
    """Ends a request whose client has left before its body was whole."""
    del request, error
    return Response(status_code=400)
