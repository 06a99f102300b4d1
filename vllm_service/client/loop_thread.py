"""An event loop in a thread of its own, for callers without one: scripts, notebooks, threads of a web server."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from vllm_service.errors import InvalidRequest

T = TypeVar("T")

LEAVE_SECONDS = 15.0  # for what was interrupted to cancel its job


class LoopThread:
    """Runs coroutines for any thread. `at_end` is awaited in the loop when it is stopped."""

    def __init__(self, at_end: Callable[[], Awaitable[None]]) -> None:
        self._at_end = at_end
        self._started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        self._thread = threading.Thread(target=self._serve, name="vllm_service client", daemon=True)
        self._thread.start()
        self._loop, self._end = self._started.result()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """What it returns or raises. Interrupted, it cancels the work and waits until that has ended."""
        if not self._thread.is_alive() or threading.current_thread() is self._thread:
            work.close()
            raise InvalidRequest("the client is closed, or was called from its own loop; use RunPodVLLMService there")
        ended = threading.Event()

        async def tracked() -> T:
            try:
                return await work
            finally:
                ended.set()

        future = asyncio.run_coroutine_threadsafe(tracked(), self._loop)
        try:
            return future.result()
        except BaseException:
            if future.cancel():
                ended.wait(LEAVE_SECONDS)
            raise

    def stop(self) -> None:
        """Ends what still runs, awaits `at_end`, closes the loop. Twice is once."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._end.set)
            self._thread.join()

    def _serve(self) -> None:
        with asyncio.Runner() as runner:
            runner.run(self._live())

    async def _live(self) -> None:
        end = asyncio.Event()
        self._started.set_result((asyncio.get_running_loop(), end))
        try:
            await end.wait()
        finally:
            await self._at_end()
