"""Requests that are sent to a second place when the first is slow: who answers, what is booked, who is stopped."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from tests.vllm_service.gateway.asking import HEADERS
from tests.vllm_service.gateway.running import QUICK, Running, catalog_of, running
from tests.vllm_service.gateway.test_failing_over import BODY, Script, answers, gateway_of, hangs, post
from tests.vllm_service.upstream import Asked, ScriptedUpstream, chunk, completion, event
from vllm_service.catalog.model import Catalog, OnDisconnect
from vllm_service.domain.requests import Outcome
from vllm_service.resilience.hedging import HedgeSettings, Hedging
from vllm_service.resilience.policy import ResiliencePolicy


async def test_a_second_place_is_asked_when_the_first_is_slow_and_the_loser_is_booked() -> None:
    hedging = Hedging(HedgeSettings(percent=100, delay_seconds=0.01))
    hedging.budget.earn(10**12)
    over = ResiliencePolicy.of(retries=QUICK, hedging=hedging)
    async with gateway_of(hangs, answers, policy=over, router_costs=True) as (gateway, (slow, _)):
        response = await post(gateway, {"x-hedge": "on"})
        await asyncio.wait_for(slow.left.wait(), 10)
        row, loss = await gateway.books.row(0), await gateway.books.row(1)
    assert response.headers["x-provider"] == "provider-2"
    assert (row.provider, row.attempts) == ("provider-2", 2)
    assert (loss.request_id, loss.provider, loss.outcome) == (
        f"{row.request_id}/hedge",
        "provider-1",
        Outcome.CANCELLED,
    )
    assert loss.cost_picousd
    assert loss.usage is not None
    assert loss.usage.estimated
    assert gateway.books.shares[0].ended == [(13, (row.cost_picousd or 0) + loss.cost_picousd)]


@pytest.mark.parametrize("headers", [{}, {"x-hedge": "off"}, {"x-hedge": "on", "x-max-cost-usd": "1"}])
async def test_nobody_is_hedged_who_did_not_ask_or_has_a_cap(headers: dict[str, str]) -> None:
    is_released = asyncio.Event()

    async def waits(asked: Asked) -> None:
        await is_released.wait()
        await asked.json(completion())

    hedging = Hedging(HedgeSettings(percent=100, delay_seconds=0.001))
    hedging.budget.earn(10**12)
    over = ResiliencePolicy.of(retries=QUICK, hedging=hedging)
    async with gateway_of(waits, answers, policy=over, router_costs=True) as (gateway, (first, second)):
        call = asyncio.create_task(post(gateway, headers))
        while not first.asked:
            await asyncio.sleep(0)
        for _ in range(20):
            await asyncio.sleep(0.001)
        is_released.set()
        assert (await call).headers["x-provider"] == "provider-1"
    assert second.asked == []


@asynccontextmanager
async def hedged_at_once(
    first: Script, second: Script, delay_seconds: float, when_left: Sequence[OnDisconnect] = ()
) -> AsyncIterator[tuple[Running, list[ScriptedUpstream]]]:
    """Both places are asked, the second after the delay. when_left: the places' on_disconnect."""
    hedging = Hedging(HedgeSettings(percent=100, delay_seconds=delay_seconds))
    hedging.budget.earn(10**12)
    over = ResiliencePolicy.of(retries=QUICK, hedging=hedging)
    async with ScriptedUpstream(first) as one, ScriptedUpstream(second) as two:
        catalog = catalog_of(one.url, two.url)
        for name, wished in zip(catalog.providers, when_left, strict=False):
            changed = replace(catalog.providers[name], on_disconnect=wished)
            catalog = Catalog({**catalog.providers, name: changed}, catalog.models)
        async with running(catalog, policy=over, router_costs=True) as gateway:
            yield gateway, [one, two]


async def test_the_row_of_a_hedged_request_is_about_the_place_that_answered() -> None:
    """The first answers after the second was asked, half a second later: the request was sent before that."""
    delay_seconds, is_asked = 0.5, asyncio.Event()

    async def late(asked: Asked) -> None:
        await is_asked.wait()
        await answers(asked)

    async def too_late(_: Asked) -> None:
        is_asked.set()
        await asyncio.Event().wait()

    async with hedged_at_once(late, too_late, delay_seconds) as (gateway, _):
        await post(gateway, {"x-hedge": "on"})
        row = await gateway.books.row()
    assert (row.provider, row.attempts) == ("provider-1", 2)
    assert row.queue_ms is not None
    assert row.queue_ms < delay_seconds * 1000


async def test_a_caller_who_leaves_stops_the_place_that_answers_whatever_was_asked_besides() -> None:
    is_asked = asyncio.Event()

    async def late(asked: Asked) -> None:
        await is_asked.wait()
        await asked.begin()
        await asked.chunk(event(chunk("first")))
        await asyncio.Event().wait()

    async def drained(_: Asked) -> None:
        is_asked.set()
        await asyncio.Event().wait()

    when_left = OnDisconnect.STOP, OnDisconnect.DRAIN
    async with hedged_at_once(late, drained, 0.01, when_left) as (gateway, (first, _)):
        body = {**BODY, "stream": True}
        async with gateway.http.stream(
            "POST", f"{gateway.url}/chat/completions", json=body, headers={**HEADERS, "x-hedge": "on"}
        ) as response:
            await anext(response.aiter_bytes())
        await asyncio.wait_for(first.left.wait(), 10)
        row = await gateway.books.row()
    assert (row.provider, row.outcome) == ("provider-1", Outcome.CANCELLED)
