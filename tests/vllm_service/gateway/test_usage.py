"""The tokens of an answer: read wherever the provider tells them, shown to who asks, else estimated."""

from __future__ import annotations

from typing import Any

import pytest

from tests.vllm_service.gateway.asking import HEADERS, MESSAGES, SHOWN, answers, joined, posted
from tests.vllm_service.gateway.running import gateway_to
from vllm_service.domain.usage import Usage
from vllm_service.testing import (
    DONE,
    USAGE,
    ReceivedRequest,
    Reply,
    ScriptedProvider,
    chat_chunk,
    chat_document,
    chat_events,
    event,
    events,
    refused,
    whole,
)


@pytest.mark.parametrize(
    "asking", [{"stream_options": {"include_usage": True}}, {"extra_headers": {"x-annotate": "on"}}]
)
async def test_a_stream_ends_with_an_annotated_usage_chunk_for_who_asks(asking: dict[str, Any]) -> None:
    upstream = ScriptedProvider(answers)
    async with gateway_to(upstream) as gateway:
        create = gateway.client.chat.completions.create
        stream = await create(model="small", messages=MESSAGES, stream=True, **asking)
        chunks = [piece async for piece in stream]
        row = await gateway.books.row()
    assert "".join(piece.choices[0].delta.content or "" for piece in chunks if piece.choices) == "Hello"
    assert upstream.requests[0].json["stream_options"] == {"include_usage": True}
    assert chunks[-1].model_extra is not None
    assert chunks[-1].model_extra["performance_info"]["ttft_ms"] > 0
    assert row.usage == Usage(10, 3)
    assert row.ttft_ms is not None


def knows_include_usage_alone(request: ReceivedRequest) -> Reply:
    others = request.json.get("stream_options", {}).keys() - {"include_usage"}
    return refused(400, f"Unknown parameter: 'stream_options.{others.pop()}'.") if others else answers(request)


@pytest.mark.parametrize("name", ["stream_options", "stream\\u005foptions"])
async def test_what_one_caller_adds_to_the_options_of_a_stream_takes_no_usage_from_others(name: str) -> None:
    upstream = ScriptedProvider(knows_include_usage_alone)
    strange = f'{{"model": "small", "messages": [], "stream": true, "{name}": {{"include_usage": true, "odd": 1}}}}'
    async with gateway_to(upstream) as gateway:
        assert (await posted(gateway, strange.encode()))[0] == 200
        assert (await posted(gateway, {"model": "small", "messages": MESSAGES, "stream": True}))[0] == 200
        row = await gateway.books.row(1)
    assert upstream.requests[-1].json["stream_options"] == {"include_usage": True}
    assert row.usage == Usage(10, 3)


async def test_the_usage_chunk_is_hidden_from_who_did_not_ask_for_it() -> None:
    async with gateway_to(ScriptedProvider(answers)) as gateway:
        body = {"model": "small", "stream": True}
        _, _, hidden = await posted(gateway, body, **HEADERS)
        _, _, refused = await posted(gateway, body | {"stream_options": {"include_usage": False}}, **HEADERS)
        _, _, asked_for = await posted(gateway, body | {"stream_options": {"include_usage": True}}, **HEADERS)
        rows = [await gateway.books.row(number) for number in range(3)]
    assert hidden == refused == SHOWN
    assert asked_for == joined(chat_events("Hel", "lo"))
    assert [row.usage for row in rows] == [Usage(10, 3)] * 3


@pytest.mark.parametrize("usage_at", [0, 1, 2], ids=["first", "middle", "last"])
async def test_usage_is_read_from_whichever_chunk_carries_it(usage_at: int) -> None:
    pieces = [event(chat_chunk(text, usage=USAGE if at == usage_at else None)) for at, text in enumerate("abc")]

    reply = events(b"".join(pieces)[:200], b"".join(pieces)[200:], DONE)
    async with gateway_to(ScriptedProvider(reply)) as gateway:
        _, _, seen = await posted(gateway, {"model": "small", "stream": True}, **HEADERS)
        row = await gateway.books.row()
    assert seen == b"".join(pieces) + DONE
    assert row.usage == Usage(10, 3)


async def test_an_answer_without_usage_is_counted_and_marked_estimated() -> None:
    def script(request: ReceivedRequest) -> Reply:
        if request.is_stream:
            return events(*(chat_chunk(text) for text in "abcdefgh"), DONE)
        return whole(chat_document("word " * 100, None))

    async with gateway_to(ScriptedProvider(script)) as gateway:
        await posted(gateway, {"model": "small", "stream": True})
        await posted(gateway, {"model": "small"})
        streamed, complete = await gateway.books.row(0), await gateway.books.row(1)
    assert streamed.usage is not None
    assert (streamed.usage.completion_tokens, streamed.usage.estimated) == (8, True)
    assert complete.usage is not None
    assert complete.usage.estimated
    assert 80 <= complete.usage.completion_tokens <= 160
