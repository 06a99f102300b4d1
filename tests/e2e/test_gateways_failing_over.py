"""Two gateway processes that share a Redis, before providers that fail: what one finds broken both leave alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import httpx
import pytest

from runpod_emulator import Emulator, EndpointSettings
from runpod_emulator.hosted import HostedFaults, HostedModel, HostedSettings
from tests.e2e.gateway import Gateway, configure, gateway
from tests.e2e.process import START_SECONDS
from tests.servers import RedisServer
from tests.waiting import until_seen

FAILURES, TOKENS = 3, 4
MODEL = HostedModel(id="m", input_usd=Decimal("0.15"), output_usd=Decimal("0.6"), answer_tokens=TOKENS)
BODY = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": TOKENS}
VARIABLES = {"BREAKER_FAILURES": str(FAILURES), "BREAKER_OPEN_SECONDS": "3600", "DEFAULT_STRATEGY": "COST"}


@dataclass(frozen=True)
class Pair:
    """Both gateways, and a client."""

    first: Gateway
    second: Gateway
    client: httpx.AsyncClient
    emulator: Emulator

    async def post(self, where: Gateway, **headers: str) -> httpx.Response:
        return await self.client.post(f"{where.url}/chat/completions", json=BODY, headers=headers)

    async def circuit(self, where: Gateway, provider: str) -> str | None:
        document = (await self.client.get(f"{where.url.removesuffix('/v1')}/health")).json()
        breaker = document["circuit_breakers"].get(provider)
        return None if breaker is None else str(breaker["status"])

    async def billed_usd(self, provider: str) -> Decimal:
        address = self.emulator.hosted_url(provider).removesuffix("/v1")
        document = (await self.client.get(f"{address}/bill")).raise_for_status().json()
        return Decimal(str(document["usd"]))

    async def until_open(self, where: Gateway, provider: str) -> None:
        async def is_open() -> bool:
            return await self.circuit(where, provider) == "open"

        await until_seen(is_open, START_SECONDS)


@pytest.fixture
async def pair(tmp_path: Path, redis_server: RedisServer) -> AsyncIterator[Pair]:
    """`cheap` answers nothing but 500, `dear` is well."""
    redis_server.empty()
    cheap = HostedSettings(name="cheap", models=(MODEL,), faults=HostedFaults(error_500_share=1))
    async with AsyncExitStack() as stack:
        emulator = await stack.enter_async_context(
            Emulator(EndpointSettings(), None, hosted=[cheap, HostedSettings(name="dear", models=(MODEL,))])
        )
        providers = {
            name: {
                "base_url": emulator.hosted_url(name),
                "prices": {"m": {"input": price, "output": price, "as_of": "2026-11-21"}},
            }
            for name, price in (("cheap", 0.1), ("dear", 0.2))
        }
        models = {"m": {"offers": [{"provider": name, "model": "m"} for name in ("dear", "cheap")]}}
        both = []
        for name in ("first", "second"):
            configure(tmp_path / name, providers, models)
            running = gateway(tmp_path / name, REDIS_URL=redis_server.url, **VARIABLES)
            both.append(await stack.enter_async_context(running))
        client = await stack.enter_async_context(httpx.AsyncClient(trust_env=False, timeout=60))
        yield Pair(both[0], both[1], client, emulator)


async def test_what_one_replica_finds_failing_the_other_leaves_alone(pair: Pair) -> None:
    for _ in range(FAILURES):
        response = await pair.post(pair.first)
        assert (response.status_code, response.headers["x-provider"]) == (200, "dear")
        assert "left alone" not in response.headers["x-route-reason"]
    await pair.until_open(pair.second, "cheap")
    answers = await asyncio.gather(*(pair.post(pair.second) for _ in range(20)))
    assert {answer.headers["x-provider"] for answer in answers} == {"dear"}
    assert all("cheap is left alone" in answer.headers["x-route-reason"] for answer in answers)


async def test_a_caller_who_wants_only_what_is_left_alone_is_told_so(pair: Pair) -> None:
    for _ in range(FAILURES):
        await pair.post(pair.first)
    await pair.until_open(pair.second, "cheap")
    answer = await pair.post(pair.second, **{"x-route-provider": "cheap"})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (503, "CIRCUIT_BREAKER_503")
    assert error["details"]["circuit_breaker"]["status"] == "open"


async def test_no_provider_is_asked_that_may_cost_more_than_the_cap(pair: Pair) -> None:
    """`dear` would be needed, since `cheap` fails, and is over the cap: the caller is told, nobody is paid."""
    prompt_tokens = len(httpx.Request("POST", "http://x", json=BODY).content) // 4
    cap_usd = 0.15 * (prompt_tokens + TOKENS) / 10**6
    response = await pair.post(pair.first, **{"x-max-cost-usd": f"{cap_usd:.9f}"})
    assert response.status_code == 502
    assert await pair.billed_usd("dear") == 0
    assert (await pair.post(pair.first)).status_code == 200
    assert await pair.billed_usd("dear") > 0
