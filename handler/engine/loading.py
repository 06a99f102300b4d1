"""Loading off the event loop, for a worker that must answer pings and signals meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import TypeVar

Loaded = TypeVar("Loaded")


async def in_thread(load: Callable[[], Loaded], undo: Callable[[Loaded], None]) -> Loaded:
    """What `load` returns. A thread cannot be cancelled: if the caller is, this waits for it and takes it back."""
    loading = asyncio.ensure_future(asyncio.to_thread(load))
    try:
        return await asyncio.shield(loading)
    except asyncio.CancelledError:
        with contextlib.suppress(Exception):  # it failed by itself: there is nothing to take back
            undo(await loading)
        raise
