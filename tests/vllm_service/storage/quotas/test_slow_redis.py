"""A Redis that is slow, hung or cut off: slow delays, one refusal is one request's, and only silence counts as away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import pytest

from tests.servers import RedisServer, own_redis
from tests.slow_proxy import SlowProxy, slow_proxy
from tests.vllm_service.storage.use import used
from tests.waiting import until
from vllm_service.domain.keys import ApiKey, OrganisationLimits, Tier
from vllm_service.domain.quotas import utc_day, utc_month
from vllm_service.errors import ServiceError, StorageUnavailable
from vllm_service.storage.quotas.alone import ShareOfQuotas
from vllm_service.storage.quotas.redis import MOST_WAITING_OF_ONE, RedisQuotas
from vllm_service.storage.redis_link import RedisLink
from vllm_service.storage.redis_pipeline import PipelineBounds
from vllm_service.storage.redis_replies import RedisSilent

NOON = 1_798_718_400.0
KEY = ApiKey("k", "acme", Tier.ENTERPRISE, OrganisationLimits(None, None, None, None, None))
OTHER = replace(KEY, id="k-other", organisation="other")


@asynccontextmanager
async def through(
    proxy: SlowProxy, bounds: PipelineBounds | None = None, *, alone: bool = False
) -> AsyncIterator[tuple[RedisQuotas, RedisLink]]:
    link = RedisLink(f"redis://127.0.0.1:{proxy.port}/0", bounds)
    quotas = RedisQuotas(link, fallback=ShareOfQuotas() if alone else None)
    try:
        yield quotas, link
    finally:
        await quotas.close()
        await link.close()


async def outcome(quotas: RedisQuotas, key: ApiKey = KEY) -> str:
    try:
        reservation = await quotas.reserve(key, None, 1, 1, NOON)
    except ServiceError as error:
        return type(error).__name__
    return type(reservation).__name__


@pytest.fixture
async def proxy(redis_server: RedisServer) -> AsyncIterator[SlowProxy]:
    redis_server.empty()
    async with slow_proxy(redis_server.port) as proxy:
        yield proxy


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("delay_seconds", [0.2, 1.0])
async def test_a_slow_redis_delays_a_thousand_requests_at_once_and_refuses_none(
    proxy: SlowProxy, delay_seconds: float, alone: bool
) -> None:
    """They share one connection. Nothing is counted alone: Redis answers, only late."""
    proxy.delay_seconds = delay_seconds
    async with through(proxy, alone=alone) as (quotas, link):
        outcomes = await asyncio.gather(*(outcome(quotas) for _ in range(1000)))
        assert set(outcomes) == {"RedisReservation"}
        assert not link.pipeline.is_away
        assert not quotas.status().is_counting_alone
        assert proxy.connections == 1


async def test_a_redis_that_never_pauses_is_never_silent_however_late_its_replies_are(proxy: SlowProxy) -> None:
    """Each reply comes later than the time that silence may last, and replies come all the while."""
    proxy.delay_seconds = 0.5
    async with through(proxy, PipelineBounds(silence_seconds=2.0), alone=True) as (quotas, _):
        requests = []
        for _ in range(30):
            requests.append(asyncio.create_task(outcome(quotas)))
            await asyncio.sleep(0.05)
        assert set(await asyncio.gather(*requests)) == {"RedisReservation"}


async def test_the_request_that_finds_the_pipeline_full_is_refused_and_the_others_are_served(proxy: SlowProxy) -> None:
    async with through(proxy, PipelineBounds(commands=50), alone=True) as (quotas, link):
        await outcome(quotas)
        proxy.delay_seconds = 0.3
        outcomes = await asyncio.gather(*(outcome(quotas) for _ in range(60)))
        assert sorted(set(outcomes)) == ["RedisReservation", "StorageUnavailable"]
        assert outcomes.count("RedisReservation") == 50
        assert not link.pipeline.is_away


async def test_one_organisations_flood_at_a_slow_redis_leaves_room_for_the_others(proxy: SlowProxy) -> None:
    async with through(proxy) as (quotas, _):
        await outcome(quotas)
        proxy.delay_seconds = 0.5
        flood = [asyncio.create_task(outcome(quotas)) for _ in range(MOST_WAITING_OF_ONE + 500)]
        assert await outcome(quotas, OTHER) == "RedisReservation"
        outcomes = await asyncio.gather(*flood)
        assert outcomes.count("StorageUnavailable") == 500


async def test_a_request_that_waits_too_long_is_refused_alone_and_what_it_took_is_given_back(
    proxy: SlowProxy, redis_server: RedisServer
) -> None:
    link = RedisLink(f"redis://127.0.0.1:{proxy.port}/0")
    quotas = RedisQuotas(link, fallback=ShareOfQuotas(), reply_seconds=0.1)
    await (await quotas.reserve(KEY, None, 5, 5, NOON)).settle(5, 5)
    proxy.delay_seconds = 0.3
    with pytest.raises(StorageUnavailable, match=r"took longer than 0\.1 s") as refused:
        await quotas.reserve(KEY, None, 5, 5, NOON)
    assert not isinstance(refused.value, RedisSilent)
    assert refused.value.retry_after_seconds == 1
    await until(lambda: not quotas._ending)
    await quotas.close()
    await link.close()
    direct = RedisLink(redis_server.url)
    assert (await used(RedisQuotas(direct), "acme", NOON)).requests_today == 1
    await direct.close()


async def test_a_connection_that_breaks_fails_its_requests_alone_and_a_new_one_serves_the_next(
    proxy: SlowProxy,
) -> None:
    """Redis answers on the new connection, so nothing is counted alone."""
    async with through(proxy, alone=True) as (quotas, link):
        await outcome(quotas)
        proxy.swallows = True
        cut = asyncio.create_task(outcome(quotas))
        await until(lambda: link.pipeline.waiting)
        proxy.swallows = False
        proxy.cut()
        assert await cut == "StorageUnavailable"
        assert await outcome(quotas) == "RedisReservation"


@pytest.mark.parametrize("how", ["hung", "swallowed", "stopped"])
async def test_only_silence_is_away(how: str) -> None:
    bounds = PipelineBounds(silence_seconds=0.3, rest_seconds=0.05)
    async with AsyncExitStack() as stack:
        server = stack.enter_context(own_redis())
        proxy = await stack.enter_async_context(slow_proxy(server.port))
        quotas, link = await stack.enter_async_context(through(proxy, bounds, alone=True))
        assert await outcome(quotas) == "RedisReservation"
        if how == "hung":
            server.hang()
        elif how == "swallowed":
            proxy.swallows = True
        else:
            server.stop()
            proxy.cut()
        assert await outcome(quotas) == "MemoryReservation"
        assert quotas.status().is_counting_alone
        began = time.monotonic()
        assert await outcome(quotas) == "MemoryReservation"
        assert time.monotonic() - began < bounds.silence_seconds, "later ones do not wait"
        proxy.swallows = False
        if how == "stopped":
            server.start()
        else:
            server.go_on()
        await until(lambda: not link.pipeline.is_away)
        assert await outcome(quotas) == "RedisReservation"


@pytest.mark.parametrize("how", ["wrong type", "no rights", "no memory", "read only"])
async def test_a_refusal_by_redis_is_that_requests_alone(how: str) -> None:
    """No other organisation is refused, nothing rests, and nothing is counted alone."""
    async with AsyncExitStack() as stack:
        server = stack.enter_context(own_redis())
        proxy = await stack.enter_async_context(slow_proxy(server.port))
        quotas, link = await stack.enter_async_context(through(proxy, alone=True))
        client = server.client()
        stack.push_async_callback(client.aclose)
        begun = await quotas.reserve(KEY, None, 1, 1, NOON)
        if how == "wrong type":
            await client.set("vllm-service:key:k", "a text")
        elif how == "no rights":
            patterns = ("~vllm-service:key:k-other*", "~vllm-service:address:*", "~vllm-service:org:other:*")
            await client.acl_setuser(
                "default", enabled=True, nopass=True, reset_keys=True, keys=[p[1:] for p in patterns]
            )
        elif how == "no memory":
            await client.config_set("maxmemory", "1")
        else:
            await client.replicaof("127.0.0.1", "1")
        refused = await outcome(quotas)
        assert refused == ("StorageRefused" if how == "wrong type" else "StorageUnavailable")
        assert not quotas.status().is_counting_alone
        if how in ("wrong type", "no rights"):
            for _ in range(3):
                assert await outcome(quotas) == refused
                assert await outcome(quotas, OTHER) == "RedisReservation"
        assert not link.pipeline.is_silent
        await begun.settle(1, 1)  # it waits, or is logged as lost, and keeps no other waiting


async def test_an_end_that_redis_cannot_take_now_keeps_no_other_organisations_waiting() -> None:
    with own_redis() as server:
        link = RedisLink(server.url)
        quotas = RedisQuotas(link)
        first = await quotas.reserve(KEY, None, 1, 1, NOON)
        second = await quotas.reserve(OTHER, None, 1, 1, NOON)
        client = server.client()
        mine = ["vllm-service:key:k-other*", "vllm-service:address:*", "vllm-service:org:other:*"]
        await client.acl_setuser("default", enabled=True, nopass=True, reset_keys=True, keys=mine)
        await first.settle(5, 5)
        await until(lambda: quotas.waiting_ends == 1)
        await second.settle(7, 9)
        month = utc_month(utc_day(NOON))
        assert await client.hget(f"vllm-service:org:other:month:{month}", "picousd") == b"9"
        await client.acl_setuser("default", enabled=True, nopass=True, keys=["*"])
        await until(lambda: quotas.waiting_ends == 0)
        assert (await used(quotas, "acme", NOON)).picousd_this_month == 5
        await client.aclose()
        await quotas.close()
        await link.close()


async def test_a_password_that_is_refused_later_refuses_requests_and_counts_none_alone() -> None:
    """Redis answers: other replicas may count there."""
    async with AsyncExitStack() as stack:
        server = stack.enter_context(own_redis())
        proxy = await stack.enter_async_context(slow_proxy(server.port))
        quotas, _ = await stack.enter_async_context(through(proxy, PipelineBounds(rest_seconds=0.05), alone=True))
        assert await outcome(quotas) == "RedisReservation"
        client = server.client()
        await client.config_set("requirepass", "another")
        await client.aclose()
        proxy.cut()
        await until(lambda: quotas._link.pipeline.is_away)
        assert await outcome(quotas) == "StorageUnavailable"
        assert quotas.status().is_failing
