"""Answers with status 200 that are none, through the gateway: what callers, breakers, ledger and cache get of them."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import openai
import pytest

from tests.vllm_service.gateway.asking import HEADERS, MESSAGES, joined
from tests.vllm_service.gateway.running import QUICK, Running, catalog_of, gateway_to, running
from vllm_service.domain.breakers import BreakerState
from vllm_service.domain.requests import Outcome
from vllm_service.domain.usage import Usage
from vllm_service.resilience.breakers.breaker_settings import BreakerSettings
from vllm_service.resilience.policy import ResiliencePolicy
from vllm_service.storage.responses.memory import MemoryResponses, ResponseBounds
from vllm_service.testing import (
    DONE,
    USAGE,
    Reply,
    ScriptedProvider,
    chat,
    chat_chunk,
    chat_document,
    chat_events,
    chat_stream,
    events,
    whole,
)

CACHE = partial(MemoryResponses, ResponseBounds())
TOUCHY = BreakerSettings(consecutive_failures=5, open_seconds=3600, longest_open_seconds=3600)
ROLE = chat_chunk(None, choices=[{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}])
ENGINE_ERROR = {"error": {"message": "EngineCore died", "type": "InternalServerError", "param": None, "code": 500}}
BARE_USAGE = [{"usage": dict(USAGE)}, {"choices": None, "usage": dict(USAGE)}, {"choices": [], "usage": dict(USAGE)}]


async def ask(gateway: Running, *, stream: bool = False, **members: Any) -> tuple[int, bytes]:
    body = {"model": "small", "messages": MESSAGES, "stream": stream, **members}
    response = await gateway.http.post(f"{gateway.url}/chat/completions", json=body, headers=HEADERS)
    return response.status_code, response.content


def touchy() -> ResiliencePolicy:
    return ResiliencePolicy.of(TOUCHY, retries=QUICK)


def states(policy: ResiliencePolicy) -> list[BreakerState]:
    """Of every offer that was tried, as they are for the caller's organisation."""
    now = policy.clock()
    return [breaker.for_organisation("acme", now).state(now) for breaker in policy.breakers.by_offer.values()]


COMPLETE = {
    "a finish reason and no [DONE]": [chat_chunk("Hi"), chat_chunk(None, "stop")],
    "usage behind the finish reason": [chat_chunk("Hi"), chat_chunk(None, "stop"), {"choices": [], "usage": {}}],
    "[DONE] without an empty line": [chat_chunk("Hi"), chat_chunk(None, "stop"), b"data: [DONE]"],
    "a comment at the end": [chat_chunk("Hi"), chat_chunk(None, "stop"), b": bye\n\n"],
    "old line breaks": [joined(chat_events("Hi")).replace(b"\n", b"\r")],
    "a byte order mark": [b"\xef\xbb\xbf" + joined(chat_events("Hi"))],
}


@pytest.mark.parametrize("items", COMPLETE.values(), ids=COMPLETE)
async def test_a_complete_stream_is_complete_and_shuts_no_provider(items: list[object]) -> None:
    policy = touchy()
    async with gateway_to(ScriptedProvider(events(*items)), policy=policy) as gateway:
        for number in range(6):
            status, content = await ask(gateway, stream=True)
            assert (status, content.rstrip().endswith(b"[DONE]")) == (200, True)
            assert (await gateway.books.row(number)).outcome is Outcome.COMPLETED
        stream = await gateway.client.chat.completions.create(model="small", messages=MESSAGES, stream=True)
        said = [chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices]
    assert "".join(said) == "Hi"
    assert BreakerState.OPEN not in states(policy)


@pytest.mark.parametrize(
    ("items", "shown"),
    [
        pytest.param([b": waiting\n\n", ENGINE_ERROR, DONE], b"", id="after a comment"),
        pytest.param([ROLE, ENGINE_ERROR, DONE], b"", id="after a role"),
        pytest.param([ROLE, chat_chunk("Hel"), ENGINE_ERROR, DONE], b"Hel", id="after content"),
    ],
)
async def test_the_engines_error_and_done_is_a_failure_wherever_it_comes(items: list[object], shown: bytes) -> None:
    policy = touchy()
    async with (
        ScriptedProvider(events(*items)) as failing,
        ScriptedProvider(chat_stream("sound")) as sound,
        running(catalog_of(failing.url, sound.url), policy=policy, responses=CACHE()) as gateway,
    ):
        for number in range(5):
            status, content = await ask(gateway, stream=True, temperature=0, user=str(number))
            row = await gateway.books.row(number)
            assert status == 200
            assert (b"sound" in content) is not bool(shown)
            assert (b"[DONE]" in content) is not bool(shown)
            assert row.outcome is (Outcome.FAILED if shown else Outcome.COMPLETED if number == 0 else Outcome.CACHED)
            if not shown:
                break
    if shown:  # nothing was cached, each of five failed, and that shut the provider
        assert len(failing.requests) == 5
        assert BreakerState.OPEN in states(policy)


async def test_a_failed_stream_says_what_failed_and_is_billed_by_what_has_come() -> None:
    async with gateway_to(ScriptedProvider(events(chat_chunk("Hel"), ENGINE_ERROR, DONE))) as gateway:
        _, content = await ask(gateway, stream=True)
        row = await gateway.books.row()
    error = json.loads(content.removesuffix(b"\n\n").rpartition(b"data: ")[2])["error"]
    assert (error["code"], row.error_code) == ("UPSTREAM_502", "UPSTREAM_502")
    assert row.usage is not None
    assert (row.usage.completion_tokens, row.usage.estimated) == (1, True)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("error", "status", "is_open"),
    [
        ({"message": "too long", "type": "BadRequestError", "code": 400}, 400, False),
        ({"message": "slow down", "code": "rate_limit_exceeded"}, 429, False),
        ({"message": "dead", "code": 500}, 502, True),
        ({"message": "dead"}, 502, True),
    ],
    ids=["400", "429", "500", "no status"],
)
async def test_an_error_within_a_200_means_what_its_status_means(
    error: dict[str, Any], status: int, is_open: bool, stream: bool
) -> None:
    policy = touchy()
    reply = events({"error": error}, DONE) if stream else whole({"id": "x", "choices": None, "error": error})
    async with gateway_to(ScriptedProvider(reply), policy=policy) as gateway:
        statuses = {(await ask(gateway, stream=stream))[0] for _ in range(2 if is_open else 6)}
    assert statuses == {status}
    assert (BreakerState.OPEN in states(policy)) is False or is_open


async def test_the_retry_after_of_a_200_with_429_within_it_counts() -> None:
    error = {"error": {"message": "slow down", "code": 429}}
    async with gateway_to(ScriptedProvider(whole(error, headers={"retry-after": "7"}))) as gateway:
        response = await gateway.http.post(
            f"{gateway.url}/chat/completions", json={"model": "small", "messages": MESSAGES}, headers=HEADERS
        )
    assert (response.status_code, response.headers["retry-after"]) == (429, "7")


async def test_an_error_within_a_200_is_never_cached() -> None:
    replies = iter([whole({"id": "x", "error": {"message": "no"}}), chat("sound")])
    provider = ScriptedProvider(lambda request: next(replies))
    async with gateway_to(provider, responses=CACHE()) as gateway:
        assert b"sound" in (await ask(gateway, temperature=0))[1]
    assert len(provider.requests) == 2


# JSON for a stream, and the other way round.


async def test_a_document_for_a_stream_is_replayed_so_that_the_sdk_yields_it() -> None:
    async with gateway_to(ScriptedProvider(chat("Hello"))) as gateway:
        stream = await gateway.client.chat.completions.create(
            model="small", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        assert (await gateway.books.row()).usage == Usage(10, 3)
        _, content = await ask(gateway, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "Hello"
    assert chunks[-1].usage is not None
    assert content.endswith(DONE)
    assert b'"usage"' not in content


async def test_a_response_for_a_stream_is_replayed_too() -> None:
    item: dict[str, Any] = {"type": "message", "id": "m", "role": "assistant", "status": "completed"}
    item["content"] = [{"type": "output_text", "text": "Hello", "annotations": []}]
    document = {"id": "r", "object": "response", "status": "completed", "output": [item], "model": "m"}
    async with gateway_to(ScriptedProvider(whole(document))) as gateway:
        stream = await gateway.client.responses.create(model="small", input="Hi", stream=True)
        seen = [event async for event in stream]
    assert [event.delta for event in seen if event.type == "response.output_text.delta"] == ["Hello"]
    assert seen[-1].type == "response.completed"


async def test_events_for_a_whole_request_are_no_answer_whatever_their_type() -> None:
    for content_type in (None, "application/json"):
        reply = events(*chat_events("Hi"), content_type=content_type)
        async with gateway_to(ScriptedProvider(reply)) as gateway:
            status, content = await ask(gateway)
        assert status == 502
        assert b"a stream that was not requested" in content


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", "application/octet-stream"])
async def test_events_of_another_type_are_the_stream_that_was_requested(content_type: str) -> None:
    async with gateway_to(ScriptedProvider(events(*chat_events("Hi"), content_type=content_type))) as gateway:
        status, content = await ask(gateway, stream=True)
    assert (status, content) == (200, joined(chat_events("Hi", usage=None)))


# Bytes pass as they came.

ODD = {
    "half an emoji": json.dumps(chat_document("cut \ud83d")).encode(),
    "half an emoji in bytes": json.dumps(chat_document("cut #")).encode().replace(b"#", b"\xf0\x9f"),
    "a byte order mark": b"\xef\xbb\xbf" + json.dumps(chat_document("Hi")).encode(),
    "NaN": json.dumps(chat_document("Hi", x=float("nan"))).encode(),
}


@pytest.mark.parametrize("document", ODD.values(), ids=ODD)
async def test_odd_bytes_pass_and_are_generated_once(document: bytes) -> None:
    provider = ScriptedProvider(whole(document))
    async with gateway_to(provider) as gateway:
        assert await ask(gateway) == (200, document)
        assert (await gateway.books.row()).usage == Usage(10, 3)
    assert len(provider.requests) == 1


@pytest.mark.parametrize("text", [b"\\ud83d", b"\xf0\x9f", b'","x":NaN,"y":"'], ids=["escaped", "bytes", "NaN"])
async def test_odd_bytes_within_a_stream_pass_too(text: bytes) -> None:
    stream = joined(chat_events("A#", "B", usage=None)).replace(b"#", text)
    provider = ScriptedProvider(events(stream))
    async with gateway_to(provider) as gateway:
        assert await ask(gateway, stream=True) == (200, stream)
    assert len(provider.requests) == 1


# Usage alone.


@pytest.mark.parametrize("chunk", BARE_USAGE, ids=["no choices", "null", "an empty list"])
async def test_a_chunk_of_usage_alone_reaches_only_callers_who_have_requested_it(chunk: object) -> None:
    reply: Reply = events(chat_chunk("Hi"), chat_chunk(None, "stop"), chunk, DONE)
    async with gateway_to(ScriptedProvider(reply)) as gateway:
        _, hidden = await ask(gateway, stream=True)
        _, shown = await ask(gateway, stream=True, stream_options={"include_usage": True})
        assert (await gateway.books.row()).usage == Usage(10, 3)
    assert b'"usage"' not in hidden
    assert b'"usage"' in shown


async def test_the_sdk_raises_for_an_error_after_content() -> None:
    async with gateway_to(ScriptedProvider(events(chat_chunk("Hel"), ENGINE_ERROR, DONE))) as gateway:
        stream = await gateway.client.chat.completions.create(model="small", messages=MESSAGES, stream=True)
        with pytest.raises(openai.APIError):
            _ = [chunk async for chunk in stream]
