"""The connection to Redis: one attempt, short timeouts, and no attempts at all for a moment after one has failed."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from importlib import resources
from typing import TypeVar

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.commands.core import AsyncScript
from redis.exceptions import RedisError

from vllm_service.errors import StorageUnavailable

Result = TypeVar("Result")
TIMEOUT_SECONDS = 1.0
# While Redis is away each request would wait for the timeout; this many seconds apart one of them tries.
REST_SECONDS = 0.5
MAX_CONNECTIONS = 64


class RedisLink:
    """Raises StorageUnavailable where redis raises, and at once while Redis is known to be away.

    Nothing is sent again by itself: only who sends knows whether it may arrive twice.
    """

    def __init__(
        self, url: str, *, timeout_seconds: float = TIMEOUT_SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=MAX_CONNECTIONS,
            timeout=timeout_seconds,
            socket_timeout=timeout_seconds,
            socket_connect_timeout=timeout_seconds,
            retry=Retry(NoBackoff(), 0),
        )
        self.client: Redis = Redis.from_pool(pool)
        self._clock = clock
        self._resting_until = 0.0

    @property
    def is_resting(self) -> bool:
        """Whether it failed a moment ago, and is not asked now."""
        return self._clock() < self._resting_until

    def script(self, package: str, name: str) -> AsyncScript:
        """Returns the script in this file of a package; it is loaded where Redis does not have it."""
        return self.client.register_script(resources.files(package).joinpath(name).read_text("utf-8"))

    async def ask(self, command: Callable[[], Awaitable[Result]]) -> Result:
        """The answer to a command; StorageUnavailable."""
        if self._clock() < self._resting_until:
            raise _away("is away", self._resting_until - self._clock())
        try:
            return await command()
        except (RedisError, OSError, TimeoutError) as error:
            self._resting_until = self._clock() + REST_SECONDS
            raise _away(f"does not answer ({type(error).__name__})", REST_SECONDS) from error

    async def close(self) -> None:
        """Closes every connection."""
        await self.client.aclose()


def _away(what: str, retry_after_seconds: float) -> StorageUnavailable:
    return StorageUnavailable(f"Redis, which keeps the limits, {what}.", retry_after_seconds=retry_after_seconds)
