"""Requests that are sent to a second place when the first is slow: who answers, what is booked, who is stopped."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from tests.vllm_service.gateway.asking import HEADERS
from tests.vllm_service.gateway.running import QUICK, Running, catalog_of, running
from tests.vllm_service.gateway.test_failing_over import BODY, answers, gateway_of, post
from tests.waiting import until
from vllm_service.catalog.model import Catalog, OnDisconnect
from vllm_service.domain.requests import Outcome
from vllm_service.resilience.hedging import HedgeSettings, Hedging
from vllm_service.resilience.policy import ResiliencePolicy
from vllm_service.testing import (
    HANGS,
    Pause,
    ReceivedRequest,
    Reply,
    Script,
    ScriptedProvider,
    Signal,
    begun,
    chat,
    chat_chunk,
)


async def test_a_second_place_is_asked_when_the_first_is_slow_and_the_loser_is_booked() -> None:
    hedging = Hedging(HedgeSettings(percent=100, delay_seconds=0.01))
    hedging.budget_of("acme").earn(10**12)
    over = ResiliencePolicy.of(retries=QUICK, hedging=hedging)
    async with gateway_of(HANGS, answers, policy=over, router_costs=True) as (gateway, (slow, _)):
        response = await post(gateway, {"x-hedge": "on"})
        await asyncio.wait_for(slow.was_left.wait(), 10)
        row = await gateway.books.row()
        await until(lambda: bool(gateway.books.cuts))
        loss = gateway.books.cuts[0]
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
    tokens = 13 + loss.usage.total_tokens
    assert gateway.books.shares[0].ended == [(tokens, (row.cost_picousd or 0) + loss.cost_picousd)]


@pytest.mark.parametrize("headers", [{}, {"x-hedge": "off"}, {"x-hedge": "on", "x-max-cost-usd": "1"}])
async def test_nobody_is_hedged_who_did_not_ask_or_has_a_cap(headers: dict[str, str]) -> None:
    is_released = asyncio.Event()
    hedging = Hedging(HedgeSettings(percent=100, delay_seconds=0))
    hedging.budget_of("acme").earn(10**12)
    over = ResiliencePolicy.of(retries=QUICK, hedging=hedging)
    async with gateway_of(chat("Hello").after(is_released), answers, policy=over, router_costs=True) as (
        gateway,
        (first, second),
    ):
        call = asyncio.create_task(post(gateway, headers))
        await first.until_requests(1)
        await gateway.http.get(f"{gateway.url}/elsewhere")  # a round trip: after no delay a hedge had been sent by now
        is_released.set()
        assert (await call).headers["x-provider"] == "provider-1"
    assert second.requests == []


async def test_an_organisation_spends_no_budget_that_another_one_has_earned() -> None:
    is_released = asyncio.Event()
    hedging = Hedging(HedgeSettings(percent=100, delay_seconds=0))
    hedging.budget_of("globex").earn(10**12)
    over = ResiliencePolicy.of(retries=QUICK, hedging=hedging)
    async with gateway_of(chat("Hello").after(is_released), answers, policy=over, router_costs=True) as (
        gateway,
        (first, second),
    ):
        call = asyncio.create_task(post(gateway, {"x-hedge": "on"}))
        await first.until_requests(1)
        await gateway.http.get(f"{gateway.url}/elsewhere")  # a round trip: after no delay a hedge had been sent by now
        is_released.set()
        assert (await call).headers["x-provider"] == "provider-1"
        row = await gateway.books.row()
        await until(lambda: bool(gateway.books.shares[0].ended))
    assert second.requests == []
    assert [hedging.budget_of(name).picousd for name in ("acme", "globex")] == [row.cost_picousd, 10**12]


@asynccontextmanager
async def hedged_at_once(
    first: Script | Reply, second: Script | Reply, delay_seconds: float, when_left: Sequence[OnDisconnect] = ()
) -> AsyncIterator[tuple[Running, list[ScriptedProvider]]]:
    """Both places are asked, the second after the delay. when_left: the places' on_disconnect."""
    hedging = Hedging(HedgeSettings(percent=100, delay_seconds=delay_seconds))
    hedging.budget_of("acme").earn(10**12)
    over = ResiliencePolicy.of(retries=QUICK, hedging=hedging)
    async with ScriptedProvider(first) as one, ScriptedProvider(second) as two:
        catalog = catalog_of(one.url, two.url)
        for name, wished in zip(catalog.providers, when_left, strict=False):
            changed = replace(catalog.providers[name], on_disconnect=wished)
            catalog = Catalog({**catalog.providers, name: changed}, catalog.models)
        async with running(catalog, policy=over, router_costs=True) as gateway:
            yield gateway, [one, two]


async def test_the_row_of_a_hedged_request_is_about_the_place_that_answered() -> None:
    """The first answers after the second was asked, half a second later: the request was sent before that."""
    delay_seconds, is_asked = 0.5, asyncio.Event()

    def late(request: ReceivedRequest) -> Reply:
        return answers(request).after(is_asked)

    too_late = Reply((Signal(is_asked), Pause(None)))

    async with hedged_at_once(late, too_late, delay_seconds) as (gateway, _):
        await post(gateway, {"x-hedge": "on"})
        row = await gateway.books.row()
    assert (row.provider, row.attempts) == ("provider-1", 2)
    assert row.queue_ms is not None
    assert row.queue_ms < delay_seconds * 1000


async def test_a_caller_who_leaves_stops_the_place_that_answers_whatever_was_asked_besides() -> None:
    is_asked = asyncio.Event()

    late = begun(chat_chunk("first")).after(is_asked).then(Pause(None))
    drained = Reply((Signal(is_asked), Pause(None)))

    when_left = OnDisconnect.STOP, OnDisconnect.DRAIN
    async with hedged_at_once(late, drained, 0.01, when_left) as (gateway, (first, _)):
        body = {**BODY, "stream": True}
        async with gateway.http.stream(
            "POST", f"{gateway.url}/chat/completions", json=body, headers={**HEADERS, "x-hedge": "on"}
        ) as response:
            await anext(response.aiter_bytes())
        await asyncio.wait_for(first.was_left.wait(), 10)
        row = await gateway.books.row()
    assert (row.provider, row.outcome) == ("provider-1", Outcome.CANCELLED)
