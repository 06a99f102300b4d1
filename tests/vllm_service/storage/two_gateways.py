"""What two gateways share, for tests that hold in one process's memory and on a real Redis alike."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from tests.servers import own_redis
from vllm_service.storage.redis_link import RedisLink

Shared = TypeVar("Shared")
PLACES = ("memory", "redis")


@asynccontextmanager
async def two_gateways(
    place: str, in_memory: Callable[[], Shared], on_redis: Callable[[RedisLink], Shared]
) -> AsyncIterator[tuple[Shared, Shared]]:
    """The part as each of them has it; in memory they are one."""
    if place == "memory":
        alone = in_memory()
        yield alone, alone
        return
    with own_redis() as server:
        links = RedisLink(server.url), RedisLink(server.url)
        yield on_redis(links[0]), on_redis(links[1])
        for link in links:
            await link.close()
