"""The client's side of rate limits: requests wait until their operation's window and concurrency have room."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

from vllm_service.client.per_loop import PerLoop
from vllm_service.client.settings import RateLimit, seconds


class RateGate:
    """A sliding window per operation. An operation without a limit never waits.

    All event loops share the window; the concurrency is counted in each loop.
    """

    def __init__(
        self,
        limits: Mapping[str, RateLimit],
        window_seconds: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        seconds(window_seconds, "queue_window_seconds")
        self._gates = {name: _Gate(limit, window_seconds, clock, sleep) for name, limit in limits.items()}

    @asynccontextmanager
    async def admitted(self, operation: str) -> AsyncIterator[None]:
        """Waits for room, and counts one running request while the context is open."""
        gate = self._gates.get(operation)
        if gate is None:
            yield
            return
        async with gate.running.get():
            await gate.room()
            yield


class _Gate:
    def __init__(
        self,
        limit: RateLimit,
        window_seconds: float,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self.running = PerLoop("RunPodVLLMService", lambda: asyncio.Semaphore(limit.concurrent))
        self._limit = limit
        self._window = window_seconds
        self._clock = clock
        self._sleep = sleep
        self._entered: deque[float] = deque()

    async def room(self) -> None:
        """Waits until the window has room, and counts this request in it."""
        while len(self._entered) >= self._limit.per_window:
            with contextlib.suppress(IndexError, ValueError):  # another thread's loop was faster
                oldest = self._entered[0]
                if (wait := oldest + self._window - self._clock()) > 0:
                    await self._sleep(wait)
                else:
                    self._entered.remove(oldest)
        self._entered.append(self._clock())
