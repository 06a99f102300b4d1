"""The worker on a RunPod queue endpoint: engine, job loop and watchdog together, from the start to the exit code."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
from collections.abc import AsyncGenerator, Callable
from typing import Any

import uvloop

from handler import watchdog
from handler.dispatch import Dispatcher
from handler.engine.protocol import Engine
from handler.errors import WorkerError
from handler.metrics import WorkerMetrics
from handler.queue import runpod_sdk
from handler.queue.job_loop import JobLoop, Pauses
from handler.queue.platform import Platform
from handler.settings import WorkerSettings
from handler.start.failure import log_failed_start
from handler.start.signals import sigterm_interrupts_loading, stop_signals

logger = logging.getLogger(__name__)


def serve(
    engine: Engine,
    settings: WorkerSettings,
    *,
    metrics: WorkerMetrics | None = None,
    make_platform: Callable[[WorkerMetrics], runpod_sdk.SdkPlatform] = runpod_sdk.SdkPlatform,
    sdk_loop: runpod_sdk.SdkLoop = runpod_sdk.serve_with_sdk_loop,
) -> int:
    """Runs until the platform stops the worker or the engine fails.

    Returns the exit code, which is 0 only after an orderly shutdown.
    """
    runpod_sdk.configure(settings.log_level)
    metrics = metrics or WorkerMetrics()
    try:
        platform = make_platform(metrics)
    except runpod_sdk.SdkMoved as error:
        logger.warning("%s; falling back to the SDK's own loop, which is slower and loses cancellations", error)
        return _serve_with_sdk_loop(engine, settings, sdk_loop)
    return uvloop.run(_serve(engine, settings, platform, metrics))


async def _serve(
    engine: Engine, settings: WorkerSettings, platform: runpod_sdk.SdkPlatform, metrics: WorkerMetrics
) -> int:
    told_to_stop = threading.Event()
    async with platform:
        try:
            with sigterm_interrupts_loading(told_to_stop):
                await engine.start()
            if told_to_stop.is_set():  # swallowed, and the engine came up all the same
                return 0
            return await run(engine, settings, platform, metrics)
        except Exception as error:
            if told_to_stop.is_set():  # an import has made an error of its own of the interruption
                return 0
            log_failed_start(error)
            return 1
        finally:
            await engine.stop()


async def run(engine: Engine, settings: WorkerSettings, platform: Platform, metrics: WorkerMetrics) -> int:
    """Serves with a started engine; returns 1 when the engine failed, so that RunPod replaces the worker."""
    gc.collect()
    # What was imported stays. Without this a full collection would walk all of it in the middle of a stream.
    gc.freeze()
    dispatcher = Dispatcher(engine, settings)
    logger.info("ready: taking up to %d jobs at a time", dispatcher.capacity())
    loop = JobLoop(platform, dispatcher, dispatcher.capacity, Pauses(grace=settings.grace_seconds), metrics)
    with stop_signals(loop.shut_down):
        watching = asyncio.create_task(_end_with_the_engine(engine, loop, settings.stall_seconds))
        await loop.run()
    engine_failed = watching.done()
    watching.cancel()
    return 1 if engine_failed else 0


async def _end_with_the_engine(engine: Engine, loop: JobLoop, stall_seconds: float) -> None:
    error = await watchdog.failure(engine, stall_seconds)
    logger.error("%s: failing %d jobs as retryable and ending the worker", error.message, loop.jobs_begun)
    loop.shut_down(error)


def _serve_with_sdk_loop(engine: Engine, settings: WorkerSettings, sdk_loop: runpod_sdk.SdkLoop) -> int:
    dispatcher = Dispatcher(engine, settings)

    async def handle(job: dict[str, Any]) -> AsyncGenerator[Any, None]:
        async for output in job_outputs(dispatcher, job):
            yield output

    sdk_loop(handle, EngineGate(engine, dispatcher, settings.stall_seconds).concurrency)
    return 0


async def job_outputs(dispatcher: Dispatcher, job: dict[str, Any]) -> AsyncGenerator[Any, None]:
    """Yields outputs as the SDK's loop takes them.

    A yielded `{"error": text}` makes the SDK report the job as FAILED.
    """
    try:
        async for output in dispatcher.outputs(dispatcher.parse(job.get("input"))):
            yield output.value
    except WorkerError as error:
        yield {"error": error.to_json_text()}


class EngineGate:
    """The SDK's `concurrency_modifier`: no job before the engine is ready, then as many as it has room for."""

    def __init__(self, engine: Engine, dispatcher: Dispatcher, stall_seconds: float) -> None:
        self._engine = engine
        self._dispatcher = dispatcher
        self._stall_seconds = stall_seconds
        self._start: asyncio.Task[None] | None = None
        self._watch: asyncio.Task[WorkerError] | None = None

    def concurrency(self, current: int) -> int:
        """Returns how many jobs the SDK may run.

        A failed start, and later an engine that fails, end the process, so that RunPod replaces the worker.
        """
        del current
        events = asyncio.get_running_loop()
        if self._start is None:
            self._start = events.create_task(self._engine.start())
        if not self._start.done():
            return 0
        if error := self._start.exception():
            log_failed_start(error if isinstance(error, Exception) else RuntimeError(type(error).__name__))
            raise SystemExit(1)
        if self._watch is None:
            self._watch = events.create_task(watchdog.failure(self._engine, self._stall_seconds))
        if self._watch.done():
            logger.error("the worker ends: %s", self._watch.result().message)
            raise SystemExit(1)
        return self._dispatcher.capacity()
