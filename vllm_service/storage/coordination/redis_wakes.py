"""One wake of an endpoint at a time, of all replicas: a lease that expires. In Redis."""

from __future__ import annotations

import asyncio
import logging

import redis.asyncio as redis
from redis.exceptions import RedisError

from vllm_service.storage.coordination.memory import MemoryWakes

AWAY = (RedisError, OSError, TimeoutError)

logger = logging.getLogger(__name__)


class RedisWakes:
    """Of all replicas with the same Redis and prefix; while Redis is away each wakes for itself, once per lease."""

    def __init__(self, client: redis.Redis, *, prefix: str = "vllm_service", patience_seconds: float = 0.25) -> None:
        self._client = client
        self._prefix = prefix
        self._patience_seconds = patience_seconds
        self._own = MemoryWakes()

    async def claim(self, endpoint: str, seconds: float) -> bool:
        """See coordination.Wakes."""
        try:
            async with asyncio.timeout(self._patience_seconds):
                claimed = await self._client.set(self._key(endpoint), "1", nx=True, px=max(1, round(seconds * 1000)))
        except AWAY as error:
            logger.warning("Redis is away (%s): %s is woken by this replica alone", type(error).__name__, endpoint)
            return await self._own.claim(endpoint, seconds)
        if claimed:  # remembered, in case Redis goes away before the worker is there
            await self._own.clear(endpoint)
            await self._own.claim(endpoint, seconds)
        return bool(claimed)

    async def shorten(self, endpoint: str, seconds: float) -> None:
        """See coordination.Wakes."""
        await self._own.shorten(endpoint, seconds)
        try:
            async with asyncio.timeout(self._patience_seconds):
                left_ms = await self._client.pttl(self._key(endpoint))
                if left_ms > seconds * 1000:
                    await self._client.pexpire(self._key(endpoint), max(1, round(seconds * 1000)))
        except AWAY:
            pass  # it expires by itself, only later

    async def clear(self, endpoint: str) -> None:
        """See coordination.Wakes."""
        await self._own.clear(endpoint)
        try:
            async with asyncio.timeout(self._patience_seconds):
                await self._client.delete(self._key(endpoint))
        except AWAY:
            pass  # it expires by itself, only later

    def _key(self, endpoint: str) -> str:
        return f"{self._prefix}:wake:{endpoint}"
