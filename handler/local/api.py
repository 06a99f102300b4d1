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
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from handler.dispatch import Dispatcher
from handler.door.flags import Door
from handler.door.guard import behind_door, warn_of_an_open_door
from handler.door.listener import open_listener
from handler.door.server import server
from handler.engine.protocol import Engine
from handler.errors import InvalidInput, WorkerError
from handler.outputs import Output
from handler.settings import WorkerSettings
from handler.start.failure import log_failed_start
from handler.start.signals import STOP_SIGNALS, sigterm_interrupts_loading, stop_signals

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
        """Returns the API as an ASGI app. The engine has been started."""
        routes = [
            Route("/run", self._run, methods=["POST"]),
            Route("/runsync", self._runsync, methods=["POST"]),
            Route("/status/{job_id}", self._status, methods=["GET", "POST"]),
            Route("/stream/{job_id}", self._stream, methods=["GET", "POST"]),
        ]
        handlers = {WorkerError: _error_response}
        return Starlette(routes=routes, exception_handlers=handlers)

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
