"""A running gateway whose clocks jump by hours: wall clock, and the monotonic one that should not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice

import pytest

from tests.vllm_service.gateway.running import QUICK, SECRET, Running, catalog_of, running
from tests.vllm_service.gateway.test_failing_over import answers, post
from vllm_service.domain.keys import ApiKey, OrganisationLimits
from vllm_service.resilience.breakers.breaker_settings import BreakerSettings
from vllm_service.resilience.breakers.shared import Breakers, SharedBreakers
from vllm_service.resilience.policy import ResiliencePolicy
from vllm_service.storage.coordination.memory import MemoryBreakers
from vllm_service.storage.quotas.memory import MemoryQuotas
from vllm_service.testing import ReceivedRequest, Reply, ScriptedProvider, chat, refused

HOUR = 3600.0
NOON = datetime(2026, 11, 20, 12, tzinfo=UTC).timestamp()
LIMIT = 4
FAILURES = 3


@dataclass
class Clock:
    """The machine's monotonic clock, and what it is off by."""

    off_by: float = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.off_by


@dataclass
class WallClock:
    """Stands until it is set."""

    now: float = NOON

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("jump", [5 * HOUR, -5 * HOUR, 36 * HOUR, -36 * HOUR])
async def test_rows_quotas_and_leases_live_through_a_wall_clock_that_jumps_while_a_request_runs(jump: float) -> None:
    clock, goes_on = WallClock(), asyncio.Event()
    quotas = MemoryQuotas()
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(ScriptedProvider(chat("Hello").after(goes_on)))
        settings = running(catalog_of(upstream.url), quotas=quotas, wall_clock=clock)
        gateway = await stack.enter_async_context(settings)
        gateway.books.keys[SECRET] = ApiKey("key-1", "acme", limits=OrganisationLimits(None, LIMIT, None, None))
        under_way = asyncio.create_task(post(gateway))
        await upstream.until_requests(1)
        clock.now += jump
        goes_on.set()
        statuses = [(await under_way).status_code] + [(await post(gateway)).status_code for _ in range(LIMIT)]
        clock.now -= jump
        statuses += [(await post(gateway)).status_code for _ in range(LIMIT)]
        rows = [await gateway.books.row(number) for number in range(len(statuses))]
        day, _ = quotas.periods.at("acme", NOON)
    # Within the day one request is too many; in another day the whole limit is there again, and the first still counts.
    same_day = abs(jump) < 12 * HOUR
    assert statuses == [200] * LIMIT + ([429] * (LIMIT + 1) if same_day else [200] * LIMIT + [429])
    assert day.requests == LIMIT
    assert {row.started_at for row in rows} == {NOON, NOON + jump}
    durations = [ms for row in rows for ms in (row.total_ms, row.ttft_ms, row.queue_ms) if ms is not None]
    assert durations
    assert 0 <= min(durations) <= max(durations) < HOUR * 1000
    assert quotas.status().open_reservations == 0


@asynccontextmanager
async def failing_first(clock: Clock, settings: BreakerSettings) -> AsyncIterator[tuple[Running, ScriptedProvider]]:
    """A gateway whose breakers go by the clock; its first place fails until its script is replaced."""
    breakers = Breakers(settings)
    shared = SharedBreakers(breakers, MemoryBreakers(), clock, probe_seconds=settings.probe_seconds)
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(ScriptedProvider(refused(500)))
        second = await stack.enter_async_context(ScriptedProvider(answers))
        over = ResiliencePolicy(breakers, shared, retries=QUICK)
        yield await stack.enter_async_context(running(catalog_of(first.url, second.url), policy=over)), first


async def until_used(gateway: Running, provider: str) -> None:
    async with asyncio.timeout(20):
        while (await post(gateway)).headers["x-provider"] != provider:
            pass


@pytest.mark.parametrize("jump", [5 * HOUR, -5 * HOUR])
async def test_a_breaker_is_shut_for_no_longer_than_was_decided_when_the_clock_jumps(jump: float) -> None:
    clock = Clock()
    settings = BreakerSettings(consecutive_failures=FAILURES, open_seconds=0.05, successes_to_close=1)
    async with failing_first(clock, settings) as (gateway, first):
        assert {(await post(gateway)).status_code for _ in range(FAILURES)} == {200}
        clock.off_by += jump
        first.script = chat("first")
        await until_used(gateway, "provider-1")
        responses = await asyncio.gather(*(post(gateway) for _ in range(20)))
    assert {response.headers["x-provider"] for response in responses} == {"provider-1"}


@pytest.mark.parametrize("jump", [5 * HOUR, -5 * HOUR])
async def test_while_a_probe_is_out_a_clock_that_jumps_lets_no_herd_out_and_loses_nobody(jump: float) -> None:
    """A clock that jumps ahead makes the probe look lost: one more takes its place, and not twenty."""
    clock, has_come, goes_on = Clock(), asyncio.Event(), asyncio.Event()
    settings = BreakerSettings(consecutive_failures=FAILURES, open_seconds=0.01, successes_to_close=1)

    async def waits(_: ReceivedRequest) -> Reply:
        has_come.set()
        await goes_on.wait()
        return chat("first")

    async def probing() -> None:
        while not has_come.is_set():
            await post(gateway)

    async with failing_first(clock, settings) as (gateway, first):
        for _ in range(FAILURES):
            await post(gateway)
        first.script = waits
        probe = asyncio.create_task(probing())
        await has_come.wait()
        clock.off_by += jump
        posts = [asyncio.create_task(post(gateway)) for _ in range(20)]
        for done in islice(asyncio.as_completed(posts), 19):
            await done
        assert len(first.requests) <= FAILURES + 2
        goes_on.set()
        responses = await asyncio.gather(*posts)
        await probe
        await until_used(gateway, "provider-1")
    assert {response.status_code for response in responses} == {200}
