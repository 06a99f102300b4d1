"""The two doors to the same driver: the gateway over a real socket, and LLMRouter in process. Both give a Verdict."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import httpx

from tests.vllm_service.gateway.running import QUICK, SECRET, Running, running
from vllm_service import LLMRouter
from vllm_service.catalog.model import Catalog, Offer, OnDisconnect, Provider, ProviderKind, PublicModel
from vllm_service.client.streams import TextStream
from vllm_service.domain.breakers import BreakerState
from vllm_service.domain.plan import Step
from vllm_service.domain.pricing import TokenPrice
from vllm_service.domain.requests import Outcome
from vllm_service.errors import ServiceError
from vllm_service.resilience.breakers.breaker_settings import BreakerSettings
from vllm_service.resilience.hedging import HedgeSettings, Hedging
from vllm_service.resilience.policy import ResiliencePolicy
from vllm_service.resilience.retry_schedule import DeadlineSettings
from vllm_service.routing.from_catalog import make_router
from vllm_service.routing.router import CostRouter
from vllm_service.testing import Reply, Script, ScriptedProvider

MODEL, PROMPT = "small", "Hi"
PATIENT = BreakerSettings(consecutive_failures=10**6, minimum_requests=10**6)
TOUCHY = BreakerSettings(consecutive_failures=2, open_seconds=3600, longest_open_seconds=3600)


@dataclass(frozen=True)
class Verdict:
    """What the caller gets, and from where.

    outcome: answered, refused (an error instead of an answer), broken (an error after some text), left (by the caller).
    provider: the last that was asked; None where none was. attempts: only of what was answered.
    """

    outcome: str
    status: int
    code: str | None = None
    provider: str | None = None
    text: str = ""
    attempts: int | None = None


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How providers, breakers and hedges are set up. offers_of_one: all offers are the first provider's."""

    breakers: BreakerSettings = PATIENT
    deadline_seconds: float = 30.0
    first_byte_seconds: float = 30.0
    idle_seconds: float = 30.0
    hedge_after_seconds: float | None = None
    offers_of_one: int = 0
    on_disconnect: OnDisconnect = OnDisconnect.STOP
    attempts_per_offer: int = 2


class Door(Protocol):
    """One way in."""

    async def ask(self, *, stream: bool) -> Verdict:
        """One request, to its end."""
        ...


@dataclass
class World:
    """Providers, a door to them, and what both know."""

    door: Door
    providers: list[ScriptedProvider]
    router: CostRouter
    policy: ResiliencePolicy
    #: Whose requests come through the door.
    organisation: str = ""

    @property
    def requests(self) -> tuple[int, ...]:
        """How many have come to each provider."""
        return tuple(len(provider.requests) for provider in self.providers)

    @property
    def in_flight(self) -> int:
        """What the router holds for open."""
        return sum(candidate.in_flight for candidate in self.router._routes[MODEL].candidates)

    @property
    def breaker_states(self) -> tuple[BreakerState, ...]:
        """Of every offer, in the order of the catalog, as they are for this door's requests."""
        breakers, now = self.policy.breakers, self.policy.clock()
        return tuple(
            breakers.for_organisation(Step(candidate.name, candidate.model), self.organisation, now).state(now)
            for candidate in self.router._routes[MODEL].candidates
        )


def catalog_of(urls: Sequence[str], setting: Setting) -> Catalog:
    price = TokenPrice.per_million("0.10", "0.20")
    names = [f"provider-{number}" for number in range(1, len(urls) + 1)]
    providers = {
        name: Provider(
            name,
            ProviderKind.HOSTED,
            url,
            "key",
            first_byte_timeout_seconds=setting.first_byte_seconds,
            idle_timeout_seconds=setting.idle_seconds,
            on_disconnect=setting.on_disconnect,
        )
        for name, url in zip(names, urls, strict=True)
    }
    offers = [Offer(name, "small-there", price) for name in names]
    if setting.offers_of_one:
        offers = [Offer(names[0], f"small-{number}", price) for number in range(1, setting.offers_of_one + 1)]
    return Catalog(providers, {MODEL: PublicModel(MODEL, tuple(offers))})


def policy_of(setting: Setting) -> ResiliencePolicy:
    hedging = None
    if setting.hedge_after_seconds is not None:
        hedging = Hedging(HedgeSettings(percent=100, delay_seconds=setting.hedge_after_seconds), is_on=True)
        for organisation in ("", "acme"):
            hedging.budget_of(organisation).earn(10**12)
    seconds = setting.deadline_seconds
    deadlines = DeadlineSettings(default_seconds=seconds, longest_seconds=seconds)
    retries = replace(QUICK, attempts_per_offer=setting.attempts_per_offer)
    return ResiliencePolicy.of(setting.breakers, None, retries, deadlines, hedging)


def refused_url() -> str:
    """Where nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/v1"


@dataclass
class GatewayDoor:
    """HTTP in, HTTP out."""

    gateway: Running
    asked: int = field(default=0)

    async def ask(self, *, stream: bool) -> Verdict:
        number, self.asked = self.asked, self.asked + 1
        try:
            status, text, error = await self._answer(stream=stream)
        except asyncio.CancelledError:
            row = await self.gateway.books.row(number)
            assert row.outcome is Outcome.CANCELLED
            return Verdict("left", 499)
        row = await self.gateway.books.row(number)
        if error is None:
            assert row.outcome is Outcome.COMPLETED
            return Verdict("answered", status, None, row.provider, text, row.attempts)
        assert (row.outcome, row.error_code) == (Outcome.FAILED, error["code"])
        return Verdict("broken" if status == 200 else "refused", status, error["code"], row.provider, text)

    async def _answer(self, *, stream: bool) -> tuple[int, str, Any]:
        body = {"model": MODEL, "messages": [{"role": "user", "content": PROMPT}], "stream": stream}
        url, headers = f"{self.gateway.url}/chat/completions", {"authorization": f"Bearer {SECRET}"}
        async with self.gateway.http.stream("POST", url, json=body, headers=headers) as response:
            content = await response.aread()
        return _read(response, content, stream=stream)


def _read(response: httpx.Response, content: bytes, *, stream: bool) -> tuple[int, str, Any]:
    if response.status_code != 200:
        return response.status_code, "", json.loads(content)["error"]
    if not stream:
        return 200, json.loads(content)["choices"][0]["message"]["content"], None
    documents = [json.loads(line[6:]) for line in content.splitlines() if line.startswith(b"data: {")]
    text = "".join(
        choice["delta"].get("content", "") for document in documents for choice in document.get("choices", ())
    )
    errors = [document["error"] for document in documents if "error" in document]
    assert bool(errors) != content.rstrip().endswith(b"[DONE]"), "a stream ends in [DONE] or in an error"
    return 200, text, errors[0] if errors else None


@dataclass
class RouterDoor:
    """Calls in, texts and exceptions out. A stream that breaks has status 200 through the other door: here too."""

    router: LLMRouter

    async def ask(self, *, stream: bool) -> Verdict:
        said: list[str] = []
        try:
            if stream:
                reading: TextStream = self.router.stream(PROMPT)
                async with reading:
                    async for text in reading:
                        said.append(text)
                answer = reading.answer
            else:
                answer = await self.router.complete(PROMPT)
                said.append(answer.text)
        except ServiceError as error:
            provider = error.endpoint or None
            if said:
                return Verdict("broken", 200, error.code, provider, "".join(said))
            return Verdict("refused", error.status, error.code, provider)
        except asyncio.CancelledError:
            return Verdict("left", 499)
        return Verdict("answered", 200, None, answer.provider, answer.text, answer.attempts)


Replies = Sequence[Script | Reply | None]
Opens = Callable[[Callable[[], Replies], Setting], Any]


@asynccontextmanager
async def gateway_door(scripts: Callable[[], Replies], setting: Setting) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        providers, catalog = await _provide(stack, scripts(), setting)
        router, policy = make_router(catalog, "QUALITY"), policy_of(setting)
        gateway = await stack.enter_async_context(running(catalog, policy=policy, router=router))
        yield World(GatewayDoor(gateway), providers, router, policy, "acme")


@asynccontextmanager
async def router_door(scripts: Callable[[], Replies], setting: Setting) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        providers, catalog = await _provide(stack, scripts(), setting)
        router, policy = make_router(catalog, "QUALITY"), policy_of(setting)
        client = LLMRouter(
            "QUALITY",
            catalog,
            router=router,
            breakers=policy.breakers,
            gatekeeper=policy.shared,
            retries=policy.retries,
            hedging=policy.hedging,
            timeout_seconds=setting.deadline_seconds,
        )
        yield World(RouterDoor(await stack.enter_async_context(client)), providers, router, policy)


DOORS: dict[str, Opens] = {"gateway": gateway_door, "LLMRouter": router_door}


async def _provide(stack: AsyncExitStack, scripts: Replies, setting: Setting) -> tuple[list[ScriptedProvider], Catalog]:
    """A script of None is a provider that cannot be reached."""
    providers = [ScriptedProvider(script) if script is not None else None for script in scripts]
    urls = [
        refused_url() if provider is None else (await stack.enter_async_context(provider)).url for provider in providers
    ]
    return [provider for provider in providers if provider is not None], catalog_of(urls, setting)


async def leaving(world: World, when: Awaitable[object], *, stream: bool) -> Verdict:
    """A caller who leaves when `when` has come."""
    asking = asyncio.create_task(world.door.ask(stream=stream))
    await when
    asking.cancel()
    return await asking
