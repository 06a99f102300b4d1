"""Providers that flap, and storms of 429s, behind a live gateway: no herd, no second answer, no spend over a cap."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx

from tests.vllm_service.gateway.running import QUICK, SECRET, Running, catalog_of, running
from tests.vllm_service.gateway.test_failing_over import BODY, answers, post
from vllm_service.catalog.model import Catalog
from vllm_service.domain.keys import ApiKey, OrganisationLimits
from vllm_service.domain.pricing import TokenPrice
from vllm_service.resilience.breakers.breaker_settings import BreakerSettings
from vllm_service.resilience.policy import ResiliencePolicy
from vllm_service.storage.quotas.memory import MemoryQuotas
from vllm_service.testing import ReceivedRequest, Reply, ScriptedProvider, chat, refused

FAILURES, CALLERS, ROOM = 3, 30, 4
RETRY_AFTER = "3000"


class Place:
    """A provider that is up, or down; while its requests are held, none of them gets an answer."""

    def __init__(self) -> None:
        self.upstream = ScriptedProvider(self.script)
        self.is_down = False
        self.has_come = asyncio.Event()
        self.goes_on = asyncio.Event()
        self.goes_on.set()
        self.under_way = self.most_under_way = 0

    @property
    def asked(self) -> int:
        return len(self.upstream.requests)

    def hold(self) -> None:
        self.has_come.clear()
        self.goes_on.clear()
        self.most_under_way = 0

    async def script(self, _: ReceivedRequest) -> Reply:
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        self.has_come.set()
        await self.goes_on.wait()
        self.under_way -= 1
        return refused(500) if self.is_down else chat("first")


async def held_probe(gateway: Running, place: Place) -> asyncio.Task[list[httpx.Response]]:
    """Returns when a request is at the place, which holds it; the others that were made went elsewhere."""
    place.hold()

    async def until_one_has_come() -> list[httpx.Response]:
        responses: list[httpx.Response] = []
        while not place.has_come.is_set():
            responses.append(await post(gateway))
        return responses

    task = asyncio.create_task(until_one_has_come())
    await place.has_come.wait()
    return task


async def test_a_place_that_flaps_gets_one_probe_at_a_time_and_fails_nobody() -> None:
    settings = BreakerSettings(
        consecutive_failures=FAILURES, open_seconds=0.01, longest_open_seconds=0.02, successes_to_close=2
    )
    flapping, responses = Place(), list[httpx.Response]()
    over = ResiliencePolicy.of(settings, retries=QUICK)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(flapping.upstream)
        sound = await stack.enter_async_context(ScriptedProvider(answers))
        catalog = catalog_of(flapping.upstream.url, sound.url)
        gateway = await stack.enter_async_context(running(catalog, policy=over))
        for _ in range(4):
            flapping.is_down, asked = True, flapping.asked
            responses += [await post(gateway) for _ in range(FAILURES)]
            assert flapping.asked == asked + FAILURES
            for is_down in (True, True, False, False):  # two probes fail, two succeed and close it
                flapping.is_down, asked = is_down, flapping.asked
                probe = await held_probe(gateway, flapping)
                others = await asyncio.gather(*(post(gateway) for _ in range(20)))
                assert {response.headers["x-provider"] for response in others} == {"provider-2"}
                assert (flapping.asked, flapping.most_under_way) == (asked + 1, 1)
                flapping.goes_on.set()
                responses += [*others, *await probe]
            well = await asyncio.gather(*(post(gateway) for _ in range(20)))
            assert {response.headers["x-provider"] for response in well} == {"provider-1"}
            responses += well
    assert {response.status_code for response in responses} == {200}


class Storm:
    """Answers 429 with Retry-After, to the first `at_once` only when all of them have come."""

    def __init__(self, at_once: int) -> None:
        self.upstream = ScriptedProvider(self.script)
        self.at_once = at_once
        self._all_are_there = asyncio.Event()

    async def script(self, _: ReceivedRequest) -> Reply:
        if len(self.upstream.requests) >= self.at_once:
            self._all_are_there.set()
        await self._all_are_there.wait()
        return refused(429, "slow down", RETRY_AFTER)


class Counting:
    """A provider that is well, and counts how many it answers at the same time: the first few come together."""

    def __init__(self, at_once: int) -> None:
        self.upstream = ScriptedProvider(self.script)
        self.at_once = at_once
        self.under_way = self.most_under_way = 0
        self._they_are_there = asyncio.Event()

    async def script(self, _: ReceivedRequest) -> Reply:
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        if self.under_way == self.at_once:
            self._they_are_there.set()
        await self._they_are_there.wait()
        self.under_way -= 1
        return chat("second")


def with_room(catalog: Catalog, name: str, connections: int) -> Catalog:
    provider = dataclasses.replace(catalog.providers[name], max_connections=connections)
    return Catalog({**catalog.providers, name: provider}, catalog.models)


@asynccontextmanager
async def stormy(**settings: Any) -> AsyncIterator[tuple[Running, Storm, Counting]]:
    storm, sound = Storm(CALLERS), Counting(ROOM)
    async with storm.upstream, sound.upstream:
        # One connection more than all callers use: they are one organisation, which leaves it to others.
        catalog = with_room(catalog_of(storm.upstream.url, sound.upstream.url), "provider-2", ROOM + 1)
        async with running(catalog, **settings) as gateway:
            yield gateway, storm, sound


async def test_a_storm_of_429s_sends_no_herd_to_the_next_place_and_each_is_answered_once() -> None:
    async with stormy() as (gateway, storm, sound):
        first = await asyncio.gather(*(post(gateway) for _ in range(CALLERS)))
        assert len(storm.upstream.requests) == CALLERS
        later = await asyncio.gather(*(post(gateway) for _ in range(CALLERS)))
        rows = [await gateway.books.row(number) for number in range(2 * CALLERS)]
    assert len(storm.upstream.requests) == CALLERS  # it asked to be left alone, and was
    assert (sound.most_under_way, sound.upstream.connections) == (ROOM, ROOM)
    assert len(sound.upstream.requests) == 2 * CALLERS
    for response in (*first, *later):
        assert (response.status_code, response.headers["x-provider"]) == (200, "provider-2")
        assert response.content.count(b"second") == 1
    cost = rows[0].cost_picousd
    assert all((row.provider, row.cost_picousd) == ("provider-2", cost) for row in rows)
    assert sorted(row.attempts for row in rows) == [1] * CALLERS + [2] * CALLERS
    assert [share.ended for share in gateway.books.shares] == [[(13, cost)]] * (2 * CALLERS)


async def test_in_a_storm_an_organisation_never_spends_more_than_its_dollars() -> None:
    """Reserved is the dearest that a request may become; what two places say of it is booked once."""
    body = {**BODY, "max_tokens": 3}
    reserved = len(httpx.Request("POST", "http://x", json=body).content) // 4 * 100_000 + 3 * 200_000
    cap = 5 * reserved
    quotas = MemoryQuotas(address_limit=1000)
    key = ApiKey("key-1", "acme", limits=OrganisationLimits(None, None, None, cap))
    async with stormy(quotas=quotas) as (gateway, storm, sound):
        gateway.books.keys[SECRET] = key
        storm.at_once = sound.at_once = 1
        responses: list[httpx.Response] = []
        for _ in range(4):
            posts = (gateway.http.post(f"{gateway.url}/chat/completions", json=body) for _ in range(CALLERS))
            responses += await asyncio.gather(*posts)
        rows = [await gateway.books.row(number) for number in range(4 * CALLERS)]
        spent = sum(row.cost_picousd or 0 for row in rows)
        _, month = quotas.periods.at("acme", time.time())
    good = [response for response in responses if response.status_code == 200]
    assert {response.status_code for response in responses} == {200, 429}
    assert len(sound.upstream.requests) == len(good) > 0
    assert spent == month.picousd
    assert cap - reserved < spent <= cap


async def test_a_request_with_a_cap_is_not_sent_where_a_storm_would_drive_it() -> None:
    storm, sound = Storm(1), Counting(1)
    async with storm.upstream, sound.upstream:
        catalog = catalog_of(storm.upstream.url, sound.upstream.url)
        model = catalog.models["small"]
        cheap, dear = model.offers
        offers = (cheap, dataclasses.replace(dear, price=TokenPrice.per_million("10", "20")))
        catalog = Catalog(catalog.providers, {"small": dataclasses.replace(model, offers=offers)})
        async with running(catalog, router_costs=True) as gateway:
            body = {**BODY, "max_tokens": 3}
            for _ in range(CALLERS):
                headers = {"x-max-cost-usd": "0.0000045"}
                response = await gateway.http.post(f"{gateway.url}/chat/completions", json=body, headers=headers)
                assert response.status_code in (429, 503)
                assert int(response.headers["retry-after"]) > 2900
    assert len(storm.upstream.requests) == 1
    assert sound.upstream.requests == []
