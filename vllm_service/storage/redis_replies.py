"""Waiting for Redis's replies, without the driver: a gateway that has no Redis imports this, and saves 10 MB."""

from __future__ import annotations

import asyncio
from typing import Any

from vllm_service.errors import StorageUnavailable


class RedisSilent(StorageUnavailable):
    """Nothing answers at Redis's address. If it has a cause, the command was sent, and may have arrived."""


async def reply_within(reply: asyncio.Future[Any], seconds: float) -> Any:
    """Returns the reply. Raises StorageUnavailable when it takes longer; the command goes on all the same."""
    try:
        async with asyncio.timeout(seconds):
            return await asyncio.shield(reply)
    except TimeoutError as error:
        raise StorageUnavailable(
            f"Redis, which holds the limits, took longer than {seconds:g} s. Try again; if it lasts, check its load "
            "and the network to it.",
            retry_after_seconds=1.0,
        ) from error
