"""Implements the response cache in memory, for one process. The least recently used entries are evicted first."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from vllm_service.domain.status import CacheState
from vllm_service.storage.protocol import CachedResponse

#: The memory of an entry beside its body: key, objects and their slots in the table.
ENTRY_BYTES = 512
#: No answer may take more than an eighth of the cache: one large one would evict all others.
LARGEST_SHARE = 8


@dataclass(frozen=True, slots=True)
class ResponseBounds:
    """How much a response cache holds, and for how long."""

    max_bytes: int = 64_000_000
    max_entries: int = 10_000
    ttl_seconds: float = 3600.0

    def bytes_of(self, response: CachedResponse) -> int | None:
        """Returns the bytes that the answer takes in the cache; None if it is too large to be stored."""
        size = len(response.body) + ENTRY_BYTES
        return size if size <= self.max_bytes // LARGEST_SHARE else None


class MemoryResponses:
    """Implements protocol.ResponseCache."""

    def __init__(self, bounds: ResponseBounds, clock: Callable[[], float] = time.monotonic) -> None:
        self._bounds = bounds
        self._clock = clock
        #: By (organisation, key): the answer, its bytes, and when it expires. The least recently used is first.
        self._entries: OrderedDict[tuple[str, bytes], tuple[CachedResponse, int, float]] = OrderedDict()
        self.held_bytes = 0
        self._hits = self._misses = self._evictions = 0

    async def get(self, organisation: str, key: bytes) -> CachedResponse | None:
        """Implements protocol.ResponseCache."""
        entry = self._entries.get((organisation, key))
        if entry is None or self._clock() >= entry[2]:
            self._misses += 1
            self._remove((organisation, key))
            return None
        self._hits += 1
        response = entry[0]
        self._entries.move_to_end((organisation, key))
        return response

    async def put(self, organisation: str, key: bytes, response: CachedResponse) -> None:
        """Implements protocol.ResponseCache."""
        entry_key = (organisation, key)
        self._remove(entry_key)
        size = self._bounds.bytes_of(response)
        if size is None:
            return
        self._entries[entry_key] = (response, size, self._clock() + self._bounds.ttl_seconds)
        self.held_bytes += size
        while self.held_bytes > self._bounds.max_bytes or len(self._entries) > self._bounds.max_entries:
            self._remove(next(iter(self._entries)))
            self._evictions += 1

    def status(self) -> CacheState:
        """Returns the state for health and metrics."""
        return CacheState(self._hits, self._misses, len(self._entries), self.held_bytes, self._evictions)

    def _remove(self, entry_key: tuple[str, bytes]) -> None:
        entry = self._entries.pop(entry_key, None)
        if entry is not None:
            self.held_bytes -= entry[1]
