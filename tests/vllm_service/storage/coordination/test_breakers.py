"""Two replicas on one real Redis: what one finds out the other knows, and one probe goes out of all of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import pytest
import redis.asyncio

from tests.servers import RedisServer, own_redis
from tests.waiting import until_seen
from vllm_service.domain.breakers import BreakerChange, BreakerState
from vllm_service.domain.plan import Step
from vllm_service.resilience.breakers.breaker_settings import BreakerSettings
from vllm_service.resilience.breakers.probes import Admission
from vllm_service.resilience.breakers.shared import Breakers, SharedBreakers
from vllm_service.storage.coordination.memory import MemoryBreakers
from vllm_service.storage.coordination.protocol import BreakerStore
from vllm_service.storage.coordination.redis import RedisBreakers
from vllm_service.storage.redis_link import RedisLink
from vllm_service.storage.redis_pipeline import PipelineBounds

STEP = Step("own", "llama")
# Redis keeps its own time, which no test can set: an hour never passes here, and a millisecond always has.
LONG, SHORT = 3600.0, 0.001


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with own_redis() as server:
        yield server


class Replica:
    """A gateway's breakers, with a clock set by hand and its changes as events to wait for."""

    def __init__(self, store: BreakerStore, open_seconds: float) -> None:
        settings = BreakerSettings(consecutive_failures=2, open_seconds=open_seconds, longest_open_seconds=LONG)
        self.now = 1000.0
        self.breakers = Breakers(settings, self._note)
        self.shared = SharedBreakers(self.breakers, store, lambda: self.now, probe_seconds=60)
        self._told = asyncio.Event()

    def _note(self, change: BreakerChange) -> None:
        self._told.set()

    def state(self) -> BreakerState:
        return self.breakers.of(STEP.provider, STEP.model).state(self.now)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                self._told.clear()
                await self._told.wait()

    async def admitted(self, organisation: str = "") -> Admission:
        # The store counts the pause by its own clock, and may refuse the first claim for a millisecond more.
        async with asyncio.timeout(20):
            while (admission := await self.shared.admit(STEP, organisation)) is None:
                self.now += 1
        return admission

    def succeeds(self, admission: Admission) -> None:
        self.shared.succeeded(STEP, admission, self.now)

    async def fails(self, times: int = 2, organisation: str = "") -> None:
        for _ in range(times):
            self.shared.failed(STEP, await self.admitted(organisation), 500, None, organisation)

    def refuses(self, organisation: str) -> bool:
        return not self.breakers.allows(STEP, self.now, organisation)


@asynccontextmanager
async def running(server: RedisServer, open_seconds: float = LONG) -> AsyncIterator[Replica]:
    client = server.client()
    link = RedisLink(server.url, PipelineBounds(rest_seconds=0.01))
    replica = Replica(RedisBreakers(link, reconnect_seconds=0.01, timeout_seconds=2), open_seconds)
    before = await listening(client)
    task = asyncio.create_task(replica.shared.run())
    try:
        await until_listening(client, before + 1)
        yield replica
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await client.aclose()
        await link.close()


async def listening(client: redis.asyncio.Redis) -> int:
    """How many replicas have subscribed; what is told before that they do not hear."""
    count: int = (await client.pubsub_numsub("vllm_service:breakers:changes"))[0][1]
    return count


async def until_listening(client: redis.asyncio.Redis, replicas: int) -> None:
    async def are_listening() -> bool:
        return await listening(client) >= replicas

    await until_seen(are_listening)


async def test_a_place_that_one_replica_finds_failing_is_left_alone_by_the_other(server: RedisServer) -> None:
    async with running(server) as one, running(server) as two:
        await one.fails()
        assert one.state() is BreakerState.OPEN
        await two.until(lambda: two.state() is BreakerState.OPEN)
        assert await two.shared.admit(STEP) is None
        assert two.breakers.of("own", "llama").failures == 2
        assert two.breakers.of("own", "another").allows(two.now)


async def test_what_one_organisation_meets_at_one_replica_keeps_it_alone_away_from_all(server: RedisServer) -> None:
    async with running(server) as one, running(server) as two:
        await one.fails(organisation="attacker")
        await two.until(lambda: two.refuses("attacker"))
        assert not two.refuses("good")
        assert two.state() is BreakerState.CLOSED
        async with running(server) as later:
            await later.until(lambda: later.refuses("attacker"))
            assert not later.refuses("good")


async def test_a_slow_probe_of_one_organisation_at_one_replica_keeps_no_other_one_from_probing(
    server: RedisServer,
) -> None:
    async with running(server, SHORT) as one, running(server, SHORT) as two:
        await one.fails(organisation="a")
        await one.fails(organisation="b")
        await two.until(lambda: two.state() is not BreakerState.CLOSED)
        for replica in (one, two):
            replica.now += 1
        await one.admitted("attacker")
        assert await two.shared.admit(STEP, "attacker") is None
        good = await two.admitted("good")
        assert await one.shared.admit(STEP, "third") is None, "two probes are out, of all replicas together"
        for admission in (good, None):
            probe = admission or await two.admitted("good")
            two.shared.first_content(STEP, probe, "good")
            await flushed(two)
        await one.until(lambda: one.state() is BreakerState.CLOSED)


async def test_a_replica_that_starts_later_knows_what_is_open(server: RedisServer) -> None:
    async with running(server) as one, running(server) as two:
        await one.fails()
        await two.until(lambda: two.state() is BreakerState.OPEN)  # so it has been published
        async with running(server) as three:
            await three.until(lambda: three.state() is BreakerState.OPEN)


async def test_exactly_one_probe_goes_out_of_all_replicas_and_its_success_is_everybodys(server: RedisServer) -> None:
    async with running(server, SHORT) as one, running(server, SHORT) as two:
        await one.fails()
        await two.until(lambda: two.state() is not BreakerState.CLOSED)
        for replica in (one, two):
            replica.now += 1
        for _ in range(2):
            admissions = await probes(one, two)
            (replica, admission) = next((r, a) for r, a in zip((one, two), admissions, strict=True) if a is not None)
            assert sum(a is not None for a in admissions) == 1
            replica.succeeds(admission)
            await flushed(replica)
        await one.until(lambda: one.state() is BreakerState.CLOSED)
        await two.until(lambda: two.state() is BreakerState.CLOSED)


async def probes(one: Replica, two: Replica) -> list[Admission | None]:
    """Both ask at the same time, until one of them is let by."""
    while True:
        for replica in (one, two):
            replica.now += 1
        answers = await asyncio.gather(one.shared.admit(STEP), two.shared.admit(STEP))
        if any(answers):
            return list(answers)


async def flushed(replica: Replica) -> None:
    """Waits until all that the replica had queued for the store is written: writes keep their order."""
    done = asyncio.Event()

    async def write() -> None:
        done.set()

    replica.shared._writes.put_nowait(write)
    await done.wait()


async def test_while_it_is_open_by_redis_time_nobody_probes_whatever_a_replicas_clock_says(server: RedisServer) -> None:
    async with running(server) as one, running(server) as two:
        await one.fails()
        await two.until(lambda: two.state() is BreakerState.OPEN)
        two.now += 10 * LONG
        assert two.state() is BreakerState.HALF_OPEN
        assert await two.shared.admit(STEP) is None
        assert not two.breakers.allows(STEP, two.now)


async def test_words_that_it_does_not_understand_are_passed_over(server: RedisServer) -> None:
    async with running(server) as one, running(server) as two:
        client = server.client()
        for words in ("", "{", "[]", "7", '{"origin": "x"}', '{"origin": "x", "before": "?", "after": "?"}'):
            await client.publish("vllm_service:breakers:changes", words)
        await client.aclose()
        await one.fails()
        await two.until(lambda: two.state() is BreakerState.OPEN)


async def test_a_cancelled_probe_leaves_the_probe_to_the_other_replica(server: RedisServer) -> None:
    async with running(server, SHORT) as one, running(server, SHORT) as two:
        await one.fails()
        await two.until(lambda: two.state() is not BreakerState.CLOSED)
        one.now += 1
        probe = (await probes(one, one))[0]
        assert probe is not None
        two.now += 1
        assert await two.shared.admit(STEP) is None
        one.shared.cancelled(STEP, probe)
        await flushed(one)
        two.now += 1
        assert (await two.admitted()).is_probe


async def test_without_redis_each_replica_decides_for_itself_and_shares_again_when_it_is_back(
    server: RedisServer,
) -> None:
    async with running(server) as one, running(server) as two:
        server.stop()
        await one.fails()
        assert (one.state(), two.state()) == (BreakerState.OPEN, BreakerState.CLOSED)
        one.now += LONG
        probe = await one.admitted()
        assert probe.is_probe
        assert await one.shared.admit(STEP) is None
        one.succeeds(probe)
        one.succeeds(await one.admitted())
        assert one.state() is BreakerState.CLOSED
        await flushed(one)
        server.start()
        await until_listening(client := server.client(), replicas=2)
        await client.aclose()
        await two.fails()
        await one.until(lambda: one.state() is BreakerState.OPEN)


async def test_who_is_cancelled_while_it_connects_follows_no_more(server: RedisServer) -> None:
    """At any moment: a gateway that is stopped as it starts would never end."""
    for moment in range(40):
        link = RedisLink(server.url)
        following = asyncio.create_task(RedisBreakers(link).follow(lambda change: None))
        for _ in range(moment):
            await asyncio.sleep(0.0002)
        following.cancel()
        ended, _ = await asyncio.wait({following}, timeout=5)
        assert ended, moment
        await link.close()


async def test_a_redis_that_does_not_answer_holds_a_probe_up_only_for_as_long_as_its_patience(
    server: RedisServer,
) -> None:
    link = RedisLink(server.url)
    replica = Replica(RedisBreakers(link, timeout_seconds=0.05), open_seconds=1)
    await replica.fails()
    replica.now += 1
    server.hang()
    try:
        assert (await replica.admitted()).is_probe
    finally:
        server.go_on()
        await link.close()


async def test_without_replicas_the_breaker_alone_decides() -> None:
    replica = Replica(MemoryBreakers(), open_seconds=5)
    await replica.fails()
    replica.now += 5
    assert (await replica.admitted()).is_probe
    assert await replica.shared.admit(STEP) is None
