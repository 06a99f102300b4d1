"""`python handler.py --rp_serve_api`: the SDK's development API on the worker's own engine.

The routes are the SDK's (`/run`, `/runsync`, `/status/{id}`, `/stream/{id}`). Unlike the SDK's server it reports a
failed job as FAILED and lets a stream be read while it grows.
"""

from __future__ import annotations

import asyncio
import json
import math
import socket
import threading
import uuid
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from handler.dispatch import Dispatcher
from handler.engine.protocol import Engine
from handler.errors import ConfigurationError, InvalidInput, WorkerError
from handler.outputs import Output
from handler.settings import WorkerSettings
from handler.start.signals import STOP_SIGNALS, sigterm_interrupts_loading

# Finished or not; the oldest are forgotten first.
KEPT_JOBS = 1000


@dataclass
class LocalJob:
    """One job and its outputs so far."""

    id: str
    outputs: list[Output] = field(default_factory=list)
    final_output: Any = None
    error: WorkerError | None = None
    task: asyncio.Task[None] | None = None
    #: How many outputs /stream has handed out.
    read: int = 0

    @property
    def status(self) -> str:
        """RunPod's name of the job's state."""
        if self.error:
            return "FAILED"
        return "COMPLETED" if self.task and self.task.done() else "IN_PROGRESS"

    def report(self) -> dict[str, Any]:
        """Returns the answer to `/status`."""
        document: dict[str, Any] = {"id": self.id, "status": self.status}
        if self.error:
            return document | {"error": self.error.to_json_text()}
        if self.status != "COMPLETED":
            return document
        return document | {"output": self.final_output}

    def unread(self) -> dict[str, Any]:
        """Returns the answer to `/stream`: the outputs since the call before."""
        chunks, self.read = self.outputs[self.read :], len(self.outputs)
        document: dict[str, Any] = {
            "id": self.id,
            "status": self.status,
            "stream": [{"output": chunk.value} for chunk in chunks],
        }
        return document | ({"error": self.error.to_json_text()} if self.error else {})


class LocalApi:
    """Keeps jobs in memory and answers them with one engine."""

    def __init__(self, engine: Engine, settings: WorkerSettings) -> None:
        self._engine = engine
        self._dispatcher = Dispatcher(engine, settings)
        self._jobs: OrderedDict[str, LocalJob] = OrderedDict()

    def app(self) -> Starlette:
        """Returns the API as an ASGI app, which starts the engine and stops it."""
        routes = [
            Route("/run", self._run, methods=["POST"]),
            Route("/runsync", self._runsync, methods=["POST"]),
            Route("/status/{job_id}", self._status, methods=["GET", "POST"]),
            Route("/stream/{job_id}", self._stream, methods=["GET", "POST"]),
        ]
        handlers = {WorkerError: _error_response}
        return Starlette(routes=routes, lifespan=self._lifespan, exception_handlers=handlers)

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        del app
        with sigterm_interrupts_loading(threading.Event(), STOP_SIGNALS):
            await self._engine.start()
        try:
            yield
        finally:
            await self._engine.stop()

    async def _run(self, request: Request) -> JSONResponse:
        job = self._submit(await _job_input(request))
        return JSONResponse({"id": job.id, "status": "IN_PROGRESS"})

    async def _runsync(self, request: Request) -> JSONResponse:
        job = self._submit(await _job_input(request))
        if job.task:
            await job.task
        return JSONResponse(job.report())

    async def _status(self, request: Request) -> JSONResponse:
        return JSONResponse(self._find(request).report())

    async def _stream(self, request: Request) -> JSONResponse:
        job = self._find(request)
        read = job.read
        answer = JSONResponse(job.unread())
        if request.method == "HEAD":  # its answer has no body, so the outputs were not handed out
            job.read = read
        return answer

    def _submit(self, job_input: object) -> LocalJob:
        job = LocalJob(id=f"local-{uuid.uuid4()}")
        job.task = asyncio.create_task(self._answer(job, job_input))
        self._jobs[job.id] = job
        while len(self._jobs) > KEPT_JOBS:
            self._jobs.popitem(last=False)
        return job

    async def _answer(self, job: LocalJob, job_input: object) -> None:
        try:
            parsed = self._dispatcher.parse(job_input)
            async for output in self._dispatcher.outputs(parsed):
                job.outputs.append(output)
            job.final_output = parsed.form.final_output(job.outputs)
        except WorkerError as error:
            job.error = error

    def _find(self, request: Request) -> LocalJob:
        try:
            return self._jobs[request.path_params["job_id"]]
        except KeyError:
            raise JobNotFound("job_id: there is no such job here", param="job_id") from None


class JobNotFound(InvalidInput):
    """The job was never here, or has been forgotten since."""

    status = 404
    code = "job_not_found"


def serve(engine: Engine, settings: WorkerSettings, host: str, port: int) -> None:
    """Serves until interrupted. Raises ConfigurationError where the address is taken, before the engine is loaded."""
    config = uvicorn.Config(
        LocalApi(engine, settings).app(),
        host=host,
        port=port,
        log_level=settings.log_level.lower(),
        timeout_graceful_shutdown=math.ceil(settings.grace_seconds),
    )
    with _listening(host, port) as listening:
        uvicorn.Server(config).run(sockets=[listening])


def _listening(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) else "there is no such port"
        raise ConfigurationError(
            f"--rp_api_host {host} --rp_api_port {port}: cannot listen there: {reason}. Stop what listens there, or "
            "name another port.",
            param="--rp_api_port",
        ) from error


async def _job_input(request: Request) -> object:
    try:
        document = json.loads(await request.body())
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"body: not valid JSON: {type(error).__name__}", param="body") from None
    if not isinstance(document, dict) or "input" not in document:
        raise InvalidInput('body: expected an object with "input"', param="input")
    return document["input"]


async def _error_response(request: Request, error: Exception) -> JSONResponse:
    del request
    assert isinstance(error, WorkerError)
    return JSONResponse(error.to_json(), status_code=error.status)
