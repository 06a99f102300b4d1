"""Keys in the database: made, listed, revoked, and found through memory on the hot path."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import hmac
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vllm_service.domain.keys import ApiKey, OrganisationLimits, Tier
from vllm_service.errors import StorageUnavailable
from vllm_service.storage.sql.database import Database, Statement

PREFIX = "vs"
_ID_BYTES, _TOKEN_BYTES = 8, 32
_LONGEST_SECRET = 128
_SECRET = re.compile(rf"{PREFIX}_([ -^`-~]{{{2 * _ID_BYTES}}})_[ -~]*")  # printable; no underscore in the id


def new_secret() -> tuple[str, str]:
    """(id, secret)."""
    key_id = secrets.token_hex(_ID_BYTES)
    return key_id, f"{PREFIX}_{key_id}_{secrets.token_urlsafe(_TOKEN_BYTES)}"


def id_in(secret: str) -> str | None:
    """The id within a secret; None for what cannot be one of ours."""
    found = _SECRET.fullmatch(secret) if len(secret) <= _LONGEST_SECRET else None
    return None if found is None else found[1]


def digest_of(secret: str, pepper: bytes) -> bytes:
    """HMAC-SHA-256 with the pepper, which may be empty; 32 bytes."""
    return hmac.digest(pepper, secret.encode(), "sha256")


_LIMITS = tuple(field.name for field in dataclasses.fields(OrganisationLimits))
_SELECT = f"""SELECT k.id, k.digest, k.organisation, k.tier, k.annotate, k.strategy, k.note, k.created_at_us,
    k.revoked_at_us, o.organisation, {", ".join(f"o.{name}" for name in _LIMITS)}
    FROM api_keys k LEFT JOIN organisations o ON o.organisation = k.organisation"""  # noqa: S608
_SET_LIMITS = f"""INSERT INTO organisations (organisation, {", ".join(_LIMITS)}) VALUES ($1, $2, $3, $4, $5)
    ON CONFLICT (organisation) DO UPDATE SET {", ".join(f"{name} = excluded.{name}" for name in _LIMITS)}"""  # noqa: S608


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A key with what only storage and its commands know of it. Times in microseconds since 1970."""

    key: ApiKey
    digest: bytes
    note: str | None
    created_at_us: int
    revoked_at_us: int | None


class KeyStore:
    """Every method raises StorageUnavailable when the database is away."""

    def __init__(self, database: Database, pepper: bytes = b"", clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._pepper = pepper
        self._clock = clock

    async def create(
        self,
        organisation: str,
        tier: Tier = Tier.DEVELOPMENT,
        *,
        annotate: bool = True,
        strategy: str | None = None,
        note: str | None = None,
    ) -> tuple[str, str]:
        """(id, secret) of a new key; the secret is nowhere else."""
        key_id, secret = new_secret()
        digest = digest_of(secret, self._pepper).hex()
        await self._database.write(
            Statement(
                "INSERT INTO api_keys (id, digest, organisation, tier, annotate, strategy, note, created_at_us) "
                "VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
                (key_id, digest, organisation, tier.value, int(annotate), strategy, note, self._now_us()),
            )
        )
        return key_id, secret

    async def get(self, key_id: str) -> StoredKey | None:
        """The key of this id, also a revoked one."""
        rows = await self._database.fetch(f"{_SELECT} WHERE k.id = $1", key_id)
        return _stored(rows[0]) if rows else None

    async def list(self, organisation: str | None = None) -> list[StoredKey]:
        """All keys, or one organisation's, the oldest first."""
        where, values = (" WHERE k.organisation = $1", (organisation,)) if organisation else ("", ())
        return [_stored(row) for row in await self._database.fetch(f"{_SELECT}{where} ORDER BY 8, 1", *values)]

    async def revoke(self, key_id: str) -> bool:
        """Whether there was such a key; a second time changes nothing."""
        rows = await self._database.fetch(
            "UPDATE api_keys SET revoked_at_us = COALESCE(revoked_at_us, $1) WHERE id = $2 RETURNING id",
            self._now_us(),
            key_id,
        )
        return bool(rows)

    async def limits(self, organisation: str) -> OrganisationLimits:
        """The organisation's limits; the defaults where none were set."""
        rows = await self._database.fetch(
            f"SELECT {', '.join(_LIMITS)} FROM organisations WHERE organisation = $1",  # noqa: S608
            organisation,
        )
        return OrganisationLimits(*rows[0]) if rows else OrganisationLimits()

    async def set_limits(self, organisation: str, limits: OrganisationLimits) -> None:
        """From now on; running gateways follow within the time that they cache keys for."""
        await self._database.write(
            Statement(
                _SET_LIMITS,
                (organisation, *(getattr(limits, name) for name in _LIMITS)),
            )
        )

    def _now_us(self) -> int:
        return int(self._clock() * 1_000_000)


def _stored(row: tuple[Any, ...]) -> StoredKey:
    key_id, digest, organisation, tier, annotate, strategy, note, created, revoked, known, *limits = row
    of_organisation = OrganisationLimits(*limits) if known is not None else OrganisationLimits()
    key = ApiKey(key_id, organisation, Tier(tier), of_organisation, bool(annotate), strategy)
    return StoredKey(key, bytes.fromhex(digest), note, created, revoked)


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
