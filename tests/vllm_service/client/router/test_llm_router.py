"""LLMRouter in process: shares, failing over, breakers, streams; providers are scripted servers on real sockets."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.servers import RedisServer
from tests.vllm_service.client.router.two_places import AT_ONCE, two
from tests.waiting import until
from vllm_service import LLMRouter, RoutingStrategy, ServiceError, StreamBroken, errors
from vllm_service.catalog.model import Catalog
from vllm_service.resilience.breakers.breaker_settings import BreakerSettings
from vllm_service.resilience.breakers.shared import Breakers, SharedBreakers
from vllm_service.storage.coordination.redis import RedisBreakers
from vllm_service.storage.redis_link import RedisLink
from vllm_service.testing import HANGS, RESETS, Close, Pause, Reply, begun, chat_chunk, refused, whole


async def test_nothing_is_sent_that_was_not_given() -> None:
    async with two() as places, LLMRouter("QUALITY", places.catalog) as router:
        await router.generate("hi")
        await router.generate("hi", max_tokens=None, temperature=None, stop=None, max_completion_tokens=7)
        await router.generate("hi", max_tokens=500, temperature=0.7)
    sent = [request.json for request in places.own.requests]
    asked = {"model": "org/m", "messages": [{"role": "user", "content": "hi"}]}
    assert sent == [asked, asked | {"max_completion_tokens": 7}, asked | {"max_tokens": 500, "temperature": 0.7}]


async def test_balanced_sends_eighty_percent_to_the_own_endpoint() -> None:
    async with two() as places, LLMRouter(providers=places.catalog) as router:
        said = Counter([await router.generate("hi") for _ in range(50)])
    assert said == {"own": 40, "hosted": 10}
    assert places.own.requests[0].json["model"] == "org/m"
    assert places.hosted.requests[0].json == {
        "model": "m-8b",
        "messages": [{"role": "user", "content": "hi"}],
    }


async def test_cost_sends_to_the_hosted_provider_while_the_own_endpoint_is_off() -> None:
    async with two() as places, LLMRouter(RoutingStrategy.COST, places.catalog) as router:
        got = await router.complete("hi")
        explained = router.explain("hi")
    assert (got.text, got.provider, got.model) == ("hosted", "hosted", "m-8b")
    assert got.cost_picousd == 13 * 100_000
    assert got.route_reason == explained.plan.reason
    assert [step.provider for step in explained.plan.steps] == ["hosted", "own"]


async def test_explaining_asks_nobody_and_says_where_a_request_would_go() -> None:
    async with two() as places, LLMRouter("QUALITY", places.catalog) as router:
        explained = router.explain("hi")
        assert (explained.model, explained.strategy) == ("m", RoutingStrategy.QUALITY)
        assert [step.provider for step in explained.plan.steps] == ["own", "hosted"]
        assert places.own.requests == places.hosted.requests == []
        assert await router.generate("hi") == "own"


@pytest.mark.parametrize(
    "trouble",
    [refused(503), refused(429, retry_after="0"), refused(401), RESETS, whole(b"garbage")],
    ids=["503", "429", "401", "reset", "garbage"],
)
async def test_a_place_that_fails_is_followed_by_the_next(trouble: Reply) -> None:
    async with two(own=trouble) as places, LLMRouter("QUALITY", places.catalog, retries=AT_ONCE) as router:
        got = await router.complete("hi")
        assert (got.text, got.attempts) == ("hosted", 2)
        assert "".join([text async for text in router.stream("hi")]) == "hosted"


async def test_the_callers_own_mistake_is_told_at_once() -> None:
    async with (
        two(own=refused(400, "bad temperature")) as places,
        LLMRouter("QUALITY", places.catalog) as router,
    ):
        with pytest.raises(errors.InvalidRequest, match="bad temperature"):
            await router.generate("hi")
    assert places.hosted.requests == []


async def test_attempts_are_bounded_and_the_places_left_alone_after_failures() -> None:
    async with (
        two(refused(500), refused(503)) as places,
        LLMRouter("QUALITY", places.catalog, retries=AT_ONCE) as router,
    ):
        for _ in range(6):
            with pytest.raises(errors.ModelUnavailable):
                await router.generate("hi")
    asked = len(places.own.requests) + len(places.hosted.requests)
    assert asked == 2 * 5  # five failures in a row open a breaker


async def test_a_stream_stays_where_it_began() -> None:
    async with (
        two(own=begun(chat_chunk("fo")).then(Close())) as places,
        LLMRouter("QUALITY", places.catalog) as router,
    ):
        reading = router.stream_chat([{"role": "user", "content": "hi"}])
        assert await anext(reading) == "fo"
        with pytest.raises(StreamBroken):
            await anext(reading)
    assert places.hosted.requests == []


async def test_a_stream_tells_who_gave_it() -> None:
    async with two() as places, LLMRouter("QUALITY", places.catalog) as router:
        reading = router.stream("hi")
        assert [text async for text in reading] == ["own"]
        assert (reading.answer.provider, reading.answer.model) == ("own", "org/m")
        assert reading.answer.route_reason


async def test_leaving_a_stream_leaves_its_provider_and_blames_nobody() -> None:
    async with (
        two(own=begun(chat_chunk("fo")).then(Pause(None))) as places,
        LLMRouter("QUALITY", places.catalog) as router,
    ):
        for _ in range(7):
            places.own.was_left.clear()
            async with router.stream("hi") as reading:
                assert await anext(reading) == "fo"
            await asyncio.wait_for(places.own.was_left.wait(), 10)
    assert len(places.own.requests) == 7


async def test_a_place_that_hangs_leaves_time_for_the_next() -> None:
    async with (
        two(own=HANGS) as places,
        LLMRouter("QUALITY", places.catalog, timeout_seconds=1.0) as router,
    ):
        assert "".join([text async for text in router.stream("hi")]) == "hosted"


async def test_nobody_and_unknown_names_are_told() -> None:
    with pytest.raises(errors.ConfigurationError, match=r"strategy: expected one of COST, .*'CHEAPEST'"):
        LLMRouter("CHEAPEST", Catalog({}, {}))
    with pytest.raises(errors.ConfigurationError, match="providers"):
        LLMRouter("COST", Catalog({}, {}))
    async with two() as places, LLMRouter(providers=places.catalog) as router:
        with pytest.raises(ServiceError) as caught:
            await router.generate("hi", "unknown")
    assert caught.value.status == 404


@asynccontextmanager
async def replica(server: RedisServer, catalog: Catalog) -> AsyncIterator[LLMRouter]:
    """A router whose breakers hear of other replicas' through Redis."""
    link = RedisLink(server.url)
    breakers = Breakers(BreakerSettings(consecutive_failures=1))
    shared = SharedBreakers(breakers, RedisBreakers(link), time.monotonic, probe_seconds=10)
    listening = asyncio.create_task(shared.run())
    try:
        async with LLMRouter("QUALITY", catalog, retries=AT_ONCE, breakers=breakers, gatekeeper=shared) as router:
            yield router
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        await link.close()


async def test_replicas_share_what_they_know_of_places_through_redis(redis_server: RedisServer) -> None:
    redis_server.empty()
    async with (
        two(own=refused(500)) as places,
        replica(redis_server, places.catalog) as one,
        replica(redis_server, places.catalog) as other,
    ):
        assert await one.generate("hi") == "hosted"
        assert len(places.own.requests) == 1
        await until(lambda: other.explain("hi").plan.steps[0].provider != "own")
        assert await other.generate("hi") == "hosted"
        assert len(places.own.requests) == 1
