"""Two gateway processes on one Redis and one Postgres: quotas exact to the request, the ledger what callers counted."""

from __future__ import annotations

import asyncio
import csv
import io
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

import httpx
import pytest

from runpod_emulator import Emulator, EndpointSettings
from runpod_emulator.hosted import HostedModel, HostedSettings
from tests.e2e.gateway import Gateway, command, configure, gateway, variables_of
from tests.servers import PostgresServer, RedisServer
from tests.waiting import until

CALLERS, REQUESTS = 64, 12
ALLOWED = {"acme": 150, "beta": 90, "gamma": 1000}
TOKENS = 8
MODEL = HostedModel(id="m", input_usd=Decimal("0.15"), output_usd=Decimal("0.6"), answer_tokens=TOKENS)


@dataclass(frozen=True)
class Shared:
    """What both gateways stand on; an own database, and keys by organisation."""

    directory: Path
    variables: dict[str, str]
    keys: dict[str, str]
    emulator: Emulator

    async def rows(self) -> list[dict[str, str]]:
        """The ledger, whole."""
        text = await command("ledger", "export", **variables_of(self.directory, **self.variables))
        return list(csv.DictReader(io.StringIO(text)))


@dataclass
class Seen:
    """What the callers counted: answers by status; organisation and tokens, place and time of those completed."""

    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    completed: dict[str, tuple[str, int]] = field(default_factory=dict)
    answered: dict[str, tuple[str, float]] = field(default_factory=dict)
    lost: int = 0


@pytest.fixture
async def shared(tmp_path: Path, redis_server: RedisServer, postgres_server: PostgresServer) -> AsyncIterator[Shared]:
    redis_server.empty()
    provider = HostedSettings(name="hosted", models=(MODEL,), ttft_seconds=0.02)
    async with Emulator(EndpointSettings(), None, hosted=[provider]) as emulator:
        yield await _prepared(tmp_path, redis_server, postgres_server, emulator)


async def _prepared(directory: Path, redis_server: RedisServer, postgres: PostgresServer, emulator: Emulator) -> Shared:
    price = {"input": 0.15, "output": 0.6, "as_of": "2026-11-21"}
    providers = {"hosted": {"base_url": emulator.hosted_url("hosted"), "prices": {"m": price}}}
    configure(directory, providers, {"m": {"offers": [{"provider": "hosted", "model": "m"}]}})
    variables = {
        "DATABASE_URL": await postgres.emptied(),
        "REDIS_URL": redis_server.url,
        "REQUIRE_KEYS": "true",
        "REQUESTS_PER_SECOND_PER_IP": "100000",
    }
    keys = {}
    for organisation, allowed in ALLOWED.items():
        told = variables_of(directory, **variables)
        keys[organisation] = await command("keys", "create", organisation, "--tier", "enterprise", **told)
        await command("keys", "limits", organisation, "--requests-per-day", str(allowed), **told)
    return Shared(directory, variables, keys, emulator)


async def call(client: httpx.AsyncClient, gateways: list[Gateway], shared: Shared, number: int, seen: Seen) -> None:
    """One caller of one organisation, at both gateways in turn."""
    organisation = list(ALLOWED)[number % len(ALLOWED)]
    for turn in range(REQUESTS):
        url = gateways[(number + turn) % len(gateways)].url
        body = {"model": "m", "messages": [{"role": "user", "content": f"{number} {turn}"}], "max_tokens": TOKENS}
        headers = {"authorization": f"Bearer {shared.keys[organisation]}", "x-annotate": "off"}
        try:
            answer = await client.post(f"{url}/chat/completions", json=body, headers=headers)
        except httpx.TransportError:
            seen.lost += 1
            continue
        seen.statuses[organisation, answer.status_code] += 1
        if answer.status_code == 200:
            request_id = answer.headers["x-request-id"]
            seen.completed[request_id] = (organisation, answer.json()["usage"]["total_tokens"])
            seen.answered[request_id] = (url, time.monotonic())


async def everybody(gateways: list[Gateway], shared: Shared, seen: Seen) -> None:
    limits = httpx.Limits(max_connections=CALLERS)
    async with httpx.AsyncClient(trust_env=False, timeout=60, limits=limits) as client:
        await asyncio.gather(*(call(client, gateways, shared, number, seen) for number in range(CALLERS)))


def asked(organisation: str) -> int:
    places = list(ALLOWED)
    return sum(REQUESTS for number in range(CALLERS) if places[number % len(places)] == organisation)


async def test_quotas_are_exact_and_the_ledger_is_what_the_callers_counted(shared: Shared) -> None:
    seen = Seen()
    async with AsyncExitStack() as stack:
        gateways = [await stack.enter_async_context(gateway(shared.directory, **shared.variables)) for _ in "ab"]
        await everybody(gateways, shared, seen)
    for organisation, allowed in ALLOWED.items():
        granted = min(allowed, asked(organisation))
        assert seen.statuses[organisation, 200] == granted
        assert seen.statuses[organisation, 429] == asked(organisation) - granted
    rows = await shared.rows()
    assert len(rows) == CALLERS * REQUESTS
    booked = {
        row["request_id"]: (row["organisation"], int(row["prompt_tokens"]) + int(row["completion_tokens"]))
        for row in rows
        if row["outcome"] == "completed"
    }
    assert booked == seen.completed
    assert {row["outcome"] for row in rows} == {"completed", "rejected"}
    bill = await _bill(shared.emulator)
    assert sum(int(row["cost_picousd"]) for row in rows if row["cost_picousd"]) == bill


async def test_a_killed_gateway_loses_at_most_the_rows_of_its_last_second(shared: Shared) -> None:
    """That its reservations return, and that it is named as lost, takes half a minute: tests/vllm_service/storage."""
    seen = Seen()
    async with AsyncExitStack() as stack:
        survivor = await stack.enter_async_context(gateway(shared.directory, **shared.variables))
        victim = await stack.enter_async_context(gateway(shared.directory, **shared.variables))
        calls = asyncio.create_task(everybody([survivor, victim], shared, seen))
        await until(lambda: len(seen.completed) >= 60)
        killed_at = time.monotonic()
        victim.process.kill()
        await calls
    assert seen.lost
    booked = {row["request_id"] for row in await shared.rows() if row["outcome"] == "completed"}
    missing = seen.completed.keys() - booked
    assert {seen.answered[request_id][0] for request_id in missing} <= {victim.url}
    assert all(killed_at - seen.answered[request_id][1] < 1 for request_id in missing)
    for organisation, allowed in ALLOWED.items():
        assert seen.statuses[organisation, 200] <= allowed


async def _bill(emulator: Emulator) -> int:
    """Pico-dollars that the hosted provider counted."""
    async with httpx.AsyncClient(trust_env=False) as client:
        address = emulator.hosted_url("hosted").removesuffix("/v1")
        document = (await client.get(f"{address}/bill")).raise_for_status().json()
    return int(Decimal(str(document["usd"])) * 10**12)
