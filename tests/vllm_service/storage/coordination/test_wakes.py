"""One wake per endpoint, of all replicas: the same on one replica's memory and on a real Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.servers import own_redis
from tests.vllm_service.storage.two_gateways import PLACES, two_gateways
from tests.waiting import until_seen
from vllm_service.storage.coordination.memory import MemoryWakes
from vllm_service.storage.coordination.protocol import Wakes
from vllm_service.storage.coordination.redis import RedisWakes
from vllm_service.storage.redis_link import RedisLink

HOUR = 3600.0


def in_memory() -> Wakes:
    return MemoryWakes()


def on_redis(link: RedisLink) -> Wakes:
    return RedisWakes(link, timeout_seconds=5)


@pytest.fixture(params=PLACES)
async def replicas(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Wakes, Wakes]]:
    """Of two gateways."""
    async with two_gateways(request.param, in_memory, on_redis) as both:
        yield both


async def test_of_many_who_want_an_endpoint_woken_one_wakes_it(replicas: tuple[Wakes, Wakes]) -> None:
    claims = await asyncio.gather(*(replicas[number % 2].claim("own", HOUR) for number in range(50)))
    assert claims.count(True) == 1
    assert await replicas[0].claim("another", HOUR)


async def test_once_cleared_it_may_be_woken_again_by_either(replicas: tuple[Wakes, Wakes]) -> None:
    one, two = replicas
    assert await one.claim("own", HOUR)
    await one.clear("own")
    assert await two.claim("own", HOUR)
    assert not await one.claim("own", HOUR)


async def test_a_wake_that_failed_may_be_tried_again_soon(replicas: tuple[Wakes, Wakes]) -> None:
    one, two = replicas
    assert await one.claim("own", HOUR)
    await one.shorten("own", 0.0)
    await until_seen(lambda: two.claim("own", HOUR))


async def test_shortening_never_prolongs(replicas: tuple[Wakes, Wakes]) -> None:
    one, two = replicas
    assert await one.claim("own", 0.001)
    await one.shorten("own", HOUR)
    await until_seen(lambda: two.claim("own", HOUR))


async def test_without_redis_a_replica_wakes_for_itself_once() -> None:
    with own_redis() as server:
        link = RedisLink(server.url)
        server.stop()
        wakes = RedisWakes(link, timeout_seconds=5)
        assert [await wakes.claim("own", HOUR) for _ in range(3)] == [True, False, False]
        await wakes.shorten("own", HOUR / 2)
        await wakes.clear("own")
        assert await wakes.claim("own", HOUR)
        await link.close()


@pytest.mark.parametrize("jump", [-1e6, 1e6])
async def test_a_clock_that_jumps_ends_a_lease_instead_of_stretching_it(jump: float) -> None:
    now = 0.0
    wakes = MemoryWakes(lambda: now)
    assert await wakes.claim("own", HOUR)
    now += jump
    assert await wakes.claim("own", HOUR)
    assert not await wakes.claim("own", HOUR)
