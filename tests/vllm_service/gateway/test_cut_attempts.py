"""Attempts whose answers are not used: what was sent anywhere counts, and is settled by an estimate."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import httpx
import pytest

from tests.vllm_service.gateway.asking import HEADERS, answers
from tests.vllm_service.gateway.running import QUICK, Running, catalog_of, gateway_to, running
from tests.vllm_service.gateway.test_failing_over import gateway_of, refused_url
from tests.waiting import until
from vllm_service.catalog.model import Catalog
from vllm_service.domain.cost_basis import CostBasis
from vllm_service.domain.keys import ApiKey
from vllm_service.domain.requests import Outcome, RequestRecord
from vllm_service.errors import GatewayTimeout
from vllm_service.gateway.operations import CHAT
from vllm_service.resilience.hedging import HedgeSettings, Hedging
from vllm_service.resilience.policy import ResiliencePolicy
from vllm_service.resilience.retry_schedule import RetrySettings
from vllm_service.storage.quotas.memory import MemoryQuotas
from vllm_service.testing import CLOSES, HANGS, Pause, ScriptedProvider, begun, chat_chunk, refused

KEY = ApiKey("key-1", "acme")
BODY: dict[str, Any] = {"model": "small", "messages": [{"role": "user", "content": "word " * 200}], "max_tokens": 5}
#: The least that BODY is estimated at: a token for each four bytes of its text.
PROMPT = 250
BRIEF = {"x-request-timeout-ms": "100"}


async def post(gateway: Running, headers: Mapping[str, str] = MappingProxyType({}), **members: Any) -> httpx.Response:
    url = f"{gateway.url}/chat/completions"
    return await gateway.http.post(url, json={**BODY, **members}, headers={**HEADERS, **headers})


def settled(gateway: Running) -> tuple[int, int]:
    """Tokens and pico-dollars that the limits were settled with."""
    ends = [end for share in gateway.books.shares for end in share.ended if end is not None]
    return sum(tokens for tokens, _ in ends), sum(picousd for _, picousd in ends)


def booked(gateway: Running) -> tuple[int, int]:
    """The same of the ledger."""
    rows = [*gateway.books.rows, *gateway.books.cuts]
    tokens = sum(row.usage.total_tokens for row in rows if row.usage is not None)
    return tokens, sum(row.cost_picousd or 0 for row in rows)


def has_estimated_prompt(row: RequestRecord) -> bool:
    usage = row.usage
    if usage is None or not usage.estimated or not PROMPT <= usage.prompt_tokens < 2 * PROMPT:
        return False
    return row.cost_basis is CostBasis.EXPECTED and row.cost_picousd == usage.prompt_tokens * 100_000  # $0.10 a million


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_work_that_a_deadline_has_cut_is_booked_by_an_estimate(stream: bool) -> None:
    async with gateway_to(ScriptedProvider(HANGS)) as gateway:
        response = await post(gateway, BRIEF, stream=stream)
        row = await gateway.books.row()
        await until(lambda: bool(gateway.books.shares[0].ended))
    assert response.status_code == 504
    assert has_estimated_prompt(row)
    assert settled(gateway) == booked(gateway)
    assert gateway.books.cuts == []


@pytest.mark.parametrize("ends", ["deadline", "cancelled"])
async def test_work_from_within_the_process_is_booked_the_same_way(ends: str) -> None:
    async with gateway_to(ScriptedProvider(HANGS)) as gateway:
        if ends == "deadline":
            with pytest.raises(GatewayTimeout):
                await gateway.gateway.complete(KEY, CHAT, BODY, headers=BRIEF)
        else:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(gateway.gateway.complete(KEY, CHAT, BODY), 0.1)
        row = await gateway.books.row()
        await until(lambda: bool(gateway.books.shares[0].ended))
    assert has_estimated_prompt(row)
    assert settled(gateway) == booked(gateway)


async def test_a_stream_that_is_left_counts_its_prompt_and_what_has_come() -> None:
    reply = begun(*[chat_chunk("word ") for _ in range(20)]).then(Pause(None))
    async with gateway_to(ScriptedProvider(reply)) as gateway:
        async with gateway.gateway.stream(KEY, CHAT, BODY) as stream:
            await anext(stream)
        row = await gateway.books.row()
        await until(lambda: bool(gateway.books.shares[0].ended))
    assert row.usage is not None
    assert row.usage.prompt_tokens >= PROMPT
    assert 1 <= row.usage.completion_tokens <= 5
    assert settled(gateway) == booked(gateway)


async def test_an_attempt_that_was_cut_before_another_one_answered_has_a_row_of_its_own() -> None:
    async with gateway_of(CLOSES, answers) as (gateway, _):
        response = await post(gateway)
        row = await gateway.books.row()
    (cut,) = gateway.books.cuts
    assert response.headers["x-provider"] == row.provider == "provider-2"
    assert (cut.request_id, cut.provider) == (f"{row.request_id}/cut", "provider-1")
    assert (cut.outcome, cut.status, cut.attempts) == (Outcome.CANCELLED, 499, 0)
    assert has_estimated_prompt(cut)
    assert settled(gateway) == booked(gateway)


async def test_both_attempts_of_a_race_that_a_deadline_has_cut_are_booked() -> None:
    hedging = Hedging(HedgeSettings(percent=100, delay_seconds=0.01), is_on=True)
    hedging.budget_of("acme").earn(10**12)
    policy = ResiliencePolicy.of(retries=QUICK, hedging=hedging)
    async with gateway_of(HANGS, HANGS, policy=policy, router_costs=True) as (gateway, providers):
        response = await post(gateway, BRIEF)
        row = await gateway.books.row()
        await until(lambda: bool(gateway.books.shares[0].ended))
    assert response.status_code == 504
    assert [len(provider.requests) for provider in providers] == [1, 1]
    assert has_estimated_prompt(row)
    assert [has_estimated_prompt(cut) for cut in gateway.books.cuts] == [True]
    assert {row.provider, gateway.books.cuts[0].provider} == {"provider-1", "provider-2"}
    assert settled(gateway) == booked(gateway)


async def test_an_unknown_price_stays_unknown() -> None:
    async with ScriptedProvider(HANGS) as provider:
        priced = catalog_of(provider.url)
        model = priced.models["small"]
        unpriced = replace(model, offers=tuple(replace(offer, price=None) for offer in model.offers))
        async with running(Catalog(priced.providers, {"small": unpriced})) as gateway:
            await post(gateway, BRIEF)
            row = await gateway.books.row()
    assert row.usage is not None
    assert (row.cost_picousd, row.cost_basis, row.is_unpriced) == (None, None, True)


async def test_what_was_not_sent_takes_nothing_of_the_day() -> None:
    async with running(catalog_of(refused_url())) as gateway:
        assert (await post(gateway)).status_code == 503
        assert (await gateway.books.row()).usage is None
    assert gateway.books.shares[0].ended == [None]


async def test_a_request_that_only_waited_for_a_connection_is_not_booked() -> None:
    """Its deadline ends in the line for the one connection that the provider may have."""
    async with ScriptedProvider(HANGS) as provider, running(catalog_of(provider.url, max_connections=1)) as gateway:
        first = asyncio.create_task(post(gateway))
        await provider.until_requests(1)
        assert (await post(gateway, BRIEF)).status_code in (503, 504)
        row = await gateway.books.row()
        first.cancel()
        await until(lambda: len(gateway.books.rows) == 2)
    assert (row.usage, row.cost_picousd) == (None, None)
    assert gateway.books.shares[1].ended == [None]


async def test_a_caller_who_leaves_between_two_attempts_pays_for_no_refusal() -> None:
    patient = RetrySettings(first_wait_seconds=30.0, jitter_seconds=0.0, longest_wait_seconds=60.0)
    policy = ResiliencePolicy.of(retries=patient)
    async with gateway_to(ScriptedProvider(refused(500)), policy=policy) as gateway:
        with pytest.raises(httpx.TimeoutException):
            await gateway.http.post(f"{gateway.url}/chat/completions", json=BODY, timeout=0.5)
        row = await gateway.books.row()
        await until(lambda: bool(gateway.books.shares[0].ended))
    assert (row.outcome, row.usage, row.cost_picousd) == (Outcome.CANCELLED, None, None)
    assert gateway.books.shares[0].ended == [(0, 0)]


async def test_a_key_makes_no_more_requests_than_its_minute_has_however_they_fail() -> None:
    """The default tier has 100 a minute."""
    provider = ScriptedProvider(refused(400))
    async with gateway_to(provider, quotas=MemoryQuotas(address_limit=10**6)) as gateway:
        statuses = [(await post(gateway)).status_code for _ in range(150)]
    assert statuses == [400] * 100 + [429] * 50
    assert len(provider.requests) == 100


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"not json", {}, 400),
        (b'{"model":"unknown","messages":[]}', {}, 404),
        (b'{"model":"small","messages":[],"max_tokens":1.5}', {}, 400),
        (b'{"model":"small","messages":[]}', {"x-request-timeout-ms": "soon"}, 400),
        (b'{"model":"small","messages":[]}', {"x-max-cost-usd": "much"}, 400),
        (b'{"model":"small","messages":[]}', {"x-route-provider": "nobody"}, 400),
    ],
)
async def test_what_is_not_valid_counts_in_the_minute_and_in_no_day(
    body: bytes, headers: dict[str, str], status: int
) -> None:
    quotas = MemoryQuotas(address_limit=10**6)
    async with gateway_to(ScriptedProvider(answers), quotas=quotas, router_costs=True) as gateway:
        url = f"{gateway.url}/chat/completions"
        statuses = [(await gateway.http.post(url, content=body, headers=headers)).status_code for _ in range(130)]
    assert statuses == [status] * 100 + [429] * 30
    day, month = quotas.periods.at("acme", gateway.books.rows[0].started_at)
    assert (day.requests, month.requests, quotas.status().open_reservations) == (0, 0, 0)
