"""Organisations at one provider's pool, over sockets: a flood of streams delays its own organisation, and no other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from tests.vllm_service.gateway.running import QUICK, Running, catalog_of, running
from vllm_service.catalog.model import OnDisconnect
from vllm_service.domain.breakers import BreakerState
from vllm_service.domain.keys import ApiKey
from vllm_service.resilience.breakers.breaker_settings import BreakerSettings
from vllm_service.resilience.policy import ResiliencePolicy
from vllm_service.testing import Pause, ReceivedRequest, Reply, ScriptedProvider, chat, chat_chunk, events

ROOM = 4
TOUCHY = BreakerSettings(consecutive_failures=1, open_seconds=3600, longest_open_seconds=3600)


@dataclass
class Streaming:
    """A provider whose streams go on until `go_on` is set; whole answers come at once."""

    go_on: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.upstream = ScriptedProvider(self.script)

    def script(self, request: ReceivedRequest) -> Reply:
        if not request.is_stream:
            return chat("at once")
        head, first, *rest = events(chat_chunk("1"), chat_chunk("2")).actions
        return Reply((head, first, Pause(self.go_on), *rest))


@dataclass
class Callers:
    """Two organisations at one gateway."""

    gateway: Running
    provider: Streaming
    policy: ResiliencePolicy

    async def post(self, secret: str, *, stream: bool = False) -> httpx.Response:
        body: dict[str, Any] = {"model": "small", "stream": stream, "messages": [{"role": "user", "content": "Hi"}]}
        headers = {"authorization": f"Bearer {secret}"}
        return await self.gateway.http.post(f"{self.gateway.url}/chat/completions", json=body, headers=headers)

    def flood(self, streams: int) -> list[asyncio.Task[httpx.Response]]:
        return [asyncio.create_task(self.post(f"flood-{number % 2}", stream=True)) for number in range(streams)]

    async def end(self, flood: list[asyncio.Task[httpx.Response]]) -> list[int]:
        self.provider.go_on.set()
        return [response.status_code for response in await asyncio.gather(*flood)]

    @property
    def breaker(self) -> BreakerState:
        return self.policy.breakers.of("provider-1", "small-there").state(self.policy.clock())


@asynccontextmanager
async def callers(*other_providers: ScriptedProvider, **provider: Any) -> AsyncIterator[Callers]:
    streaming = Streaming()
    policy = ResiliencePolicy.of(TOUCHY, retries=QUICK)
    async with AsyncExitStack() as stack:
        upstreams = [await stack.enter_async_context(upstream) for upstream in (streaming.upstream, *other_providers)]
        catalog = catalog_of(*(upstream.url for upstream in upstreams), max_connections=ROOM, **provider)
        gateway = await stack.enter_async_context(running(catalog, policy=policy))
        gateway.books.keys.update(
            {
                "flood-0": ApiKey("key-flood-0", "flood"),
                "flood-1": ApiKey("key-flood-1", "flood"),
                "good": ApiKey("key-good", "good"),
            }
        )
        yield Callers(gateway, streaming, policy)
        streaming.go_on.set()


async def test_streams_of_one_organisation_that_fill_a_pool_leave_another_one_its_turn_at_once() -> None:
    async with callers() as at:
        flood = at.flood(3 * ROOM)
        await at.provider.upstream.until_requests(ROOM - 1)
        for _ in range(20):  # one at a time: each is served while the flood's streams stand still
            response = await at.post("good")
            assert response.status_code == 200
        assert len(at.provider.upstream.requests) == ROOM - 1 + 20
        assert at.breaker is BreakerState.CLOSED
        assert at.provider.upstream.connections <= ROOM
        assert await at.end(flood) == [200] * 3 * ROOM


async def test_without_a_free_connection_the_next_offer_answers_and_the_provider_is_not_blamed() -> None:
    other = ScriptedProvider(chat("elsewhere"))
    async with callers(other, connect_timeout_seconds=0.05) as at:
        flood = at.flood(ROOM - 1)
        await at.provider.upstream.until_requests(ROOM - 1)
        response = await at.post("flood-0")
        assert (response.status_code, response.headers["x-provider"]) == (200, "provider-2")
        assert "provider-1 is busy" in response.headers["x-route-reason"]
        assert at.breaker is BreakerState.CLOSED
        assert await at.end(flood) == [200] * (ROOM - 1)


async def test_without_a_free_connection_anywhere_the_caller_gets_503_with_retry_after_and_nothing_is_blamed() -> None:
    async with callers(connect_timeout_seconds=0.05) as at:
        flood = at.flood(ROOM - 1)
        await at.provider.upstream.until_requests(ROOM - 1)
        for _ in range(5):
            response = await at.post("flood-0")
            assert (response.status_code, response.headers["retry-after"]) == (503, "1")
            error = response.json()["error"]
            assert (error["code"], error["type"]) == ("OVERLOADED_503", "service_unavailable_error")
        assert at.breaker is BreakerState.CLOSED
        assert (await at.post("good")).status_code == 200
        assert await at.end(flood) == [200] * (ROOM - 1)


@pytest.mark.parametrize("treatment", [OnDisconnect.STOP, OnDisconnect.DRAIN])
async def test_a_stream_counts_for_its_organisation_until_its_connection_is_free(treatment: OnDisconnect) -> None:
    """Also one that is drained after its caller has left."""
    async with callers(on_disconnect=treatment, connect_timeout_seconds=0.05) as at:
        flood = at.flood(ROOM - 1)
        await at.provider.upstream.until_requests(ROOM - 1)
        for task in flood:
            task.cancel()
        await asyncio.wait(flood)
        if treatment is OnDisconnect.STOP:
            for number in range(ROOM - 1):
                await at.gateway.books.row(number)
            assert (await at.post("flood-0")).status_code == 200
        else:
            assert (await at.post("flood-0")).status_code == 503
        assert (await at.post("good")).status_code == 200
