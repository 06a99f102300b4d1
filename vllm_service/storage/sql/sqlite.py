"""SQLite behind the database seam: one connection on a thread of its own, in WAL mode, synced at each commit."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from vllm_service.errors import StorageUnavailable
from vllm_service.storage.sql.database import Rows, RowsRefused, SchemaRefused, Statement, Table, Value
from vllm_service.storage.sql.migrations import Migration
from vllm_service.storage.sql.upgrade import PATIENCE_SECONDS, SQLITE, Steps, upgrade

Result = TypeVar("Result")
BUSY_TIMEOUT_SECONDS = 5.0
# Rows per INSERT. One statement lets go of the GIL once, not once per row: with a busy event loop beside it, each time
# costs up to the interpreter's switch interval (5 ms). Larger statements would hold the GIL long while they are bound.
ROWS_PER_INSERT = (64, 8, 1)
_REFUSED = (
    sqlite3.DataError,
    sqlite3.IntegrityError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    OverflowError,
    UnicodeEncodeError,
)
# A statement that names what is not there; primary result codes.
_UNKNOWN = (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_SCHEMA)


class SqliteDatabase:
    """Opened by `open`. Several processes may use one file; writers wait for one another."""

    def __init__(self, connection: sqlite3.Connection, thread: ThreadPoolExecutor) -> None:
        self._connection = connection
        self._thread = thread

    @classmethod
    async def open(cls, path: Path, migrations: Sequence[Migration]) -> SqliteDatabase:
        """Makes the file, readable by its owner only, and brings its tables to the newest version.

        StorageUnavailable; ConfigurationError (see upgrade) where the file cannot be used.
        """
        thread = ThreadPoolExecutor(1, thread_name_prefix=f"sqlite-{path.stem}")
        try:
            connection = await _on(thread, lambda: _connect(path, migrations))
        except BaseException:
            thread.shutdown()
            raise
        return cls(connection, thread)

    async def fetch(self, sql: str, *values: Value) -> list[tuple[Any, ...]]:
        """See Database."""
        return await _on(self._thread, lambda: self._connection.execute(_dialect(sql), values).fetchall())

    async def write(self, *steps: Statement | Rows) -> None:
        """See Database."""
        await _on(self._thread, lambda: self._write(steps))

    async def close(self) -> None:
        """See Database."""
        await _on(self._thread, self._connection.close)
        self._thread.shutdown()

    def _write(self, steps: Sequence[Statement | Rows]) -> None:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            for step in steps:
                for statement in [step] if isinstance(step, Statement) else _inserts(step):
                    self._connection.execute(_dialect(statement.sql), statement.values)
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise


async def _on(thread: ThreadPoolExecutor, work: Callable[[], Result]) -> Result:
    try:
        return await asyncio.get_running_loop().run_in_executor(thread, work)
    except _REFUSED as error:
        raise RowsRefused(f"SQLite refused the values ({type(error).__name__}).") from None
    except sqlite3.Error as error:
        name = getattr(error, "sqlite_errorname", type(error).__name__)
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in _UNKNOWN:
            raise SchemaRefused(f"SQLite does not know a table or a column ({name}).") from error
        raise StorageUnavailable(f"SQLite cannot do this now ({name}).", retry_after_seconds=1.0) from error


def _connect(path: Path, migrations: Sequence[Migration]) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    _make(path)
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_SECONDS, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA busy_timeout = {PATIENCE_SECONDS * 1000}")
        _run(connection, upgrade(SQLITE, migrations))
        connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_SECONDS * 1000:.0f}")
    except BaseException:
        connection.close()
        raise
    return connection


def _run(connection: sqlite3.Connection, steps: Steps) -> None:
    with contextlib.suppress(StopIteration):
        step = next(steps)
        while True:
            try:
                rows = connection.execute(_dialect(step.sql), step.values).fetchall()
            except sqlite3.Error as error:
                steps.throw(error)
            else:
                step = steps.send(rows)


def _make(path: Path) -> None:
    """An empty file that only its owner may read; one that is there is not touched.

    Closing a file that this process has open elsewhere would drop SQLite's locks on it (fcntl(2)): another process then
    takes itself for the last one and deletes the log that is still being written.
    """
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))


def _dialect(sql: str) -> str:
    return sql.replace("$", "?")


def _inserts(step: Rows) -> Iterator[Statement]:
    done = 0
    for count in ROWS_PER_INSERT:
        sql = _insert(step.table, count)
        while len(step.rows) - done >= count:
            rows = step.rows[done : done + count]
            yield Statement(sql, tuple(chain.from_iterable(rows)))
            done += count


def _insert(table: Table, count: int) -> str:
    row = "(" + ", ".join("?" for _ in table.columns) + ")"
    conflict = ", ".join(table.unique)
    return (
        f"INSERT INTO {table.name} ({table.column_names}) VALUES {', '.join([row] * count)} "  # noqa: S608
        f"ON CONFLICT ({conflict}) DO NOTHING"
    )
