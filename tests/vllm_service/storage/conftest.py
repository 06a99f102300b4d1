"""Each test of storage runs twice: embedded, and with Redis and Postgres."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.servers import PostgresServer, RedisServer
from vllm_service.storage.open import open_database
from vllm_service.storage.sql.database import Database


@dataclass(frozen=True)
class Backend:
    """Where storage is kept in a test; empty when the test begins."""

    database_url: str | None
    redis_url: str | None
    data_dir: Path

    @property
    def locations(self) -> tuple[str | None, str | None, Path]:
        """As open_storage takes them."""
        return self.database_url, self.redis_url, self.data_dir


@pytest.fixture(params=["embedded", "shared"])
async def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    if request.param == "embedded":
        return Backend(None, None, tmp_path)
    redis_server: RedisServer = request.getfixturevalue("redis_server")
    postgres: PostgresServer = request.getfixturevalue("postgres_server")
    redis_server.empty()
    return Backend(await postgres.emptied(), redis_server.url, tmp_path)


@pytest.fixture
async def database(backend: Backend) -> AsyncIterator[Database]:
    database = await open_database(backend.database_url, backend.data_dir)
    yield database
    await database.close()
