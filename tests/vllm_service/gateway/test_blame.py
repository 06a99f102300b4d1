"""What one organisation's requests meet at a provider is no reason to refuse another one's, nor to be not ready."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from types import MappingProxyType
from typing import Any

import httpx
import pytest

from tests.vllm_service.gateway.running import QUICK, SECRET, Running, catalog_of, running
from vllm_service.domain.keys import ApiKey
from vllm_service.domain.status import Circuit
from vllm_service.resilience.breakers.breaker_settings import BreakerSettings
from vllm_service.resilience.breakers.report import BreakerReport
from vllm_service.resilience.policy import ResiliencePolicy
from vllm_service.testing import (
    CLOSES,
    HANGS,
    RESETS,
    Pause,
    ReceivedRequest,
    Reply,
    ScriptedProvider,
    begun,
    chat,
    chat_chunk,
    refused,
    says,
)

GOOD_SECRET = "sk-of-another-organisation"
SETTINGS = BreakerSettings(open_seconds=3600, longest_open_seconds=3600)
answers = says("sound")
CUTS = chat("x").cut_at(chat("x").head_size + 1)
NOTHING: Mapping[str, str] = MappingProxyType({})


def by_words(request: ReceivedRequest) -> Reply:
    """A sound provider that some bodies break, as every real one."""
    words: dict[str, Reply] = {
        "slow": HANGS,
        "fails": refused(500),
        "unauthorized": refused(401),
        "cut": CUTS,
        "closed": CLOSES,
        "reset": RESETS,
        "throttled": refused(429, "slow down", "3600"),
        "busy": refused(503, "wait", "3600"),
        "proxy": refused(504),
        "garbage": Reply((b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",)),
    }
    return words.get(request.last_text) or answers(request)


async def post(
    gateway: Running, text: str, headers: Mapping[str, str] = NOTHING, *, secret: str = SECRET, stream: bool = False
) -> httpx.Response:
    body: dict[str, Any] = {"model": "small", "messages": [{"role": "user", "content": text}], "stream": stream}
    headers = {"authorization": f"Bearer {secret}", **headers}
    return await gateway.http.post(f"{gateway.url}/chat/completions", json=body, headers=headers)


async def leaves(gateway: Running, provider: ScriptedProvider) -> None:
    sent = len(provider.requests)
    asking = asyncio.create_task(post(gateway, "slow"))
    await provider.until_requests(sent + 1)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)


async def check(attack: Callable[[Running, ScriptedProvider], Awaitable[object]], *, blames: bool) -> None:
    """Attacks thirty times; others are answered all the same. blames: whether the attacker itself is kept away."""
    async with AsyncExitStack() as stack:
        provider = await stack.enter_async_context(ScriptedProvider(by_words))
        policy = ResiliencePolicy.of(SETTINGS, retries=QUICK)
        report = BreakerReport(policy.breakers)
        gateway = await stack.enter_async_context(running(catalog_of(provider.url), policy=policy))
        gateway.books.keys[GOOD_SECRET] = ApiKey("key-2", "another")
        for number in range(30):
            await attack(gateway, provider)
            good = await post(gateway, "hello", secret=GOOD_SECRET) if number % 10 == 9 else None
            assert good is None or good.status_code == 200, good.text
        circuit = report.status().by_provider["provider-1"]
        assert (circuit.circuit, circuit.openings) == (Circuit.CLOSED, 0)
        assert circuit.organisations == blames
        assert (await post(gateway, "hello")).status_code == (503 if blames else 200)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("word", ["slow", "hello"])
async def test_a_callers_deadline_is_no_failure_of_the_provider(word: str, stream: bool) -> None:
    milliseconds = {"slow": "30", "hello": "1"}[word]
    await check(
        lambda gateway, _: post(gateway, word, {"x-request-timeout-ms": milliseconds}, stream=stream), blames=False
    )


async def test_a_caller_who_leaves_blames_no_provider() -> None:
    await check(leaves, blames=False)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "word", ["fails", "unauthorized", "cut", "closed", "reset", "throttled", "busy", "proxy", "garbage"]
)
async def test_what_one_organisations_bodies_provoke_keeps_it_alone_away(word: str, stream: bool) -> None:
    await check(lambda gateway, _: post(gateway, word, stream=stream), blames=True)


async def test_a_stream_that_its_deadline_ends_is_no_failure_of_the_provider() -> None:
    async with AsyncExitStack() as stack:
        provider = await stack.enter_async_context(ScriptedProvider(begun(chat_chunk("first")).then(Pause(None))))
        policy = ResiliencePolicy.of(SETTINGS, retries=QUICK)
        gateway = await stack.enter_async_context(running(catalog_of(provider.url), policy=policy))
        for _ in range(SETTINGS.consecutive_failures + 1):
            response = await post(gateway, "hello", {"x-request-timeout-ms": "300"}, stream=True)
            assert response.status_code == 200
            assert '"error"' in response.text
    assert policy.breakers.of("provider-1", "small-there").is_closed
