"""Notices an engine that has died, or that makes no progress while requests run: a worker without one must end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from handler.engine.protocol import Engine
from handler.errors import EngineUnavailable, WorkerError

CHECK_SECONDS = 0.25


@dataclass
class StallDetector:
    """Decides when an engine has stood still for too long. Pure: it is given the time and the engine's progress."""

    limit_seconds: float
    _last_progress: int | None = None
    _since: float | None = None

    def is_stalled(self, now: float, progress: int | None, *, busy: bool) -> bool:
        """Returns True once `progress` has not changed during `limit_seconds` of being busy.

        It never does where the progress is unknown.
        """
        if progress is None or not busy or progress != self._last_progress:
            self._last_progress, self._since = progress, now
            return False
        return self._since is not None and now - self._since >= self.limit_seconds


async def failure(engine: Engine, busy: Callable[[], bool], stall_seconds: float) -> WorkerError:
    """Waits until the engine has failed, and returns the error that its requests are to end with."""
    detector = StallDetector(stall_seconds)
    clock = asyncio.get_running_loop().time
    while True:
        try:
            await engine.check_health()
        except WorkerError as error:
            return error
        if detector.is_stalled(clock(), engine.progress, busy=busy()):
            return EngineUnavailable(f"the engine has made no progress for {stall_seconds:g} s while requests ran")
        await asyncio.sleep(CHECK_SECONDS)
