"""Keys in the database: made, listed, revoked; and the limits of organisations."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vllm_service.domain.keys import ApiKey, OrganisationLimits, Tier
from vllm_service.storage.keys.secrets import digest_of, new_secret
from vllm_service.storage.sql.database import Database, Statement

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
