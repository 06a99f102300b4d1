"""Costs come from the gateway where it names them, to the pico-dollar; else from `prices`; else they are unknown."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal, localcontext
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from tests.vllm_service.client.runpod_provider import STOP, runpod, stream
from tests.vllm_service.gateway.running import SECRET, Running, gateway_to
from vllm_service import Answer, LLMRouter, RunPodVLLMService, TokenPrice
from vllm_service.catalog.model import Catalog, Offer, Provider, ProviderKind, PublicModel
from vllm_service.client.cost_info import read_annotation
from vllm_service.client.text_calls import TextCalls
from vllm_service.domain.keys import ApiKey
from vllm_service.gateway.context import cost_info, performance_info, provider_info
from vllm_service.storage.responses.memory import MemoryResponses, ResponseBounds
from vllm_service.testing import DONE, Reply, Script, ScriptedProvider, chat, in_turn, says, whole

PRICES = {"small": TokenPrice.per_million("7", "7")}
GATEWAYS_PICOUSD = 10 * 100_000 + 3 * 200_000  # of tests.gateway.running's catalog, for USAGE
OWN_PICOUSD = 13 * 7_000_000
MESSAGES = [{"role": "user", "content": "Hi"}]
HELLO = says("Hel", "lo")
CALLS = ["chat", "stream_chat", "complete", "stream"]


async def asked(service: TextCalls, call: str) -> Answer:
    """The answer to one call, whole or read to its end."""
    prompt: Any = MESSAGES if call.endswith("chat") else "Hi"
    if call.startswith("stream"):
        reading = getattr(service, call)(prompt)
        assert "".join([text async for text in reading]) == "Hello"
        got: Answer = reading.answer
    else:
        got = await getattr(service, call)(prompt)
    return got


@asynccontextmanager
async def at_gateway(
    script: Script | Reply = HELLO, **settings: Any
) -> AsyncIterator[tuple[RunPodVLLMService, Running]]:
    async with (
        gateway_to(ScriptedProvider(script), **settings) as gateway,
        RunPodVLLMService(api_key=SECRET, base_url=gateway.url, default_model="small", prices=PRICES) as service,
    ):
        yield service, gateway


@pytest.mark.parametrize("call", ["chat", "stream_chat"])
async def test_the_gateway_says_what_an_answer_cost_and_where_it_came_from(call: str) -> None:
    async with at_gateway() as (service, gateway):
        got = await asked(service, call)
        row = await gateway.books.row()
    assert got.cost_picousd == row.cost_picousd == GATEWAYS_PICOUSD
    assert (got.provider, got.route_reason) == ("provider-1", row.route_reason)
    assert not got.cost_is_estimate
    assert got.model == "small"


@pytest.mark.parametrize("call", ["chat", "stream_chat"])
async def test_a_key_without_annotations_leaves_the_prices_that_were_given(call: str) -> None:
    async with at_gateway() as (service, gateway):
        gateway.books.keys[SECRET] = ApiKey("key-1", "acme", annotate=False)
        got = await asked(service, call)
    assert (got.cost_picousd, got.provider, got.route_reason) == (OWN_PICOUSD, "runpod", None)


async def test_a_cost_that_the_gateway_could_only_estimate_says_so() -> None:
    async with at_gateway(chat("Hello", usage=None)) as (service, gateway):
        got = await service.chat(MESSAGES)
        row = await gateway.books.row()
    assert got.cost_picousd == row.cost_picousd
    assert got.cost_is_estimate


async def test_an_answer_from_the_gateways_cache_cost_nothing() -> None:
    async with at_gateway(responses=MemoryResponses(ResponseBounds())) as (service, _):
        costs = [(await service.chat(MESSAGES, temperature=0)).cost_picousd for _ in range(2)]
    assert costs == [GATEWAYS_PICOUSD, 0]


@given(some.integers(0, 10**15), some.integers(0, 10**15), some.booleans())
def test_every_pico_dollar_of_the_gateways_comes_out(cost: int, baseline: int, is_estimate: bool) -> None:
    """Whatever the application's own decimals are rounded to."""
    place = provider_info("groq", "cheapest", False)
    performance = performance_info(1.0, None, 3, False, place)
    document = b'{"choices":[]%b%b}' % (cost_info(cost, baseline, is_estimate), performance)
    with localcontext() as rounding:
        rounding.prec = 3
        assert read_annotation(document) == (cost, is_estimate, "groq", "cheapest")


def annotated(**changes: Any) -> dict[str, Any]:
    """The gateway's members; `cost` replaces what it says that the answer cost."""
    cost = {"vllm_cost_usd": 0.1, "openai_cost_usd": None, "savings_usd": None, "is_estimate": False}
    performance = {"provider": "groq", "route_reason": "cheapest"}
    return {"cost_info": cost | changes.pop("cost", {}), "performance_info": performance} | changes


def test_digits_that_a_float_would_lose_are_kept() -> None:
    text = json.dumps(annotated(cost={"vllm_cost_usd": "X"})).replace('"X"', "1234567.890123456789")
    assert float("1234567.890123456789") != Decimal("1234567.890123456789")
    annotation = read_annotation(text)
    assert annotation is not None
    assert annotation.cost_picousd == 1234567_890123456789


FOREIGN = {
    "null": {"cost_info": None},
    "a number": {"cost_info": 0.5},
    "a list": {"cost_info": [0.1]},
    "other members": {"cost_info": {"total": 1.0}},
    "negative": annotated(cost={"vllm_cost_usd": -0.5}),
    "text": annotated(cost={"vllm_cost_usd": "free"}),
    "not a number": annotated(cost={"vllm_cost_usd": "NaN"}),
    "a signalling one": annotated(cost={"vllm_cost_usd": "sNaN"}),
    "infinite": annotated(cost={"vllm_cost_usd": "Infinity"}),
    "a switch": annotated(cost={"vllm_cost_usd": True}),
    "absurd": annotated(cost={"vllm_cost_usd": 1e300}),
    "absurd as text": annotated(cost={"vllm_cost_usd": "1e999999"}),
    "nothing of the place": annotated(performance_info=None),
    "an odd place": annotated(performance_info={"provider": 5, "route_reason": []}),
    "JSON's own NaN": annotated(cost={"savings_usd": float("nan")}),
    "a lone surrogate": annotated(performance_info={"provider": "\ud83d", "route_reason": "x"}),
    "text only": {"note": 'there is no "cost_info" here'},
}


@pytest.mark.parametrize("members", FOREIGN.values(), ids=FOREIGN.keys())
async def test_a_foreign_cost_info_breaks_no_answer_and_changes_no_cost(members: dict[str, Any]) -> None:
    choice = {"index": 0, "text": "Hello", "message": {"content": "Hello"}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 10, "completion_tokens": 3}
    complete = whole({"choices": [choice], "usage": usage, **members})
    last = {"choices": [], "usage": usage, **members}
    for call in CALLS:
        reply = stream(_piece("Hello"), STOP, last, DONE) if call.startswith("stream") else complete
        async with (
            runpod(in_turn(reply)) as server,
            RunPodVLLMService(base_url=server.url, default_model="small", prices=PRICES) as service,
        ):
            got = await asked(service, call)
        assert (got.text, got.cost_picousd, got.provider) == ("Hello", OWN_PICOUSD, "runpod")


async def test_a_cost_that_the_gateway_does_not_know_is_that_of_the_prices_or_unknown() -> None:
    members = annotated(cost={"vllm_cost_usd": None})
    choice = {"index": 0, "text": "Hello", "finish_reason": "stop"}
    reply = whole({"choices": [choice], "usage": {"prompt_tokens": 10, "completion_tokens": 3}, **members})
    async with runpod(in_turn(reply)) as server:
        for prices, expected in ((PRICES, OWN_PICOUSD), (None, None)):
            async with RunPodVLLMService(base_url=server.url, default_model="small", prices=prices) as service:
                got = await service.complete("Hi")
            assert (got.cost_picousd, got.provider, got.cost_is_estimate) == (expected, "groq", False)


def _piece(text: str) -> dict[str, Any]:
    return {"choices": [{"index": 0, "text": text, "delta": {"content": text}, "finish_reason": None}]}


@pytest.mark.parametrize("call", ["chat", "stream_chat"])
async def test_a_router_takes_the_cost_of_a_gateway_that_is_one_of_its_providers(call: str) -> None:
    """The provider stays the one of the router's own catalog, and so does the reason."""
    async with gateway_to(ScriptedProvider(HELLO)) as gateway:
        provider = Provider("our-gateway", ProviderKind.HOSTED, gateway.url, SECRET)
        catalog = Catalog({"our-gateway": provider}, {"m": PublicModel("m", (Offer("our-gateway", "small"),))})
        async with LLMRouter("QUALITY", catalog) as router:
            got = await asked(router, call)
            reason = router.explain("Hi").plan.reason
        row = await gateway.books.row()
    assert got.cost_picousd == row.cost_picousd == GATEWAYS_PICOUSD
    assert (got.provider, got.route_reason, got.model) == ("our-gateway", reason, "small")
