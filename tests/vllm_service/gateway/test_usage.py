"""The tokens of an answer: read wherever the provider tells them, shown to who asks, else estimated."""

from __future__ import annotations

from typing import Any

import pytest

from tests.vllm_service.gateway.asking import HEADERS, MESSAGES, answers, posted
from tests.vllm_service.gateway.running import gateway_to
from tests.vllm_service.upstream import DONE, USAGE, Asked, ScriptedUpstream, chunk, completion, event, events
from vllm_service.domain.usage import Usage


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
