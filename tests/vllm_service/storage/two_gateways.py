"""What two gateways share, for tests that hold in one process's memory and on a real Redis alike."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import redis.asyncio as redis

from tests.servers import own_redis

Shared = TypeVar("Shared")
PLACES = ("memory", "redis")


@asynccontextmanager
async def two_gateways(
    place: str, in_memory: Callable[[], Shared], on_redis: Callable[[redis.Redis], Shared]
) -> AsyncIterator[tuple[Shared, Shared]]:
    """The part as each of them has it; in memory they are one."""
    if place == "memory":
        alone = in_memory()
        yield alone, alone
        return
    with own_redis() as server:
        clients = server.client(), server.client()
        yield on_redis(clients[0]), on_redis(clients[1])
        for client in clients:
            await client.aclose()
