"""Opens the gateway's storage: SQLite and memory by default, Postgres and Redis where URLs are given."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from vllm_service.domain.quotas import ADDRESS_REQUESTS_PER_SECOND
from vllm_service.errors import StorageUnavailable
from vllm_service.storage.coordination.memory import MemoryBreakers, MemoryTargets, MemoryWakes
from vllm_service.storage.installation_secret import installation_secret
from vllm_service.storage.keys.sql import CachedKeys, KeyStore
from vllm_service.storage.ledger.billed_days import BilledDayStore
from vllm_service.storage.ledger.lease import DatabaseLease
from vllm_service.storage.ledger.lives import LifeStore
from vllm_service.storage.ledger.reader import LedgerReader
from vllm_service.storage.ledger.retention import Retention
from vllm_service.storage.ledger.spend import SpendWatch
from vllm_service.storage.ledger.writer import LedgerWriter, LedgerWriterOptions
from vllm_service.storage.protocol import Quotas, ResponseCache
from vllm_service.storage.quotas.alone import ShareOfQuotas
from vllm_service.storage.quotas.memory import LEASE_SECONDS, MemoryQuotas
from vllm_service.storage.quotas.presence import Presence
from vllm_service.storage.quotas.redis import RedisQuotas, WhenRedisIsAway
from vllm_service.storage.quotas.saved import QuotaSaver, load
from vllm_service.storage.responses.memory import MemoryResponses, ResponseBounds
from vllm_service.storage.responses.redis import RedisResponses
from vllm_service.storage.sql.database import Database
from vllm_service.storage.sql.migrations import Migration, shipped
from vllm_service.storage.sql.sqlite import SqliteDatabase

if TYPE_CHECKING:
    from vllm_service.storage.coordination.redis import RedisBreakers, RedisTargets, RedisWakes
    from vllm_service.storage.redis_link import RedisLink

DATABASE_FILE = "service.sqlite3"
_log = logging.getLogger(__name__)


class SharedLives(NamedTuple):
    """The lives of workers at own endpoints, as one replica at a time keeps them."""

    store: LifeStore
    lease: DatabaseLease


class SharedBills(NamedTuple):
    """The bills by day, as one replica at a time fetches it."""

    days: BilledDayStore
    lease: DatabaseLease


@dataclass(frozen=True)
class Storage:
    """Everything that outlives a request."""

    #: Finds keys on the hot path, through memory.
    keys: CachedKeys
    #: Makes, lists and revokes keys.
    key_store: KeyStore
    ledger: LedgerWriter
    ledger_reader: LedgerReader
    #: The lives of workers, and the lease of the replica that keeps and books them.
    lives: SharedLives
    bills: SharedBills
    #: What today and yesterday cost.
    spend: SpendWatch
    #: Random, for the salts of prompt caches; the same for all replicas.
    secret: bytes
    # From here on in the order of _Shared: in memory, or in Redis for all replicas.
    quotas: Quotas
    responses: ResponseCache
    breakers: MemoryBreakers | RedisBreakers
    wakes: MemoryWakes | RedisWakes
    targets: MemoryTargets | RedisTargets


class _Shared(NamedTuple):
    """The parts that replicas of the gateway share through Redis; without Redis each has its own."""

    quotas: Quotas
    responses: ResponseCache
    breakers: MemoryBreakers | RedisBreakers
    wakes: MemoryWakes | RedisWakes
    targets: MemoryTargets | RedisTargets


async def open_database(
    database_url: str | None,
    data_dir: Path,
    migrations: Sequence[Migration] | None = None,
    *,
    must_have_tables: bool = False,
) -> Database:
    """Opens Postgres by URL, else a file in `data_dir`, and brings it to the newest version of the schema.

    migrations: this program's by default. must_have_tables: refuses a database that the gateway has never used, instead
    of making one. Raises StorageUnavailable, and ConfigurationError for a database that is
    newer than this program or has tables of no version of it.
    """
    steps = shipped() if migrations is None else migrations
    if database_url:
        from vllm_service.storage.sql.postgres import PostgresDatabase  # noqa: PLC0415  # 5 MB that SQLite does not need

        return await PostgresDatabase.open(database_url, steps, must_have_tables=must_have_tables)
    return await SqliteDatabase.open(data_dir / DATABASE_FILE, steps, must_have_tables=must_have_tables)


@asynccontextmanager
async def open_storage(
    database_url: str | None,
    redis_url: str | None,
    data_dir: Path,
    *,
    pepper: bytes = b"",
    address_limit: int = ADDRESS_REQUESTS_PER_SECOND,
    lease_seconds: float = LEASE_SECONDS,
    when_redis_is_away: WhenRedisIsAway = WhenRedisIsAway.REFUSE,
    processes: int = 1,
    response_bounds: ResponseBounds | None = None,
    ledger_options: LedgerWriterOptions | None = None,
    retention_days: float | None = None,
) -> AsyncIterator[Storage]:
    """Opens all parts, and closes them in the reverse order: when this ends, the ledger is durable.

    pepper: mixed into the digests of keys; the commands that make keys need the same. lease_seconds: how long a
    reservation may stay open, longer than any request takes. address_limit: requests a second of one client address.
    processes: how many share the limits at least, for a start while Redis is away; Redis counts them otherwise.
    ledger_options: see LedgerWriter. Raises StorageUnavailable when the database cannot be reached.
    """
    bounds = response_bounds or ResponseBounds()
    async with AsyncExitStack() as stack:
        stack.push_async_callback((database := await open_database(database_url, data_dir)).close)
        where = "DATABASE_URL" if database_url else str(data_dir / DATABASE_FILE)
        if redis_url is None:
            with _named(where):
                saved = await load(database, time.time())
            own = MemoryQuotas(saved, lease_seconds=lease_seconds, address_limit=address_limit)
            stack.push_async_callback(QuotaSaver(database, own.periods).close)
            shared = _embedded(own, bounds)
        else:
            alone = None
            if when_redis_is_away is WhenRedisIsAway.COUNT_ALONE:
                alone = ShareOfQuotas(processes=processes, lease_seconds=lease_seconds, address_limit=address_limit)

            def make_quotas(link: RedisLink) -> tuple[RedisQuotas, Presence]:
                quotas = RedisQuotas(link, lease_seconds=lease_seconds, address_limit=address_limit, fallback=alone)
                return quotas, Presence(link, alone, at_least=processes)

            shared = await _in_redis(stack, redis_url, bounds, make_quotas)
        reader = LedgerReader(database)
        with _named(where):
            ledger = await _open_ledger(stack, database, None if database_url else data_dir, ledger_options)
        if retention_days is not None:
            stack.push_async_callback(Retention(reader, retention_days).close)
        key_store = KeyStore(database, pepper)
        secret = await installation_secret(database, "prompt_caches", pepper)
        lives, bills, spend = await _open_spend(stack, database, None if database_url else data_dir)
        yield Storage(CachedKeys(key_store, pepper), key_store, ledger, reader, lives, bills, spend, secret, *shared)


@contextmanager
def _named(where: str) -> Iterator[None]:
    """Names the database in an error of the start. Errors that callers may get leave it out."""
    try:
        yield
    except StorageUnavailable as error:
        if where in error.message:
            raise
        raise StorageUnavailable(f"{where}: {error.message}", retry_after_seconds=error.retry_after_seconds) from error


def _embedded(quotas: MemoryQuotas, bounds: ResponseBounds) -> _Shared:
    return _Shared(quotas, MemoryResponses(bounds), MemoryBreakers(), MemoryWakes(), MemoryTargets())


async def _in_redis(
    stack: AsyncExitStack,
    url: str,
    bounds: ResponseBounds,
    make_quotas: Callable[[RedisLink], tuple[RedisQuotas, Presence]],
) -> _Shared:
    from vllm_service.storage.coordination.redis import RedisBreakers, RedisTargets, RedisWakes  # noqa: PLC0415
    from vllm_service.storage.redis_link import RedisLink  # noqa: PLC0415  # 10 MB that a single replica does not need

    # One for each concern: a large cached answer keeps no limit waiting, and no limit a breaker.
    link, cache, coordination = (RedisLink(url) for _ in range(3))
    for opened in (link, cache, coordination):
        stack.push_async_callback(opened.close)
    if (problem := await link.problem()) is not None:
        # No reason not to start: a replica may be started while Redis fails over. /health and each refusal say it too.
        _log.error("%s: %s Until then limits are not shared: see WHEN_REDIS_IS_AWAY.", link.address, problem)
    quotas, presence = make_quotas(link)
    stack.push_async_callback(presence.close)
    stack.push_async_callback(quotas.close)
    coordinating = (RedisBreakers(coordination), RedisWakes(coordination), RedisTargets(coordination))
    return _Shared(quotas, RedisResponses(cache, bounds), *coordinating)


async def _beside(stack: AsyncExitStack, database: Database, sqlite_dir: Path | None) -> Database:
    """Returns the database, SQLite on a connection of its own, so that look-ups of keys do not wait for batches."""
    if sqlite_dir is None:
        return database
    opened = await open_database(None, sqlite_dir)
    stack.push_async_callback(opened.close)
    return opened


async def _open_ledger(
    stack: AsyncExitStack, database: Database, sqlite_dir: Path | None, options: LedgerWriterOptions | None
) -> LedgerWriter:
    ledger = await LedgerWriter.open(await _beside(stack, database, sqlite_dir), options)
    stack.push_async_callback(ledger.close)
    return ledger


async def _open_spend(
    stack: AsyncExitStack, database: Database, sqlite_dir: Path | None
) -> tuple[SharedLives, SharedBills, SpendWatch]:
    opened = await _beside(stack, database, sqlite_dir)
    holder = secrets.token_hex(8)
    lives = SharedLives(LifeStore(opened), DatabaseLease(opened, "worker lives", holder))
    bills = SharedBills(BilledDayStore(opened), DatabaseLease(opened, "bills", holder))
    watch = SpendWatch(opened)
    stack.push_async_callback(watch.close)
    return lives, bills, watch
