"""A gateway that cannot start says why in one line: what is wrong, where, and what to do. With the real things."""

from __future__ import annotations

import asyncio
import errno
import os
import sqlite3
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import asyncpg
import pytest

from tests.e2e.gateway import configure, gateway, variables_of
from tests.servers import PostgresServer, RedisServer, own_redis
from vllm_service.errors import one_line

ROOT = Path(__file__).resolve().parents[2]
PRICE = {"input": 0.15, "output": 0.6, "as_of": "2026-11-21"}
PROVIDERS = {"hosted": {"base_url": "http://127.0.0.1:1/v1", "prices": {"llama": PRICE}}}
MODELS = {"llama": {"offers": [{"provider": "hosted", "model": "llama"}]}}
#: Runs a program in a mount namespace of its own, with a small disk at the first argument.
DISK = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
COPIED = 'cp -r "$1"/. "$0"'
FULL = f'mount -t tmpfs -o size=256k tmpfs "$0" && {COPIED} && cat /dev/zero > "$0/fill" 2>/dev/null; shift; exec "$@"'
READ_ONLY = f'mount -t tmpfs tmpfs "$0" && {COPIED} && mount -o remount,ro "$0" && shift && exec "$@"'


async def failed(directory: Path, *before: str, **variables: str) -> str:
    """The one line of a start that ended with 1."""
    command = [*before, sys.executable, "-m", "vllm_service", "serve"]
    environment = {**os.environ, **variables_of(directory), **variables}
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, env=environment, stdout=PIPE, stderr=PIPE)
    async with asyncio.timeout(120):
        output, errors = await process.communicate()
    lines = errors.decode().splitlines()
    assert (process.returncode, output) == (1, b""), errors.decode()
    assert len(lines) == 1, errors.decode()
    assert "hunter2" not in lines[0]
    return lines[0]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    configure(tmp_path, PROVIDERS, MODELS)
    (tmp_path / "data").mkdir()
    (tmp_path / "empty").mkdir()
    return tmp_path


async def used_before(directory: Path) -> Path:
    """A folder with a database of a gateway that has run."""
    async with gateway(directory, DATA_DIR=str(directory / "used")):
        pass
    return directory / "used"


@pytest.mark.parametrize("is_new", [True, False])
async def test_a_full_disk(directory: Path, is_new: bool) -> None:
    copied = directory / "empty" if is_new else await used_before(directory)
    line = await failed(directory, *DISK, FULL, str(directory / "data"), str(copied))
    assert line.startswith(f"{directory}/data/service.sqlite3: SQLite cannot do this now (SQLITE_")
    assert "Make room on it" in line


@pytest.mark.parametrize("is_new", [True, False])
async def test_a_disk_that_is_read_only(directory: Path, is_new: bool) -> None:
    copied = directory / "empty" if is_new else await used_before(directory)
    line = await failed(directory, *DISK, READ_ONLY, str(directory / "data"), str(copied))
    assert line.startswith(f"{directory}/data")
    assert "written" in line
    assert "set DATA_DIR to a directory that can be written" in line.replace("Set", "set")


async def test_a_data_directory_that_is_a_file(directory: Path) -> None:
    line = await failed(directory, DATA_DIR=str(directory / "models.yaml"))
    assert "models.yaml/service.sqlite3: SQLite's file cannot be made" in line


@contextmanager
def locked(path: Path) -> Iterator[None]:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    yield
    connection.close()


async def test_a_database_that_another_process_has_locked(directory: Path) -> None:
    used = await used_before(directory)
    with locked(used / "service.sqlite3"):
        line = await failed(directory, DATA_DIR=str(used))
    assert line.startswith(f"{used}/service.sqlite3: SQLite cannot do this now (SQLITE_BUSY")
    assert "another process holds its lock" in line


async def test_no_file_left_to_open(directory: Path) -> None:
    line = await failed(directory, "sh", "-c", 'ulimit -n 16; exec "$@"', "sh")
    assert "(EMFILE)" in line or "(SQLITE_CANTOPEN)" in line
    assert "ulimit -n" in line


def test_what_the_operating_system_refuses_is_one_line_with_the_remedy() -> None:
    line = one_line(OSError(errno.ENOSPC, "No space left on device", "/data/x"))
    assert line == "/data/x: No space left on device (ENOSPC). Make room on that disk."
    assert one_line(OSError("odd")) == "odd (OSError). The log may have more."


@pytest.mark.parametrize("workers", ["1", "3"])
async def test_a_postgres_that_is_down(directory: Path, workers: str) -> None:
    """Several processes need it: it is looked at once, before any of them."""
    stores = {"DATABASE_URL": "postgresql://u:hunter2@127.0.0.1:1/x", "REDIS_URL": "redis://127.0.0.1:1/0"}
    if workers == "1":  # with several, Redis is not looked at before; with one it would be another line
        del stores["REDIS_URL"]
    line = await failed(directory, SERVICE_WORKERS=workers, **stores)
    assert line.startswith("Postgres at 127.0.0.1:1 cannot be reached: nothing listens there (ConnectionRefusedError).")
    assert "Start it, or correct DATABASE_URL" in line


@asynccontextmanager
async def role(server: PostgresServer, options: str) -> AsyncIterator[str]:
    """The URL of a role of this server."""
    url = await server.emptied()
    connection = await asyncpg.connect(url)
    await connection.execute(f"CREATE ROLE somebody {options}")
    try:
        yield url.replace("postgres:", "somebody:hunter2", 1)
    finally:
        await connection.execute("DROP ROLE somebody")
        await connection.close()


async def test_a_postgres_without_a_connection_left(directory: Path, postgres_server: PostgresServer) -> None:
    async with role(postgres_server, "LOGIN CONNECTION LIMIT 0") as url:
        line = await failed(directory, DATABASE_URL=url)
    assert "has no connection left (TooManyConnectionsError). Raise max_connections" in line


async def test_a_password_that_postgres_refuses(directory: Path, postgres_server: PostgresServer) -> None:
    rules = postgres_server.socket.parent / "pg_hba.conf"
    before = rules.read_text("utf-8")
    async with role(postgres_server, "LOGIN PASSWORD 'another'") as url:
        admin = await asyncpg.connect(await postgres_server.emptied())
        try:
            rules.write_text(f"local all somebody scram-sha-256\n{before}", "utf-8")
            await admin.execute("SELECT pg_reload_conf()")
            line = await failed(directory, DATABASE_URL=url)
        finally:
            rules.write_text(before, "utf-8")
            await admin.execute("SELECT pg_reload_conf()")
            await admin.close()
    assert "refuses the password (InvalidPasswordError). Correct it in DATABASE_URL" in line


@asynccontextmanager
async def no_redis() -> AsyncIterator[int]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


async def started_with(directory: Path, redis_url: str) -> list[str]:
    """The lines of a gateway that starts all the same."""
    async with gateway(directory, REDIS_URL=redis_url):
        pass
    return (directory / "log").read_text("utf-8").splitlines()


async def test_a_redis_that_is_down_is_one_line_and_the_gateway_starts(directory: Path) -> None:
    """A replica may be started while Redis fails over."""
    (line,) = await started_with(directory, "redis://:hunter2@127.0.0.1:1/0")
    assert "Redis cannot be reached (ConnectionError): start it, or correct REDIS_URL." in line


async def test_a_password_that_redis_refuses_is_one_line(directory: Path) -> None:
    with own_redis() as server:
        await with_password(server)
        (line,) = await started_with(directory, f"redis://:hunter2@127.0.0.1:{server.port}/0")
    assert "Redis refuses the user or the password in REDIS_URL" in line
    assert "hunter2" not in line


async def with_password(server: RedisServer) -> None:
    client = server.client()
    await client.config_set("requirepass", "another")
    await client.aclose()


async def test_another_server_where_redis_should_be_is_one_line(directory: Path) -> None:
    async with no_redis() as port:
        (line,) = await started_with(directory, f"redis://127.0.0.1:{port}/0")
    assert "What answers at REDIS_URL is no Redis" in line
