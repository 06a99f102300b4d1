"""A signal that wakes waiting coroutines of one event loop at once, in order, without polling."""

from __future__ import annotations

import asyncio
from collections import deque


class Signal:
    """A condition without a lock. A woken coroutine must check its condition again: it may have changed meanwhile."""

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
        waiters = self._waiters
        self._waiters = deque()
        for waiter in waiters:
            _resolve(waiter, True)

    async def wait(self, seconds: float | None = None) -> bool:
        """Returns True when woken, False when `seconds` have passed.

        No wake-up is lost between the caller's check and this call, because there is no await between them.
        """
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[bool] = loop.create_future()
        self._waiters.append(waiter)
        timer = None if seconds is None else loop.call_later(max(seconds, 0), _resolve, waiter, False)
        try:
            return await waiter
        except asyncio.CancelledError:
            if not waiter.cancelled() and waiter.result():
                # This coroutine cannot use its wake-up any more. Without this, notify_one() would be lost.
                self.notify_one()
            raise
        finally:
            if timer:
                timer.cancel()
            if waiter in self._waiters:
                self._waiters.remove(waiter)


def _resolve(waiter: asyncio.Future[bool], woken: bool) -> None:
    if not waiter.done():
        waiter.set_result(woken)
