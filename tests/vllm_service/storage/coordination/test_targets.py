"""One number of workers, of all replicas: the same in one process's memory and on a real Redis."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

import pytest

from tests.servers import own_redis
from tests.vllm_service.storage.two_gateways import PLACES, two_gateways
from tests.waiting import until
from vllm_service.storage.coordination.memory import MemoryTargets
from vllm_service.storage.coordination.protocol import Targets
from vllm_service.storage.coordination.redis import RedisTargets
from vllm_service.storage.redis_link import RedisLink

HOUR = 3600.0


def in_memory() -> Targets:
    return MemoryTargets()


def on_redis(link: RedisLink) -> Targets:
    return RedisTargets(link, timeout_seconds=5)


@pytest.fixture(params=PLACES)
async def replicas(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Targets, Targets]]:
    """Of two gateways."""
    async with two_gateways(request.param, in_memory, on_redis) as both:
        yield both


async def test_the_highest_that_any_replica_wants_counts(replicas: tuple[Targets, Targets]) -> None:
    one, two = replicas
    assert await one.publish("own", "a", 1, HOUR) == 1
    assert await two.publish("own", "b", 3, HOUR) == 3
    assert await one.publish("own", "a", 0, HOUR) == 3
    assert await two.publish("own", "b", 2, HOUR) == 2
    assert await one.publish("another", "a", 0, HOUR) == 0


async def test_who_stops_is_told_what_the_others_want_and_the_last_that_there_is_nobody(
    replicas: tuple[Targets, Targets],
) -> None:
    one, two = replicas
    await one.publish("own", "a", 3, HOUR)
    await two.publish("own", "b", 0, HOUR)
    await two.publish("another", "b", 5, HOUR)
    assert await one.withdraw("own", "a") == 0
    assert await two.withdraw("own", "b") is None
    assert await two.withdraw("own", "b") is None


async def test_the_word_of_a_replica_that_is_gone_counts_no_longer(replicas: tuple[Targets, Targets]) -> None:
    one, two = replicas
    await one.publish("own", "a", 3, 0.001)
    highest = [await two.publish("own", "b", 1, HOUR) for _ in range(2000)]
    assert highest[-1] == 1
    assert await two.withdraw("own", "b") is None


async def test_without_redis_a_replica_has_its_own_word_says_so_once_and_is_back_with_redis(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    with own_redis() as server:
        links = RedisLink(server.url), RedisLink(server.url)
        one, two = (RedisTargets(link, timeout_seconds=5) for link in links)
        await two.publish("own", "b", 3, HOUR)
        server.stop()
        assert [await one.publish("own", "a", workers, HOUR) for workers in (1, 0)] == [1, 0]
        assert await one.withdraw("own", "a") is None
        assert len(caplog.records) == 1
        server.start()
        await until(lambda: not any(link.pipeline.is_away for link in links))
        await two.publish("own", "b", 2, HOUR)
        assert await one.publish("own", "a", 1, HOUR) == 2
        for link in links:
            await link.close()


@pytest.mark.parametrize("jump", [-1e6, 1e6])
async def test_a_clock_that_jumps_ends_a_word_instead_of_stretching_it(jump: float) -> None:
    now = 0.0
    targets = MemoryTargets(lambda: now)
    await targets.publish("own", "a", 3, HOUR)
    now += jump
    assert await targets.publish("own", "b", 1, HOUR) == 1
