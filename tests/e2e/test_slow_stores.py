"""Gateway processes whose Redis and Postgres are slow, hung or gone: what callers and orchestrators see of it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from pathlib import Path

import httpx

from runpod_emulator import Emulator, EndpointSettings
from runpod_emulator.hosted import HostedModel, HostedSettings
from tests.e2e.gateway import Gateway, command, configure, gateway, variables_of
from tests.servers import PostgresServer, RedisServer, own_redis
from tests.slow_proxy import SlowProxy, slow_proxy
from tests.waiting import until_seen
from vllm_service.storage.keys.sql import new_secret

MODEL = HostedModel(id="m", input_usd=Decimal("0.15"), output_usd=Decimal("0.6"), answer_tokens=2)
ALLOWED = 90
#: A probe must answer in this time, whatever the stores do; here with the time that a busy machine takes.
PROBE_SECONDS = 1.0


@dataclass
class Stores:
    """What a test breaks, and one key of an organisation that may make ALLOWED requests a day."""

    redis: SlowProxy
    postgres: SlowProxy
    server: RedisServer
    secret: str
    variables: dict[str, str]
    directory: Path

    @asynccontextmanager
    async def gateways(self, number: int, **more: str) -> AsyncIterator[list[Gateway]]:
        async with AsyncExitStack() as stack:
            yield [
                await stack.enter_async_context(gateway(self.directory, **self.variables, **more))
                for _ in range(number)
            ]


@asynccontextmanager
async def stores(directory: Path, postgres: PostgresServer) -> AsyncIterator[Stores]:
    async with AsyncExitStack() as stack:
        server = stack.enter_context(own_redis())
        provider = HostedSettings(name="hosted", models=(MODEL,))
        emulator = await stack.enter_async_context(Emulator(EndpointSettings(), None, hosted=[provider]))
        to_redis = await stack.enter_async_context(slow_proxy(server.port))
        to_postgres = await stack.enter_async_context(slow_proxy(postgres.socket))
        price = {"input": 0.15, "output": 0.6, "as_of": "2026-11-21"}
        providers = {"hosted": {"base_url": emulator.hosted_url("hosted"), "prices": {"m": price}}}
        configure(directory, providers, {"m": {"offers": [{"provider": "hosted", "model": "m"}]}})
        database_url = await postgres.emptied()
        told = variables_of(directory, DATABASE_URL=database_url)
        secret = await command("keys", "create", "acme", "--tier", "enterprise", **told)
        await command("keys", "limits", "acme", "--requests-per-day", str(ALLOWED), **told)
        variables = {
            "DATABASE_URL": f"postgresql://postgres@127.0.0.1:{to_postgres.port}/postgres?sslmode=disable",
            "REDIS_URL": f"redis://127.0.0.1:{to_redis.port}/0",
            "REQUIRE_KEYS": "true",
            "REQUESTS_PER_SECOND_PER_IP": "100000",
        }
        yield Stores(to_redis, to_postgres, server, secret, variables, directory)


async def post(client: httpx.AsyncClient, gateway: Gateway, secret: str) -> httpx.Response:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
    headers = {"authorization": f"Bearer {secret}", "x-annotate": "off"}
    return await client.post(f"{gateway.url}/chat/completions", json=body, headers=headers)


async def statuses(client: httpx.AsyncClient, gateways: list[Gateway], secret: str, number: int) -> Counter[int]:
    answers = await asyncio.gather(*(post(client, gateways[n % len(gateways)], secret) for n in range(number)))
    return Counter(answer.status_code for answer in answers)


async def ready(client: httpx.AsyncClient, gateway: Gateway) -> tuple[int, list[str]]:
    began = time.monotonic()
    answer = await client.get(gateway.url.replace("/v1", "/health/ready"))
    assert time.monotonic() - began < PROBE_SECONDS
    return answer.status_code, answer.json()["reasons"]


def caller() -> httpx.AsyncClient:
    return httpx.AsyncClient(trust_env=False, timeout=60, limits=httpx.Limits(max_connections=200))


async def test_redis_at_200_ms_refuses_nobody_and_limits_stay_exact(
    tmp_path: Path, postgres_server: PostgresServer
) -> None:
    async with (
        stores(tmp_path, postgres_server) as shared,
        caller() as client,
        shared.gateways(2, WHEN_REDIS_IS_AWAY="count_alone") as gateways,
    ):
        shared.redis.delay_seconds = 0.2
        assert await statuses(client, gateways, shared.secret, 150) == {200: ALLOWED, 429: 60}
        assert [await ready(client, gateway) for gateway in gateways] == [(200, [])] * 2
        shared.redis.delay_seconds = 0.0


async def test_without_redis_three_processes_admit_one_limit_between_them(
    tmp_path: Path, postgres_server: PostgresServer
) -> None:
    async with (
        stores(tmp_path, postgres_server) as shared,
        caller() as client,
        shared.gateways(3, WHEN_REDIS_IS_AWAY="count_alone") as gateways,
    ):
        before = await statuses(client, gateways, shared.secret, 30)
        assert before == {200: 30}
        redis = shared.server.client()
        await until_seen(lambda: _are_counted(redis, 3))
        await redis.aclose()
        await asyncio.sleep(3)  # three beats, in which each process reads what the others have taken
        shared.server.stop()
        shared.redis.cut()
        for gateway in gateways:
            await until_seen(partial(_is_counting_alone, client, gateway))
        after = await statuses(client, gateways, shared.secret, 300)
        assert set(after) == {200, 429}
        assert ALLOWED <= 30 + after[200] < ALLOWED + 3
        shared.server.start()


async def test_with_refuse_a_redis_that_is_away_is_503_and_not_ready(
    tmp_path: Path, postgres_server: PostgresServer
) -> None:
    async with (
        stores(tmp_path, postgres_server) as shared,
        caller() as client,
        shared.gateways(1) as (one,),
    ):
        assert (await post(client, one, shared.secret)).status_code == 200
        shared.server.stop()
        shared.redis.cut()
        await until_seen(lambda: _is_not_ready(client, one))
        answer = await post(client, one, shared.secret)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "STORAGE_503")
        assert "retry-after" in answer.headers
        assert await ready(client, one) == (503, ["limits cannot be checked, so every request is refused"])


async def test_a_hung_postgres_costs_known_keys_nothing_and_readiness_tells(
    tmp_path: Path, postgres_server: PostgresServer
) -> None:
    async with (
        stores(tmp_path, postgres_server) as shared,
        caller() as client,
        shared.gateways(1) as (one,),
    ):
        assert (await post(client, one, shared.secret)).status_code == 200
        shared.postgres.swallows = True
        await asyncio.sleep(3.1)  # longer than a key is used without a look-up
        for _ in range(5):
            began = time.monotonic()
            assert (await post(client, one, shared.secret)).status_code == 200
            assert time.monotonic() - began < PROBE_SECONDS
        stranger = await post(client, one, new_secret()[1])
        assert (stranger.status_code, stranger.json()["error"]["code"]) == (503, "STORAGE_503")
        assert "retry-after" in stranger.headers
        status, reasons = await ready(client, one)
        assert status == 200
        assert "keys cannot be looked up: those in memory are used on, others are refused" in reasons
        began = time.monotonic()
        await one.stop()
        assert time.monotonic() - began < 20, "SIGTERM waits for no database that hangs"


async def _are_counted(redis: object, number: int) -> bool:
    return await redis.zcard("vllm-service:processes") == number  # type: ignore[attr-defined, no-any-return]


async def _is_counting_alone(client: httpx.AsyncClient, gateway: Gateway) -> bool:
    status, reasons = await ready(client, gateway)
    assert status == 200
    return any("counts alone" in reason for reason in reasons)


async def _is_not_ready(client: httpx.AsyncClient, gateway: Gateway) -> bool:
    return (await ready(client, gateway))[0] == 503
