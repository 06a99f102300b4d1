"""Implements `sql.database.Database` on SQLite: one connection, one thread, WAL mode, synced at each commit."""

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

from vllm_service.errors import ConfigurationError, StorageUnavailable
from vllm_service.storage.sql.database import Rows, RowsRefused, SchemaRefused, Statement, Table, Value
from vllm_service.storage.sql.migrations import Migration
from vllm_service.storage.sql.upgrade import MIGRATION_WAIT_SECONDS, SQLITE, Steps, upgrade

Result = TypeVar("Result")
BUSY_TIMEOUT_SECONDS = 5.0
#: Rows per INSERT, tried from left to right. A statement releases the GIL once, and getting it back from a busy event
#: loop costs up to the interpreter's switch interval (5 ms): hence many rows. Binding values holds the GIL: hence not
#: more. Three fixed sizes keep the texts few, so that sqlite3's statement cache serves them all.
ROWS_PER_INSERT = (64, 8, 1)
# Errors that the values cause, whatever the state of the database.
_REFUSED = (
    sqlite3.DataError,
    sqlite3.IntegrityError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    OverflowError,
    UnicodeEncodeError,
)
# The primary result codes of a statement that names a missing table or column.
_UNKNOWN = (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_SCHEMA)

# The primary result codes by which SQLite refuses the file itself, and what is then to be done. Waiting does not help.
_UNUSABLE = {
    sqlite3.SQLITE_CANTOPEN: "it is not a file that can be opened: move it away, or set DATA_DIR to another directory; "
    "or no more files may be open: raise that limit (`ulimit -n`)",
    sqlite3.SQLITE_NOTADB: "it is not an SQLite database: move it away, or set DATA_DIR to another directory",
    sqlite3.SQLITE_CORRUPT: "it is corrupt: restore a copy of it, or set DATA_DIR to another directory",
    sqlite3.SQLITE_READONLY: "it cannot be written: change its permissions, or set DATA_DIR to another directory",
}
# The primary result codes of what the machine cannot do now, and what is then to be done.
_CANNOT_NOW = {
    sqlite3.SQLITE_FULL: "the disk is full. Make room on it",
    sqlite3.SQLITE_IOERR: "the disk cannot be read or written. Make room on it, and check it",
    sqlite3.SQLITE_BUSY: "another process holds its lock. Stop that process, or wait until it is done",
    sqlite3.SQLITE_LOCKED: "another process holds its lock. Stop that process, or wait until it is done",
    sqlite3.SQLITE_NOMEM: "there is no memory left. Give it more",
    sqlite3.SQLITE_READONLY: "its file cannot be written. Change its permissions",
}


class SqliteDatabase:
    """A connection on its own thread, made by `open`. Several processes may use one file; writers wait in turn."""

    def __init__(self, connection: sqlite3.Connection, thread: ThreadPoolExecutor) -> None:
        self._connection = connection
        self._thread = thread

    @classmethod
    async def open(
        cls, path: Path, migrations: Sequence[Migration], *, must_have_tables: bool = False
    ) -> SqliteDatabase:
        """Makes the file, readable by its owner only, and brings its tables to the newest version.

        must_have_tables: for commands that only read; neither a file nor tables are made then. Raises
        StorageUnavailable, and ConfigurationError where the file or its tables (see `upgrade`) cannot be used.
        """
        thread = ThreadPoolExecutor(1, thread_name_prefix=f"sqlite-{path.stem}")
        try:
            connection = await _on(thread, lambda: _connect(path, migrations, must_have_tables))
        except BaseException:
            thread.shutdown()
            raise
        return cls(connection, thread)

    async def fetch(self, sql: str, *values: Value) -> list[tuple[Any, ...]]:
        """Implements Database."""
        return await _on(self._thread, lambda: self._connection.execute(_dialect(sql), values).fetchall())

    async def write(self, *steps: Statement | Rows) -> None:
        """Implements Database."""
        await _on(self._thread, lambda: self._write(steps))

    async def close(self) -> None:
        """Implements Database."""
        await _on(self._thread, self._connection.close)
        self._thread.shutdown()

    def _write(self, steps: Sequence[Statement | Rows]) -> None:
        # IMMEDIATE takes the write lock at once: a transaction that begins as a reader can fail half-way.
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
            raise SchemaRefused(
                f"SQLite lacks a table or a column ({name}). Compare its tables with "
                "vllm_service/storage/sql/migrations, and add what is missing."
            ) from error
        raise _cannot_now("SQLite", error) from error


def _cannot_now(where: str, error: sqlite3.Error) -> StorageUnavailable:
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    advice = _CANNOT_NOW.get(getattr(error, "sqlite_errorcode", 0) & 0xFF)
    words = "If it lasts, check the disk's room and the file's permissions" if advice is None else advice
    return StorageUnavailable(f"{where} cannot do this now ({name}): {words}.", retry_after_seconds=1.0)


def _connect(path: Path, migrations: Sequence[Migration], must_have_tables: bool) -> sqlite3.Connection:
    if must_have_tables and not path.exists():
        raise ConfigurationError(
            f"There is no database in {path.parent}: {path.name} is not there. Name the gateway's own with --data-dir "
            "or --database-url, or in DATA_DIR or DATABASE_URL; `serve` and `keys create` make one.",
            param="DATA_DIR",
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _create(path)
    except OSError as error:
        raise ConfigurationError(
            f"{path}: SQLite's file cannot be made: {error.strerror}. Set DATA_DIR to a directory that can be written, "
            "on a disk with room.",
            param="DATA_DIR",
        ) from None
    _check_permissions(path)
    try:
        return _prepared(path, migrations, must_have_tables)
    except sqlite3.Error as error:
        advice = _UNUSABLE.get(getattr(error, "sqlite_errorcode", 0) & 0xFF)
        if advice is None:
            raise _cannot_now(f"{path}: SQLite", error) from error
        raise ConfigurationError(
            f"{path}: SQLite's file cannot be used ({error.sqlite_errorname}): {advice}.", param="DATA_DIR"
        ) from None


def _check_permissions(path: Path) -> None:
    """Raises ConfigurationError for a file or directory that is read-only: SQLite itself fails at the first write.

    The file is not opened, see `_create`.
    """
    # The write-ahead log and its index are files beside the database's, and made anew.
    for needed in (path.parent, path):
        if not os.access(needed, os.W_OK):
            raise ConfigurationError(
                f"{needed}: SQLite's {'file' if needed is path else 'directory'} cannot be written. "
                "Change its permissions or owner, or set DATA_DIR to a directory that can be written.",
                param="DATA_DIR",
            )


def _prepared(path: Path, migrations: Sequence[Migration], must_have_tables: bool) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_SECONDS, isolation_level=None)
    try:
        # WAL: exports and totals read while the ledger writes. FULL: a commit survives a loss of power.
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA busy_timeout = {MIGRATION_WAIT_SECONDS * 1000}")
        _run(connection, upgrade(SQLITE, migrations, must_have_tables=must_have_tables))
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
                if getattr(error, "sqlite_errorcode", 0) & 0xFF in _CANNOT_NOW:
                    raise  # no fault of the tables
                steps.throw(error)
            else:
                step = steps.send(rows)


def _create(path: Path) -> None:
    """Creates an empty file that only its owner may read. An existing file is not even opened.

    Closing a second descriptor of an open database drops SQLite's locks on it (fcntl(2)). Another process would then
    count as the last one, and delete the write-ahead log that is still being written.
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
