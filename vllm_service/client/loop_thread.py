"""An event loop in a thread of its own, for callers without one: scripts, notebooks, threads of a web server."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from vllm_service.errors import InvalidRequest

T = TypeVar("T")

LEAVE_SECONDS = 15.0  # for what was interrupted to cancel its job


class LoopThread:
    """Runs coroutines for any thread. `at_end` is awaited in the loop when it is stopped.

    A forked process has no threads but the one that forked: there a new one is started when it is first needed.
    """

    def __init__(self, at_end: Callable[[], Awaitable[None]]) -> None:
        self._at_end = at_end
        self._is_closed = False
        self._starting = threading.Lock()
        self._running = _Running(at_end)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """What it returns or raises. Interrupted, it cancels the work and waits until that has ended."""
        try:
            running = self._in_this_process()
        except InvalidRequest:
            work.close()
            raise
        ended = threading.Event()

        async def tracked() -> T:
            try:
                return await work
            finally:
                ended.set()

        future = running.begin(tracked())
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise InvalidRequest("the client was closed before this call had ended") from None
        except BaseException:
            if future.cancel():
                ended.wait(LEAVE_SECONDS)
            raise

    def stop(self) -> None:
        """Ends what still runs, awaits `at_end`, closes the loop. Twice is once."""
        self._is_closed = True
        self._running.stop()

    def _in_this_process(self) -> _Running:
        if self._is_closed:
            raise InvalidRequest("the client is closed: make a new one")
        if self._running.process != os.getpid():
            with self._starting:
                if self._running.process != os.getpid():
                    self._running = _Running(self._at_end)
        if threading.current_thread() is self._running.thread:
            raise InvalidRequest("the client was called from its own loop; use RunPodVLLMService there")
        return self._running


class _Running:
    """One thread and its loop."""

    def __init__(self, at_end: Callable[[], Awaitable[None]]) -> None:
        self.process = os.getpid()
        self._at_end = at_end
        self._under_way: set[Future[Any]] = set()
        self._has_ended = False
        self._started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        self.thread = threading.Thread(target=self._serve, name="vllm_service client", daemon=True)
        self.thread.start()
        self._loop, self._end = self._started.result()

    def begin(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Runs it in the loop. Cancelled if the loop ends first."""
        try:
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        except RuntimeError:  # the loop was closed just now
            work.close()
            raise InvalidRequest("the client is closed: make a new one") from None
        self._under_way.add(future)
        future.add_done_callback(self._under_way.discard)
        if self._has_ended:
            future.cancel()
        return future

    def stop(self) -> None:
        """Twice is once; in a forked process there is nothing to stop."""
        if self.process == os.getpid() and self.thread.is_alive():
            self._loop.call_soon_threadsafe(self._end.set)
            self.thread.join()

    def _serve(self) -> None:
        try:
            with asyncio.Runner() as runner:
                runner.run(self._live())
        finally:
            self._has_ended = True
            for future in self._under_way.copy():  # begun too late for the loop to get to it
                future.cancel()

    async def _live(self) -> None:
        end = asyncio.Event()
        self._started.set_result((asyncio.get_running_loop(), end))
        try:
            await end.wait()
        finally:
            await self._at_end()
