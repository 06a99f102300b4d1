"""The ledger: every row once, durable, whatever happens to the database in between; sums exact."""

from __future__ import annotations

import logging
import time
from dataclasses import replace

import pytest
from msgspec import structs

from tests.vllm_service.storage.conftest import Backend
from tests.vllm_service.storage.faults import FaultyDatabase
from tests.waiting import until, until_seen
from vllm_service.domain.requests import Outcome, RequestRecord
from vllm_service.domain.usage import Usage
from vllm_service.storage.ledger.reader import GroupBy, LedgerReader, Window
from vllm_service.storage.ledger.writer import LedgerWriter, LedgerWriterOptions
from vllm_service.storage.open import open_storage
from vllm_service.storage.sql.database import Database

NOW = 1_800_000_000.25
RECORD = RequestRecord(
    request_id="r", started_at=NOW, key_id="k", organisation="acme", operation="chat.completions", model="m",
    outcome=Outcome.COMPLETED, status=200, provider="openai", upstream_model="m-1", usage=Usage(10, 5, 3, 2),
    cost_picousd=7, baseline_picousd=20, stream=True, queue_ms=0.5, ttft_ms=12.5, total_ms=100.0, attempts=1,
    route_reason="cheapest",
)  # fmt: skip
FAST = LedgerWriterOptions(flush_seconds=0.01, heartbeat_seconds=0.05, close_seconds=20)


async def written(database: Database) -> list[RequestRecord]:
    return [record async for _, record in LedgerReader(database).records()]


async def write(database: Database, *records: RequestRecord) -> LedgerWriter:
    ledger = await LedgerWriter.open(database, FAST)
    for record in records:
        ledger.record(record)
    await ledger.close()
    return ledger


async def test_what_is_recorded_comes_back_as_it_was(database: Database) -> None:
    bare = RequestRecord(
        request_id="b", started_at=NOW, key_id="k", organisation="acme", operation="embeddings", model="m",
        outcome=Outcome.REJECTED, status=429, error_code="RATE_LIMIT_429",
    )  # fmt: skip
    estimated = structs.replace(RECORD, usage=Usage(1, 2, estimated=True), outcome=Outcome.CANCELLED)
    await write(database, RECORD, bare, estimated)
    assert await written(database) == [RECORD, bare, estimated]


async def test_row_ids_grow_and_callers_who_send_one_request_id_twice_get_two_rows(database: Database) -> None:
    await write(database, *[RECORD] * 300)
    ids = [number async for number, _ in LedgerReader(database).records()]
    assert len(ids) == 300
    assert ids == sorted(set(ids))


async def test_closing_leaves_nothing_in_memory(database: Database) -> None:
    ledger = await write(database, *[RECORD] * 3000)
    assert (ledger.waiting_rows, ledger.written_rows, ledger.dropped_rows) == (0, 3000, 0)
    assert len(await written(database)) == 3000


async def test_a_batch_whose_answer_is_lost_is_not_written_twice(database: Database) -> None:
    faulty = FaultyDatabase(database)
    ledger = await LedgerWriter.open(faulty, FAST)
    faulty.lost_answers = 2
    for number in range(100):
        ledger.record(structs.replace(RECORD, request_id=str(number)))
    await ledger.close()
    assert [record.request_id for record in await written(database)] == [str(number) for number in range(100)]


async def test_a_row_that_no_database_takes_costs_no_other_row(database: Database) -> None:
    """Postgres takes no NUL in a text, SQLite no half surrogate; neither takes a number beyond 64 bits."""
    records = [structs.replace(RECORD, request_id=str(number)) for number in range(40)]
    records[7] = structs.replace(records[7], model="a\0b")
    records[8] = structs.replace(records[8], model="\ud800")
    records[20] = structs.replace(records[20], cost_picousd=2**70)
    ledger = await write(database, *records)
    found = {record.request_id for record in await written(database)}
    assert found == {str(number) for number in range(40)} - {"20"}
    assert (ledger.dropped_rows, ledger.written_rows) == (1, 39)


async def test_rows_wait_while_the_database_is_away(database: Database) -> None:
    faulty = FaultyDatabase(database)
    ledger = await LedgerWriter.open(faulty, FAST)
    faulty.is_away = True
    before = faulty.writes
    ledger.record(RECORD)
    await until(lambda: faulty.writes >= before + 3)
    assert ledger.waiting_rows == 1
    faulty.is_away = False
    await ledger.close()
    assert await written(database) == [RECORD]


async def test_what_does_not_fit_into_memory_is_dropped_counted_and_said(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = await LedgerWriter.open(database, replace(FAST, max_waiting_rows=10))
    with caplog.at_level(logging.ERROR):
        for _ in range(25):
            ledger.record(RECORD)
    await ledger.close()
    assert ledger.dropped_rows == 15
    assert "dropped rows" in caplog.text
    assert len(await written(database)) == 10
    assert await database.fetch("SELECT rows_written, rows_dropped FROM ledger_writers") == [(10, 15)]


async def test_a_database_that_is_away_at_the_end_is_waited_for_and_then_given_up(database: Database) -> None:
    faulty = FaultyDatabase(database)
    ledger = await LedgerWriter.open(faulty, replace(FAST, close_seconds=0.2))
    faulty.is_away = True
    ledger.record(RECORD)
    await ledger.close()
    assert (ledger.dropped_rows, ledger.waiting_rows) == (1, 0)


async def test_a_writer_that_signed_off_is_never_called_lost(database: Database) -> None:
    await write(database, RECORD)
    other = await LedgerWriter.open(database, replace(FAST, lost_after_seconds=0))
    await other.close()
    assert await LedgerReader(database).lost_writers() == []


@pytest.fixture
async def reader(database: Database) -> LedgerReader:
    """Two days of two organisations."""
    await write(
        database,
        RECORD,
        structs.replace(RECORD, cost_picousd=2**53 + 1, baseline_picousd=None),
        structs.replace(RECORD, cost_picousd=None, usage=None, outcome=Outcome.FAILED, status=502),
        structs.replace(RECORD, organisation="zeta", started_at=NOW + 86_400, outcome=Outcome.CACHED, cost_picousd=0),
    )
    return LedgerReader(database)


async def test_totals_are_exact_integers(reader: LedgerReader) -> None:
    (totals,) = await reader.totals()
    assert (totals.requests, totals.completed, totals.failed, totals.cached) == (4, 2, 1, 1)
    assert (totals.prompt_tokens, totals.completion_tokens) == (30, 15)
    assert totals.cost_picousd == 2**53 + 8
    assert (totals.baseline_picousd, totals.compared_cost_picousd) == (40, 7)
    assert (totals.unpriced_requests, totals.uncounted_requests, totals.estimated_requests) == (0, 1, 0)


async def test_totals_split_by_what_is_asked(reader: LedgerReader) -> None:
    by = await reader.totals([GroupBy.ORGANISATION, GroupBy.DAY])
    day = int(NOW // 86_400)
    assert [(totals.group, totals.requests) for totals in by] == [(("acme", day), 3), (("zeta", day + 1), 1)]
    (late,) = await reader.totals([GroupBy.MODEL], Window(since=NOW + 1))
    assert (late.group, late.requests) == (("m",), 1)
    (early,) = await reader.totals(window=Window(until=NOW + 1))
    assert early.requests == 3


async def test_an_empty_ledger_sums_to_nothing(database: Database) -> None:
    (totals,) = await LedgerReader(database).totals()
    assert (totals.requests, totals.cost_picousd) == (0, 0)
    assert await LedgerReader(database).totals([GroupBy.KEY]) == []


async def test_rows_beyond_the_retention_go_by_themselves(backend: Backend) -> None:
    now = time.time()
    async with open_storage(*backend.locations) as storage:
        storage.ledger.record(structs.replace(RECORD, started_at=now - 3 * 86_400))
        storage.ledger.record(structs.replace(RECORD, started_at=now - 86_400))
    async with open_storage(*backend.locations, retention_days=2) as storage:

        async def is_swept() -> bool:
            return (await storage.ledger_reader.totals())[0].requests != 2

        await until_seen(is_swept)
        assert [round(now - record.started_at) async for _, record in storage.ledger_reader.records()] == [86_400]


async def test_an_age_beyond_all_rows_deletes_none(reader: LedgerReader) -> None:
    assert await reader.prune(NOW - 1e15 * 86_400) == 0


async def test_old_rows_are_pruned(reader: LedgerReader, database: Database) -> None:
    assert await reader.prune(NOW + 1) == 3
    assert [record.organisation for record in await written(database)] == ["zeta"]
