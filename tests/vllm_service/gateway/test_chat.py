"""Chat calls through the gateway with the official client: what arrives, what is added, what is written down."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from tests.vllm_service.gateway.running import PROVIDER_SECRET, SECRET, Running, catalog_of, gateway_to, running
from tests.vllm_service.upstream import DONE, USAGE, Asked, ScriptedUpstream, chunk, completion, event, events
from vllm_service.domain.requests import Outcome
from vllm_service.domain.usage import Usage
from vllm_service.storage.memory_responses import MemoryResponses, ResponseBounds

MESSAGES: Any = [{"role": "user", "content": "Hi"}]
HEADERS = {"x-annotate": "off"}


async def answers(asked: Asked) -> None:
    await asked.stream(events("Hel", "lo")) if asked.body.get("stream") else await asked.json(completion())


async def posted(gateway: Running, body: Any, **headers: str) -> tuple[int, dict[str, str], bytes]:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = await gateway.http.post(f"{gateway.url}/chat/completions", content=content, headers=headers)
    return response.status_code, dict(response.headers), response.content


async def test_the_official_client_gets_an_answer_and_the_ledger_a_row() -> None:
    async with gateway_to(ScriptedUpstream(answers)) as gateway:
        answer = await gateway.client.chat.completions.create(model="gpt-3.5-turbo", messages=MESSAGES)
        assert answer.choices[0].message.content == "Hello there"
        row = await gateway.books.row()
    assert (row.outcome, row.status, row.model, row.upstream_model) == (Outcome.COMPLETED, 200, "small", "small-there")
    assert row.usage == Usage(10, 3)
    assert row.cost_picousd == 10 * 100_000 + 3 * 200_000
    assert row.baseline_picousd == 10 * row.cost_picousd
    assert (row.key_id, row.organisation, row.provider, row.attempts) == ("key-1", "acme", "provider-1", 1)
    assert gateway.books.shares[0].ended == [(13, row.cost_picousd)]


async def test_only_the_models_name_is_replaced_and_the_callers_key_stays_here() -> None:
    upstream = ScriptedUpstream(answers)
    body = {"model": "small", "messages": MESSAGES, "logit_bias": {"5": 1.50}, "made_up": [1, {"model": "small"}]}
    async with gateway_to(upstream) as gateway:
        await posted(gateway, body, **{"x-request-id": "mine-1", "openai-organization": "secret-org"})
    asked = upstream.asked[0]
    assert asked.body == {**body, "model": "small-there"}
    assert b"1.5" in asked.raw
    assert asked.headers["authorization"] == f"Bearer {PROVIDER_SECRET}"
    assert asked.headers["x-request-id"] == "mine-1"
    assert SECRET not in str(asked.headers)
    assert "openai-organization" not in asked.headers


async def test_a_trace_goes_on_with_a_span_of_its_own() -> None:
    upstream = ScriptedUpstream(answers)
    trace, span = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    async with gateway_to(upstream) as gateway:
        await posted(gateway, {"model": "small"}, traceparent=f"00-{trace}-{span}-01", tracestate="a=b")
        await posted(gateway, {"model": "small"}, traceparent="nonsense", tracestate="a=b")
    version, same_trace, new_span, flags = upstream.asked[0].headers["traceparent"].split("-")
    assert (version, same_trace, flags) == ("00", trace, "01")
    assert new_span != span
    assert upstream.asked[0].headers["tracestate"] == "a=b"
    assert "traceparent" not in upstream.asked[1].headers


async def test_annotations_are_added_and_nothing_else_is_changed() -> None:
    upstream = ScriptedUpstream(answers)
    original = json.dumps(completion()).encode()
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
    async with ScriptedUpstream(answers) as upstream, running(catalog_of(upstream.url, tags=tags)) as gateway:
        _, _, annotated = await posted(gateway, {"model": "small"})
    assert json.loads(annotated)["performance_info"]["apple_silicon_optimized"] is bool(tags)


@pytest.mark.parametrize(
    "asking", [{"stream_options": {"include_usage": True}}, {"extra_headers": {"x-annotate": "on"}}]
)
async def test_a_stream_ends_with_an_annotated_usage_chunk_for_who_asks(asking: dict[str, Any]) -> None:
    upstream = ScriptedUpstream(answers)
    async with gateway_to(upstream) as gateway:
        create = gateway.client.chat.completions.create
        stream = await create(model="small", messages=MESSAGES, stream=True, **asking)
        chunks = [piece async for piece in stream]
        row = await gateway.books.row()
    assert "".join(piece.choices[0].delta.content or "" for piece in chunks if piece.choices) == "Hello"
    assert upstream.asked[0].body["stream_options"] == {"include_usage": True}
    assert chunks[-1].model_extra is not None
    assert chunks[-1].model_extra["performance_info"]["ttft_ms"] > 0
    assert row.usage == Usage(10, 3)
    assert row.ttft_ms is not None


async def test_the_usage_chunk_is_hidden_from_who_did_not_ask_for_it() -> None:
    async with gateway_to(ScriptedUpstream(answers)) as gateway:
        body = {"model": "small", "stream": True}
        _, _, hidden = await posted(gateway, body, **HEADERS)
        _, _, refused = await posted(gateway, body | {"stream_options": {"include_usage": False}}, **HEADERS)
        _, _, asked_for = await posted(gateway, body | {"stream_options": {"include_usage": True}}, **HEADERS)
        rows = [await gateway.books.row(number) for number in range(3)]
    whole = b"".join(events("Hel", "lo"))
    assert hidden == refused == b"".join([event(chunk("Hel")), event(chunk("lo")), DONE])
    assert asked_for == whole
    assert [row.usage for row in rows] == [Usage(10, 3)] * 3


@pytest.mark.parametrize("usage_at", [0, 1, 2], ids=["first", "middle", "last"])
async def test_usage_is_read_from_whichever_chunk_carries_it(usage_at: int) -> None:
    pieces = [
        event(chunk(text, **({"usage": USAGE} if at == usage_at else {"usage": None}))) for at, text in enumerate("abc")
    ]

    async def script(asked: Asked) -> None:
        await asked.stream([b"".join(pieces)[:200], b"".join(pieces)[200:], DONE])

    async with gateway_to(ScriptedUpstream(script)) as gateway:
        _, _, seen = await posted(gateway, {"model": "small", "stream": True}, **HEADERS)
        row = await gateway.books.row()
    assert seen == b"".join(pieces) + DONE
    assert row.usage == Usage(10, 3)


async def test_an_answer_without_usage_is_counted_and_marked_estimated() -> None:
    async def script(asked: Asked) -> None:
        if asked.body.get("stream"):
            await asked.stream(events(*"abcdefgh", usage=False))
        else:
            await asked.json({**completion("word " * 100), "usage": None})

    async with gateway_to(ScriptedUpstream(script)) as gateway:
        await posted(gateway, {"model": "small", "stream": True})
        await posted(gateway, {"model": "small"})
        streamed, whole = await gateway.books.row(0), await gateway.books.row(1)
    assert streamed.usage is not None
    assert (streamed.usage.completion_tokens, streamed.usage.estimated) == (8, True)
    assert whole.usage is not None
    assert whole.usage.estimated
    assert 80 <= whole.usage.completion_tokens <= 160


@pytest.mark.parametrize(
    ("status", "body", "kind", "code"),
    [
        (400, {"error": {"message": "bad tool", "param": "tools"}}, openai.BadRequestError, "INVALID_REQUEST_400"),
        (422, {"error": {"message": "no"}}, openai.UnprocessableEntityError, "UPSTREAM_422"),
        (400, {"error": {"code": "context_length_exceeded"}}, openai.APIStatusError, "CONTEXT_TOO_LONG_413"),
        (413, b"too large", openai.APIStatusError, "CONTEXT_TOO_LONG_413"),
        (401, {"error": {"message": "Incorrect key sk-1"}}, openai.InternalServerError, "UPSTREAM_502"),
        (404, {"error": {"message": "no model"}}, openai.NotFoundError, "NOT_FOUND_404"),
        (429, {"error": {"message": "slow down"}}, openai.RateLimitError, "RATE_LIMIT_429"),
        (500, b"<html>", openai.InternalServerError, "UPSTREAM_502"),
        (503, {"error": "loading"}, openai.InternalServerError, "MODEL_503"),
        (504, b"", openai.InternalServerError, "GATEWAY_TIMEOUT_504"),
        (200, b"<html>not an answer</html>", openai.InternalServerError, "UPSTREAM_502"),
    ],
)  # fmt: skip
async def test_errors_of_providers_raise_the_right_class(
    status: int, body: Any, kind: type[openai.APIStatusError], code: str
) -> None:
    async def script(asked: Asked) -> None:
        await asked.json(body, status, "retry-after: 3\r\n")

    async with gateway_to(ScriptedUpstream(script)) as gateway:
        with pytest.raises(kind) as raised:
            await gateway.client.chat.completions.create(model="small", messages=MESSAGES)
        row = await gateway.books.row()
    assert raised.value.code == code
    assert "sk-1" not in str(raised.value)
    assert (row.outcome, row.error_code, row.status) == (Outcome.FAILED, code, raised.value.status_code)
    assert gateway.books.shares[0].ended == [None]
    if status == 429:
        assert raised.value.response.headers["retry-after"] == "3"


async def test_our_own_errors_cost_nothing_and_leave_a_row() -> None:
    upstream = ScriptedUpstream(answers)
    async with gateway_to(upstream) as gateway:
        create = gateway.client.chat.completions.create
        with pytest.raises(openai.NotFoundError):
            await create(model="unknown", messages=MESSAGES)
        with pytest.raises(openai.AuthenticationError):
            await gateway.client.with_options(api_key="sk-wrong").chat.completions.create(
                model="small", messages=MESSAGES
            )
        with pytest.raises(openai.BadRequestError) as raised:
            await create(model="small", messages=MESSAGES, temperature="hot")  # type: ignore[call-overload]
        assert raised.value.param == "temperature"
        gateway.books.is_full = True
        with pytest.raises(openai.RateLimitError) as limited:
            await create(model="small", messages=MESSAGES)
        assert limited.value.response.headers["retry-after"] == "8"
        rows = [await gateway.books.row(number) for number in range(4)]
    assert [row.outcome for row in rows] == [Outcome.REJECTED] * 4
    assert [row.status for row in rows] == [404, 401, 400, 429]
    assert (upstream.asked, gateway.books.shares) == ([], [])


async def test_the_next_provider_answers_when_one_cannot() -> None:
    async def fails(asked: Asked) -> None:
        await asked.json({"error": {"message": "down"}}, 503)

    async def fails_late(asked: Asked) -> None:
        await asked.stream([event({"error": {"message": "overloaded", "code": 529}})])

    first, second, third = ScriptedUpstream(fails), ScriptedUpstream(fails_late), ScriptedUpstream(answers)
    async with (
        first, second, third,
        running(catalog_of("http://127.0.0.1:9/v1", first.url, second.url, third.url)) as gateway,
    ):  # fmt: skip
        stream = await gateway.client.chat.completions.create(model="small", messages=MESSAGES, stream=True)
        text = "".join([piece.choices[0].delta.content or "" async for piece in stream if piece.choices])
        row = await gateway.books.row()
    assert text == "Hello"
    assert (row.provider, row.attempts, row.outcome) == ("provider-4", 4, Outcome.COMPLETED)


async def test_the_callers_own_mistake_is_not_tried_elsewhere() -> None:
    async def refuses(asked: Asked) -> None:
        await asked.json({"error": {"message": "no"}}, 400)

    first, second = ScriptedUpstream(refuses), ScriptedUpstream(answers)
    async with first, second, running(catalog_of(first.url, second.url)) as gateway:
        assert (await posted(gateway, {"model": "small"}))[0] == 400
    assert second.asked == []


async def test_the_other_operations_pass_too() -> None:
    async def script(asked: Asked) -> None:
        await asked.json({"object": "x", "data": [], "usage": {"prompt_tokens": 4, "total_tokens": 4}})

    upstream = ScriptedUpstream(script)
    async with gateway_to(upstream) as gateway:
        for path in ("completions", "responses", "embeddings"):
            response = await gateway.http.post(f"{gateway.url}/{path}", json={"model": "small", "input": "x"})
            assert response.status_code == 200
        without_prefix = gateway.url.removesuffix("/v1")
        assert (await gateway.http.post(f"{without_prefix}/embeddings", json={"model": "small"})).status_code == 200
        assert (await gateway.http.get(f"{gateway.url}/embeddings")).status_code == 405
        elsewhere = await gateway.http.post(f"{gateway.url}/other", content=b"body")
        assert (elsewhere.status_code, elsewhere.content) == (418, b"body")
    assert [asked.target for asked in upstream.asked[:3]] == ["/v1/completions", "/v1/responses", "/v1/embeddings"]


async def test_a_stream_of_the_responses_api_is_complete_with_its_last_event() -> None:
    last = {"type": "response.completed", "response": {"id": "r", "usage": {"input_tokens": 7, "output_tokens": 2}}}
    pieces = [
        b"event: response.created\n" + event({"type": "response.created"}),
        b"event: response.completed\n" + event(last),
    ]

    async def script(asked: Asked) -> None:
        await asked.stream(pieces)

    async with gateway_to(ScriptedUpstream(script)) as gateway:
        response = await gateway.http.post(
            f"{gateway.url}/responses", json={"model": "small", "stream": True}, headers=HEADERS
        )
        row = await gateway.books.row()
    assert response.content == b"".join(pieces)
    assert (row.usage, row.outcome) == (Usage(7, 2), Outcome.COMPLETED)


async def test_a_cached_answer_costs_nothing_and_is_told_as_such() -> None:
    upstream = ScriptedUpstream(answers)
    async with gateway_to(upstream, responses=MemoryResponses(ResponseBounds())) as gateway:
        body = {"model": "small", "temperature": 0, "messages": MESSAGES}
        await posted(gateway, body | {"user": "a"})
        _, _, again = await posted(gateway, body | {"user": "b"})
        for _ in range(2):
            _, _, streamed = await posted(gateway, body | {"stream": True}, **HEADERS)
        await posted(gateway, body, **{"x-cache": "off"})
        rows = [await gateway.books.row(number) for number in range(5)]
    assert len(upstream.asked) == 3
    document = json.loads(again)
    assert document["performance_info"]["cache_hit"] is True
    assert document["cost_info"]["vllm_cost_usd"] == 0
    assert streamed == b"".join([event(chunk("Hel")), event(chunk("lo")), DONE])
    assert [row.outcome for row in rows].count(Outcome.CACHED) == 2
    assert rows[1].cost_picousd == 0
    assert gateway.books.shares[1].ended == [(0, 0)]
