"""Waiting for what gives no sign of its own: the state of another process, or of code that has no event for it.

Where there is an event, a pipe or a future to wait for, wait for that. The deadlines here are for what never comes:
they are long, so that a busy machine does not fail a test.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import count
from typing import TypeVar

T = TypeVar("T")
#: So many looks come turn after turn of the event loop, for what this process is about to do.
QUICK_LOOKS = 100
#: Later ones are this far apart, for what another process does.
PAUSE_SECONDS = 0.01


async def until(condition: Callable[[], object], seconds: float = 60) -> None:
    """Returns once the condition is true. Raises TimeoutError if it never is."""

    async def look() -> object:
        return condition()

    await until_seen(look, seconds)


async def until_seen(look: Callable[[], Awaitable[T]], seconds: float = 60) -> T:
    """Returns the first true value of a look at something else. Raises TimeoutError if there never is one."""
    async with asyncio.timeout(seconds):
        for looks in count():
            if seen := await look():
                return seen
            await asyncio.sleep(0 if looks < QUICK_LOOKS else PAUSE_SECONDS)
    raise AssertionError("count() has no end")


async def turns(number: int) -> None:
    """Lets every other task run that can, this often."""
    for _ in range(number):
        await asyncio.sleep(0)
