"""Requests under way, over sockets: the one too many gets 429, and each end of a request makes room for another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import pytest

from tests.vllm_service.gateway.running import SECRET, Running, catalog_of, running
from tests.waiting import until
from vllm_service.catalog.model import OnDisconnect
from vllm_service.domain.keys import ApiKey, OrganisationLimits, Tier
from vllm_service.storage.quotas.memory import MemoryQuotas
from vllm_service.testing import Pause, ReceivedRequest, Reply, ScriptedProvider, chat, chat_chunk, events

AT_ONCE = 3
KEY = ApiKey("key-1", "acme", Tier.ENTERPRISE, OrganisationLimits(concurrent_requests=AT_ONCE))


@asynccontextmanager
async def streaming(
    go_on: asyncio.Event, **provider: Any
) -> AsyncIterator[tuple[Running, MemoryQuotas, ScriptedProvider]]:
    """A gateway to a provider whose streams go on until `go_on` is set."""

    def script(request: ReceivedRequest) -> Reply:
        if not request.is_stream:
            return chat("at once")
        head, first, *rest = events(chat_chunk("1"), chat_chunk("2")).actions
        return Reply((head, first, Pause(go_on), *rest))

    upstream = ScriptedProvider(script)
    quotas = MemoryQuotas(address_limit=1000)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(upstream)
        gateway = await stack.enter_async_context(running(catalog_of(upstream.url, **provider), quotas=quotas))
        gateway.books.keys[SECRET] = KEY
        yield gateway, quotas, upstream
        go_on.set()


async def post(gateway: Running, *, stream: bool = False) -> httpx.Response:
    body = {"model": "small", "stream": stream, "messages": [{"role": "user", "content": "Hi"}]}
    return await gateway.http.post(f"{gateway.url}/chat/completions", json=body)


async def test_one_request_too_many_gets_429_until_another_one_has_ended() -> None:
    go_on = asyncio.Event()
    async with streaming(go_on) as (gateway, quotas, upstream):
        streams = [asyncio.create_task(post(gateway, stream=True)) for _ in range(AT_ONCE)]
        await upstream.until_requests(AT_ONCE)
        refused = await post(gateway)
        error = refused.json()["error"]
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert (error["code"], error["type"]) == ("RATE_LIMIT_429", "rate_limit_error")
        assert error["details"] == {"limit": "organisation_concurrent_requests", "allowed": AT_ONCE}
        go_on.set()
        assert [response.status_code for response in await asyncio.gather(*streams)] == [200] * AT_ONCE
        await until(lambda: quotas.status().open_reservations == 0)
        assert (await post(gateway)).status_code == 200
        assert len(upstream.requests) == AT_ONCE + 1


@pytest.mark.parametrize("treatment", [OnDisconnect.STOP, OnDisconnect.DRAIN])
async def test_a_caller_who_leaves_makes_room_once_the_provider_has_stopped(treatment: OnDisconnect) -> None:
    go_on = asyncio.Event()
    async with streaming(go_on, on_disconnect=treatment) as (gateway, quotas, upstream):
        streams = [asyncio.create_task(post(gateway, stream=True)) for _ in range(AT_ONCE)]
        await upstream.until_requests(AT_ONCE)
        for task in streams:
            task.cancel()
        await asyncio.wait(streams)
        if treatment is OnDisconnect.DRAIN:  # the provider generates on, and is paid for it
            assert (await post(gateway)).status_code == 429
            go_on.set()
        await until(lambda: quotas.status().open_reservations == 0)
        assert (await post(gateway)).status_code == 200
