"""How many requests a key and an organisation may have under way: never more, over any number of replicas."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest

from tests.vllm_service.storage.conftest import Backend
from tests.waiting import until
from vllm_service.domain.keys import CONCURRENT_REQUESTS, ApiKey, OrganisationLimits, Tier
from vllm_service.errors import RateLimited
from vllm_service.storage.protocol import Quotas, Reservation
from vllm_service.storage.quotas.memory import LEASE_SECONDS, MemoryQuotas
from vllm_service.storage.quotas.redis import RedisQuotas
from vllm_service.storage.redis_link import RedisLink
from vllm_service.storage.redis_pipeline import PipelineBounds

NOON = 1_798_718_400.0  # 2026-12-31T12:00Z
KEY = ApiKey("k", "acme")
OF_KEY = CONCURRENT_REQUESTS[Tier.DEVELOPMENT]


def at_once(most: int | None, key_id: str = "k", tier: Tier = Tier.DEVELOPMENT) -> ApiKey:
    return replace(KEY, id=key_id, tier=tier, limits=replace(OrganisationLimits(), concurrent_requests=most))


async def limit_of(quotas: Quotas, key: ApiKey, now: float = NOON) -> tuple[str, int, float | None]:
    with pytest.raises(RateLimited) as caught:
        await quotas.reserve(key, None, 1, 0, now)
    return caught.value.details["limit"], caught.value.details["allowed"], caught.value.retry_after_seconds


@pytest.mark.parametrize(("tier", "most"), [(Tier.DEVELOPMENT, 10), (Tier.PRODUCTION, 100)])
async def test_a_key_has_as_many_as_its_tier_allows_and_not_one_more(quotas: Quotas, tier: Tier, most: int) -> None:
    key = replace(KEY, tier=tier)
    held = [await quotas.reserve(key, None, 1, 0, NOON) for _ in range(most)]
    assert await limit_of(quotas, key) == ("concurrent_requests", most, 1.0)
    await quotas.reserve(replace(key, id="another"), None, 1, 0, NOON)
    await held[0].settle(1, 0)
    await quotas.reserve(key, None, 1, 0, NOON)
    await limit_of(quotas, key)


async def test_the_keys_of_an_organisation_together_have_as_many_as_it_is_allowed(quotas: Quotas) -> None:
    keys = [at_once(7, f"key-{number}") for number in range(3)]
    held = [await quotas.reserve(keys[number % 3], None, 1, 0, NOON) for number in range(7)]
    assert await limit_of(quotas, keys[0]) == ("organisation_concurrent_requests", 7, 1.0)
    await quotas.reserve(replace(KEY, id="stranger", organisation="other"), None, 1, 0, NOON)
    await held[0].release()
    await quotas.reserve(keys[1], None, 1, 0, NOON)


async def test_without_the_organisations_limit_its_keys_have_none_either(quotas: Quotas) -> None:
    for _ in range(3 * OF_KEY):
        await quotas.reserve(at_once(None), None, 1, 0, NOON)


async def test_what_is_refused_takes_nothing(quotas: Quotas) -> None:
    held = [await quotas.reserve(KEY, None, 1, 0, NOON) for _ in range(OF_KEY)]
    for _ in range(5):
        await limit_of(quotas, KEY)
    for reservation in held:
        await reservation.release()
    for _ in range(OF_KEY):
        await quotas.reserve(KEY, None, 1, 0, NOON)


async def test_ending_a_request_twice_makes_no_more_room(quotas: Quotas) -> None:
    held = [await quotas.reserve(KEY, None, 1, 0, NOON) for _ in range(OF_KEY)]
    for _ in range(3):
        await held[0].settle(1, 0)
        await held[0].release()
    await quotas.reserve(KEY, None, 1, 0, NOON)
    await limit_of(quotas, KEY)


async def test_requests_whose_end_never_came_make_room_when_their_lease_is_over(quotas: Quotas) -> None:
    """Their process was killed, or their settlement was lost."""
    for _ in range(OF_KEY):
        await quotas.reserve(KEY, None, 1, 0, NOON)
    await limit_of(quotas, KEY, NOON + LEASE_SECONDS - 1)
    for _ in range(OF_KEY):
        await quotas.reserve(KEY, None, 1, 0, NOON + LEASE_SECONDS + 61)
    await limit_of(quotas, KEY, NOON + LEASE_SECONDS + 61)


@pytest.fixture
async def replicas(backend: Backend) -> AsyncIterator[list[Quotas]]:
    """Two gateways' limits; in memory they are one."""
    if backend.redis_url is None:
        yield [MemoryQuotas()] * 2
        return
    async with AsyncExitStack() as stack:
        links = [RedisLink(backend.redis_url, PipelineBounds(silence_seconds=30)) for _ in range(2)]
        for link in links:
            stack.push_async_callback(link.close)
        yield [RedisQuotas(link) for link in links]


@dataclass
class Crowd:
    """Callers that begin requests at one replica or the other, and end them in every way."""

    replicas: list[Quotas]
    under_way: Counter[str] = field(default_factory=Counter)
    most: Counter[str] = field(default_factory=Counter)
    refused: int = 0

    async def one(self, number: int, key: ApiKey) -> None:
        try:
            reservation = await self.replicas[number % 2].reserve(key, None, 1, 0, NOON)
        except RateLimited:
            self.refused += 1
            return
        for name in (key.id, key.organisation):
            self.under_way[name] += 1
            self.most[name] = max(self.most[name], self.under_way[name])
        try:
            for _ in range(number % 5):
                await asyncio.sleep(0)
        finally:
            for name in (key.id, key.organisation):
                self.under_way[name] -= 1
            await self.end(number, reservation)

    @staticmethod
    async def end(number: int, reservation: Reservation) -> None:
        if number % 3 == 0:
            await reservation.release()
        else:
            await reservation.settle(1, 0)


async def test_a_crowd_at_two_replicas_never_has_more_under_way_than_allowed_and_leaves_nothing_behind(
    replicas: list[Quotas],
) -> None:
    keys = [at_once(15, f"key-{number}", Tier.DEVELOPMENT) for number in range(4)]
    crowd = Crowd(replicas)
    chance = random.Random(4)
    tasks = [asyncio.create_task(crowd.one(number, chance.choice(keys))) for number in range(300)]
    for task in chance.sample(tasks, 40):
        await asyncio.sleep(0)
        task.cancel()  # before, while and after it has reserved
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert not [result for result in results if isinstance(result, Exception)]
    assert crowd.refused > 0
    assert max(crowd.most[key.id] for key in keys) <= OF_KEY
    assert crowd.most["acme"] <= 15
    await _reserved(replicas[0], keys[0], OF_KEY)
    await _reserved(replicas[1], keys[1], 15 - OF_KEY)
    assert (await limit_of(replicas[0], keys[2]))[0] == "organisation_concurrent_requests"


async def _reserved(quotas: Quotas, key: ApiKey, count: int) -> None:
    """Reserves so many. What is given back in the background may be on its way still."""
    async with asyncio.timeout(20):
        while count:
            try:
                await quotas.reserve(key, None, 1, 0, NOON)
                count -= 1
            except RateLimited:
                await asyncio.sleep(0)


async def test_who_leaves_while_reserving_gives_back_what_was_taken_meanwhile(replicas: list[Quotas]) -> None:
    for turns in range(30):
        leaving = asyncio.create_task(replicas[turns % 2].reserve(KEY, None, 1, 0, NOON))
        for _ in range(turns % 6):
            await asyncio.sleep(0)
        leaving.cancel()
        done = (await asyncio.gather(leaving, return_exceptions=True))[0]
        if not isinstance(done, BaseException):
            await done.release()
    await _reserved(replicas[0], KEY, OF_KEY)
    await limit_of(replicas[1], KEY)


class Link:
    """A link to a Redis whose replies come when the test sets them. Stands for RedisLink."""

    def __init__(self) -> None:
        self.replies: dict[str, list[asyncio.Future[Any]]] = {"reserve.lua": [], "end.lua": []}
        self.sent: dict[str, list[list[str | int]]] = {"reserve.lua": [], "end.lua": []}

    def script(self, package: str, name: str) -> Callable[[Sequence[str], list[str | int]], asyncio.Future[Any]]:
        def call(keys: Sequence[str], arguments: list[str | int]) -> asyncio.Future[Any]:
            self.sent[name].append(arguments)
            self.replies[name].append(asyncio.get_running_loop().create_future())
            return self.replies[name][-1]

        return call


@pytest.mark.parametrize("turns", range(4))
async def test_who_leaves_in_the_turns_in_which_the_reply_comes_gives_back_what_was_taken(turns: int) -> None:
    link = Link()
    quotas = RedisQuotas(cast("RedisLink", link))
    leaving = asyncio.create_task(quotas.reserve(KEY, None, 1, 0, NOON))
    await until(lambda: bool(link.replies["reserve.lua"]))
    link.replies["reserve.lua"][0].set_result([1, [1, "1", "1", "1", "0"]])
    for _ in range(turns):
        await asyncio.sleep(0)
    leaving.cancel()
    (done,) = await asyncio.gather(leaving, return_exceptions=True)
    ending = None if isinstance(done, BaseException) else asyncio.create_task(done.release())
    await until(lambda: bool(link.replies["end.lua"]))
    link.replies["end.lua"][0].set_result(1)
    await quotas.close()
    if ending is not None:
        await ending
    assert [arguments[:2] for arguments in link.sent["end.lua"]] == [[link.sent["reserve.lua"][0][2], "release"]]
