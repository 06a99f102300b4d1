"""Values that belong to an event loop (connections, locks, tasks), for objects that may be used in several loops.

A connection that one loop has opened cannot be used in another: a second `asyncio.run`, a thread with a loop of its
own, a forked process. So each loop has its own value, made at its first use there and closed when that loop ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from vllm_service.errors import ConfigurationError, InvalidRequest

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Held(Generic[T]):
    """The value of one loop."""

    loop: asyncio.AbstractEventLoop
    process: int
    value: T
    #: A generator that is suspended until its loop ends, and then ends the value.
    lifetime: AsyncGenerator[None]


class PerLoop(Generic[T]):
    """One `T` for each event loop."""

    def __init__(self, owner: str, make: Callable[[], T], end: Callable[[T], Awaitable[None]] | None = None) -> None:
        """owner: the class that errors name. end: awaited in the loop to which the value belongs."""
        self._owner = owner
        self._make = make
        self._end = end
        self._held: dict[int, _Held[T]] = {}
        self._is_closed = False

    def get(self) -> T:
        """Returns the running loop's value. Raises InvalidRequest after close(), ConfigurationError without a loop."""
        loop = running_loop(self._owner)
        held = self._held.get(id(loop))
        if self._is_closed:
            raise closed(self._owner)
        if held is None:
            return self._begin(loop)
        if held.process != os.getpid():
            raise forked(self._owner)
        return held.value

    async def close(self) -> None:
        """Ends this loop's value now, and schedules the end of the others in their loops. It may be called again."""
        self._is_closed = True
        here = asyncio.get_running_loop()
        for key, held in list(self._held.items()):
            if held.process != os.getpid():
                continue  # they are the other process's sockets: closing them here would disturb it
            if held.loop is here:
                await held.lifetime.aclose()
            elif held.loop.is_closed():
                self._held.pop(key, None)
            else:
                with contextlib.suppress(RuntimeError):  # it was closed just now
                    held.loop.call_soon_threadsafe(_end_soon, held.lifetime)

    def _begin(self, loop: asyncio.AbstractEventLoop) -> T:
        for key, held in list(self._held.items()):
            if held.loop.is_closed() and held.process == os.getpid():
                self._held.pop(key, None)
        value = self._make()
        lifetime = _until_the_loop_ends(weakref.ref(self), id(loop), value, self._end)
        with contextlib.suppress(StopIteration):
            # It runs up to its `yield`; from then on the loop closes it at its own end.
            lifetime.__anext__().send(None)
        self._held[id(loop)] = _Held(loop, os.getpid(), value, lifetime)
        return value

    def forget(self, key: int) -> None:
        """Removes the value of a loop that has ended."""
        self._held.pop(key, None)


class OneLoop:
    """Admits one running loop at a time, for objects that threads cannot share. Another may follow when it stops."""

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process = 0
        self._is_closed = False

    def close(self) -> None:
        """Admits no loop from now on."""
        self._is_closed = True

    def enter(self) -> None:
        """Admits the running loop. Raises InvalidRequest after close(), ConfigurationError while another one runs."""
        loop = running_loop(self._owner)
        process = os.getpid()
        if self._is_closed:
            raise closed(self._owner)
        if loop is self._loop:
            if process != self._process:
                raise forked(self._owner)
            return
        if self._loop is not None and self._process == process and self._loop.is_running():
            raise ConfigurationError(
                f"this {self._owner} is in use by an event loop that runs in another thread, and cannot be shared "
                f"between threads. Make a {self._owner} in each thread, or pass the call on to that loop with "
                "asyncio.run_coroutine_threadsafe"
            )
        self._loop = loop
        self._process = process


def running_loop(owner: str) -> asyncio.AbstractEventLoop:
    """Returns the running loop. Raises ConfigurationError if there is none."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise ConfigurationError(
            f"{owner}: no event loop runs here. Use it within asyncio.run; a process that was forked inside a running "
            "loop starts one of its own. Without a loop, use RunPodVLLMServiceSync"
        ) from None


def closed(owner: str) -> InvalidRequest:
    """Returns the error of every call after close()."""
    return InvalidRequest(f"this {owner} is closed: make a new one")


def forked(owner: str) -> ConfigurationError:
    """Returns the error of a loop that was copied into a forked process."""
    return ConfigurationError(
        f"this {owner} was used in this event loop by the process that this one was forked from. Start a new loop "
        'here, with asyncio.run, or start processes by "spawn"'
    )


async def _until_the_loop_ends(
    owner: weakref.ref[PerLoop[T]], key: int, value: T, end: Callable[[T], Awaitable[None]] | None
) -> AsyncGenerator[None]:
    """Ends the value at the end of its loop: asyncio.run closes all async generators before the loop ends."""
    # A weak reference: an object that nothing uses any more must not stay until the end of the loop.
    try:
        yield
    finally:
        if (per_loop := owner()) is not None:
            per_loop.forget(key)
        if end is not None:
            await end(value)


def _end_soon(lifetime: AsyncGenerator[None]) -> None:
    task = asyncio.ensure_future(lifetime.aclose())
    # Reading the exception keeps asyncio from logging it as never retrieved.
    task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
