"""Ten thousand requests of all kinds: what the quotas were settled with is what the ledger adds up to."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.servers import RedisServer
from tests.vllm_service.gateway.running import QUICK, catalog_of
from tests.vllm_service.storage.use import used
from tests.waiting import until
from vllm_service.domain.keys import ApiKey, OrganisationLimits, Tier
from vllm_service.domain.requests import Outcome
from vllm_service.errors import ServiceError
from vllm_service.gateway.config_snapshot import ConfigSnapshot, CurrentConfig
from vllm_service.gateway.gateway import Gateway
from vllm_service.gateway.operations import CHAT, COMPLETIONS
from vllm_service.http.pool import ConnectionPool
from vllm_service.resilience.hedging import HedgeSettings, Hedging
from vllm_service.resilience.policy import ResiliencePolicy
from vllm_service.routing.from_catalog import make_router
from vllm_service.storage.ledger.reader import GroupBy
from vllm_service.storage.open import Storage, open_database, open_storage
from vllm_service.testing import (
    CLOSES,
    GARBAGE,
    HANGS,
    RESETS,
    ReceivedRequest,
    Reply,
    ScriptedProvider,
    chat_document,
    chat_events,
    completion,
    events,
    refused,
    whole,
)

ORGANISATIONS = [f"org-{number}" for number in range(20)]
USAGES: list[Any] = [
    {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18},
    {"prompt_tokens": 11, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 5}},
    {"total_tokens": 30},
    {"prompt_tokens": [], "completion_tokens": 7},
    {"prompt_tokens": 10**30, "completion_tokens": -5},
    {},
    None,
]


class Provider:
    """Answers in a way that is drawn for each request."""

    def __init__(self, dice: random.Random, slow_share: float) -> None:
        self._dice = dice
        self._slow_share = slow_share

    def __call__(self, request: ReceivedRequest) -> Reply:
        dice = self._dice
        drawn = dice.random()
        if drawn < 0.03:
            return dice.choice([refused(503), refused(429), refused(400), whole(GARBAGE), RESETS, CLOSES, HANGS])
        reply = self._answer(request)
        if drawn < 0.08:
            reply = reply.cut_at(dice.randint(1, reply.size))
        return reply.after(0.01) if dice.random() < self._slow_share else reply

    def _answer(self, request: ReceivedRequest) -> Reply:
        usage = self._dice.choice(USAGES)
        words = ["word "] * self._dice.randint(1, 12)
        if "prompt" in request.json:
            return completion("".join(words), usage)
        if request.is_stream:
            return events(*chat_events(*words, usage=usage))
        return whole(chat_document("".join(words), usage))


class Caller:
    """Makes requests of all kinds: whole, streamed, left early, hedged, repeated, capped."""

    def __init__(self, gateway: Gateway, dice: random.Random) -> None:
        self._gateway = gateway
        self._dice = dice
        self.errors: Counter[str] = Counter()

    async def call(self, number: int) -> None:
        dice = self._dice
        limits = OrganisationLimits(None, None, None, 10**15)
        organisation = dice.choice(ORGANISATIONS)
        key = ApiKey(f"{organisation}-{number % 5}", organisation, Tier.ENTERPRISE, limits)
        text = f"Question {number}" if dice.random() < 0.9 else "Again"
        body: dict[str, Any] = {"model": "small", "messages": [{"role": "user", "content": text}], "max_tokens": 50}
        headers = {"x-cache": "on"} if text == "Again" else {}
        if dice.random() < 0.5:
            headers["x-hedge"] = "on"
        kind = dice.random()
        with contextlib.suppress(asyncio.CancelledError, TimeoutError):
            try:
                if kind < 0.4:
                    await self._read_stream(key, body, headers, leaves=kind < 0.1)
                elif kind < 0.5:
                    prompts = {"model": "small", "prompt": ["a", "b"], "max_tokens": 9}
                    async with asyncio.timeout(1.0):
                        await self._gateway.complete(key, COMPLETIONS, prompts, headers=headers)
                else:
                    patience = dice.uniform(0, 0.02) if kind < 0.6 else 1.0
                    async with asyncio.timeout(patience):
                        await self._gateway.complete(key, CHAT, body, headers=headers)
            except ServiceError as error:
                self.errors[error.code] += 1

    async def _read_stream(self, key: ApiKey, body: dict[str, Any], headers: dict[str, str], *, leaves: bool) -> None:
        pieces = self._dice.randint(0, 6) if leaves else 10**6
        async with self._gateway.stream(key, CHAT, body, headers=headers) as stream:
            async for _ in stream:
                pieces -= 1
                if pieces < 0:
                    return


@asynccontextmanager
async def gateway_on(storage: Storage, dice: random.Random) -> AsyncIterator[Gateway]:
    hedging = Hedging(HedgeSettings(percent=100, delay_seconds=0.003))
    for organisation in ORGANISATIONS:
        hedging.budget_of(organisation).earn(10**12)
    upstream = ConnectionPool()
    providers = Provider(dice, slow_share=0.3), Provider(dice, slow_share=0.1)
    async with ScriptedProvider(providers[0]) as first, ScriptedProvider(providers[1]) as second:
        catalog = catalog_of(first.url, second.url, first_byte_timeout_seconds=1.0, idle_timeout_seconds=1.0)
        yield Gateway(
            config=CurrentConfig(ConfigSnapshot(catalog, make_router(catalog, "QUALITY"))),
            upstream=upstream,
            quotas=storage.quotas,
            recorders=[storage.ledger.record],
            responses=storage.responses,
            policy=ResiliencePolicy.of(retries=QUICK, hedging=hedging),
        )
        await upstream.close()


async def made(gateway: Gateway, dice: random.Random, count: int) -> Caller:
    """Makes so many requests, 40 at a time, each of 40 callers one after another."""
    caller = Caller(gateway, dice)

    async def in_turn(first: int) -> None:
        for number in range(first, count, 40):
            await caller.call(number)

    await asyncio.gather(*(in_turn(first) for first in range(40)))
    return caller


async def booked(storage: Storage) -> dict[str, int]:
    """What the ledger adds up to, by organisation; each kind of end has to be there."""
    rows = await storage.ledger_reader.totals([GroupBy.OUTCOME])
    assert {row.group[0] for row in rows} >= {Outcome.COMPLETED, Outcome.CANCELLED, Outcome.FAILED, Outcome.CACHED}
    rows = await storage.ledger_reader.totals([GroupBy.ORGANISATION])
    return {str(row.group[0]): row.cost_picousd for row in rows}


async def until_written(storage: Storage) -> None:
    await until(lambda: storage.ledger.waiting_rows == 0)


async def test_ten_thousand_requests_settle_what_the_ledger_adds_up_to(tmp_path: Path) -> None:
    dice = random.Random(18)
    async with open_storage(None, None, tmp_path) as storage:
        async with gateway_on(storage, dice) as gateway:
            await made(gateway, dice, 10_000)
        await until_written(storage)
        by_ledger = await booked(storage)
        assert storage.quotas.status().open_reservations == 0
        assert storage.ledger.dropped_rows == 0
    database = await open_database(None, tmp_path)
    saved = await database.fetch("SELECT organisation, picousd FROM quota_use WHERE period = 'month'")
    hedges = await database.fetch("SELECT count(*), sum(cost_picousd) FROM requests WHERE request_id LIKE '%/hedge'")
    implausible = await database.fetch("SELECT count(*) FROM requests WHERE usage_implausible = 1")
    await database.close()
    assert dict(saved) == by_ledger
    assert sum(by_ledger.values()) > 0
    assert hedges[0][0] > 100
    assert hedges[0][1] > 0
    assert implausible[0][0] > 100


async def test_it_is_the_same_with_limits_in_redis(tmp_path: Path, redis_server: RedisServer) -> None:
    redis_server.empty()
    dice = random.Random(19)
    async with open_storage(None, redis_server.url, tmp_path) as storage:
        async with gateway_on(storage, dice) as gateway:
            await made(gateway, dice, 1_500)
        await until_written(storage)
        by_ledger = await booked(storage)

        now = time.time()  # all of them lie in one month, but for a run over its end
        settled = {name: (await used(storage.quotas, name, now)).picousd_this_month for name in by_ledger}
        assert settled == by_ledger
