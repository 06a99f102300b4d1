"""Implements the response cache in Redis, for all replicas.

The cache bounds itself: Redis's own eviction could remove the counts of limits instead.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from vllm_service.domain.status import CacheState
from vllm_service.errors import ServiceError
from vllm_service.storage.protocol import CachedResponse
from vllm_service.storage.responses.memory import ResponseBounds

if TYPE_CHECKING:
    from vllm_service.storage.redis_link import RedisLink

log = logging.getLogger(__name__)
_PREFIX = "vllm-service:response:"
_INDEX, _SIZES, _HELD = (f"vllm-service:responses:{name}" for name in ("index", "sizes", "held"))
_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(CachedResponse)


class RedisResponses:
    """Implements protocol.ResponseCache. Entries that expire first are evicted first. A miss while Redis is away."""

    def __init__(self, link: RedisLink, bounds: ResponseBounds, clock: Callable[[], float] = time.time) -> None:
        self._link = link
        self._bounds = bounds
        self._clock = clock
        self._hits = self._misses = 0
        self._put = link.script(__package__, "put_response.lua")

    async def get(self, organisation: str, key: bytes) -> CachedResponse | None:
        """Implements protocol.ResponseCache."""
        try:
            # An entry of another version may not decode: it counts as a failure to read, and the request is made.
            body = await self._link.execute(lambda: self._link.client.get(_redis_key(organisation, key)))
            found = _DECODER.decode(body) if isinstance(body, bytes) else None
            self._hits += found is not None
            self._misses += found is None
            return found
        except (ServiceError, msgspec.MsgspecError) as error:
            log.warning("the response cache cannot be read, requests go on without it: %s", error)
            return None

    async def put(self, organisation: str, key: bytes, response: CachedResponse) -> None:
        """Implements protocol.ResponseCache."""
        size = self._bounds.bytes_of(response)
        if size is None:
            return
        redis_key = _redis_key(organisation, key)
        arguments: list[bytes | int] = [
            _ENCODER.encode(response),
            size,
            int(self._clock() * 1000),
            int(self._bounds.ttl_seconds * 1000),
            self._bounds.max_bytes,
            self._bounds.max_entries,
        ]
        try:
            await self._link.execute(lambda: self._put([redis_key, _INDEX, _SIZES, _HELD], arguments))
        except ServiceError as error:
            log.warning("an answer could not be stored in the response cache: %s", error.message)

    def status(self) -> CacheState:
        """Returns the state for health and metrics: this replica's look-ups. Shared entries are not counted."""
        return CacheState(self._hits, self._misses)


def _redis_key(organisation: str, key: bytes) -> str:
    """Returns the Redis key. The organisation's name is hashed, because a raw one could contain the separator."""
    return f"{_PREFIX}{hashlib.sha256(organisation.encode()).hexdigest()[:32]}:{key.hex()}"
