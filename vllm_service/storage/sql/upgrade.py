"""Brings a database to the newest version of the schema, or refuses it. The logic only: no driver is imported here.

`upgrade` is a generator of statements that receives the rows of each. What differs between the databases is a Dialect;
each driver runs the statements on one connection, throws their errors into it, and closes the connection at an error.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vllm_service.errors import ConfigurationError
from vllm_service.storage.sql.database import Statement
from vllm_service.storage.sql.migrations import Migration
from vllm_service.version import __version__

Steps = Generator[Statement, list[tuple[Any, ...]], None]
Version = Generator[Statement, list[tuple[Any, ...]], int]
TableColumns = Mapping[str, frozenset[str]]
#: How long another replica's migration is waited for, in both databases.
PATIENCE_SECONDS = 600

_VERSIONS = "schema_versions"
_NEWEST = f"SELECT version, program FROM {_VERSIONS} ORDER BY version DESC LIMIT 1"  # noqa: S608
_APPLIED = f"INSERT INTO {_VERSIONS} (version, name, program, applied_at_us) VALUES ($1, $2, $3, $4)"  # noqa: S608


class DatabaseTooNew(ConfigurationError):
    """A newer program has changed this database; an older one would write rows that lack what is new."""


class SchemaMismatch(ConfigurationError):
    """The tables are not as any version of this program leaves them."""


class MigrationFailed(ConfigurationError):
    """The database did not take one of the statements, and is as it was."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one database locks, names its row ids and lists its columns. `columns`: SQL for (table, column)."""

    row_id: str
    begin: tuple[str, ...]
    end: tuple[str, ...]
    columns: str


SQLITE = Dialect(
    row_id="INTEGER PRIMARY KEY AUTOINCREMENT",
    begin=("BEGIN IMMEDIATE",),
    end=("COMMIT",),
    columns="SELECT m.name, c.name FROM sqlite_master m JOIN pragma_table_info(m.name) c WHERE m.type = 'table'",
)
POSTGRES = Dialect(
    row_id="BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
    begin=(
        # Each statement after the lock has to see what the replica before has committed.
        "BEGIN ISOLATION LEVEL READ COMMITTED",
        # Programs without migrations take the same lock to make their tables.
        "SELECT pg_advisory_xact_lock(8090001)",
        # An ALTER TABLE that waits for a long reading holds up every writer behind it: better to fail and try again.
        "SET LOCAL lock_timeout = '20s'",
    ),
    end=("COMMIT",),
    columns="""SELECT t.relname::text, c.attname::text FROM pg_attribute c JOIN pg_class t ON t.oid = c.attrelid
        WHERE t.relkind IN ('r', 'p') AND t.relnamespace <> 'pg_catalog'::regnamespace
        AND pg_table_is_visible(t.oid) AND c.attnum > 0 AND NOT c.attisdropped""",
)


def upgrade(dialect: Dialect, migrations: Sequence[Migration], clock: Callable[[], float] = time.time) -> Steps:
    """Yields what is to be executed. All of it is one transaction under a lock; nothing is, where all is done.

    Raises DatabaseTooNew, SchemaMismatch and MigrationFailed, before anything is changed for good.
    """
    newest = len(migrations)
    if (yield from _version(dialect, newest)) < newest:
        yield from _each(dialect.begin)
        found = yield from _version(dialect, newest)  # another replica may have been first
        if not found:
            yield from _check(dialect, migrations[:1], are_new=True)
        for migration in migrations[found:]:
            yield from _applied(dialect, migration)
            yield Statement(_APPLIED, (migration.version, migration.name, __version__, int(clock() * 1_000_000)))
        yield from _check(dialect, migrations)
        yield from _each(dialect.end)
    else:
        yield from _check(dialect, migrations)


def _each(statements: Sequence[str]) -> Steps:
    for statement in statements:
        yield Statement(statement)


def _applied(dialect: Dialect, migration: Migration) -> Steps:
    """Raises MigrationFailed with the kind of the driver's error, not its text: that may quote what stands in a row."""
    for number, statement in enumerate(migration.statements, 1):
        try:
            yield Statement(statement.replace("{id}", dialect.row_id))
        except Exception as error:
            raise MigrationFailed(
                f"Statement {number} of the schema's migration {migration.version} ({migration.name}) failed "
                f"({type(error).__name__}). Nothing was changed. If the tables were changed by hand, undo that; "
                "else start the program that was used until now, and report this."
            ) from error


def _version(dialect: Dialect, newest: int) -> Version:
    """Returns the version of the database; 0 where none was ever written. Raises DatabaseTooNew."""
    rows = yield Statement(dialect.columns)
    if not any(table == _VERSIONS for table, _ in rows):
        return 0
    rows = yield Statement(_NEWEST)
    version, program = rows[0] if rows else (0, "")
    if version > newest:
        raise DatabaseTooNew(
            f"The database has version {version} of the schema, made by vllm-service {program}; this is vllm-service "
            f"{__version__}, which knows version {newest}. Nothing was changed. Start vllm-service {program} or newer, "
            "or restore the copy of the database that was made before the upgrade."
        )
    return int(version)


def _check(dialect: Dialect, migrations: Sequence[Migration], *, are_new: bool = False) -> Steps:
    """Raises SchemaMismatch where a column is missing. are_new: tables that are missing are about to be made."""
    rows = yield Statement(dialect.columns)
    present: dict[str, set[str]] = {}
    for table, column in rows:
        present.setdefault(table, set()).add(column)
    for table, columns in expected_columns(migrations).items():
        if table not in present and are_new:
            continue
        if missing := columns - present.get(table, set()):
            raise SchemaMismatch(
                f"The database's table {table} lacks {', '.join(sorted(missing))}. No version of vllm-service leaves "
                "it so, and rows could not be written. Nothing was changed. Restore a copy of the database, or add "
                "what is missing by hand, as in the files of vllm_service/storage/sql/migrations."
            )


def expected_columns(migrations: Sequence[Migration]) -> TableColumns:
    """Returns each table's columns after these migrations, found by applying them to an empty database in memory."""
    database = sqlite3.connect(":memory:", isolation_level=None)
    try:
        for migration in migrations:
            for statement in migration.statements:
                database.execute(statement.replace("{id}", SQLITE.row_id))
        found: dict[str, set[str]] = {}
        for table, column in database.execute(SQLITE.columns):
            found.setdefault(table, set()).add(column)
        return {table: frozenset(columns) for table, columns in found.items() if table != "sqlite_sequence"}
    finally:
        database.close()
