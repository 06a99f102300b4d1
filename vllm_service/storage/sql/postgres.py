"""Implements `sql.database.Database` on Postgres with a small pool of asyncpg connections."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from vllm_service.errors import ConfigurationError
from vllm_service.storage.server_urls import address_of
from vllm_service.storage.sql.database import Rows, RowsRefused, SchemaRefused, Statement, Table, Value
from vllm_service.storage.sql.migrations import Migration
from vllm_service.storage.sql.postgres_errors import (
    MAY_NOT_MIGRATE,
    NEEDS_ROOT,
    NO_ROOT,
    tls_fault,
    unavailable,
)
from vllm_service.storage.sql.upgrade import MIGRATION_WAIT_SECONDS, POSTGRES, Steps, upgrade

CONNECT_TIMEOUT_SECONDS = 5.0
COMMAND_TIMEOUT_SECONDS = 30.0
POOL_SIZE = 4
#: For a free connection of the pool; and for taking one back, whose statement may still have to be cancelled.
ACQUIRE_SECONDS = 5.0
#: At the end, for statements in progress.
CLOSE_SECONDS = 2.0
#: The server as errors name it that callers of the gateway may get: its address is none of their business.
_ANY = "Postgres"


class PostgresDatabase:
    """A pool of connections, made by `open`. The pool replaces a broken connection when it is next needed."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool

    @classmethod
    async def open(
        cls, url: str, migrations: Sequence[Migration], *, must_have_tables: bool = False
    ) -> PostgresDatabase:
        """Connects, and brings the tables to the newest version.

        Raises StorageUnavailable, and ConfigurationError where the URL or the tables cannot be used (see `upgrade`).
        """
        where = f"Postgres at {address_of(url, 'DATABASE_URL')}"
        if (fault := tls_fault(url)) is not None:
            raise ConfigurationError(f"DATABASE_URL: {fault}", param="DATABASE_URL")
        async with _translated(where):
            try:
                pool = await asyncpg.create_pool(
                    url,
                    min_size=1,
                    max_size=POOL_SIZE,
                    timeout=CONNECT_TIMEOUT_SECONDS,
                    command_timeout=COMMAND_TIMEOUT_SECONDS,
                )
            except (ValueError, OverflowError) as error:  # the text may quote the URL, and with it the password
                if str(error).startswith(NO_ROOT):
                    raise ConfigurationError(f"DATABASE_URL: {NEEDS_ROOT}", param="DATABASE_URL") from None
                raise ConfigurationError(
                    "DATABASE_URL: this is no URL of a Postgres that can be reached. Write "
                    "postgresql://USER:PASSWORD@HOST:PORT/DATABASE, with %XX for signs in the password.",
                    param="DATABASE_URL",
                ) from None
        database = cls(pool)
        try:
            async with _translated(where), pool.acquire() as connection:
                await _run(connection, upgrade(POSTGRES, migrations, must_have_tables=must_have_tables))
        except BaseException:
            await database.close()
            raise
        return database

    async def fetch(self, sql: str, *values: Value) -> list[tuple[Any, ...]]:
        """Implements Database."""
        async with _translated(), self._pool.acquire(timeout=ACQUIRE_SECONDS) as connection:
            return [tuple(row) for row in await connection.fetch(sql, *values)]

    async def write(self, *steps: Statement | Rows) -> None:
        """Implements Database."""
        async with (
            _translated(),
            self._pool.acquire(timeout=ACQUIRE_SECONDS) as connection,
            connection.transaction(),
        ):
            for step in steps:
                if isinstance(step, Statement):
                    await connection.execute(step.sql, *step.values)
                elif step.rows:
                    await connection.execute(_insert(step.table), *zip(*step.rows, strict=True))

    async def close(self) -> None:
        """Implements Database."""
        try:
            await asyncio.wait_for(self._pool.close(), CLOSE_SECONDS)
        except TimeoutError:
            self._pool.terminate()


async def _run(connection: Any, steps: Steps) -> None:
    """Executes `steps`. The pool undoes a transaction that they leave open when it takes the connection back."""
    with contextlib.suppress(StopIteration):
        step = next(steps)
        while True:
            try:
                rows = await connection.fetch(step.sql, *step.values, timeout=MIGRATION_WAIT_SECONDS)
            except MAY_NOT_MIGRATE:
                raise
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
                steps.throw(error)
            else:
                step = steps.send([tuple(row) for row in rows])


@asynccontextmanager
async def _translated(where: str = _ANY) -> AsyncIterator[None]:
    """Raises the driver's errors as ours, without their texts: Postgres quotes stored values in them.

    where: names the server.
    """
    try:
        yield
    except (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, UnicodeEncodeError) as error:
        raise RowsRefused(f"Postgres refused the values ({type(error).__name__}).") from None
    except asyncpg.SyntaxOrAccessError as error:
        if where != _ANY and isinstance(error, MAY_NOT_MIGRATE):  # at the start: no table is missing yet
            raise unavailable(error, where) from error
        name = type(error).__name__
        raise SchemaRefused(
            f"Postgres lacks a table or a column, or does not let this user use it ({name}). Compare its tables with "
            "vllm_service/storage/sql/migrations, and add what is missing."
        ) from error
    except (
        *(asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError),
        *(OSError, TimeoutError, EOFError),
    ) as error:
        raise unavailable(error, where) from error


def _insert(table: Table) -> str:
    """Returns an INSERT with one array per column: one prepared statement serves any number of rows."""
    arrays = ", ".join(f"${number}::{column.type}[]" for number, column in enumerate(table.columns, 1))
    return (
        f"INSERT INTO {table.name} ({table.column_names}) SELECT * FROM unnest({arrays}) "  # noqa: S608
        f"ON CONFLICT ({', '.join(table.unique)}) DO NOTHING"
    )
