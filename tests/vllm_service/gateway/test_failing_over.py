"""Providers that fail in every way, behind a real gateway: one answer to each request, nobody stampeded."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from types import MappingProxyType
from typing import Any

import httpx
import pytest

from tests.vllm_service.gateway.asking import HEADERS
from tests.vllm_service.gateway.running import QUICK, Running, catalog_of, running
from vllm_service.domain.requests import Outcome
from vllm_service.resilience.breakers.breaker_settings import BreakerSettings
from vllm_service.resilience.policy import ResiliencePolicy
from vllm_service.testing import (
    DONE,
    GARBAGE,
    HANGS,
    Close,
    ReceivedRequest,
    Reply,
    Script,
    ScriptedProvider,
    begun,
    chat,
    chat_chunk,
    event,
    events,
    refused,
    says,
    whole,
)

FAILURES = 3
SHUT = BreakerSettings(consecutive_failures=FAILURES, open_seconds=3600, longest_open_seconds=3600)
BODY: dict[str, Any] = {"model": "small", "messages": [{"role": "user", "content": "Hi"}]}


DEAD = {"error": {"message": "engine dead"}}
FAILS, CUTS = refused(500), chat("x").cut_at(chat("x").head_size + 1)

answers = says("se", "cond")


def says_error_with_200(request: ReceivedRequest) -> Reply:
    return events(DEAD, DONE) if request.is_stream else whole(DEAD)


def refused_url() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/v1"


@asynccontextmanager
async def gateway_of(
    *scripts: Script | Reply, **settings: Any
) -> AsyncIterator[tuple[Running, list[ScriptedProvider]]]:
    """A gateway before as many providers as there are scripts, in that order."""
    async with AsyncExitStack() as stack:
        upstreams = [await stack.enter_async_context(ScriptedProvider(script)) for script in scripts]
        catalog = catalog_of(*(upstream.url for upstream in upstreams))
        yield await stack.enter_async_context(running(catalog, **settings)), upstreams


async def post(
    gateway: Running, headers: Mapping[str, str] = MappingProxyType({}), *, stream: bool = False
) -> httpx.Response:
    body = {**BODY, "stream": True} if stream else BODY
    return await gateway.http.post(f"{gateway.url}/chat/completions", json=body, headers={**HEADERS, **headers})


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "first", [FAILS, whole(GARBAGE), CUTS, says_error_with_200], ids=["500", "garbage", "cut", "error"]
)
async def test_what_fails_before_its_content_is_answered_by_the_next_place(first: Script | Reply, stream: bool) -> None:
    async with gateway_of(first, answers) as (gateway, (broken, sound)):
        response = await post(gateway, stream=stream)
        row = await gateway.books.row()
    assert response.status_code == 200
    assert response.content.count(b"cond") == 1
    assert (len(broken.requests), len(sound.requests)) == (1, 1)
    assert (row.provider, row.attempts, row.outcome) == ("provider-2", 2, Outcome.COMPLETED)
    tokens = 13 + sum(cut.usage.total_tokens for cut in gateway.books.cuts if cut.usage)
    cost = (row.cost_picousd or 0) + sum(cut.cost_picousd or 0 for cut in gateway.books.cuts)
    assert gateway.books.shares[0].ended == [(tokens, cost)]
    assert [cut.request_id for cut in gateway.books.cuts] == ([f"{row.request_id}/cut"] if first is CUTS else [])


async def test_who_cannot_be_reached_is_passed_over() -> None:
    async with ScriptedProvider(answers) as sound, running(catalog_of(refused_url(), sound.url)) as gateway:
        assert (await post(gateway)).headers["x-provider"] == "provider-2"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:99999/v1", f"http://{'a' * 70}.test/v1", "http:///v1", "http://[::1/v1"]
)
async def test_an_address_that_no_request_can_reach_is_passed_over_like_one_that_is_down(
    url: str, stream: bool
) -> None:
    """The catalog refuses such an address; one that comes from code must not end in a 500."""
    async with ScriptedProvider(answers) as sound, running(catalog_of(url, sound.url)) as gateway:
        for _ in range(2):
            response = await post(gateway, stream=stream)
            assert (response.status_code, response.headers["x-provider"]) == (200, "provider-2")
    async with running(catalog_of(url)) as gateway:
        assert (await post(gateway, stream=stream)).status_code == 503


async def test_the_reason_names_what_failed_before_the_answer() -> None:
    async with gateway_of(FAILS, answers) as (gateway, _):
        response = await post(gateway)
    assert response.headers["x-provider"] == "provider-2"
    assert response.headers["x-route-reason"] == "configured order; provider-1 failed"
    assert gateway.books.rows[-1].route_reason == "configured order; provider-1 failed"


async def test_a_place_that_keeps_failing_is_left_alone_and_the_reason_says_so() -> None:
    async with gateway_of(FAILS, answers, policy=ResiliencePolicy.of(SHUT, retries=QUICK)) as (gateway, (broken, _)):
        responses = [await post(gateway) for _ in range(FAILURES + 4)]
    assert {response.status_code for response in responses} == {200}
    assert len(broken.requests) == FAILURES
    assert responses[-1].headers["x-route-reason"] == "configured order; provider-1 is left alone"
    assert gateway.books.rows[-1].attempts == 1


async def test_when_every_place_is_left_alone_the_caller_is_told_until_when() -> None:
    async with gateway_of(FAILS, policy=ResiliencePolicy.of(SHUT, retries=QUICK)) as (gateway, (broken,)):
        while len(broken.requests) < FAILURES:
            assert (await post(gateway)).status_code == 502
        response = await post(gateway)
        row = gateway.books.rows[-1]
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (503, "CIRCUIT_BREAKER_503")
    assert int(response.headers["retry-after"]) > 3000
    breaker = error["details"]["circuit_breaker"]
    assert (breaker["status"], breaker["failure_count"], breaker["fallback_mode"]) == ("open", FAILURES, "none")
    assert breaker["estimated_recovery_time"] > breaker["last_failure_time"]
    assert breaker["fallback_available"] is False
    assert (row.attempts, row.outcome, row.provider) == (0, Outcome.FAILED, None)
    assert gateway.books.shares[-1].ended == [None]


async def test_attempts_are_bounded_over_all_places() -> None:
    async with gateway_of(FAILS, FAILS, FAILS) as (gateway, upstreams):
        assert (await post(gateway)).status_code == 502
        row = await gateway.books.row()
    assert [len(upstream.requests) for upstream in upstreams] == [2, 1, 1]
    assert row.attempts == 4


async def test_the_callers_own_mistake_is_asked_once() -> None:
    refuses = refused(400, "no such tool", param="tools")
    async with gateway_of(refuses, answers, policy=ResiliencePolicy.of(SHUT, retries=QUICK)) as (gateway, upstreams):
        for _ in range(FAILURES + 1):
            assert (await post(gateway)).status_code == 400
    assert [len(upstream.requests) for upstream in upstreams] == [FAILURES + 1, 0]


async def test_a_place_that_asks_for_a_pause_gets_it() -> None:
    async with gateway_of(refused(429, "slow down", "3000"), answers) as (gateway, (stormy, _)):
        assert {(await post(gateway)).status_code for _ in range(20)} == {200}
    assert len(stormy.requests) == 1


async def test_a_slow_place_leaves_the_next_one_time_to_answer() -> None:
    async with gateway_of(HANGS, answers) as (gateway, (slow, _)):
        response = await post(gateway, {"x-request-timeout-ms": "400"})
        await asyncio.wait_for(slow.was_left.wait(), 10)
    assert response.headers["x-provider"] == "provider-2"


async def test_when_its_time_is_over_the_caller_is_told() -> None:
    async with gateway_of(HANGS) as (gateway, (slow,)):
        response = await post(gateway, {"x-request-timeout-ms": "50"})
        await asyncio.wait_for(slow.was_left.wait(), 10)
        row = await gateway.books.row()
    assert (response.status_code, response.json()["error"]["code"]) == (504, "GATEWAY_TIMEOUT_504")
    assert row.status == 504


@pytest.mark.parametrize("sent", ["0", "-5", "soon", "1.5"])
async def test_a_time_that_is_none_is_refused(sent: str) -> None:
    async with gateway_of(answers) as (gateway, (upstream,)):
        response = await post(gateway, {"x-request-timeout-ms": sent})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "x-request-timeout-ms")
    assert upstream.requests == []


async def test_a_stream_cut_anywhere_is_answered_once_or_broken_off() -> None:
    """Before its first whole event the next place answers, whole; after it nobody else does."""
    first = event(chat_chunk("first"))
    uncut = b": ping\n\n" + first + event(chat_chunk("more"))
    position = 0

    def script(_: ReceivedRequest) -> Reply:
        return begun(*([uncut[:position]] if position else [])).then(Close())

    patient = ResiliencePolicy.of(BreakerSettings(consecutive_failures=10**6, minimum_requests=10**6), retries=QUICK)
    begun_at = uncut.index(first) + len(first)
    async with gateway_of(script, answers, policy=patient) as (gateway, _):
        for position in range(0, len(uncut), 3):
            content = (await post(gateway, stream=True)).content
            if position < begun_at:
                assert b"first" not in content, position
                assert content.endswith(DONE), position
            else:
                assert b"cond" not in content, position
                assert "error" in json.loads(content.split(b"\n\n")[-2].removeprefix(b"data: ")), position
                assert DONE not in content, position


async def test_one_probe_goes_out_when_a_place_may_be_well_again() -> None:
    settings = BreakerSettings(consecutive_failures=1, open_seconds=0.001, successes_to_close=1)
    is_released, has_come = asyncio.Event(), asyncio.Event()

    async def recovers(_: ReceivedRequest) -> Reply:
        if len(flapping.requests) == 1:
            return FAILS
        has_come.set()
        await is_released.wait()
        return chat("first")

    async with gateway_of(recovers, answers, policy=ResiliencePolicy.of(settings, retries=QUICK)) as (gateway, both):
        flapping = both[0]
        await post(gateway)
        probe = asyncio.create_task(_until_probed(gateway, has_come))
        await has_come.wait()
        others = await asyncio.gather(*(post(gateway) for _ in range(20)))
        assert {response.headers["x-provider"] for response in others} == {"provider-2"}
        assert len(flapping.requests) == 2
        is_released.set()
        assert (await probe).headers["x-provider"] == "provider-1"
        assert (await post(gateway)).headers["x-provider"] == "provider-1"


async def _until_probed(gateway: Running, has_come: asyncio.Event) -> httpx.Response:
    while True:
        response = await post(gateway)
        if has_come.is_set():
            return response
