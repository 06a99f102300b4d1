"""Measures how late the event loop runs what is due: the sign that something holds it, which slows every request."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable

from vllm_service.domain.status import LoopState

#: A stall that is longer than this is always seen, a shorter one with a chance of its share.
LOOK_EVERY_SECONDS = 0.1
#: The longest lag of so long is reported, so that no stall falls between two scrapes, however many programs scrape.
WINDOW_SECONDS = 60.0


class LoopLag:
    """Measures by how much a pause of the loop is longer than it was to be: from one timer, at no cost to requests."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._clock = clock
        self._pause = pause
        self._last = 0.0
        #: When which lag was seen, each longer than all after it: the first is the longest of the window.
        self._longest: deque[tuple[float, float]] = deque()

    async def run(self) -> None:
        """Measures until it is cancelled."""
        due = self._clock() + LOOK_EVERY_SECONDS
        while True:
            await self._pause(due - self._clock())
            now = self._clock()
            self.saw(max(0.0, now - due), now)
            due = now + LOOK_EVERY_SECONDS

    def saw(self, lag_seconds: float, now: float) -> None:
        """Takes one measurement."""
        self._last = lag_seconds
        longest = self._longest
        while longest and longest[-1][1] <= lag_seconds:
            longest.pop()
        longest.append((now, lag_seconds))
        self._forget(now)

    def status(self) -> LoopState:
        """Returns the state that health and metrics show."""
        self._forget(self._clock())
        return LoopState(self._last, self._longest[0][1] if self._longest else self._last)

    def _forget(self, now: float) -> None:
        while self._longest and self._longest[0][0] < now - WINDOW_SECONDS:
            self._longest.popleft()
