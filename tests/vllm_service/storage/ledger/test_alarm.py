"""Rows that the database refuses are an alarm; a database that is away is none."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import httpx
import pytest
from msgspec import structs

from tests.e2e.gateway import configure, gateway, variables_of
from tests.vllm_service.storage.conftest import Backend
from tests.vllm_service.storage.faults import FaultyDatabase
from tests.vllm_service.storage.ledger.test_ledger import FAST, RECORD, write, written
from tests.vllm_service.storage.old_database import execute, fetch
from tests.waiting import until
from vllm_service.storage.ledger.alarm import LedgerAlarm
from vllm_service.storage.ledger.reader import LedgerReader
from vllm_service.storage.ledger.writer import LedgerWriter
from vllm_service.storage.sql.database import Database

SECRET = "a-name-that-no-log-may-hold"


async def test_rows_wait_while_the_table_lacks_a_column_and_are_written_once_it_is_there(
    backend: Backend, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = await LedgerWriter.open(database, FAST)
    await execute(backend, "ALTER TABLE requests DROP COLUMN route_reason")
    record = structs.replace(RECORD, model=SECRET)
    ledger.record(record)
    await until(lambda: ledger.status().refusal is not None)
    state = ledger.status()
    assert (state.queued, state.dropped, state.refused, state.is_failing) == (1, 0, 0, True)
    assert "lacks a table or a column" in (state.refusal or "")
    assert [line.levelno for line in caplog.records if "refuses the ledger's rows" in line.message] == [logging.ERROR]
    assert SECRET not in caplog.text
    await execute(backend, "ALTER TABLE requests ADD COLUMN route_reason TEXT")
    await ledger.close()
    assert ledger.status().refusal is None
    assert await written(database) == [record]


async def test_without_a_request_the_sign_of_life_finds_it(backend: Backend, database: Database) -> None:
    ledger = await LedgerWriter.open(database, FAST)
    await execute(backend, "ALTER TABLE ledger_writers DROP COLUMN rows_refused")
    await until(lambda: ledger.status().refusal is not None)
    await execute(backend, "ALTER TABLE ledger_writers ADD COLUMN rows_refused BIGINT NOT NULL DEFAULT 0")
    await until(lambda: ledger.status().refusal is None)
    await ledger.close()


async def test_a_row_that_is_refused_for_good_rings_until_the_end_and_stays_in_the_ledgers_memory(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = await write(database, structs.replace(RECORD, cost_picousd=2**70, model=SECRET), RECORD)
    state = ledger.status()
    assert (state.dropped, state.refused, state.written, state.queued) == (1, 1, 1, 0)
    assert "refused the values" in (state.refusal or "")
    assert [line.levelno for line in caplog.records if "dropped rows" in line.message] == [logging.ERROR]
    assert SECRET not in caplog.text
    (refusal,) = await LedgerReader(database).refusals()
    assert "refused 1 rows of process" in str(refusal)


async def test_a_column_that_only_somebody_elses_program_fills_rings(backend: Backend, database: Database) -> None:
    """NOT NULL without a default: no row of ours is taken."""
    ledger = await LedgerWriter.open(database, FAST)
    await execute(backend, "DELETE FROM requests")
    await execute(backend, "DROP TABLE requests")
    await execute(backend, _WITH_ONE_MORE)
    ledger.record(RECORD)
    await until(lambda: ledger.status().refused == 1)
    assert ledger.status().refusal is not None
    await ledger.close()


_WITH_ONE_MORE = """CREATE TABLE requests (
    id {id}, writer BIGINT NOT NULL, sequence BIGINT NOT NULL, request_id TEXT NOT NULL, started_at_us BIGINT NOT NULL,
    key_id TEXT, organisation TEXT, operation TEXT, model TEXT, outcome TEXT, status BIGINT, provider TEXT,
    upstream_model TEXT, prompt_tokens BIGINT, completion_tokens BIGINT, cached_tokens BIGINT, reasoning_tokens BIGINT,
    usage_estimated BIGINT, cost_picousd BIGINT, baseline_picousd BIGINT, stream BIGINT, queue_ms DOUBLE PRECISION,
    ttft_ms DOUBLE PRECISION, total_ms DOUBLE PRECISION, attempts BIGINT, error_code TEXT, route_reason TEXT,
    labels TEXT, usage_implausible BIGINT, execution_picousd BIGINT, cold_start_picousd BIGINT,
    idle_picousd BIGINT, cost_basis TEXT, cost_centre TEXT NOT NULL, UNIQUE (writer, sequence))"""


async def test_a_database_that_is_away_is_no_alarm(database: Database) -> None:
    faulty = FaultyDatabase(database)
    ledger = await LedgerWriter.open(faulty, FAST)
    faulty.is_away = True
    ledger.record(RECORD)
    await until(lambda: ledger.status().is_failing)
    assert ledger.status().refusal is None
    faulty.is_away = False
    await ledger.close()


def test_a_schema_that_is_mended_does_not_silence_rows_that_were_lost() -> None:
    alarm = LedgerAlarm()
    alarm.refused(2, "the values")
    alarm.schema_refused("no column", 5)
    assert alarm.reason == "no column"
    alarm.schema_accepted()
    assert (alarm.reason, alarm.refused_rows, alarm.dropped_rows) == ("the values", 2, 2)


async def test_health_and_metrics_of_a_running_gateway_say_what_is_refused(tmp_path: Path) -> None:
    providers = {"p": {"base_url": "http://127.0.0.1:9/v1"}}
    configure(tmp_path, providers, {"m": {"offers": [{"provider": "p", "model": "m"}]}})
    database = Backend(None, None, Path(variables_of(tmp_path)["DATA_DIR"]))
    told = {"REQUESTS_PER_SECOND_PER_IP": "100000"}  # health is asked for again and again
    async with gateway(tmp_path, **told) as running, httpx.AsyncClient(trust_env=False) as client:
        root = running.url.removesuffix("/v1")
        assert (await client.get(f"{root}/health")).json()["status"] == "healthy"
        await execute(database, "ALTER TABLE requests DROP COLUMN route_reason")
        await client.post(f"{running.url}/chat/completions", json={"model": "no such model", "messages": []})
        health = await refused(client, f"{root}/health")
        metrics = (await client.get(f"{root}/metrics")).text
        await execute(database, "ALTER TABLE requests ADD COLUMN route_reason TEXT")
    assert await fetch(database, "SELECT operation, status FROM requests") == [("chat.completions", 404)]
    assert health["status"] == "degraded"
    assert "vllm_ledger_refusing 1" in metrics
    (reason,) = health["reasons"]
    assert reason.startswith("the database refuses rows of the ledger: 0 are lost, 1 wait.")


async def refused(client: httpx.AsyncClient, url: str) -> dict[str, Any]:
    """Health, once it is not healthy any more."""
    while True:
        health: dict[str, Any] = (await client.get(url)).json()
        if health["reasons"]:
            return health
