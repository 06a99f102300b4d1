"""Wakes the coroutines of one event loop that wait for something to happen: at once, in order, without polling."""

from __future__ import annotations

import asyncio
from collections import deque


class Signal:
    """Whoever waits looks again at what it waits for: a wake-up says that it may have come, not that it has."""

    def __init__(self) -> None:
        self._waiters: deque[asyncio.Future[bool]] = deque()

    def notify_one(self) -> None:
        """Wakes the coroutine that has waited longest."""
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(True)
                return

    def notify_all(self) -> None:
        """Wakes every coroutine that waits now."""
        waiters, self._waiters = self._waiters, deque()
        for waiter in waiters:
            _resolve(waiter, True)

    async def wait(self, seconds: float | None = None) -> bool:
        """True when woken, False when `seconds` have passed. No wake-up is missed between a look and this call."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[bool] = loop.create_future()
        self._waiters.append(waiter)
        timer = None if seconds is None else loop.call_later(max(seconds, 0), _resolve, waiter, False)
        try:
            return await waiter
        except asyncio.CancelledError:
            if not waiter.cancelled() and waiter.result():
                self.notify_one()  # this wake-up was meant for somebody who can still act on it
            raise
        finally:
            if timer:
                timer.cancel()
            if waiter in self._waiters:
                self._waiters.remove(waiter)


def _resolve(waiter: asyncio.Future[bool], woken: bool) -> None:
    if not waiter.done():
        waiter.set_result(woken)
