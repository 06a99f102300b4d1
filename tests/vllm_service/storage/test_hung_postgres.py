"""A Postgres that hangs, is slow, or swallows what is sent: keys in memory are used at once, and nothing waits long."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.servers import PostgresServer
from tests.slow_proxy import SlowProxy, slow_proxy
from tests.vllm_service.storage.ledger.test_ledger import RECORD
from tests.waiting import until
from vllm_service.domain.status import KeysState
from vllm_service.errors import StorageUnavailable
from vllm_service.storage.keys.sql import MOST_LOOK_UPS, STALE_WAIT_SECONDS, CachedKeys, KeyStore, new_secret
from vllm_service.storage.ledger.writer import LedgerWriterOptions
from vllm_service.storage.open import open_database, open_storage

#: A busy machine's; a wait for the database would be many times longer.
AT_ONCE_SECONDS = 0.5


@pytest.fixture
async def url(postgres_server: PostgresServer) -> AsyncIterator[str]:
    yield await postgres_server.emptied()
    postgres_server.go_on()


@asynccontextmanager
async def through(proxy: SlowProxy, url: str, folder: Path, *, fresh_seconds: float = 0.0) -> AsyncIterator[CachedKeys]:
    through_proxy = f"postgresql://postgres@127.0.0.1:{proxy.port}/postgres?sslmode=disable"
    assert "/postgres?" in url
    database = await open_database(through_proxy, folder)
    keys = CachedKeys(KeyStore(database), fresh_seconds=fresh_seconds, look_up_seconds=0.2)
    try:
        yield keys
    finally:
        await database.close()


async def made(url: str, folder: Path) -> tuple[str, str]:
    database = await open_database(url, folder)
    made = await KeyStore(database).create("acme")
    await database.close()
    return made


async def revoke(url: str, folder: Path, key_id: str) -> None:
    database = await open_database(url, folder)
    await KeyStore(database).revoke(key_id)
    await database.close()


async def test_a_key_in_memory_is_used_at_once_while_postgres_hangs(
    postgres_server: PostgresServer, url: str, tmp_path: Path
) -> None:
    key_id, secret = await made(url, tmp_path)
    database = await open_database(url, tmp_path)
    keys = CachedKeys(KeyStore(database), fresh_seconds=0.0, look_up_seconds=0.2)
    assert await keys.find(secret) is not None
    postgres_server.hang()
    began = time.monotonic()
    for _ in range(200):
        assert await keys.find(secret) is not None
    assert time.monotonic() - began < AT_ONCE_SECONDS, "the first waited a moment, the others not at all"
    assert keys.remembered(secret) is not None
    await until(lambda: keys.status() == KeysState(is_failing=True))
    with pytest.raises(StorageUnavailable) as refused:
        await keys.find(new_secret()[1])
    assert refused.value.retry_after_seconds == 1
    postgres_server.go_on()
    await until(lambda: not keys._reading)
    await revoke(url, tmp_path, key_id)
    assert await keys.find(secret) is None
    assert keys.status() == KeysState()
    await database.close()


async def test_a_flood_of_made_up_keys_is_bounded_and_known_keys_do_not_notice(
    postgres_server: PostgresServer, url: str, tmp_path: Path
) -> None:
    _, secret = await made(url, tmp_path)
    async with slow_proxy(postgres_server.socket) as proxy, through(proxy, url, tmp_path) as keys:
        assert await keys.find(secret) is not None
        proxy.swallows = True
        flood = [asyncio.create_task(keys.find(new_secret()[1])) for _ in range(5000)]
        await asyncio.sleep(0)
        assert len(keys._reading) == MOST_LOOK_UPS
        began = time.monotonic()
        assert await keys.find(secret) is not None
        assert time.monotonic() - began < STALE_WAIT_SECONDS + AT_ONCE_SECONDS
        outcomes = await asyncio.gather(*flood, return_exceptions=True)
        assert all(isinstance(outcome, StorageUnavailable) for outcome in outcomes)
        assert time.monotonic() - began < 5


async def test_a_slow_postgres_costs_a_known_key_a_moment_and_its_answer_counts_for_the_next(
    postgres_server: PostgresServer, url: str, tmp_path: Path
) -> None:
    key_id, secret = await made(url, tmp_path)
    async with slow_proxy(postgres_server.socket) as proxy, through(proxy, url, tmp_path) as keys:
        assert await keys.find(secret) is not None
        await revoke(url, tmp_path, key_id)
        proxy.delay_seconds = 0.3
        assert await keys.find(secret) is not None
        await until(lambda: not keys._reading)
        proxy.delay_seconds = 0.0
        assert await keys.find(secret) is None


async def test_a_postgres_that_answers_holds_a_revocation_to_its_time(
    postgres_server: PostgresServer, url: str, tmp_path: Path
) -> None:
    """The look-up is waited for, so no request after FRESH_SECONDS passes on what memory had."""
    key_id, secret = await made(url, tmp_path)
    database = await open_database(url, tmp_path)
    now = 1000.0
    keys = CachedKeys(KeyStore(database), fresh_seconds=3.0, clock=lambda: now)
    assert await keys.find(secret) is not None
    await revoke(url, tmp_path, key_id)
    now += 3.0
    found = await keys.find(secret)
    if found is not None:  # this machine took longer than the moment for which a request waits
        await until(lambda: not keys._reading)
        found = await keys.find(secret)
    assert found is None
    await database.close()


async def test_after_minutes_without_an_answer_no_key_is_used_any_more(
    postgres_server: PostgresServer, url: str, tmp_path: Path
) -> None:
    _, secret = await made(url, tmp_path)
    database = await open_database(url, tmp_path)
    now = 1000.0
    keys = CachedKeys(KeyStore(database), look_up_seconds=0.1, clock=lambda: now)
    assert await keys.find(secret) is not None
    postgres_server.hang()
    now += 299.0
    assert await keys.find(secret) is not None
    now += 1.0
    with pytest.raises(StorageUnavailable):
        await keys.find(secret)
    assert keys.status() == KeysState(is_failing=True, is_usable=False)
    postgres_server.go_on()
    await database.close()


@pytest.mark.parametrize("how", ["hangs", "swallows"])
async def test_the_end_of_the_process_does_not_wait_for_a_postgres_that_hangs(
    how: str, postgres_server: PostgresServer, url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with slow_proxy(postgres_server.socket) as proxy:
        through_proxy = f"postgresql://postgres@127.0.0.1:{proxy.port}/postgres?sslmode=disable"
        options = LedgerWriterOptions(close_seconds=0.5)
        async with open_storage(through_proxy, None, tmp_path, ledger_options=options) as storage:
            storage.ledger.record(RECORD)
            await until(lambda: storage.ledger.written_rows == 1)
            if how == "hangs":
                postgres_server.hang()
            else:
                proxy.swallows = True
            for _ in range(3):
                storage.ledger.record(RECORD)
            await asyncio.sleep(0)
            began = time.monotonic()
        assert time.monotonic() - began < 12
        assert "the ledger dropped rows, 3 since the start: the database was away at the end" in caplog.text
        postgres_server.go_on()
