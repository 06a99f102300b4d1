"""The cost of storage on the hot path: limits, keys and the ledger, embedded and on Redis and Postgres.

    python -m benchmarks.storage [--json] [--quick] [--redis-url URL] [--database-url URL]

Calls follow one another on one event loop: p50 and p99 in microseconds, and the CPU of this process per call. For the
ledger: the time of `record` for its caller, and the CPU per row of everything until the row is durable.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from vllm_service.domain.keys import ApiKey, OrganisationLimits, Tier
from vllm_service.domain.requests import Outcome, RequestRecord
from vllm_service.domain.usage import Usage
from vllm_service.storage.open import Storage, open_storage

NO_LIMITS = OrganisationLimits(None, None, None, None)
KEY = ApiKey("benchmark", "benchmark", Tier.ENTERPRISE, NO_LIMITS)
#: By the clock that is passed in: so few that the key stays far below its tier's limits.
REQUESTS_PER_SECOND = 100


@dataclass(frozen=True)
class Row:
    """One row of the table."""

    backend: str
    call: str
    p50_us: float
    p99_us: float
    cpu_us: float


async def timed(backend: str, call: str, times: int, work: Callable[[int], Awaitable[object]]) -> Row:
    """Measures `times` calls of `work`, after a tenth as many to warm up. Each gets the next number from 0 on."""
    for number in range(times // 10):
        await work(number)
    waits = []
    cpu_before = time.process_time_ns()
    for number in range(times // 10, times + times // 10):
        began = time.perf_counter_ns()
        await work(number)
        waits.append(time.perf_counter_ns() - began)
    cpu = (time.process_time_ns() - cpu_before) / times / 1000
    waits.sort()
    return Row(backend, call, waits[times // 2] / 1000, waits[times * 99 // 100] / 1000, cpu)


async def rows_of(backend: str, storage: Storage, times: int) -> AsyncIterator[Row]:
    """Yields every measure on one backend."""
    _, secret = await storage.key_store.create("benchmark", Tier.ENTERPRISE)
    yield await timed(backend, "find a key", times, lambda _: storage.keys.find(secret))
    began_at = time.time()
    calls = times if backend == "embedded" else times // 10

    async def reserve_and_settle(number: int) -> None:
        now = began_at + number / REQUESTS_PER_SECOND
        reservation = await storage.quotas.reserve(KEY, f"10.0.{number % 250}.1", 1000, 5000, now)
        await reservation.settle(300, 1500)

    # Redis counts by its own clock and not by the one that is passed in, so the calls must stay below the tier's limit.
    yield await timed(
        backend, "reserve + settle", min(calls, 8000) if backend != "embedded" else calls, reserve_and_settle
    )
    yield await ledger(backend, storage, times)


async def ledger(backend: str, storage: Storage, times: int) -> Row:
    """Measures p50 and p99 of `record`, and the CPU of everything until the rows are durable."""
    record = RequestRecord(
        request_id="req-0123456789abcdef", started_at=time.time(), key_id="k", organisation="acme",
        operation="chat.completions", model="llama", outcome=Outcome.COMPLETED, status=200, provider="runpod",
        upstream_model="meta-llama/Llama-3.1-8B", usage=Usage(100, 50), cost_picousd=1000, baseline_picousd=2000,
        stream=True, queue_ms=0.1, ttft_ms=10.0, total_ms=100.0, attempts=1,
    )  # fmt: skip
    waits = []
    cpu_before = time.process_time_ns()
    for number in range(times):
        began = time.perf_counter_ns()
        storage.ledger.record(record)
        waits.append(time.perf_counter_ns() - began)
        if number % 100 == 99:
            await asyncio.sleep(0)  # the writer's turn
    while storage.ledger.waiting_rows:  # noqa: ASYNC110 - the ledger has no event for it
        await asyncio.sleep(0.01)
    cpu = (time.process_time_ns() - cpu_before) / times / 1000
    waits.sort()
    return Row(backend, "record a row", waits[times // 2] / 1000, waits[times * 99 // 100] / 1000, cpu)


@asynccontextmanager
async def opened(database_url: str | None, redis_url: str | None) -> AsyncIterator[Storage]:
    """Opens storage; embedded storage is in a temporary folder."""
    with tempfile.TemporaryDirectory() as directory:
        async with open_storage(database_url, redis_url, Path(directory)) as storage:
            yield storage


async def measured(database_url: str | None, redis_url: str | None, times: int) -> list[Row]:
    """Measures embedded storage, and shared storage if both URLs are given."""
    rows: list[Row] = []
    async with opened(None, None) as storage:
        rows += [row async for row in rows_of("embedded", storage, times)]
    if database_url and redis_url:
        async with opened(database_url, redis_url) as storage:
            rows += [row async for row in rows_of("redis + postgres", storage, times)]
    return rows


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.storage",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--quick", action="store_true", help="few calls, to see that it runs")
    parser.add_argument("--redis-url", metavar="URL", help="measure shared storage too; needs --database-url")
    parser.add_argument("--database-url", metavar="URL", help="measure shared storage too; needs --redis-url")
    options = parser.parse_args()
    times = 2_000 if options.quick else 50_000
    rows = asyncio.run(measured(options.database_url, options.redis_url, times))
    if options.json:
        sys.stdout.write(json.dumps({"rows": [asdict(row) for row in rows]}) + "\n")
        return
    table = Table("backend", "call", "p50 us", "p99 us", "CPU us")
    for row in rows:
        table.add_row(row.backend, row.call, f"{row.p50_us:.1f}", f"{row.p99_us:.1f}", f"{row.cpu_us:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
