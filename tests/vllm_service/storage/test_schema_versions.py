"""A table of versions that this program did not leave is refused with what was found, and left as it was."""

from __future__ import annotations

import pytest

from tests.vllm_service.storage.conftest import Backend
from tests.vllm_service.storage.old_database import columns, execute, fetch
from vllm_service.storage.open import open_database
from vllm_service.storage.sql.migrations import shipped
from vllm_service.storage.sql.upgrade import SchemaMismatch

VERSIONS = "SELECT version, name FROM schema_versions ORDER BY version"
APPLIED = [(migration.version, migration.name) for migration in shipped()]
#: As the program's own table, without the types and constraints that keep wrong rows out.
LOOSE = (
    "DROP TABLE schema_versions; CREATE TABLE schema_versions (version {}, name TEXT, program TEXT, applied_at_us INT)"
)


async def opened_and_closed(backend: Backend) -> None:
    database = await open_database(backend.database_url, backend.data_dir)
    await database.close()


async def refused(backend: Backend) -> str:
    """Returns the error's text. Asserts that nothing was changed."""
    before = await columns(backend)
    with pytest.raises(SchemaMismatch) as caught:
        await opened_and_closed(backend)
    assert await columns(backend) == before
    assert "Nothing was changed." in caught.value.message
    return caught.value.message


@pytest.mark.parametrize(("kind", "value"), [("TEXT", "'garbage'"), ("INT", "NULL"), ("INT", "-5"), ("INT", "0")])
async def test_a_newest_version_that_is_none_is_refused_by_its_value(backend: Backend, kind: str, value: str) -> None:
    await opened_and_closed(backend)
    await execute(backend, f"{LOOSE.format(kind)}; INSERT INTO schema_versions VALUES ({value}, 'n', 'p', 1)")
    shown = repr(str(None)) if value == "NULL" else repr(value.strip("'"))
    assert f"table schema_versions has {shown} as its newest version" in await refused(backend)


async def test_no_version_beside_columns_of_a_later_one_is_refused_with_the_columns(backend: Backend) -> None:
    await opened_and_closed(backend)
    await execute(backend, "DELETE FROM schema_versions")
    message = await refused(backend)
    assert (
        "table schema_versions is empty, although requests has cold_start_picousd, cost_basis, execution_picousd, "
        "idle_picousd, labels, usage_implausible of a later version" in message
    )


async def test_no_version_beside_the_first_tables_is_a_database_from_before_the_migrations(backend: Backend) -> None:
    await execute(backend, ";".join(shipped()[0].statements))
    await opened_and_closed(backend)
    assert await fetch(backend, VERSIONS) == APPLIED


async def test_another_programs_table_of_that_name_is_refused_by_name(backend: Backend) -> None:
    await execute(backend, "CREATE TABLE schema_versions (revision TEXT)")
    assert "table schema_versions lacks program, version: another program may have made it" in await refused(backend)


async def test_the_spelling_of_a_tables_name_is_compared_as_the_database_does(backend: Backend) -> None:
    """SQLite finds SCHEMA_VERSIONS under our name; to Postgres a quoted one is another table, beside ours."""
    await execute(backend, 'CREATE TABLE "SCHEMA_VERSIONS" (revision TEXT)')
    if backend.database_url is None:
        assert "table schema_versions lacks program, version" in await refused(backend)
        return
    await opened_and_closed(backend)
    assert await fetch(backend, VERSIONS) == APPLIED
