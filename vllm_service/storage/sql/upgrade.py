"""Brings a database to the newest version of the schema, or refuses it, without a driver.

`upgrade` is a generator: it yields statements and receives the rows of each. So one logic serves an asynchronous driver
and one on a thread. The driver executes the statements on one connection, throws their errors into the generator, and
closes the connection at an error. A Dialect holds what differs between the databases.
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
Present = Generator[Statement, list[tuple[Any, ...]], TableColumns]
#: How long a start waits for the migration of another replica, in both databases.
MIGRATION_WAIT_SECONDS = 600

_VERSIONS = "schema_versions"
_NEWEST = f"SELECT version, program FROM {_VERSIONS} ORDER BY version DESC LIMIT 1"  # noqa: S608
_APPLIED = f"INSERT INTO {_VERSIONS} (version, name, program, applied_at_us) VALUES ($1, $2, $3, $4)"  # noqa: S608


class DatabaseTooNew(ConfigurationError):
    """A newer program has changed this database. Rows of this program would lack what is new."""


class NoTables(ConfigurationError):
    """The database is another program's, or empty."""


class SchemaMismatch(ConfigurationError):
    """The tables differ from those of every version of this program."""


class MigrationFailed(ConfigurationError):
    """The database refused one of the statements, and is unchanged."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """The differences between the databases in a migration."""

    #: The type of a row id that the database makes and that grows: what `{id}` stands for in a migration.
    row_id: str
    #: Statements that begin the transaction and take the lock, so that replicas that start at once migrate once.
    begin: tuple[str, ...]
    end: tuple[str, ...]
    #: A SELECT of all (table, column).
    columns: str
    #: A name in the spelling by which the database compares it.
    folded: Callable[[str], str]


SQLITE = Dialect(
    row_id="INTEGER PRIMARY KEY AUTOINCREMENT",
    begin=("BEGIN IMMEDIATE",),
    end=("COMMIT",),
    columns="SELECT m.name, c.name FROM sqlite_master m JOIN pragma_table_info(m.name) c WHERE m.type = 'table'",
    folded=str.lower,
)
POSTGRES = Dialect(
    row_id="BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
    begin=(
        # Under a stricter level the statements after the lock would not see what another replica has just committed.
        "BEGIN ISOLATION LEVEL READ COMMITTED",
        # The number is ours, and old: versions before the migrations lock it too when they make their tables.
        "SELECT pg_advisory_xact_lock(8090001)",
        # An ALTER TABLE that waits for a long SELECT holds up every writer behind it: better to fail and start again.
        "SET LOCAL lock_timeout = '20s'",
    ),
    end=("COMMIT",),
    columns="""SELECT t.relname::text, c.attname::text FROM pg_attribute c JOIN pg_class t ON t.oid = c.attrelid
        WHERE t.relkind IN ('r', 'p') AND t.relnamespace <> 'pg_catalog'::regnamespace
        AND pg_table_is_visible(t.oid) AND c.attnum > 0 AND NOT c.attisdropped""",
    folded=str,
)


def upgrade(
    dialect: Dialect,
    migrations: Sequence[Migration],
    clock: Callable[[], float] = time.time,
    *,
    must_have_tables: bool = False,
) -> Steps:
    """Yields the statements to execute: one transaction under a lock, or mere reading where the schema is the newest.

    must_have_tables: raises NoTables for a database without any of ours, for commands that only read. Raises
    DatabaseTooNew, SchemaMismatch and MigrationFailed; the transaction is then not committed.
    """
    newest = len(migrations)
    if must_have_tables:
        present = yield from _present(dialect)
        if not present.keys() & expected_columns(migrations).keys():
            raise NoTables(
                "The database has no tables of vllm-service, so there is nothing to read. Name the gateway's own "
                "database; `serve` and `keys create` make the tables."
            )
    if (yield from _version(dialect, migrations)) < newest:
        yield from _each(dialect.begin)
        # Read again under the lock: another replica may have migrated while this one waited.
        found = yield from _version(dialect, migrations)
        if not found:
            # Tables from before the migrations may be here: the first migration keeps them, so they have to be whole.
            yield from _check(dialect, migrations[:1], may_be_absent=True)
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
    """Applies one migration. Raises MigrationFailed, without the text of the driver's error, which may quote a row."""
    for number, statement in enumerate(migration.statements, 1):
        try:
            yield Statement(statement.replace("{id}", dialect.row_id))
        except Exception as error:
            raise MigrationFailed(
                f"Statement {number} of the schema's migration {migration.version} ({migration.name}) failed "
                f"({type(error).__name__}). Nothing was changed. If the tables were changed by hand, undo that; "
                "otherwise start the version that ran until now, and report this."
            ) from error


def _version(dialect: Dialect, migrations: Sequence[Migration]) -> Version:
    """Returns the version of the schema; 0 for a database from before the migrations.

    Raises DatabaseTooNew, and SchemaMismatch where the table of versions is not as this program leaves it.
    """
    present = yield from _present(dialect)
    if _VERSIONS not in present:
        return 0
    if missing := {"version", "program"} - present[_VERSIONS]:
        raise SchemaMismatch(
            f"The database's table {_VERSIONS} lacks {', '.join(sorted(missing))}: another program may have made it. "
            "Nothing was changed. Use a database of its own for vllm-service, or restore a copy of its database."
        )
    rows = yield Statement(_NEWEST)
    if not rows:
        return _without_version(migrations, present)
    version, program = rows[0]
    # SQLite keeps any type in any column; a boolean is an integer to Python.
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise _no_version(f"has {str(version)[:40]!r} as its newest version")
    if version > len(migrations):
        raise DatabaseTooNew(
            f"The database's schema has version {version}, made by vllm-service {program}; this is vllm-service "
            f"{__version__}, which supports versions up to {len(migrations)}. Nothing was changed. "
            f"Start vllm-service {program} or newer, or restore the copy of the database from before the upgrade."
        )
    return version


def _without_version(migrations: Sequence[Migration], present: TableColumns) -> int:
    """Returns 0, the version of tables from before the migrations. Raises SchemaMismatch where later columns exist."""
    first = expected_columns(migrations[:1])
    for table, columns in expected_columns(migrations).items():
        if later := (columns - first.get(table, frozenset())) & present.get(table, frozenset()):
            raise _no_version(f"is empty, although {table} has {', '.join(sorted(later))} of a later version")
    return 0


def _no_version(found: str) -> SchemaMismatch:
    return SchemaMismatch(
        f"The database's table {_VERSIONS} {found}. vllm-service writes a row for each version, counted from 1. "
        "Nothing was changed. Restore a copy of the database, or mend the rows by hand: the files of "
        "vllm_service/storage/sql/migrations have the versions and what each adds."
    )


def _present(dialect: Dialect) -> Present:
    """Returns the columns of the tables that exist."""
    rows = yield Statement(dialect.columns)
    present: dict[str, set[str]] = {}
    for table, column in rows:
        present.setdefault(dialect.folded(table), set()).add(dialect.folded(column))
    return {table: frozenset(columns) for table, columns in present.items()}


def _check(dialect: Dialect, migrations: Sequence[Migration], *, may_be_absent: bool = False) -> Steps:
    """Raises SchemaMismatch where a table or column is missing. may_be_absent: a whole table may be missing."""
    present = yield from _present(dialect)
    for table, columns in expected_columns(migrations).items():
        if table not in present and may_be_absent:
            continue
        if missing := columns - present.get(table, frozenset()):
            raise SchemaMismatch(
                f"The database's table {table} lacks {', '.join(sorted(missing))}. No version of vllm-service leaves "
                "it like that, and rows could not be written. Nothing was changed. Restore a copy of the database, or "
                "add what is missing by hand: the files of vllm_service/storage/sql/migrations have the statements."
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
