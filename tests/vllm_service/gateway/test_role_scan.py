"""A whole gateway full of canaries: every route, asked in every way with every role, shows what that role may see.

A new route is scanned as soon as it is in the published document.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any, cast

import httpx
import pytest
from msgspec.structs import replace

from tests.vllm_service.api.service import REQUEST, KeyPerRole, dependencies, headers_of, statuses
from tests.vllm_service.gateway.running import Running, running
from vllm_service.api.fastapi_app import make_app
from vllm_service.catalog.model import Catalog, Offer, Provider, ProviderKind, PublicModel
from vllm_service.domain.keys import ApiKey
from vllm_service.domain.pricing import SecondPrice, TokenPrice
from vllm_service.domain.roles import Role
from vllm_service.domain.status import BreakersState, Circuit, LedgerState, ProviderCircuit, WorkersState, WorkerState
from vllm_service.domain.usage import Usage
from vllm_service.http.asgi import Application
from vllm_service.testing import ReceivedRequest, Reply, ScriptedProvider, chat, chat_stream, whole

KEY = "pk-canary-of-the-provider"
OTHERS = "canary-organisation"
#: What no role sees over HTTP.
SECRETS = (KEY, OTHERS, "canary-key-id", "sk-admin", "0.000987")
NAMES = ("canary-hosted", "canary-own", "canary-model")
ADDRESSES = ("canary-endpoint", "api.canary.test")
PRICES = ("0.123457", "0.765431")
TOTALS = ("987654", "4321.5")
STATES = ("canary-refusal", "987321")
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
MESSAGES = [{"role": "user", "content": "Hi"}]
BODIES: tuple[Any, ...] = (
    {"model": "canary-model", "messages": MESSAGES},
    {"model": "canary-model", "messages": MESSAGES, "stream": True},
    {"model": "canary-model", "messages": MESSAGES, "temperature": "hot"},
    {"model": "unknown", "messages": MESSAGES},
    {},
)
#: Headers that lead to other refusals.
WISHES: tuple[dict[str, str], ...] = (
    {},
    {"x-route-tags": "none"},
    {"x-route-provider": "none"},
    {"x-route-strategy": "none"},
    {"x-max-cost-usd": "0.000000000001"},
)


def may_see(role: Role | None) -> tuple[str, ...]:
    """The canaries that are no fault in an answer to this role."""
    if role is None:
        return ()
    if role is Role.CALLER:
        return NAMES
    figures = (*NAMES, *PRICES, *TOTALS, *STATES)
    return figures if role is Role.VIEWER else (*figures, *ADDRESSES)


def catalog(url: str) -> Catalog:
    hosted = Provider("canary-hosted", ProviderKind.HOSTED, url, KEY)
    own = Provider(
        "canary-own",
        ProviderKind.RUNPOD,
        "https://api.canary.test/v2/canary-endpoint/openai/v1",
        KEY,
        control_url="https://api.canary.test/v2/canary-endpoint",
        second_price=SecondPrice.per_second("0.000987"),
    )
    price = TokenPrice.per_million("0.123457", "0.765431")
    offers = (Offer("canary-hosted", "canary-model-there", price), Offer("canary-own", "own"))
    return Catalog({"canary-hosted": hosted, "canary-own": own}, {"canary-model": PublicModel("canary-model", offers)})


def answers(request: ReceivedRequest) -> Reply:
    """A request that is wrong gets an error that repeats the key and the address."""
    if request.is_stream:
        return chat_stream("Hel", "lo")
    if request.json.get("temperature") == "hot":
        return whole({"error": {"message": f"{request.headers['authorization']} at {request.headers['host']}"}}, 400)
    return chat("Hello there")


@asynccontextmanager
async def full_of_canaries() -> AsyncIterator[Running]:
    async with ScriptedProvider(answers) as upstream:
        configured = catalog(upstream.url)
        known = statuses(
            BreakersState({"canary-own": ProviderCircuit(Circuit.HALF_OPEN, failures=987_321)}),
            LedgerState(queued=1, dropped=1, refused=1, refusal="canary-refusal"),
            WorkersState({"canary-own": WorkerState(running=1, idle=2)}),
        )
        service = dependencies(known, catalog=lambda: configured, keys=KeyPerRole())
        usage = Usage(987_654, 20)
        record = replace(REQUEST, organisation=OTHERS, key_id="canary-key-id", model="canary-model", total_ms=4321.5)
        service.measurements.record(replace(record, provider="canary-hosted", usage=usage))
        application = cast("Application", make_app(service))
        async with running(configured, application=application, recorders=[service.measurements.record]) as gateway:
            gateway.books.keys = {f"sk-{role}": ApiKey("k1", "acme", role=role) for role in Role}
            yield gateway


def asked(paths: list[str]) -> Iterator[tuple[str, str, Any, dict[str, str]]]:
    """Every path in every way."""
    for path in paths:
        for method in METHODS:
            yield method, path, None, {}
        for body in BODIES:
            yield "POST", path, body, {}
    for wish in WISHES:
        for path in ("/v1/chat/completions", "/health", "/v1/models"):
            yield "POST" if "chat" in path else "GET", path, BODIES[0] if "chat" in path else None, wish


async def everything_shown(gateway: Running, role: Role | None) -> str:
    address = f"http://127.0.0.1:{gateway.port}"
    async with httpx.AsyncClient(base_url=address, timeout=20, headers=headers_of(role)) as client:
        document = (await client.get("/openapi.json")).json()["paths"]
        paths = [path.replace("{model}", "canary-model") for path in document]
        paths += ["/", "/openapi.json", "/docs", "/redoc", "/nothing", "/v1/models/unknown"]
        paths += ["/metrics/", "//metrics", "/v1/../metrics", "/%6detrics", "/health?x=1"]
        gate = asyncio.Semaphore(8)

        async def shown(method: str, path: str, body: Any, headers: dict[str, str]) -> str:
            async with gate:
                answer = await client.request(method, path, json=body, headers=headers)
            return f"{answer.headers}\n{answer.text}"

        return "\n".join(await asyncio.gather(*(shown(*one) for one in asked(paths))))


@pytest.mark.parametrize("role", [None, *Role])
async def test_a_role_sees_what_it_may_and_nothing_else(role: Role | None) -> None:
    async with full_of_canaries() as gateway:
        shown = await everything_shown(gateway, role)
        hosts = [
            one.base_url.partition("//")[2].partition("/")[0]
            for one in gateway.gateway.config.catalog().providers.values()
        ]
    canaries = (*SECRETS, *NAMES, *ADDRESSES, *PRICES, *TOTALS, *STATES)
    allowed = may_see(role)
    assert [one for one in canaries if one in shown and one not in allowed] == []
    assert [one for one in canaries if one not in shown and one in allowed] == [], "the scan no longer reaches these"
    if ADDRESSES[0] not in allowed:
        assert [host for host in hosts if host in shown] == []
