"""Takes jobs from RunPod's queue through the SDK's own loop. The only module that imports runpod."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

from handler.dispatch import Dispatcher, Output
from handler.engine.protocol import Engine
from handler.errors import WorkerError
from handler.settings import WorkerSettings, export

logger = logging.getLogger(__name__)

# At its own default, DEBUG, the SDK writes every chunk of every answer to the log: nothing here maps to it.
SDK_LOG_LEVELS = {"DEBUG": "INFO", "INFO": "INFO", "WARNING": "WARN", "ERROR": "ERROR"}


def serve(engine: Engine, settings: WorkerSettings) -> None:
    """Runs until the platform stops the worker. The engine starts in the SDK's event loop, before any job is taken."""
    export({"RUNPOD_DEBUG_LEVEL": SDK_LOG_LEVELS[settings.log_level]})
    import runpod

    gate = EngineGate(engine, settings)
    dispatcher = Dispatcher(engine, settings)

    async def handle(job: dict[str, Any]) -> AsyncIterator[Output]:
        async for output in job_outputs(dispatcher, job):
            yield output

    runpod.serverless.start(
        {"handler": handle, "concurrency_modifier": gate.concurrency, "return_aggregate_stream": True}
    )


async def job_outputs(dispatcher: Dispatcher, job: dict[str, Any]) -> AsyncIterator[Output]:
    """The handler as the SDK wants it: a yielded `{"error": text}` is what makes it report the job as FAILED."""
    try:
        async for output in dispatcher.outputs(job.get("input")):
            yield output
    except WorkerError as error:
        yield {"error": error.to_json_text()}


class EngineGate:
    """The SDK's `concurrency_modifier`: no job is taken before the engine is ready, then as many as it has room for."""

    def __init__(self, engine: Engine, settings: WorkerSettings) -> None:
        self._engine = engine
        self._settings = settings
        self._start: asyncio.Task[None] | None = None

    def concurrency(self, current: int) -> int:
        """Called by the SDK before it asks for jobs. A failed start ends the process, so that RunPod replaces it."""
        del current
        if self._start is None:
            self._start = asyncio.get_running_loop().create_task(self._engine.start())
        if not self._start.done():
            return 0
        if error := self._start.exception():
            logger.error("the worker cannot start: %s", error)
            raise SystemExit(1)
        return self._settings.max_concurrency or self._engine.capacity
