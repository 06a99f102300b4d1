"""Chat calls through the gateway with the official client: what arrives, what is added, what is written down."""

from __future__ import annotations

import json

import pytest

from tests.vllm_service.gateway.asking import HEADERS, MESSAGES, SHOWN, answers, posted
from tests.vllm_service.gateway.running import PROVIDER_SECRET, SECRET, catalog_of, gateway_to, running
from vllm_service.domain.cost_basis import CostBasis
from vllm_service.domain.requests import Outcome
from vllm_service.domain.usage import Usage
from vllm_service.storage.responses.memory import MemoryResponses, ResponseBounds
from vllm_service.testing import ScriptedProvider, chat_document, event, events, whole


async def test_the_official_client_gets_an_answer_and_the_ledger_a_row() -> None:
    async with gateway_to(ScriptedProvider(answers)) as gateway:
        answer = await gateway.client.chat.completions.create(model="gpt-3.5-turbo", messages=MESSAGES)
        assert answer.choices[0].message.content == "Hello there"
        row = await gateway.books.row()
    assert (row.outcome, row.status, row.model, row.upstream_model) == (Outcome.COMPLETED, 200, "small", "small-there")
    assert row.usage == Usage(10, 3)
    assert row.cost_picousd == 10 * 100_000 + 3 * 200_000
    assert row.cost_basis is CostBasis.BOOKED
    assert row.baseline_picousd == 10 * row.cost_picousd
    assert (row.key_id, row.organisation, row.provider, row.attempts) == ("key-1", "acme", "provider-1", 1)
    assert gateway.books.shares[0].ended == [(13, row.cost_picousd)]


async def test_only_the_models_name_is_replaced_and_the_callers_key_stays_here() -> None:
    upstream = ScriptedProvider(answers)
    body = {"model": "small", "messages": MESSAGES, "logit_bias": {"5": 1.50}, "made_up": [1, {"model": "small"}]}
    async with gateway_to(upstream) as gateway:
        await posted(gateway, body, **{"x-request-id": "mine-1", "openai-organization": "secret-org"})
    asked = upstream.requests[0]
    assert asked.json == {**body, "model": "small-there"}
    assert b"1.5" in asked.body
    assert asked.headers["authorization"] == f"Bearer {PROVIDER_SECRET}"
    assert asked.headers["x-request-id"] == "mine-1"
    assert SECRET not in str(asked.headers)
    assert "openai-organization" not in asked.headers


async def test_a_trace_goes_on_with_a_span_of_its_own() -> None:
    upstream = ScriptedProvider(answers)
    trace, span = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    async with gateway_to(upstream) as gateway:
        await posted(gateway, {"model": "small"}, traceparent=f"00-{trace}-{span}-01", tracestate="a=b")
        await posted(gateway, {"model": "small"}, traceparent="nonsense", tracestate="a=b")
    version, same_trace, new_span, flags = upstream.requests[0].headers["traceparent"].split("-")
    assert (version, same_trace, flags) == ("00", trace, "01")
    assert new_span != span
    assert upstream.requests[0].headers["tracestate"] == "a=b"
    assert "traceparent" not in upstream.requests[1].headers


async def test_annotations_are_added_and_nothing_else_is_changed() -> None:
    upstream = ScriptedProvider(answers)
    original = json.dumps(chat_document("Hello there")).encode()
    async with gateway_to(upstream) as gateway:
        _, headers, annotated = await posted(gateway, {"model": "small"})
        _, _, plain = await posted(gateway, {"model": "small"}, **HEADERS)
    assert plain == original
    assert annotated.startswith(original[:-1] + b',"cost_info":{')
    document = json.loads(annotated)
    assert document["cost_info"] == {
        "vllm_cost_usd": 1.6e-06,
        "openai_cost_usd": 1.6e-05,
        "savings_usd": 1.44e-05,
        "savings_percentage": 90.0,
        "is_estimate": False,
        "cost_basis": "booked",
    }
    performance = document["performance_info"]
    assert set(performance) == {
        "inference_time_ms", "ttft_ms", "tokens_per_second", "cache_hit", "quality_score", "provider",
        "apple_silicon_optimized", "route_reason",
    }  # fmt: skip
    assert (performance["provider"], performance["cache_hit"], performance["quality_score"]) == (
        "provider-1",
        False,
        None,
    )
    assert performance["ttft_ms"] is None
    assert (headers["x-provider"], headers["x-route-reason"]) == ("provider-1", "configured order")
    assert headers["x-request-id"].startswith("req-")


@pytest.mark.parametrize("tags", [frozenset[str](), frozenset({"apple-silicon"})])
async def test_who_answers_on_apple_silicon_says_so(tags: frozenset[str]) -> None:
    async with ScriptedProvider(answers) as upstream, running(catalog_of(upstream.url, tags=tags)) as gateway:
        _, _, annotated = await posted(gateway, {"model": "small"})
    assert json.loads(annotated)["performance_info"]["apple_silicon_optimized"] is bool(tags)


async def test_the_other_operations_pass_too() -> None:
    usage = {"prompt_tokens": 4, "total_tokens": 4}
    members = {"choices": [{"text": ""}], "output": [], "data": [{"embedding": [0.5]}]}
    upstream = ScriptedProvider(whole({"object": "x", **members, "usage": usage}))
    async with gateway_to(upstream) as gateway:
        for path in ("completions", "responses", "embeddings"):
            response = await gateway.http.post(f"{gateway.url}/{path}", json={"model": "small", "input": "x"})
            assert response.status_code == 200
        without_prefix = gateway.url.removesuffix("/v1")
        assert (await gateway.http.post(f"{without_prefix}/embeddings", json={"model": "small"})).status_code == 200
        assert (await gateway.http.get(f"{gateway.url}/embeddings")).status_code == 405
        elsewhere = await gateway.http.post(f"{gateway.url}/other", content=b"body")
        assert (elsewhere.status_code, elsewhere.content) == (418, b"body")
    assert [request.target for request in upstream.requests[:3]] == [
        "/v1/completions",
        "/v1/responses",
        "/v1/embeddings",
    ]


async def test_a_stream_of_the_responses_api_is_complete_with_its_last_event() -> None:
    last = {"type": "response.completed", "response": {"id": "r", "usage": {"input_tokens": 7, "output_tokens": 2}}}
    pieces = [
        b"event: response.created\n" + event({"type": "response.created"}),
        b"event: response.completed\n" + event(last),
    ]

    async with gateway_to(ScriptedProvider(events(*pieces))) as gateway:
        response = await gateway.http.post(
            f"{gateway.url}/responses", json={"model": "small", "stream": True}, headers=HEADERS
        )
        row = await gateway.books.row()
    assert response.content == b"".join(pieces)
    assert (row.usage, row.outcome) == (Usage(7, 2), Outcome.COMPLETED)


async def test_a_cached_answer_costs_nothing_and_is_told_as_such() -> None:
    upstream = ScriptedProvider(answers)
    async with gateway_to(upstream, responses=MemoryResponses(ResponseBounds())) as gateway:
        body = {"model": "small", "temperature": 0, "messages": MESSAGES}
        await posted(gateway, body | {"user": "a"})
        _, _, again = await posted(gateway, body | {"user": "b"})
        for _ in range(2):
            _, _, streamed = await posted(gateway, body | {"stream": True}, **HEADERS)
        await posted(gateway, body, **{"x-cache": "off"})
        rows = [await gateway.books.row(number) for number in range(5)]
    assert len(upstream.requests) == 3
    document = json.loads(again)
    assert document["performance_info"]["cache_hit"] is True
    assert document["cost_info"]["vllm_cost_usd"] == 0
    assert streamed == SHOWN
    assert [row.outcome for row in rows].count(Outcome.CACHED) == 2
    assert rows[1].cost_picousd == 0
    assert gateway.books.shares[1].ended == [(0, 0)]
