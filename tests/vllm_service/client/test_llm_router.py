"""LLMRouter in process: shares, failing over, breakers, streams; providers are scripted servers on real sockets."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import pytest

from tests.servers import RedisServer
from tests.vllm_service.client.scripted import (
    DONE,
    HANG,
    RESET,
    Reply,
    Request,
    Scripted,
    answer,
    refused,
    scripted,
    stream,
)
from tests.vllm_service.configured_order import ConfiguredOrder
from vllm_service import LLMRouter, RoutingStrategy, ServiceError, StreamBroken, TokenPrice, errors
from vllm_service.domain.pricing import SecondPrice
from vllm_service.providers.configured import Catalog, Offer, Provider, ProviderKind, PublicModel
from vllm_service.routing.breaker_settings import BreakerSettings
from vllm_service.routing.breakers import Breakers
from vllm_service.routing.fallback import RetrySettings
from vllm_service.routing.plan import WorkerTarget
from vllm_service.routing.shared_breakers import SharedBreakers
from vllm_service.storage.breakers import RedisBreakers

AT_ONCE = RetrySettings(first_wait_seconds=0, jitter_seconds=0)
PRICE = TokenPrice.per_million("0.10", "0.10")


def chat(text: str) -> Reply:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return answer({"choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 2}})


def pieces(*texts: str, then: Reply | None = None) -> Reply:
    """A streamed chat; `then` instead of its end."""
    chunks = [{"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]} for text in texts]
    end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    return stream(*chunks, then=then) if then is not None else stream(*chunks, end, DONE)


def says(name: str) -> Callable[[Request], Reply]:
    return lambda request: pieces(name) if request.body.get("stream") else chat(name)


def always(reply: Reply) -> Callable[[Request], Reply]:
    return lambda request: reply


@dataclass(frozen=True)
class Two:
    """An own endpoint and a hosted provider of one model."""

    own: Scripted
    hosted: Scripted
    catalog: Catalog


@asynccontextmanager
async def two(
    own: Callable[[Request], Reply] | None = None, hosted: Callable[[Request], Reply] | None = None
) -> AsyncIterator[Two]:
    async with scripted(own or says("own")) as one, scripted(hosted or says("hosted")) as other:
        providers = (
            Provider("own", ProviderKind.RUNPOD, one.url, "k", second_price=SecondPrice.per_second("0.00019")),
            Provider("hosted", ProviderKind.HOSTED, other.url, "k"),
        )
        model = PublicModel("m", (Offer("own", "org/m"), Offer("hosted", "m-8b", PRICE)))
        yield Two(one, other, Catalog({provider.name: provider for provider in providers}, {"m": model}))


async def test_balanced_sends_eighty_percent_to_the_own_endpoint() -> None:
    async with two() as places, LLMRouter(providers=places.catalog) as router:
        said = Counter([await router.generate("hi") for _ in range(50)])
    assert said == {"own": 40, "hosted": 10}
    assert places.own.requests[0].body["model"] == "org/m"
    assert places.hosted.requests[0].body == {
        "model": "m-8b",
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 500,
        "temperature": 0.7,
    }


async def test_cost_sends_to_the_hosted_provider_while_the_own_endpoint_is_off() -> None:
    async with two() as places, LLMRouter(RoutingStrategy.COST, places.catalog) as router:
        got = await router.complete("hi")
        explained = router.explain("hi")
    assert (got.text, got.provider, got.model) == ("hosted", "hosted", "m-8b")
    assert got.cost_picousd == 5 * 100_000
    assert got.route_reason == explained.plan.reason
    assert [step.provider for step in explained.plan.steps] == ["hosted", "own"]


HEALTH = {"jobs": {"inQueue": 0}, "workers": {"idle": 0, "running": 0, "initializing": 0}}


@asynccontextmanager
async def platform(health: Reply) -> AsyncIterator[tuple[Scripted, Catalog]]:
    """An own endpoint whose platform can be asked how it does."""

    def reply(request: Request) -> Reply:
        if request.path.endswith("/health"):
            return health
        return answer({"id": "j", "status": "IN_QUEUE"}) if request.path.endswith("/run") else says("own")(request)

    async with two(own=reply) as places:
        own = replace(places.catalog.providers["own"], control_url=places.own.url.removesuffix("/openai/v1"))
        yield places.own, replace(places.catalog, providers={**places.catalog.providers, "own": own})


class Wishing(ConfiguredOrder):
    """A router that wants one worker, and remembers what it was told of them."""

    def __init__(self, catalog: Catalog) -> None:
        super().__init__(catalog)
        self.told: list[tuple[str, Mapping[str, object] | None]] = []
        self.asked = asyncio.Event()

    def observe_health(self, provider: str, health: Mapping[str, object] | None, now_seconds: float) -> None:
        self.told.append((provider, health))

    def worker_targets(self, now_seconds: float) -> tuple[WorkerTarget, ...]:
        self.asked.set()
        return (WorkerTarget("own", 1, "because"),)


class Clock:
    """Moves when it is told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


async def asked_at(
    seconds: Mapping[float, bool], health: Reply, *, wakes: bool = True
) -> tuple[Wishing, list[Request]]:
    """One request at each of these seconds, and whether that makes it look at the endpoint; what came of it."""
    clock = Clock()
    async with platform(health) as (own, catalog):
        router = Wishing(catalog)
        async with LLMRouter("QUALITY", catalog, router=router, clock=clock) as asked:
            for clock.now, looks in seconds.items():
                looked = len(router.told)
                assert await asked.generate("hi") == "own"
                async with asyncio.timeout(10):
                    while looks and len(router.told) == looked:
                        await asyncio.sleep(0.001)
            async with asyncio.timeout(10):
                while wakes and not any(request.path.endswith("/run") for request in own.requests):
                    await asyncio.sleep(0.001)
    return router, [request for request in own.requests if not request.path.endswith("/completions")]


async def test_the_router_is_told_of_its_workers_and_what_it_wants_is_woken_once() -> None:
    """At most every two seconds, and only while requests come; a wake is one token on the worker's own route."""
    router, asked = await asked_at({0: True, 1: False, 1.5: False, 2: True, 3: False, 4: True}, answer(HEALTH))
    assert router.told == [("own", {"workers": HEALTH["workers"]})] * 3
    assert [request.path.split("/")[-1] for request in asked] == ["health", "run", "health", "health"]
    job = asked[1].body["input"]["openai_input"]
    assert (job["model"], job["max_tokens"]) == ("org/m", 1)


async def test_a_platform_that_does_not_answer_is_asked_less_and_less() -> None:
    seconds: dict[float, bool] = {0: True, 2: False, 3: False, 4: True, 8: False, 11: False}
    router, asked = await asked_at(seconds, refused(500), wakes=False)
    assert {str(told) for _, told in router.told} == {"None"}
    assert [request.path.split("/")[-1] for request in asked] == ["health"] * 2


async def test_a_worker_that_is_there_already_is_not_woken() -> None:
    there = {"jobs": {"inQueue": 0}, "workers": {"idle": 1}}
    _, asked = await asked_at({0: True, 2: True, 4: True}, answer(there), wakes=False)
    assert [request.path.split("/")[-1] for request in asked] == ["health"] * 3


async def test_cost_asks_the_gateways_router() -> None:
    async with platform(answer(HEALTH)) as (_, catalog), LLMRouter("COST", catalog) as router:
        assert await router.generate("hi") == "hosted"


async def test_explaining_asks_nobody_and_says_where_a_request_would_go() -> None:
    async with two() as places, LLMRouter("QUALITY", places.catalog) as router:
        explained = router.explain("hi")
        assert (explained.model, explained.strategy) == ("m", RoutingStrategy.QUALITY)
        assert [step.provider for step in explained.plan.steps] == ["own", "hosted"]
        assert places.own.requests == places.hosted.requests == []
        assert await router.generate("hi") == "own"


@pytest.mark.parametrize(
    "trouble",
    [refused(503), refused(429, retry_after="0"), refused(401), [RESET], answer(b"garbage")],
    ids=["503", "429", "401", "reset", "garbage"],
)
async def test_a_place_that_fails_is_followed_by_the_next(trouble: Reply) -> None:
    async with two(own=always(trouble)) as places, LLMRouter("QUALITY", places.catalog, retries=AT_ONCE) as router:
        got = await router.complete("hi")
        assert (got.text, got.attempts) == ("hosted", 2)
        assert "".join([text async for text in router.stream("hi")]) == "hosted"


async def test_the_callers_own_mistake_is_told_at_once() -> None:
    async with (
        two(own=always(refused(400, "bad temperature"))) as places,
        LLMRouter("QUALITY", places.catalog) as router,
    ):
        with pytest.raises(errors.InvalidRequest, match="bad temperature"):
            await router.generate("hi")
    assert places.hosted.requests == []


async def test_attempts_are_bounded_and_the_places_left_alone_after_failures() -> None:
    async with (
        two(always(refused(500)), always(refused(503))) as places,
        LLMRouter("QUALITY", places.catalog, retries=AT_ONCE) as router,
    ):
        for _ in range(6):
            with pytest.raises(errors.ModelUnavailable):
                await router.generate("hi")
    asked = len(places.own.requests) + len(places.hosted.requests)
    assert asked == 2 * 5  # five failures in a row open a breaker


async def test_a_stream_stays_where_it_began() -> None:
    async with (
        two(own=always(pieces("fo", then=[RESET]))) as places,
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
    async with two(own=always(pieces("fo", then=[HANG]))) as places, LLMRouter("QUALITY", places.catalog) as router:
        for _ in range(7):
            places.own.left.clear()
            async with router.stream("hi") as reading:
                assert await anext(reading) == "fo"
            await asyncio.wait_for(places.own.left.wait(), 10)
    assert len(places.own.requests) == 7


async def test_a_place_that_hangs_leaves_time_for_the_next() -> None:
    async with (
        two(own=always([HANG])) as places,
        LLMRouter("QUALITY", places.catalog, timeout_seconds=1.0) as router,
    ):
        assert "".join([text async for text in router.stream("hi")]) == "hosted"


async def test_nobody_and_unknown_names_are_told() -> None:
    with pytest.raises(ValueError, match="CHEAPEST"):
        LLMRouter("CHEAPEST", Catalog({}, {}))
    async with two() as places, LLMRouter(providers=places.catalog) as router:
        with pytest.raises(ServiceError) as caught:
            await router.generate("hi", "unknown")
    assert caught.value.status == 404


@asynccontextmanager
async def replica(server: RedisServer, catalog: Catalog) -> AsyncIterator[LLMRouter]:
    """A router whose breakers hear of other replicas' through Redis."""
    client = server.client()
    breakers = Breakers(BreakerSettings(consecutive_failures=1))
    shared = SharedBreakers(breakers, RedisBreakers(client), time.monotonic, probe_seconds=10)
    listening = asyncio.create_task(shared.run())
    try:
        async with LLMRouter("QUALITY", catalog, retries=AT_ONCE, breakers=breakers, gatekeeper=shared) as router:
            yield router
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        await client.aclose()


async def test_replicas_share_what_they_know_of_places_through_redis(redis_server: RedisServer) -> None:
    redis_server.empty()
    async with (
        two(own=always(refused(500))) as places,
        replica(redis_server, places.catalog) as one,
        replica(redis_server, places.catalog) as other,
    ):
        assert await one.generate("hi") == "hosted"
        assert len(places.own.requests) == 1
        async with asyncio.timeout(10):
            while other.explain("hi").plan.steps[0].provider == "own":
                await asyncio.sleep(0.01)
        assert await other.generate("hi") == "hosted"
        assert len(places.own.requests) == 1
