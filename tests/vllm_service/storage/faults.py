"""A real database that fails when told to: before it has written, or after, as when a connection breaks at a commit."""

from __future__ import annotations

from typing import Any

from vllm_service.errors import StorageUnavailable
from vllm_service.storage.sql.database import Database, Rows, Statement, Value


class FaultyDatabase:
    """Passes everything on. `lost_answers`: so many writes succeed and are reported as failed."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.is_away = False
        self.lost_answers = 0
        self.writes = 0

    async def fetch(self, sql: str, *values: Value) -> list[tuple[Any, ...]]:
        self._check()
        return await self._database.fetch(sql, *values)

    async def write(self, *steps: Statement | Rows) -> None:
        self.writes += 1
        self._check()
        await self._database.write(*steps)
        if self.lost_answers:
            self.lost_answers -= 1
            raise StorageUnavailable("the answer was lost")

    async def close(self) -> None:
        await self._database.close()

    def _check(self) -> None:
        if self.is_away:
            raise StorageUnavailable("away")
