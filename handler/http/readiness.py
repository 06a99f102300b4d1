"""The life of the worker in HTTP mode, and whether a request may go to the engine just now."""

from __future__ import annotations

import asyncio
import logging
from enum import Enum

from handler import watchdog
from handler.engine.protocol import Engine
from handler.errors import EngineUnavailable
from handler.start.failure import log_failed_start

logger = logging.getLogger(__name__)


class State(Enum):
    """The phases of the worker's life."""

    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"


class Readiness:
    """The worker's state together with the engine's health."""

    def __init__(self, engine: Engine) -> None:
        self.state = State.LOADING
        self._engine = engine

    async def check(self) -> None:
        """Returns when the engine can serve.

        Raises EngineLoading at first, WorkerDraining at the end, and EngineUnavailable when the engine has died.
        """
        if self.state is State.LOADING:
            raise EngineLoading("the engine is still loading")
        if self.state is State.DRAINING:
            raise WorkerDraining("this worker is shutting down")
        await self._engine.check_health()

    async def ping(self) -> int:
        """Returns the status of RunPod's health check: 200 healthy, 204 initialising, anything else unhealthy."""
        try:
            await self.check()
        except EngineLoading:
            return 204
        except EngineUnavailable:
            return 503
        return 200

    async def live(self, stall_seconds: float) -> None:
        """Starts the engine. Returns, with the reason in the log, when it did not start, has died, or stands still."""
        try:
            await self._engine.start()
        except Exception as error:
            log_failed_start(error)
            return
        self.state = State.READY
        failure = await watchdog.failure(self._engine, stall_seconds)
        logger.error("the worker ends: %s", failure.message)

    async def live_until(self, stop: asyncio.Event, stall_seconds: float) -> bool:
        """Runs `live` until `stop` is set; returns True when the engine has failed before that."""
        life = asyncio.create_task(self.live(stall_seconds))
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({life, stopping}, return_when=asyncio.FIRST_COMPLETED)
            return life.done()
        finally:
            life.cancel()
            stopping.cancel()
            await asyncio.gather(life, stopping, return_exceptions=True)


class EngineLoading(EngineUnavailable):
    """The engine has not finished loading."""

    code = "engine_loading"


class WorkerDraining(EngineUnavailable):
    """The worker finishes what it has and takes nothing new."""

    code = "worker_draining"
