"""What `sslmode` in DATABASE_URL does: from `require` on a server without TLS gets nothing, no password either."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import certifi
import pytest

from tests.vllm_service.storage.test_postgres_errors import refused
from vllm_service.errors import ConfigurationError, StorageUnavailable

ROOT = certifi.where()
TLS_REQUEST = struct.pack("!ii", 8, 80877103)


@dataclass
class WithoutTls:
    """A server that answers no to TLS, and keeps what comes after that."""

    port: int = 0
    asked: int = 0
    in_plain: bytearray = field(default_factory=bytearray)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.read(8)
        if first == TLS_REQUEST:
            self.asked += 1
            writer.write(b"N")
            first = b""
        self.in_plain += first + await reader.read(1000)
        writer.close()


@asynccontextmanager
async def without_tls() -> AsyncIterator[WithoutTls]:
    made = WithoutTls()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    async with server:
        yield made


@pytest.mark.parametrize(
    ("options", "asked", "goes_on"),
    [
        ("", True, True),  # the driver's default is prefer
        ("?sslmode=disable", False, True),
        ("?sslmode=prefer", True, True),
        ("?sslmode=require", True, False),
        (f"?sslmode=verify-ca&sslrootcert={ROOT}", True, False),
        (f"?sslmode=verify-full&sslrootcert={ROOT}", True, False),
    ],
)
async def test_without_tls_a_connection_goes_on_only_where_sslmode_lets_it(
    options: str, asked: bool, goes_on: bool
) -> None:
    async with without_tls() as server:
        error = await refused(f"postgresql://canary-user:hunter2@127.0.0.1:{server.port}/x{options}")
    assert bool(server.asked) is asked
    assert (b"canary-user" in server.in_plain) is goes_on
    assert isinstance(error, StorageUnavailable)
    if not goes_on:
        assert "does not offer the TLS that sslmode wants" in error.message
    assert "hunter2" not in error.message


@pytest.mark.parametrize("mode", ["verify-ca", "verify-full"])
async def test_a_certificate_is_verified_against_something(mode: str, tmp_path: Path) -> None:
    """Without the file the driver would look for one at home, which a container does not have."""
    missing = tmp_path / "none.crt"
    error = await refused(f"postgresql://u:hunter2@127.0.0.1:1/x?sslmode={mode}&sslrootcert={missing}")
    assert isinstance(error, ConfigurationError)
    assert f"sslrootcert: there is no file {missing} that can be read" in error.message
    if not (Path.home() / ".postgresql" / "root.crt").exists():
        error = await refused(f"postgresql://u:hunter2@127.0.0.1:1/x?sslmode={mode}")
        assert "&sslrootcert=FILE" in error.message
    assert "hunter2" not in error.message


async def test_a_mode_that_does_not_exist_is_named_with_those_that_do() -> None:
    error = await refused("postgresql://u:hunter2@127.0.0.1:1/x?sslmode=verify")
    assert isinstance(error, ConfigurationError)
    assert error.message.startswith("DATABASE_URL: sslmode: expected one of disable, allow, prefer, require, verify-ca")
