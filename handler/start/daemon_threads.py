"""Blocking work in threads for which a process that ends does not wait. The event loop's own executor is joined."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

Result = TypeVar("Result")


class DaemonThreads:
    """Runs work in daemon threads, at most `most` at a time. Further work waits for its turn."""

    def __init__(self, name: str, most: int) -> None:
        self._name = name
        self._free = asyncio.Semaphore(most)

    async def run(self, work: Callable[[threading.Event], Result]) -> Result:
        """Returns what `work` returns, or raises what it raises.

        work: is given an event. It is set when the caller is cancelled, who does not wait for the thread: the work
        should then end soon, and keeps its place until it has.
        """
        await self._free.acquire()
        events = asyncio.get_running_loop()
        left, context = threading.Event(), contextvars.copy_context()
        result: Future[Result] = Future()
        result.set_running_or_notify_cancel()  # from here on it cannot be cancelled, and takes what comes

        def run() -> None:
            try:
                result.set_result(context.run(work, left))
            except BaseException as error:
                result.set_exception(error)
            with contextlib.suppress(RuntimeError):  # the loop has been closed meanwhile
                events.call_soon_threadsafe(self._free.release)

        threading.Thread(target=run, name=self._name, daemon=True).start()
        try:
            return await asyncio.wrap_future(result)
        finally:
            left.set()
