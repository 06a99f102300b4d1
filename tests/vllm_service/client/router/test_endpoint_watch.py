"""LLMRouter and its own endpoint: the router is told of workers, and those that it wants are woken."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace

from tests.vllm_service.client.router.two_places import two
from tests.vllm_service.configured_order import ConfiguredOrder
from tests.waiting import turns, until
from vllm_service import LLMRouter
from vllm_service.catalog.model import Catalog
from vllm_service.domain.plan import ListedWorkers, WorkerTarget
from vllm_service.testing import ReceivedRequest, Reply, ScriptedProvider, refused, says, whole

HEALTH = {"jobs": {"inQueue": 0}, "workers": {"idle": 0, "running": 0, "initializing": 0}}


@asynccontextmanager
async def platform(health: Reply) -> AsyncIterator[tuple[ScriptedProvider, Catalog]]:
    """An own endpoint whose platform can be asked how it does."""

    def reply(request: ReceivedRequest) -> Reply:
        if request.target.endswith("/health"):
            return health
        return whole({"id": "j", "status": "IN_QUEUE"}) if request.target.endswith("/run") else says("own")(request)

    async with two(own=reply) as places:
        own = replace(places.catalog.providers["own"], control_url=places.own.url.removesuffix("/openai/v1"))
        yield places.own, replace(places.catalog, providers={**places.catalog.providers, "own": own})


class Wishing(ConfiguredOrder):
    """A router that wants one worker, and remembers what it was told of them."""

    def __init__(self, catalog: Catalog) -> None:
        super().__init__(catalog)
        self.told: list[tuple[str, Mapping[str, object] | None]] = []
        self.asked = asyncio.Event()

    def observe_health(
        self,
        provider: str,
        health: Mapping[str, object] | None,
        now_seconds: float,
        listed: ListedWorkers | None = None,
    ) -> None:
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
) -> tuple[Wishing, list[ReceivedRequest]]:
    """One request at each of these seconds, and whether that makes it look at the endpoint; what came of it."""
    clock = Clock()
    async with platform(health) as (own, catalog):
        router = Wishing(catalog)
        async with LLMRouter("QUALITY", catalog, router=router, clock=clock) as asked:
            for clock.now, looks in seconds.items():
                looked = len(router.told)
                assert await asked.generate("hi") == "own"
                await until(lambda told=looked + looks: len(router.told) >= told)  # type: ignore[misc]
                await turns(2)  # in which the look that has told it ends: while one is under way, none begins
            if wakes:
                await until(lambda: any(request.target.endswith("/run") for request in own.requests))
    return router, [request for request in own.requests if not request.target.endswith("/completions")]


async def test_the_router_is_told_of_its_workers_and_what_it_wants_is_woken_once() -> None:
    """At most every two seconds, and only while requests come; a wake is one token on the worker's own route."""
    router, asked = await asked_at({0: True, 1: False, 1.5: False, 2: True, 3: False, 4: True}, whole(HEALTH))
    assert router.told == [("own", {"workers": HEALTH["workers"]})] * 3
    assert [request.target.split("/")[-1] for request in asked] == ["health", "run", "health", "health"]
    job = asked[1].json["input"]["openai_input"]
    assert (job["model"], job["max_tokens"]) == ("org/m", 1)


async def test_a_platform_that_does_not_answer_is_asked_less_and_less() -> None:
    seconds: dict[float, bool] = {0: True, 2: False, 3: False, 4: True, 8: False, 11: False}
    router, asked = await asked_at(seconds, refused(500), wakes=False)
    assert {str(told) for _, told in router.told} == {"None"}
    assert [request.target.split("/")[-1] for request in asked] == ["health"] * 2


async def test_a_worker_that_is_there_already_is_kept_from_idling_away() -> None:
    """By the gateway's rule: as long as the router wants it, a job now and then, here the first."""
    there = {"jobs": {"inQueue": 0}, "workers": {"idle": 1}}
    _, asked = await asked_at({0: True}, whole(there))
    assert [request.target.split("/")[-1] for request in asked] == ["health", "run"]


async def test_a_worker_that_is_busy_is_neither_woken_nor_kept() -> None:
    busy = {"jobs": {"inProgress": 1}, "workers": {"running": 1}}
    _, asked = await asked_at({0: True, 2: True, 4: True}, whole(busy), wakes=False)
    assert [request.target.split("/")[-1] for request in asked] == ["health"] * 3


async def test_cost_asks_the_gateways_router() -> None:
    async with platform(whole(HEALTH)) as (_, catalog), LLMRouter("COST", catalog) as router:
        assert await router.generate("hi") == "hosted"
