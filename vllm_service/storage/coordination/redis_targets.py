"""How many workers each replica wants of an endpoint, so that they agree on one number. In Redis."""

from __future__ import annotations

import asyncio
import logging
from importlib import resources

import redis.asyncio as redis

from vllm_service.storage.coordination.redis_wakes import AWAY

_log = logging.getLogger(__name__)


class RedisTargets:
    """Of all replicas with the same Redis and prefix; while Redis is away each has only its own word."""

    def __init__(self, client: redis.Redis, *, prefix: str = "vllm_service", patience_seconds: float = 0.25) -> None:
        script = resources.files(__package__).joinpath("targets.lua").read_text("utf-8")
        self._script = client.register_script(script)
        self._prefix = prefix
        self._patience_seconds = patience_seconds
        self._is_away = False

    async def publish(self, endpoint: str, replica: str, workers: int, seconds: float) -> int:
        """See coordination.Targets."""
        highest = await self._say(endpoint, replica, workers, seconds)
        return workers if highest is None else max(workers, highest)

    async def withdraw(self, endpoint: str, replica: str) -> int | None:
        """See coordination.Targets."""
        highest = await self._say(endpoint, replica, -1, 0.0)
        return None if highest is None or highest < 0 else highest

    async def _say(self, endpoint: str, replica: str, workers: int, seconds: float) -> int | None:
        arguments: list[str | int] = [replica, workers, max(1, round(seconds * 1000))]
        try:
            async with asyncio.timeout(self._patience_seconds):
                highest = await self._script(keys=[f"{self._prefix}:targets:{endpoint}"], args=arguments)
        except AWAY as error:
            if not self._is_away:  # it is asked once a second
                _log.warning("Redis is away (%s): this replica alone says how many workers", type(error).__name__)
            self._is_away = True
            return None
        self._is_away = False
        return int(highest)
