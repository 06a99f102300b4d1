"""Makes, lists and revokes API keys in the database, and finds them through memory on the hot path.

A secret is `vs_<id>_<token>`. The database holds the id and a digest of the secret, never the secret.
"""

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
from typing import Any, NamedTuple

from vllm_service.domain.keys import ApiKey, OrganisationLimits, Tier
from vllm_service.domain.roles import Role, known_role
from vllm_service.domain.status import KeysState
from vllm_service.errors import StorageUnavailable
from vllm_service.storage.protocol import RememberedKey
from vllm_service.storage.sql.database import Database, Statement

PREFIX = "vs"
_ID_BYTES = 8
_TOKEN_BYTES = 32
#: Longer headers are refused before they are hashed.
_LONGEST_SECRET = 128
# Printable ASCII; the id has no underscore. It need not be hexadecimal: an unknown id is refused like a wrong token.
_SECRET = re.compile(rf"{PREFIX}_([ -^`-~]{{{2 * _ID_BYTES}}})_[ -~]*")


def new_secret() -> tuple[str, str]:
    """Returns (id, secret) of a new key."""
    key_id = secrets.token_hex(_ID_BYTES)
    return key_id, f"{PREFIX}_{key_id}_{secrets.token_urlsafe(_TOKEN_BYTES)}"


def id_in(secret: str) -> str | None:
    """Returns the id within a secret; None for a text that no key of ours can be."""
    found = _SECRET.fullmatch(secret) if len(secret) <= _LONGEST_SECRET else None
    return None if found is None else found[1]


def digest_of(secret: str, pepper: bytes) -> bytes:
    """Returns the HMAC-SHA-256 of the secret with the pepper, which may be empty: 32 bytes.

    A slow password hash would add nothing: the token has 256 random bits, which no dictionary holds.
    """
    return hmac.digest(pepper, secret.encode(), "sha256")


_LIMITS = tuple(field.name for field in dataclasses.fields(OrganisationLimits))
_VALUES = ", ".join(f"${number}" for number in range(1, len(_LIMITS) + 2))
_SELECT = f"""SELECT k.id, k.digest, k.organisation, k.tier, k.annotate, k.strategy, k.note, k.created_at_us,
    k.revoked_at_us, k.role, o.organisation, {", ".join(f"o.{name}" for name in _LIMITS)}
    FROM api_keys k LEFT JOIN organisations o ON o.organisation = k.organisation"""  # noqa: S608
_SET_LIMITS = f"""INSERT INTO organisations (organisation, {", ".join(_LIMITS)}) VALUES ({_VALUES})
    ON CONFLICT (organisation) DO UPDATE SET {", ".join(f"{name} = excluded.{name}" for name in _LIMITS)}"""  # noqa: S608


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A key with the columns that only the commands show."""

    key: ApiKey
    #: Of the secret, see `digest_of`.
    digest: bytes
    note: str | None
    #: Microseconds since 1970.
    created_at_us: int
    #: Microseconds since 1970; None for a valid key.
    revoked_at_us: int | None


class KeyStore:
    """The keys in the database. Every method raises StorageUnavailable when the database is away."""

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
        role: Role = Role.CALLER,
    ) -> tuple[str, str]:
        """Stores a new key; returns (id, secret). The secret is stored nowhere: it cannot be shown again."""
        key_id, secret = new_secret()
        digest = digest_of(secret, self._pepper).hex()
        await self._database.write(
            Statement(
                "INSERT INTO api_keys (id, digest, organisation, tier, annotate, strategy, note, created_at_us, "
                "role) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
                (key_id, digest, organisation, tier.value, int(annotate), strategy, note, self._now_us(), role.value),
            )
        )
        return key_id, secret

    async def get(self, key_id: str) -> StoredKey | None:
        """Returns the key of this id, also a revoked one; None if there is none."""
        rows = await self._database.fetch(f"{_SELECT} WHERE k.id = $1", key_id)
        return _stored(rows[0]) if rows else None

    async def list(self, organisation: str | None = None) -> list[StoredKey]:
        """Returns all keys, or one organisation's, the oldest first."""
        where, values = (" WHERE k.organisation = $1", (organisation,)) if organisation else ("", ())
        return [_stored(row) for row in await self._database.fetch(f"{_SELECT}{where} ORDER BY 8, 1", *values)]

    async def revoke(self, key_id: str) -> bool:
        """Revokes a key; returns False if there is none. A second call keeps the time of the first."""
        rows = await self._database.fetch(
            "UPDATE api_keys SET revoked_at_us = COALESCE(revoked_at_us, $1) WHERE id = $2 RETURNING id",
            self._now_us(),
            key_id,
        )
        return bool(rows)

    async def set_role(self, key_id: str, role: Role) -> bool:
        """Gives a key another role; returns False if there is none. Gateways apply it within FRESH_SECONDS."""
        rows = await self._database.fetch(
            "UPDATE api_keys SET role = $1 WHERE id = $2 RETURNING id", role.value, key_id
        )
        return bool(rows)

    async def limits(self, organisation: str) -> OrganisationLimits:
        """Returns the organisation's limits; the defaults where none were set."""
        rows = await self._database.fetch(
            f"SELECT {', '.join(_LIMITS)} FROM organisations WHERE organisation = $1",  # noqa: S608
            organisation,
        )
        return OrganisationLimits(*rows[0]) if rows else OrganisationLimits()

    async def set_limits(self, organisation: str, limits: OrganisationLimits) -> None:
        """Sets an organisation's limits. Running gateways apply them within FRESH_SECONDS, at the next look-up."""
        values = (organisation, *(getattr(limits, name) for name in _LIMITS))
        await self._database.write(Statement(_SET_LIMITS, values))

    def _now_us(self) -> int:
        return int(self._clock() * 1_000_000)


def _stored(row: tuple[Any, ...]) -> StoredKey:
    """Returns the key of a row of _SELECT. An organisation without a row of its own has the default limits."""
    key_id, digest, organisation, tier, annotate, strategy, note, created, revoked, role, with_limits, *limits = row
    of_organisation = OrganisationLimits(*limits) if with_limits is not None else OrganisationLimits()
    key = ApiKey(key_id, organisation, Tier(tier), of_organisation, bool(annotate), strategy, known_role(role))
    return StoredKey(key, bytes.fromhex(digest), note, created, revoked)


#: How long an entry is used without a look-up, and so how long a revoked key still works.
FRESH_SECONDS = 3.0
#: While the database is away or slow, keys in memory stay valid for so long: it could not report a revocation anyway.
STALE_SECONDS = 300.0
#: How long a request whose key is in memory waits for a look-up. Then the key is used as it is; the look-up goes on.
STALE_WAIT_SECONDS = 0.05
#: How long a request waits whose key is not in memory.
LOOK_UP_SECONDS = 1.0
#: How long a look-up may take that no request waits for any more.
LOOK_UP_LIMIT_SECONDS = 10.0
#: The most look-ups at once of keys that are not in memory: a flood of made-up ids must not fill the database's pool.
MOST_LOOK_UPS = 256
#: The most look-ups at once while keys in memory are looked up again.
MOST_REFRESHES = 1_000
#: The most entries in memory, of known and of unknown ids each.
MAX_KEYS = 10_000
#: Compared with for unknown and revoked keys, so that they take as long as valid ones. No HMAC is all zeros.
_NO_DIGEST = bytes(32)


@dataclass(slots=True)
class _Entry:
    """The result of a look-up in the database, for one id."""

    digest: bytes
    #: None for an unknown id and a revoked key.
    key: ApiKey | None
    #: Monotonic seconds.
    read_at: float
    #: A plain hash of the secret whose digest matched; None before the first match.
    proven: bytes | None = None


class _Reading(NamedTuple):
    """A look-up in progress."""

    task: asyncio.Task[_Entry]
    #: Monotonic seconds.
    began_at: float


def _slow() -> StorageUnavailable:
    words = "The database, which holds the keys, does not answer in time. Try again; if it lasts, check it."
    return StorageUnavailable(words, retry_after_seconds=1.0)


class CachedKeys:
    """Implements protocol.Keys. Known and unknown ids take the same steps: a look-up, then a comparison of digests."""

    def __init__(
        self,
        store: KeyStore,
        pepper: bytes = b"",
        *,
        fresh_seconds: float = FRESH_SECONDS,
        stale_seconds: float = STALE_SECONDS,
        max_keys: int = MAX_KEYS,
        look_up_seconds: float = LOOK_UP_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._pepper = pepper
        self._fresh_seconds = fresh_seconds
        self._stale_seconds = stale_seconds
        self._max_keys = max_keys
        self._look_up_seconds = look_up_seconds
        self._clock = clock
        self._known: OrderedDict[str, _Entry] = OrderedDict()
        # Kept apart, so that a flood of made-up ids evicts no real key.
        self._unknown: OrderedDict[str, _Entry] = OrderedDict()
        #: Look-ups in progress, by id.
        self._reading: dict[str, _Reading] = {}
        self._is_failing = False
        #: When the database last answered a look-up, or this began.
        self._answered_at = clock()

    async def find(self, secret: str) -> ApiKey | None:
        """Implements protocol.Keys."""
        key_id = id_in(secret)
        if key_id is None:
            return None
        entry = self._known.get(key_id) or self._unknown.get(key_id)
        if entry is None or self._clock() - entry.read_at >= self._fresh_seconds:
            entry = await self._read(key_id, entry)
        return entry.key if self._matches(secret, entry) else None

    def status(self) -> KeysState:
        """Returns the state for health: whether look-ups fail, and whether keys in memory are still used."""
        now = self._clock()
        waits = any(now - reading.began_at >= self._look_up_seconds for reading in self._reading.values())
        is_failing = self._is_failing or waits
        return KeysState(is_failing, is_usable=not is_failing or now - self._answered_at < self._stale_seconds)

    def remembered(self, secret: str) -> RememberedKey | None:
        """Implements protocol.Keys. Also returns a key whose look-up the database keeps waiting, as `find` does."""
        key_id = id_in(secret)
        entry = None if key_id is None else self._known.get(key_id)
        if key_id is None or entry is None or entry.key is None:
            return None
        now = self._clock()
        fresh_seconds = entry.read_at + self._fresh_seconds - now
        if fresh_seconds <= 0 and not self._is_kept_waiting(key_id, entry, now):
            return None
        return RememberedKey(entry.key, max(0.0, fresh_seconds)) if self._matches(secret, entry) else None

    def is_known(self, secret: str) -> bool:
        """Implements protocol.Keys."""
        key_id = id_in(secret)
        entry = None if key_id is None else self._known.get(key_id)
        return entry is not None and self._is_usable(entry, self._clock()) and self._matches(secret, entry)

    def _is_usable(self, entry: _Entry, now: float) -> bool:
        return now - entry.read_at < self._stale_seconds

    def _is_kept_waiting(self, key_id: str, entry: _Entry, now: float) -> bool:
        """Returns whether a look-up is under way that a request has waited for, so that the entry is used as it is."""
        reading = self._reading.get(key_id)
        return reading is not None and now - reading.began_at >= STALE_WAIT_SECONDS and self._is_usable(entry, now)

    def _matches(self, secret: str, entry: _Entry) -> bool:
        """Returns True if the secret is the entry's. Each comparison takes the same time for any secret.

        The HMAC takes 4 us. So it is computed once for a right secret, whose cheaper plain hash is then kept in memory.
        """
        plain = hashlib.blake2s(secret.encode()).digest()
        if entry.proven is not None and hmac.compare_digest(plain, entry.proven):
            return True
        same = hmac.compare_digest(digest_of(secret, self._pepper), entry.digest)
        if same:
            entry.proven = plain
        return same

    async def _read(self, key_id: str, before: _Entry | None) -> _Entry:
        """Returns the entry by one look-up for all concurrent calls, or `before` where the database is not quick.

        The look-up goes on when this returns or is cancelled: the next call finds what it has read.
        """
        now = self._clock()
        usable = before if before is not None and self._is_usable(before, now) else None
        reading = self._reading.get(key_id)
        if reading is None:
            if len(self._reading) >= (MOST_LOOK_UPS if usable is None else MOST_REFRESHES):
                if usable is not None:
                    return usable
                raise _slow()
            reading = self._reading[key_id] = _Reading(asyncio.create_task(self._look_up(key_id)), now)
            reading.task.add_done_callback(lambda task: self._ended(key_id, task))
        elif usable is not None and self._is_kept_waiting(key_id, usable, now):
            return usable
        patience = self._look_up_seconds if usable is None else STALE_WAIT_SECONDS
        await asyncio.wait({reading.task}, timeout=patience)
        try:
            if not reading.task.done():
                raise _slow()
            return reading.task.result()
        except StorageUnavailable:
            # An entry that is not too old is used on. A revoked one has no key, so that it stays refused.
            if usable is None:
                raise
            return usable

    def _ended(self, key_id: str, task: asyncio.Task[_Entry]) -> None:
        del self._reading[key_id]
        self._is_failing = task.cancelled() or task.exception() is not None
        if not self._is_failing:
            self._answered_at = self._clock()

    async def _look_up(self, key_id: str) -> _Entry:
        """Reads one key from the database, and keeps it as known or unknown. The oldest entry beyond the bound goes."""
        try:
            async with asyncio.timeout(LOOK_UP_LIMIT_SECONDS):
                stored = await self._store.get(key_id)
        except TimeoutError:
            raise _slow() from None
        entry = _entry(stored, self._clock())
        # A key can be made after its id was looked up, and revoked after it was known: it then changes sides.
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
