"""A Postgres that cannot be used: one sentence that says what is wrong, where, and what to do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from tests.servers import PostgresServer
from vllm_service.errors import ConfigurationError, ServiceError, StorageUnavailable
from vllm_service.storage.open import open_database

NOTHING = "127.0.0.1:1"


async def refused(url: str, *, must_have_tables: bool = False) -> ServiceError:
    with pytest.raises((StorageUnavailable, ConfigurationError)) as error:
        await open_database(url, Path("/nonexistent"), must_have_tables=must_have_tables)
    assert isinstance(error.value, ServiceError)
    assert "\n" not in error.value.message
    assert "hunter2" not in error.value.message
    return error.value


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (f"postgresql://u:hunter2@{NOTHING}/x", f"Postgres at {NOTHING} cannot be reached: nothing listens there"),
        ("postgresql://u:hunter2@no-such-host.invalid/x", "there is no such host"),
        ("postgresql:///x?host=/nonexistent", "its socket does not exist"),
        (f"postgresql://u:hunter2@{'a' * 70}.test/x", "no URL of a Postgres that can be reached"),
        ("postgresql://u:hunter2@127.0.0.1:99999/x", "no URL of a Postgres that can be reached"),
        ("postgresql://u:hunter2@127.0.0.1:port/x", "no URL of a Postgres that can be reached"),
        ("postgresql://u:hunter2@[::1/x", "no URL of a Postgres that can be reached"),
        ("mysql://u:hunter2@127.0.0.1/x", "no URL of a Postgres that can be reached"),
        ("postgresql://127.0.0.1:1/x?sslmode=hunter2", "sslmode: expected one of disable"),
    ],
)
async def test_what_cannot_be_reached_is_one_sentence(url: str, said: str) -> None:
    assert said in (await refused(url)).message


@pytest.fixture
async def admin(postgres_server: PostgresServer) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(await postgres_server.emptied())
    yield connection
    await connection.close()


@pytest.fixture
async def url(postgres_server: PostgresServer) -> str:
    return await postgres_server.emptied()


async def test_a_database_that_does_not_exist_is_named_with_the_remedy(url: str) -> None:
    message = (await refused(url.replace("/postgres?", "/servce?"))).message
    assert "has no database servce (InvalidCatalogNameError)" in message
    assert "createdb servce" in message


@pytest.mark.parametrize(
    ("role", "said"),
    [
        (None, "does not let this user in"),
        ("NOLOGIN", "does not let this user in"),
        ("LOGIN CONNECTION LIMIT 0", "has no connection left"),
        ("LOGIN", "may make tables"),
    ],
)
async def test_a_user_who_may_not_is_told_what_is_missing(
    admin: asyncpg.Connection, url: str, role: str | None, said: str
) -> None:
    if role is not None:
        await admin.execute(f"CREATE ROLE somebody {role}")
    try:
        assert said in (await refused(url.replace("postgres:", "somebody:", 1))).message
    finally:
        if role is not None:
            await admin.execute("DROP ROLE somebody")


async def test_a_user_without_the_right_to_make_tables_is_told_the_grant(admin: asyncpg.Connection, url: str) -> None:
    await admin.execute("CREATE ROLE somebody LOGIN; GRANT USAGE ON SCHEMA public TO somebody")
    try:
        message = (await refused(url.replace("postgres:", "somebody:", 1))).message
        assert "GRANT ALL ON SCHEMA public" in message
    finally:
        await admin.execute("DROP OWNED BY somebody; DROP ROLE somebody")


async def test_a_standby_is_named_as_one(admin: asyncpg.Connection, url: str) -> None:
    await admin.execute("ALTER ROLE postgres SET default_transaction_read_only = on")
    try:
        assert "only reads" in (await refused(url)).message
    finally:
        await admin.execute("SET default_transaction_read_only = off; ALTER ROLE postgres RESET ALL")


async def test_a_command_that_reads_makes_no_tables(admin: asyncpg.Connection, url: str) -> None:
    assert "no tables of vllm-service" in (await refused(url, must_have_tables=True)).message
    count = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
    assert await admin.fetchval(count) == 0
    await (await open_database(url, Path("/nonexistent"))).close()
    await (await open_database(url, Path("/nonexistent"), must_have_tables=True)).close()


@asynccontextmanager
async def listening(answer: bytes | None) -> AsyncIterator[int]:
    """Something at a port that is no Postgres. None: it hangs up."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(8)
        if answer:
            writer.write(answer)
        writer.close()

    async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


@pytest.mark.parametrize("answer", [None, b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x00" * 64, b"N" * 64])
async def test_another_server_at_the_port_is_one_sentence(answer: bytes | None) -> None:
    async with listening(answer) as port:
        assert f"Postgres at 127.0.0.1:{port}" in (await refused(f"postgresql://u:hunter2@127.0.0.1:{port}/x")).message
