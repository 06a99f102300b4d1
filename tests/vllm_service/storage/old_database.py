"""A database as the last program without numbered migrations wrote it: its tables, and rows that its own code made.

Nothing here follows the code: it says what is on the disks of those who upgrade.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import asyncpg

from tests.vllm_service.storage.conftest import Backend
from vllm_service.domain.requests import Outcome, RequestRecord
from vllm_service.domain.usage import Usage
from vllm_service.storage.open import DATABASE_FILE
from vllm_service.storage.sql.upgrade import POSTGRES, SQLITE

HERE = Path(__file__).parent / "before_migrations"
TABLES = (HERE / "tables.sql").read_text("utf-8")
ROWS = (HERE / "rows.sql").read_text("utf-8")
KEY_ID = "1b2bd38fe67137ef"
RECORDS = [
    RequestRecord(
        request_id="req_1", started_at=1_795_000_000.123456, key_id="k1", organisation="acme",
        operation="chat.completions", model="llama", outcome=Outcome.COMPLETED, status=200, provider="own",
        upstream_model="meta/llama", usage=Usage(120, 45, 64, 0), cost_picousd=7_000_001,
        baseline_picousd=2**60 + 1, stream=True, queue_ms=0.25, ttft_ms=12.5, total_ms=1234.5678, attempts=1,
        route_reason="cheapest: own, warm",
    ),
    RequestRecord(
        request_id="req_1/hedge", started_at=1_795_000_000.123456, key_id="k1", organisation="acme",
        operation="chat.completions", model="llama", outcome=Outcome.CANCELLED, status=499, provider="hosted",
        upstream_model="llama-3.1", usage=Usage(120, 3, estimated=True), cost_picousd=900, stream=True, queue_ms=0.25,
        total_ms=1234.5678, route_reason="hedge: another place began first",
    ),
    RequestRecord(
        request_id="req_2", started_at=1_795_000_060.0, key_id="", organisation="", operation="chat.completions",
        model="", outcome=Outcome.REJECTED, status=401, total_ms=0.4, error_code="UNAUTHORIZED_401",
    ),
    RequestRecord(
        request_id="it's; quoted", started_at=1_795_090_000.5, key_id="k2", organisation="ümlaut ∑",
        operation="embeddings", model="bge", outcome=Outcome.FAILED, status=502, provider="own", upstream_model="bge",
        queue_ms=1.0, total_ms=30000.0, attempts=3, error_code="UPSTREAM_502", route_reason="in order",
    ),
    RequestRecord(
        request_id="req_3", started_at=1_795_090_001.0, key_id="k2", organisation="zeta",
        operation="chat.completions", model="llama", outcome=Outcome.CACHED, status=200, usage=Usage(10, 5),
        cost_picousd=0, baseline_picousd=400, total_ms=0.8,
    ),
]  # fmt: skip


async def execute(backend: Backend, sql: str) -> None:
    """Runs statements with the bare driver, as somebody does who knows nothing of our code."""
    if backend.database_url is None:
        connection = sqlite3.connect(backend.data_dir / DATABASE_FILE)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(sql.replace("{id}", "INTEGER PRIMARY KEY AUTOINCREMENT"))
        connection.close()
        return
    server = await asyncpg.connect(backend.database_url)
    await server.execute(sql.replace("{id}", "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY"))
    await server.close()


async def fetch(backend: Backend, sql: str) -> list[tuple[Any, ...]]:
    """Rows, with the bare driver."""
    if backend.database_url is None:
        connection = sqlite3.connect(backend.data_dir / DATABASE_FILE)
        rows = connection.execute(sql).fetchall()
        connection.close()
        return rows
    server = await asyncpg.connect(backend.database_url)
    found = [tuple(row) for row in await server.fetch(sql)]
    await server.close()
    return found


async def columns(backend: Backend) -> set[tuple[str, str]]:
    """(table, column), of all that there are."""
    dialect = SQLITE if backend.database_url is None else POSTGRES
    return {(table, column) for table, column in await fetch(backend, dialect.columns) if table != "sqlite_sequence"}


async def write_old_database(backend: Backend) -> None:
    """What the old program has left behind: RECORDS, a key, an organisation's limits, quotas, a writer."""
    await execute(backend, TABLES)
    await execute(backend, ROWS)
