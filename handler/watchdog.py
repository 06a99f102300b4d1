"""Notices an engine that has died, or that makes no progress with the requests inside it: its worker must end.

What else a worker may wait for, such as a download or a platform that takes no posts, says nothing about the engine.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from handler.engine.protocol import Engine
from handler.errors import EngineUnavailable, WorkerError

CHECK_SECONDS = 0.25
# A stall is seen at so many looks, at least.
FEWEST_LOOKS = 4


@dataclass
class StallDetector:
    """Decides when an engine has stood still for too long. Pure: it is given the time and the engine's progress."""

    limit_seconds: float
    _last_progress: int | None = None
    _last_look: float = 0.0
    _still_seconds: float = 0.0
    _was_inside: bool = False

    def is_stalled(self, now: float, progress: int | None) -> bool:
        """Returns True once `progress` has not changed during `limit_seconds` with requests inside the engine.

        progress: None while no request is inside, or where it is unknown. That time does not count. It proves nothing
        either: a stuck engine whose callers give up, one after the other, is still stuck.
        """
        # A process that was frozen looks late, and its engine has stood still as it has: one look proves little.
        elapsed_seconds = min(now - self._last_look, self.limit_seconds / FEWEST_LOOKS)
        self._last_look = now
        if progress is None:
            self._was_inside = False
            return False
        if progress != self._last_progress:
            self._last_progress, self._still_seconds = progress, 0.0
        elif self._was_inside:
            self._still_seconds += elapsed_seconds
        self._was_inside = True
        return self._still_seconds >= self.limit_seconds


async def failure(engine: Engine, stall_seconds: float) -> WorkerError:
    """Waits until the engine has failed, and returns the error that its requests are to end with."""
    detector = StallDetector(stall_seconds)
    clock = asyncio.get_running_loop().time
    while True:
        try:
            await engine.check_health()
        except WorkerError as error:
            return error
        if detector.is_stalled(clock(), engine.progress):
            return EngineUnavailable(f"the engine has made no progress for {stall_seconds:g} s with requests inside it")
        await asyncio.sleep(CHECK_SECONDS)
