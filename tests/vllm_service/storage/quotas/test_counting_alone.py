"""Processes that count alone while nothing answers: together they keep the limits, and hand over what they count."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace

import pytest

from tests.servers import RedisServer, own_redis
from tests.vllm_service.storage.use import OrganisationUse, used
from tests.waiting import until
from vllm_service.domain.keys import ApiKey, OrganisationLimits, Tier
from vllm_service.errors import RateLimited, ServiceError
from vllm_service.storage.protocol import Reservation
from vllm_service.storage.quotas.alone import ShareOfQuotas
from vllm_service.storage.quotas.presence import Presence
from vllm_service.storage.quotas.redis import RedisQuotas
from vllm_service.storage.redis_link import RedisLink
from vllm_service.storage.redis_pipeline import PipelineBounds

NOON = 1_798_718_400.0
LIMITS = OrganisationLimits(None, 500, None, concurrent_requests=None)
KEY = ApiKey("k", "acme", Tier.ENTERPRISE, LIMITS)


@dataclass(frozen=True)
class Process:
    link: RedisLink
    alone: ShareOfQuotas
    quotas: RedisQuotas
    presence: Presence

    async def admitted(self, key: ApiKey, tries: int, **amounts: int) -> list[Reservation]:
        found: list[Reservation] = []
        for _ in range(tries):
            try:
                reserve = self.quotas.reserve(key, None, amounts.get("tokens", 1), amounts.get("picousd", 0), NOON)
                found.append(await reserve)
            except RateLimited:
                break
        return found


@asynccontextmanager
async def running(server: RedisServer, number: int, at_least: int = 1) -> AsyncIterator[list[Process]]:
    async with AsyncExitStack() as stack:
        processes = []
        for _ in range(number):
            link = RedisLink(server.url, PipelineBounds(silence_seconds=0.3, rest_seconds=0.05))
            stack.push_async_callback(link.close)
            alone = ShareOfQuotas(processes=at_least)
            quotas = RedisQuotas(link, fallback=alone, uses_server_clock=False)
            presence = Presence(link, alone, at_least=at_least, beat_seconds=3600)
            stack.push_async_callback(presence.close)
            stack.push_async_callback(quotas.close)
            processes.append(Process(link, alone, quotas, presence))
        yield processes


async def met(processes: list[Process]) -> None:
    """Each has registered, and then counted the others."""
    for _ in range(2):
        for process in processes:
            await process.presence.beat()


async def gone(server: RedisServer, processes: list[Process]) -> None:
    server.stop()
    await until(lambda: all(process.link.pipeline.is_away for process in processes))


@pytest.mark.parametrize("counted_before", [0, 200, 500])
async def test_three_processes_admit_what_is_left_of_the_limit_between_them(counted_before: int) -> None:
    with own_redis() as server:
        async with running(server, 3) as processes:
            await met(processes)
            before = [await process.admitted(KEY, counted_before // 3 + 1) for process in processes[:2]]
            rest = counted_before - sum(map(len, before))
            before.append(await processes[2].admitted(KEY, max(rest, 0)))
            await met(processes)  # each has read how much is taken by now
            await gone(server, processes)
            alone = [len(await process.admitted(KEY, 1000)) for process in processes]
            assert 500 <= sum(map(len, before)) + sum(alone) < 500 + len(processes)
            server.start()


@pytest.mark.parametrize("limit", ["requests_per_minute", "tokens_per_day", "tokens_per_month", "picousd_per_month"])
async def test_every_limit_is_shared(limit: str) -> None:
    if limit == "requests_per_minute":
        key = replace(KEY, tier=Tier.DEVELOPMENT, limits=OrganisationLimits(None, None, None, None, None))
    else:
        key = replace(KEY, limits=replace(OrganisationLimits(None, None, None, None, None), **{limit: 1000}))
    with own_redis() as server:
        async with running(server, 4) as processes:
            await met(processes)
            await gone(server, processes)
            admitted = [len(await process.admitted(key, 200, tokens=10, picousd=10)) for process in processes]
            assert sum(admitted) == 100
            assert len(set(admitted)) == 1
            server.start()


async def test_what_was_counted_alone_is_handed_over_once_when_redis_is_back() -> None:
    with own_redis() as server:
        async with running(server, 2) as processes:
            await met(processes)
            await gone(server, processes)
            kept = []
            for process in processes:
                reservations = await process.admitted(KEY, 10)
                for reservation in reservations[:8]:
                    await reservation.settle(7, 11)
                kept.append(reservations[8:])
            server.start()
            await until(lambda: not any(process.link.pipeline.is_away for process in processes))
            for _ in range(3):
                await met(processes)
            quotas = processes[0].quotas
            assert await used(quotas, "acme", NOON) == OrganisationUse(16, 112, 16, 112, 176)
            for reservation in kept[0]:  # they run on, and end after Redis is back
                await reservation.settle(1, 1)
            await met(processes)
            assert await used(quotas, "acme", NOON) == OrganisationUse(18, 114, 18, 114, 178)
            assert processes[0].alone.periods.settled() == []


async def test_a_hand_over_whose_reply_is_lost_is_counted_once() -> None:
    with own_redis() as server:
        async with running(server, 1) as (process,):
            await met([process])
            await gone(server, [process])
            (reservation,) = await process.admitted(KEY, 1)
            await reservation.settle(7, 11)
            server.start()
            await until(lambda: not process.link.pipeline.is_away)
            number, counts = process.presence._next_merge(), (1, 7, 11)
            for period in process.alone.periods.settled():
                process.presence._merging[period.key] = (f"{number}:{period.key[1]}", counts)
                name = f"vllm-service:org:acme:{period.key[1]}:{period.key[2]}"
                # As the first sending did it: Redis has the counts, and the process does not know.
                await process.presence._merge([name, f"{number}:{period.key[1]}"], [*counts, 60, 60])
            await process.presence.beat()
            assert await used(process.quotas, "acme", NOON) == OrganisationUse(1, 7, 1, 7, 11)


async def test_a_process_that_starts_while_redis_is_away_shares_by_the_setting() -> None:
    with own_redis() as server:
        server.stop()
        async with running(server, 1, at_least=5) as (process,):
            assert len(await process.admitted(KEY, 1000)) == 100
            with pytest.raises(RateLimited, match="gives out its share of the limit, one of 5") as refused:
                await process.quotas.reserve(KEY, None, 1, 0, NOON)
            assert refused.value.details == {"limit": "requests_per_day", "allowed": 500}


async def test_a_process_that_ends_is_no_longer_counted_and_one_that_is_late_still_is() -> None:
    with own_redis() as server:
        async with running(server, 2) as (stays, ends):
            await met([stays, ends])
            await ends.presence.close()
            assert stays.alone.processes == 2, "its last beats counted two"
            for _ in range(30):
                await stays.presence.beat()
            assert stays.alone.processes == 1


async def test_without_redis_a_beat_fails_and_changes_nothing() -> None:
    with own_redis() as server:
        async with running(server, 2) as processes:
            await met(processes)
            await gone(server, processes)
            with pytest.raises(ServiceError):
                await processes[0].presence.beat()
            assert processes[0].alone.processes == 2
            server.start()
