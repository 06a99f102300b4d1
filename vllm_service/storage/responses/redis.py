"""Implements the response cache in Redis, for all replicas.

The cache bounds itself: Redis's own eviction could remove the counts of limits instead.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from vllm_service.domain.status import CacheState
from vllm_service.errors import ServiceError
from vllm_service.storage.protocol import CachedResponse
from vllm_service.storage.redis_replies import reply_within
from vllm_service.storage.responses.memory import ResponseBounds

if TYPE_CHECKING:
    from vllm_service.storage.redis_link import RedisLink

log = logging.getLogger(__name__)
_PREFIX = "vllm-service:response:"
_INDEX, _SIZES, _HELD = (f"vllm-service:responses:{name}" for name in ("index", "sizes", "held"))
_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(CachedResponse)
#: How long a request waits for the cache. A cache that is slower than this is a miss: it must not slow requests.
GET_SECONDS = 0.05
#: The most bytes of answers that are on their way to Redis. Beyond it answers are not stored.
MOST_UNSTORED_BYTES = 16_000_000


class RedisResponses:
    """Implements protocol.ResponseCache. Entries that expire first are evicted first. A miss while Redis is away.

    link: one of its own, so that large answers keep no other command waiting. get_seconds: how long a look-up may take.
    """

    def __init__(
        self,
        link: RedisLink,
        bounds: ResponseBounds,
        clock: Callable[[], float] = time.time,
        *,
        get_seconds: float = GET_SECONDS,
    ) -> None:
        self._link = link
        self._bounds = bounds
        self._clock = clock
        self._get_seconds = get_seconds
        self._unstored_bytes = 0
        self._is_failing = False
        self._hits = self._misses = 0
        self._put = link.script(__package__, "put_response.lua")

    async def get(self, organisation: str, key: bytes) -> CachedResponse | None:
        """Implements protocol.ResponseCache."""
        found = None
        try:
            # An entry of another version may not decode: it counts as a failure to read, and the request is made.
            body = await reply_within(self._link.call("GET", _redis_key(organisation, key)), self._get_seconds)
            found = _DECODER.decode(body) if isinstance(body, bytes) else None
            self._note(None)
        except (ServiceError, msgspec.MsgspecError) as error:
            self._note(error)
        self._hits += found is not None
        self._misses += found is None
        return found

    async def put(self, organisation: str, key: bytes, response: CachedResponse) -> None:
        """Implements protocol.ResponseCache. Waits for nothing: commands of one link are done in their order."""
        size = self._bounds.bytes_of(response)
        if size is None or self._unstored_bytes + size > MOST_UNSTORED_BYTES:
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
            reply = self._put([redis_key, _INDEX, _SIZES, _HELD], arguments)
        except ServiceError as error:
            self._note(error)
            return
        self._unstored_bytes += size
        reply.add_done_callback(lambda ended: self._stored(ended, size))

    def _stored(self, reply: asyncio.Future[Any], size: int) -> None:
        self._unstored_bytes -= size
        self._note(reply.exception())

    def _note(self, error: BaseException | None) -> None:
        """Logs the first failure in a row: one line for each request would hide the others."""
        if error is not None and not self._is_failing:
            log.warning("the response cache cannot be used, requests go on without it: %s", error)
        self._is_failing = error is not None

    def status(self) -> CacheState:
        """Returns the state for health and metrics: this replica's look-ups. Shared entries are not counted."""
        return CacheState(self._hits, self._misses)


def _redis_key(organisation: str, key: bytes) -> str:
    """Returns the Redis key. The organisation's name is hashed, because a raw one could contain the separator."""
    return f"{_PREFIX}{hashlib.sha256(organisation.encode()).hexdigest()[:32]}:{key.hex()}"
