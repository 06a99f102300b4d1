"""Callers' keys: hashed at rest, found by their secret only, refused soon after they are revoked."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.vllm_service.storage.faults import FaultyDatabase
from tests.waiting import until_seen
from vllm_service.domain.keys import ApiKey, OrganisationLimits, Tier
from vllm_service.domain.roles import Role
from vllm_service.errors import StorageUnavailable
from vllm_service.storage.keys.sql import FRESH_SECONDS, CachedKeys, KeyStore, new_secret
from vllm_service.storage.sql.database import Database


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


async def test_a_key_is_found_by_its_secret(database: Database) -> None:
    store = KeyStore(database)
    key_id, secret = await store.create("acme", Tier.PRODUCTION, annotate=False, strategy="cheapest", note="app")
    key = await CachedKeys(store).find(secret)
    assert key is not None
    assert (key.id, key.organisation, key.tier, key.annotate, key.strategy) == (
        key_id, "acme", Tier.PRODUCTION, False, "cheapest",
    )  # fmt: skip
    assert key.limits == OrganisationLimits()


async def test_a_role_changes_with_the_next_look_up(database: Database, clock: Clock) -> None:
    store = KeyStore(database)
    key_id, secret = await store.create("acme", role=Role.OPERATOR)
    keys = CachedKeys(store, clock=clock)
    assert (await keys.find(secret) or ApiKey("", "")).role is Role.OPERATOR
    assert await store.set_role(key_id, Role.CALLER)
    assert not await store.set_role("nobody", Role.ADMIN)
    clock.now += FRESH_SECONDS
    await keys.find(secret)  # stale keys may be answered with while they are read again
    assert await until_seen(lambda: _role(keys, secret)) is Role.CALLER


async def _role(keys: CachedKeys, secret: str) -> Role | None:
    key = await keys.find(secret)
    return None if key is None or key.role is Role.OPERATOR else key.role


async def test_the_secret_is_stored_nowhere(database: Database) -> None:
    _, secret = await KeyStore(database).create("acme")
    rows = await database.fetch("SELECT * FROM api_keys")
    assert secret.rpartition("_")[2] not in str(rows)


async def test_another_secret_finds_nothing(database: Database) -> None:
    store = KeyStore(database)
    _, secret = await store.create("acme")
    keys = CachedKeys(store)
    wrong_end = secret[:-1] + ("A" if secret[-1] != "A" else "B")
    for wrong in (wrong_end, secret + "x", secret[:20], "", "sk-1234", new_secret()[1], "vs_\x00_x", secret + "\0"):
        assert await keys.find(wrong) is None


async def test_a_key_needs_the_pepper_that_it_was_made_with(database: Database) -> None:
    _, secret = await KeyStore(database, b"pepper").create("acme")
    assert await CachedKeys(KeyStore(database), b"pepper").find(secret) is not None
    assert await CachedKeys(KeyStore(database), b"salt").find(secret) is None


async def test_a_revoked_key_is_refused_once_the_cached_one_is_old(database: Database, clock: Clock) -> None:
    store = KeyStore(database)
    key_id, secret = await store.create("acme")
    keys = CachedKeys(store, fresh_seconds=3, clock=clock)
    assert await keys.find(secret) is not None
    assert await store.revoke(key_id)
    clock.now += 3
    assert await keys.find(secret) is None


async def test_revoking_twice_keeps_the_first_time_and_an_unknown_id_is_told(database: Database, clock: Clock) -> None:
    store = KeyStore(database, clock=clock)
    key_id, _ = await store.create("acme")
    assert await store.revoke(key_id)
    clock.now += 10
    assert await store.revoke(key_id)
    assert not await store.revoke("0" * 16)
    (stored,) = await store.list("acme")
    assert stored.revoked_at_us == 1_000_000_000


async def test_limits_belong_to_the_organisation_and_reach_keys_that_are_cached(
    database: Database, clock: Clock
) -> None:
    store = KeyStore(database)
    (_, first), (_, second) = await store.create("acme"), await store.create("acme")
    keys = CachedKeys(store, fresh_seconds=3, clock=clock)
    assert await keys.find(first) is not None
    limits = replace(OrganisationLimits(), tokens_per_day=None, picousd_per_month=10**12)
    await store.set_limits("acme", limits)
    clock.now += 3
    for secret in (first, second):
        key = await keys.find(secret)
        assert key is not None
        assert key.limits == limits
    assert await store.limits("acme") == limits
    assert await store.limits("other") == OrganisationLimits()


async def test_known_keys_stay_valid_for_a_while_when_the_database_is_away(database: Database, clock: Clock) -> None:
    faulty = FaultyDatabase(database)
    store = KeyStore(faulty)
    _, secret = await store.create("acme")
    keys = CachedKeys(store, fresh_seconds=3, stale_seconds=300, clock=clock)
    assert await keys.find(secret) is not None
    faulty.is_away = True
    clock.now += 299
    assert await keys.find(secret) is not None
    with pytest.raises(StorageUnavailable):
        await keys.find(new_secret()[1])
    clock.now += 1
    with pytest.raises(StorageUnavailable):
        await keys.find(secret)


async def test_a_key_is_known_for_longer_than_it_is_used_without_a_look_up(database: Database, clock: Clock) -> None:
    """A known key is no guess, though it is looked up again: wrong keys of its address do not refuse it."""
    _, secret = await KeyStore(database).create("acme")
    keys = CachedKeys(KeyStore(database), fresh_seconds=3, stale_seconds=300, clock=clock)
    assert not keys.is_known(secret)
    found = await keys.find(secret)
    clock.now += 1
    assert keys.remembered(secret) == (found, 2.0), "it may be used on until it would be looked up"
    clock.now += 2
    assert keys.remembered(secret) is None
    assert keys.is_known(secret)
    assert not keys.is_known(secret[:-1] + ("A" if secret[-1] != "A" else "B"))
    clock.now += 297
    assert not keys.is_known(secret)


async def test_made_up_ids_push_no_real_key_out_of_the_cache(database: Database) -> None:
    faulty = FaultyDatabase(database)
    store = KeyStore(faulty)
    _, secret = await store.create("acme")
    keys = CachedKeys(store, max_keys=4)
    await keys.find(secret)
    for _ in range(20):
        assert await keys.find(new_secret()[1]) is None
    faulty.is_away = True
    assert await keys.find(secret) is not None
