"""Notices an engine that has died, or makes no progress while requests run: a worker without an engine must end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from handler.engine.protocol import Engine
from handler.errors import EngineUnavailable, WorkerError

CHECK_SECONDS = 0.25


@dataclass
class StallDetector:
    """Pure: is told the time, the engine's progress and whether requests run; says when it stood still too long."""

    limit_seconds: float
    _last_progress: int | None = None
    _since: float | None = None

    def is_stalled(self, now: float, progress: int | None, *, busy: bool) -> bool:
        """True once `progress` has not changed for `limit_seconds` of being busy; never where it is unknown."""
        if progress is None or not busy or progress != self._last_progress:
            self._last_progress, self._since = progress, now
            return False
        return self._since is not None and now - self._since >= self.limit_seconds


async def failure(engine: Engine, busy: Callable[[], bool], stall_seconds: float) -> WorkerError:
    """Returns when the engine has failed, with the error that its requests are to end with."""
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
