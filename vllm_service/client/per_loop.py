"""What belongs to an event loop: connections, locks, tasks. An object of ours may be used in several loops.

A connection that one loop has opened cannot be used in another: a second `asyncio.run`, a thread with a loop of its
own, a forked process. So each loop has its own, made when it is first needed there and closed when that loop ends.
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
    """life: a generator that is suspended until its loop ends; then it ends `value`."""

    loop: asyncio.AbstractEventLoop
    process: int
    value: T
    life: AsyncGenerator[None]


class PerLoop(Generic[T]):
    """One `T` for each event loop. owner: named in errors. `end` is awaited in the loop that the value belongs to."""

    def __init__(self, owner: str, make: Callable[[], T], end: Callable[[T], Awaitable[None]] | None = None) -> None:
        self._owner = owner
        self._make = make
        self._end = end
        self._held: dict[int, _Held[T]] = {}
        self._is_closed = False

    def get(self) -> T:
        """The running loop's. Raises InvalidRequest once it is closed, ConfigurationError where no loop can run."""
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
        """Ends this loop's at once, and has other loops end theirs when they next run. Twice is once."""
        self._is_closed = True
        here = asyncio.get_running_loop()
        for key, held in list(self._held.items()):
            if held.process != os.getpid():
                continue  # the other process's sockets: to close them here would disturb it
            if held.loop is here:
                await held.life.aclose()
            elif held.loop.is_closed():
                self._held.pop(key, None)
            else:
                with contextlib.suppress(RuntimeError):  # it was closed just now
                    held.loop.call_soon_threadsafe(_end_soon, held.life)

    def _begin(self, loop: asyncio.AbstractEventLoop) -> T:
        for key, held in list(self._held.items()):
            if held.loop.is_closed() and held.process == os.getpid():
                self._held.pop(key, None)
        value = self._make()
        life = _until_the_loop_ends(weakref.ref(self), id(loop), value, self._end)
        with contextlib.suppress(StopIteration):
            life.__anext__().send(None)  # as far as its `yield`: the loop knows of it from here on
        self._held[id(loop)] = _Held(loop, os.getpid(), value, life)
        return value

    def forget(self, key: int) -> None:
        """Called when the value of a loop has ended."""
        self._held.pop(key, None)


class OneLoop:
    """Lets one running loop at a time use what threads cannot share. Another may follow when that one has stopped."""

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process = 0
        self._is_closed = False

    def close(self) -> None:
        """Lets nothing by from now on."""
        self._is_closed = True

    def enter(self) -> None:
        """Raises InvalidRequest once closed, ConfigurationError while another loop in this process runs and uses it."""
        loop, process = running_loop(self._owner), os.getpid()
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
        self._loop, self._process = loop, process


def running_loop(owner: str) -> asyncio.AbstractEventLoop:
    """The loop that runs here. Raises ConfigurationError where none does."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise ConfigurationError(
            f"{owner}: no event loop runs here. Use it within asyncio.run; a process that was forked inside a running "
            "loop starts one of its own. Without a loop, use RunPodVLLMServiceSync"
        ) from None


def closed(owner: str) -> InvalidRequest:
    """The error of every call after `close`."""
    return InvalidRequest(f"this {owner} is closed: make a new one")


def forked(owner: str) -> ConfigurationError:
    """The error of a loop that was copied into a forked process."""
    return ConfigurationError(
        f"this {owner} was used in this event loop by the process that this one was forked from. Start a new loop "
        'here, with asyncio.run, or start processes by "spawn"'
    )


async def _until_the_loop_ends(
    owner: weakref.ref[PerLoop[T]], key: int, value: T, end: Callable[[T], Awaitable[None]] | None
) -> AsyncGenerator[None]:
    """Suspended for as long as its loop lives: asyncio.run closes its generators, and so this one, before it ends."""
    try:
        yield
    finally:
        if (per_loop := owner()) is not None:
            per_loop.forget(key)
        if end is not None:
            await end(value)


def _end_soon(life: AsyncGenerator[None]) -> None:
    task = asyncio.ensure_future(life.aclose())
    task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
