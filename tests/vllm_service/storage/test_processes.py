"""Several processes at once, and processes that are killed: limits stay exact, leases return, rows are not doubled."""

from __future__ import annotations

import asyncio
import sys
import time
from asyncio.subprocess import PIPE, Process
from pathlib import Path

import pytest

from tests.servers import RedisServer
from tests.vllm_service.storage.conftest import Backend
from tests.vllm_service.storage.ledger.test_ledger import RECORD, write
from tests.vllm_service.storage.use import used
from tests.vllm_service.storage.worker_process import KEY, LIMITS, MIDDAY
from vllm_service.errors import RateLimited
from vllm_service.storage.ledger.reader import LedgerReader
from vllm_service.storage.ledger.writers import WriterEntry
from vllm_service.storage.open import open_database
from vllm_service.storage.quotas.memory import LEASE_SECONDS
from vllm_service.storage.quotas.redis import RedisQuotas
from vllm_service.storage.redis_link import RedisLink

ROOT = Path(__file__).resolve().parents[3]


async def started(what: str, backend: Backend, count: int) -> Process:
    locations = [location or "-" for location in (backend.database_url, backend.redis_url)]
    command = ["-m", "tests.vllm_service.storage.worker_process", what, *locations, str(backend.data_dir), str(count)]
    return await asyncio.create_subprocess_exec(sys.executable, *command, cwd=ROOT, stdout=PIPE)


async def line_of(process: Process) -> str:
    assert process.stdout is not None
    return (await process.stdout.readline()).decode().strip()


async def killed(process: Process) -> list[str]:
    """kill -9; what it had printed and nobody had read."""
    process.kill()
    assert process.stdout is not None
    rest = (await process.stdout.read()).decode().splitlines()
    await process.wait()
    return rest


@pytest.mark.parametrize("backend", ["shared"], indirect=True)
async def test_four_processes_on_one_redis_admit_exactly_what_the_limit_allows(backend: Backend) -> None:
    processes = [await started("race", backend, 400) for _ in range(4)]
    settled = [int(await line_of(process)) for process in processes]
    assert [await process.wait() for process in processes] == [0] * 4
    assert sum(settled) == LIMITS.requests_per_day
    assert backend.redis_url is not None
    link = RedisLink(backend.redis_url)
    use = await used(RedisQuotas(link), "racers", MIDDAY)
    await link.close()
    assert (use.requests_today, use.tokens_today, use.picousd_this_month) == (300, 2100, 3300)


@pytest.mark.parametrize("backend", ["shared"], indirect=True)
async def test_what_a_killed_process_had_reserved_returns_when_its_leases_end(
    backend: Backend, redis_server: RedisServer
) -> None:
    process = await started("hold", backend, 300)
    assert await line_of(process) == "held"
    await killed(process)
    link = RedisLink(redis_server.url)
    with pytest.raises(RateLimited) as caught:
        await RedisQuotas(link).reserve(KEY, None, 100, 1000, MIDDAY)
    assert caught.value.details["limit"] == "requests_per_day"
    assert time.time() + LEASE_SECONDS < MIDDAY, "leases went by Redis's clock; by this one they are over"
    quotas = RedisQuotas(link, uses_server_clock=False)
    assert (await used(quotas, "racers", MIDDAY)).requests_today == 0
    for _ in range(300):
        await (await quotas.reserve(KEY, None, 100, 1000, MIDDAY)).settle(1, 1)
    assert (await used(quotas, "racers", MIDDAY)).requests_today == 300
    await link.close()


async def test_a_killed_writer_loses_at_most_its_last_second_and_the_next_one_says_so(
    backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    process = await started("record", backend, 100_000)
    lines = [await line_of(process) for _ in range(400)]
    killed_at = time.time()
    lines += await killed(process)
    taken = {number: float(at) for number, at in (line.split() for line in lines if line.count(" ") == 1)}
    database = await open_database(backend.database_url, backend.data_dir)
    reader = LedgerReader(database)
    kept = [record.request_id async for _, record in reader.records()]
    assert len(kept) == len(set(kept))
    assert [number for number, at in taken.items() if number not in set(kept) and at < killed_at - 1] == []
    (lost,) = await WriterEntry(database).report_lost(lost_after_seconds=0)
    assert lost.pid == process.pid
    assert lost.rows_written == len(kept)
    assert "rows of the last second before its end may be missing" in caplog.text
    assert await reader.lost_writers() == [lost]
    assert await WriterEntry(database).report_lost(lost_after_seconds=0) == []
    await database.close()


@pytest.mark.parametrize("backend", ["embedded"], indirect=True)
async def test_a_process_that_comes_and_goes_leaves_the_log_of_a_file_that_is_opened_twice_elsewhere(
    backend: Backend,
) -> None:
    """With SQLite's locks dropped by the second opening, it would delete the log, and the rows after it were lost."""
    first = await open_database(None, backend.data_dir)
    second = await open_database(None, backend.data_dir)
    for rows in (1, 2):
        await write(second, RECORD)
        assert await exported(backend.data_dir) == rows
    await second.close()
    await first.close()


async def exported(data_dir: Path) -> int:
    """Rows that another process sees."""
    command = ["-m", "vllm_service", "ledger", "export", "--data-dir", str(data_dir)]
    process = await asyncio.create_subprocess_exec(sys.executable, *command, cwd=ROOT, stdout=PIPE)
    output, _ = await process.communicate()
    assert process.returncode == 0
    return len(output.splitlines()) - 1
