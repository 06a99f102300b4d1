"""Keys on the hot path: found in memory within microseconds, looked up again when they are a few seconds old."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from vllm_service.domain.keys import ApiKey
from vllm_service.errors import StorageUnavailable
from vllm_service.storage.keys.secrets import digest_of, id_in
from vllm_service.storage.keys.sql import KeyStore, StoredKey

FRESH_SECONDS = 3.0
# While the database is away, keys that were known stay valid for this long; a revocation could not be heard of anyway.
STALE_SECONDS = 300.0
MAX_KEYS = 10_000
_NO_DIGEST = bytes(32)


@dataclass(slots=True)
class _Entry:
    """proven: a plain hash of the secret whose digest was found to be the stored one; None before."""

    digest: bytes
    key: ApiKey | None
    read_at: float
    proven: bytes | None = None


class CachedKeys:
    """Implements protocol.Keys. Known and unknown ids take one way: a look-up, then whole digests compared."""

    def __init__(
        self,
        store: KeyStore,
        pepper: bytes = b"",
        *,
        fresh_seconds: float = FRESH_SECONDS,
        stale_seconds: float = STALE_SECONDS,
        max_keys: int = MAX_KEYS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._pepper = pepper
        self._fresh_seconds = fresh_seconds
        self._stale_seconds = stale_seconds
        self._max_keys = max_keys
        self._clock = clock
        self._known: OrderedDict[str, _Entry] = OrderedDict()
        self._unknown: OrderedDict[str, _Entry] = OrderedDict()  # apart, so that made-up ids push out no real one
        self._reading: dict[str, asyncio.Task[_Entry]] = {}

    async def find(self, secret: str) -> ApiKey | None:
        """See protocol.Keys."""
        key_id = id_in(secret)
        if key_id is None:
            return None
        entry = self._known.get(key_id) or self._unknown.get(key_id)
        if entry is None or self._clock() - entry.read_at >= self._fresh_seconds:
            entry = await self._read(key_id, entry)
        return entry.key if self._is_same(secret, entry) else None

    def _is_same(self, secret: str, entry: _Entry) -> bool:
        """Every comparison takes the same time for any secret; the HMAC, 4 us, is worked out once for a right one."""
        plain = hashlib.blake2s(secret.encode()).digest()
        if entry.proven is not None and hmac.compare_digest(plain, entry.proven):
            return True
        same = hmac.compare_digest(digest_of(secret, self._pepper), entry.digest)
        if same:
            entry.proven = plain
        return same

    async def _read(self, key_id: str, before: _Entry | None) -> _Entry:
        """One look-up for all who ask at the same time; it goes on when one of them leaves."""
        reading = self._reading.get(key_id)
        if reading is None:
            reading = self._reading[key_id] = asyncio.create_task(self._look_up(key_id))
            reading.add_done_callback(lambda _: self._reading.pop(key_id, None))
        try:
            return await asyncio.shield(reading)
        except StorageUnavailable:
            if before is None or self._clock() - before.read_at >= self._stale_seconds:
                raise
            return before

    async def _look_up(self, key_id: str) -> _Entry:
        entry = _entry(await self._store.get(key_id), self._clock())
        kept, other = (self._known, self._unknown) if entry.key else (self._unknown, self._known)
        other.pop(key_id, None)
        kept[key_id] = entry
        kept.move_to_end(key_id)
        if len(kept) > self._max_keys:
            kept.popitem(last=False)
        return entry


def _entry(stored: StoredKey | None, now: float) -> _Entry:
    if stored is None or stored.revoked_at_us is not None:
        return _Entry(_NO_DIGEST, None, now)
    return _Entry(stored.digest, stored.key, now)
