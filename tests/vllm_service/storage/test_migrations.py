"""Every database ends at the newest version with every row, or is refused and left as it was."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from tests.vllm_service.storage.conftest import Backend
from tests.vllm_service.storage.ledger.test_ledger import RECORD, write, written
from tests.vllm_service.storage.migration_process import with_one_more
from tests.vllm_service.storage.old_database import KEY_ID, RECORDS, ROWS, columns, execute, fetch, write_old_database
from vllm_service import __version__
from vllm_service.domain.keys import OrganisationLimits
from vllm_service.domain.roles import Role
from vllm_service.storage.keys.sql import KeyStore
from vllm_service.storage.ledger.columns import REQUESTS
from vllm_service.storage.open import DATABASE_FILE, open_database, open_storage
from vllm_service.storage.sql.migrations import Migration, shipped, statements_of
from vllm_service.storage.sql.upgrade import (
    POSTGRES,
    DatabaseTooNew,
    MigrationFailed,
    SchemaMismatch,
    expected_columns,
)

ROOT = Path(__file__).resolve().parents[3]
NEWEST = len(shipped())
VERSIONS = "SELECT version, name FROM schema_versions ORDER BY version"
OLD_REGISTRATION = """INSERT INTO ledger_writers
    (writer, host, pid, started_at_us, heard_at_us, rows_written, rows_dropped) VALUES (1, 'old', 7, 1, 1, 0, 0)"""
APPLIED = [(migration.version, migration.name) for migration in shipped()]


async def opened_and_closed(backend: Backend, migrations: tuple[Migration, ...] | None = None) -> None:
    database = await open_database(backend.database_url, backend.data_dir, migrations)
    await database.close()


def test_the_files_are_numbered_from_one_without_a_gap() -> None:
    assert [migration.version for migration in shipped()] == list(range(1, NEWEST + 1))
    assert all(migration.statements for migration in shipped())


def test_a_file_is_split_into_statements_without_its_comments() -> None:
    text = "-- a; comment\nCREATE TABLE a (b TEXT,\n    c TEXT);\n\n-- more\nUPDATE a SET b = 'x; y';\n"
    assert statements_of(text) == ("CREATE TABLE a (b TEXT,\n    c TEXT)", "UPDATE a SET b = 'x; y'")


def test_tables_are_made_in_one_place() -> None:
    sources = [path for path in (ROOT / "vllm_service").rglob("*.py") if "CREATE TABLE" in path.read_text("utf-8")]
    assert sources == []


def test_the_ledgers_columns_are_those_of_its_table() -> None:
    table = expected_columns(shipped())["requests"]
    assert table == {"id", *(column.name for column in REQUESTS.columns)}


async def test_a_new_database_has_the_newest_version(backend: Backend) -> None:
    await opened_and_closed(backend)
    assert await fetch(backend, VERSIONS) == APPLIED
    assert await fetch(backend, "SELECT DISTINCT program FROM schema_versions") == [(__version__,)]


async def test_a_database_of_the_program_before_keeps_every_row_and_takes_new_ones(backend: Backend) -> None:
    await write_old_database(backend)
    others = ("api_keys", "organisations", "quota_use")
    old = {table: ", ".join(sorted(name for at, name in await columns(backend) if at == table)) for table in others}
    before = [await fetch(backend, f"SELECT {old[table]} FROM {table}") for table in others]
    database = await open_database(backend.database_url, backend.data_dir)
    assert await written(database) == RECORDS
    assert [await fetch(backend, f"SELECT {old[table]} FROM {table}") for table in others] == before
    (key,) = await KeyStore(database).list("acme")
    assert (key.key.id, key.note, key.key.strategy) == (KEY_ID, "the app", "cost")
    assert key.key.role is Role.CALLER
    assert key.key.limits == OrganisationLimits(tokens_per_day=None, picousd_per_month=200 * 10**12)
    await write(database, RECORD)
    assert await written(database) == [*RECORDS, RECORD]
    assert await database.fetch("SELECT rows_written, rows_refused FROM ledger_writers ORDER BY rows_written") == [
        (1, 0),
        (5, 0),
    ]
    await database.close()
    assert await fetch(backend, VERSIONS) == APPLIED


async def test_the_whole_storage_opens_on_a_database_of_the_program_before(backend: Backend) -> None:
    await write_old_database(backend)
    async with open_storage(*backend.locations) as storage:
        storage.ledger.record(RECORD)
    async with open_storage(*backend.locations) as storage:
        assert [record async for _, record in storage.ledger_reader.records()] == [*RECORDS, RECORD]
        assert (await fetch(backend, "SELECT tokens FROM quota_use")) == [(1234,)]


async def test_a_replica_of_the_program_before_goes_on_writing_beside_the_new_one(backend: Backend) -> None:
    """While a deployment is rolled out both write: what migrations add must not be asked of the old one."""
    await write_old_database(backend)
    await opened_and_closed(backend)
    await execute(backend, OLD_REGISTRATION)
    await execute(backend, f"UPDATE requests SET writer = writer - 1; {ROWS[ROWS.index('INSERT INTO requests') :]}")
    assert await fetch(backend, "SELECT COUNT(*) FROM requests") == [(2 * len(RECORDS),)]


async def test_an_old_and_a_new_database_end_with_the_same_columns(backend: Backend) -> None:
    await write_old_database(backend)
    await opened_and_closed(backend)
    expected = expected_columns(shipped())
    assert await columns(backend) == {(table, column) for table, names in expected.items() for column in names}


async def test_later_openings_change_nothing_and_wait_for_no_lock(backend: Backend) -> None:
    await opened_and_closed(backend)
    before = await fetch(backend, "SELECT * FROM schema_versions")
    async with locked(backend):
        await asyncio.wait_for(opened_and_closed(backend), 20)
    assert await fetch(backend, "SELECT * FROM schema_versions") == before


@asynccontextmanager
async def locked(backend: Backend) -> AsyncIterator[None]:
    """As by another replica that is changing the schema."""
    if backend.database_url is None:
        connection = sqlite3.connect(backend.data_dir / DATABASE_FILE, isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.close()
        return
    server = await asyncpg.connect(backend.database_url)
    for statement in POSTGRES.begin:
        await server.execute(statement)
    yield
    await server.close()


async def test_a_newer_database_is_refused_with_both_versions_and_what_to_do(backend: Backend) -> None:
    await opened_and_closed(backend, with_one_more())
    before = await fetch(backend, VERSIONS)
    with pytest.raises(DatabaseTooNew) as refused:
        await opened_and_closed(backend)
    assert f"schema has version {NEWEST + 1}, made by vllm-service {__version__}" in refused.value.message
    assert f"supports versions up to {NEWEST}." in refused.value.message
    assert "or restore the copy" in refused.value.message
    assert await fetch(backend, VERSIONS) == before


@pytest.mark.parametrize("is_old", [True, False])
@pytest.mark.parametrize(("table", "column"), [("requests", "route_reason"), ("api_keys", "note")])
async def test_a_table_that_lacks_a_column_is_refused_by_name_and_left_alone(
    backend: Backend, table: str, column: str, is_old: bool
) -> None:
    await (write_old_database(backend) if is_old else opened_and_closed(backend))
    await execute(backend, f"ALTER TABLE {table} DROP COLUMN {column}")
    before = await columns(backend)
    with pytest.raises(SchemaMismatch, match=f"table {table} lacks {column}"):
        await opened_and_closed(backend)
    assert await columns(backend) == before


async def test_a_table_that_was_dropped_is_missed(backend: Backend) -> None:
    await opened_and_closed(backend)
    await execute(backend, "DROP TABLE quota_use")
    with pytest.raises(SchemaMismatch, match="table quota_use lacks number"):
        await opened_and_closed(backend)


async def test_a_column_that_somebody_has_added_does_no_harm(backend: Backend) -> None:
    await write_old_database(backend)
    await execute(backend, "ALTER TABLE requests ADD COLUMN own_note TEXT")
    await opened_and_closed(backend)
    assert await fetch(backend, VERSIONS) == APPLIED


async def test_a_migration_that_fails_is_named_and_leaves_the_database_as_it_was(backend: Backend) -> None:
    await write_old_database(backend)
    before = await columns(backend)
    broken = Migration(NEWEST + 1, "broken", ("DELETE FROM requests", "ALTER TABLE nowhere ADD COLUMN a TEXT"))
    with pytest.raises(MigrationFailed, match=rf"Statement 2 of the schema's migration {NEWEST + 1} \(broken\) failed"):
        await opened_and_closed(backend, (*shipped(), broken))
    assert await columns(backend) == before
    assert await fetch(backend, "SELECT COUNT(*) FROM requests") == [(len(RECORDS),)]


async def started(what: str, backend: Backend) -> Process:
    command = ["-m", "tests.vllm_service.storage.migration_process", what, backend.database_url or "-"]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, str(backend.data_dir), cwd=ROOT, stdin=PIPE, stdout=PIPE
    )
    assert await said(process) == "ready"
    return process


async def said(process: Process) -> str:
    assert process.stdout is not None
    return (await process.stdout.readline()).decode().strip()


def go_on(process: Process) -> None:
    assert process.stdin is not None
    process.stdin.write(b"\n")


@pytest.mark.parametrize("is_old", [True, False])
async def test_replicas_that_start_at_once_migrate_once(backend: Backend, is_old: bool) -> None:
    if is_old:
        await write_old_database(backend)
    processes = [await started("open", backend) for _ in range(4)]
    for process in processes:
        go_on(process)
    assert [await process.wait() for process in processes] == [0] * 4
    assert await fetch(backend, VERSIONS) == APPLIED
    assert await fetch(backend, "SELECT COUNT(*) FROM requests") == [(len(RECORDS) if is_old else 0,)]


async def test_a_replica_waits_for_one_that_is_in_the_middle_of_a_migration(backend: Backend) -> None:
    await write_old_database(backend)
    first, second = await started("halfway", backend), await started("more", backend)
    go_on(first)
    assert [await said(first), await said(first)] == ["opening", "halfway"]
    go_on(second)
    assert await said(second) == "opening"
    assert ("requests", "more") not in await columns(backend)
    go_on(first)
    assert [await said(first), await said(second)] == ["open", "open"]
    assert [await first.wait(), await second.wait()] == [0, 0]
    assert await fetch(backend, VERSIONS) == [*APPLIED, (NEWEST + 1, "more")]


@pytest.mark.parametrize("is_old", [True, False])
async def test_kill_9_in_the_middle_leaves_the_version_before(backend: Backend, is_old: bool) -> None:
    await write_old_database(backend)
    if not is_old:
        await opened_and_closed(backend)
    before = await columns(backend)
    process = await started("halfway", backend)
    go_on(process)
    assert [await said(process), await said(process)] == ["opening", "halfway"]
    process.kill()
    await process.wait()
    assert await columns(backend) == before
    await opened_and_closed(backend)
    assert await fetch(backend, VERSIONS) == APPLIED
    database = await open_database(backend.database_url, backend.data_dir)
    assert await written(database) == RECORDS
    await database.close()
