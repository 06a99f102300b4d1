"""Streams beyond their texts: tool calls, reasoning, several choices, and chunks that hold only usage."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.vllm_service.client.router.two_places import two
from tests.vllm_service.client.runpod_provider import AT_ONCE, runpod
from vllm_service import LLMRouter, RunPodVLLMService, RunPodVLLMServiceSync, StreamBroken, TextStream, errors
from vllm_service.client.deltas import Assembly, Delta, ToolCallPart, read_chunk
from vllm_service.client.results import ToolCall
from vllm_service.domain.usage import Usage
from vllm_service.testing import (
    DONE,
    USAGE,
    Close,
    Pause,
    Reply,
    ScriptedProvider,
    begun,
    chat_chunk,
    events,
    in_turn,
    whole,
)

MESSAGES = [{"role": "user", "content": "hi"}]


def part(delta: object = None, reason: str | None = None, index: int = 0, **members: Any) -> dict[str, Any]:
    choice = {"index": index, "delta": delta or {}, "finish_reason": reason, **members}
    return chat_chunk(None, choices=[choice])


def call(index: int, arguments: str, call_id: str | None = None, name: str | None = None) -> dict[str, Any]:
    function = {"arguments": arguments} | ({} if name is None else {"name": name})
    return {"tool_calls": [{"index": index, "function": function} | ({} if call_id is None else {"id": call_id})]}


WEATHER = [
    part({"role": "assistant", "content": ""}),
    part({"reasoning_content": "I need the weather"}),
    part(call(0, "", "call-a", "weather")),
    part(call(0, '{"city":')),
    part(call(1, "", "call-b", "time")),
    part(call(0, ' "Oslo"}')),
    part(call(1, "{}")),
    part(reason="tool_calls"),
    chat_chunk(None, choices=[], usage=USAGE),
    DONE,
]
CALLED = (ToolCall("call-a", "weather", '{"city": "Oslo"}'), ToolCall("call-b", "time", "{}"))
MESSAGE = {
    "role": "assistant",
    "content": None,
    "reasoning_content": "I need the weather",
    "tool_calls": [
        {"id": "call-a", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}},
        {"id": "call-b", "type": "function", "function": {"name": "time", "arguments": "{}"}},
    ],
}
TWO = [
    part({"content": "One"}, index=0),
    part({"content": "Eins"}, index=1),
    chat_chunk(
        None,
        choices=[
            {"index": 1, "delta": {"content": "!"}, "finish_reason": None},
            {"index": 0, "delta": {"content": "."}, "finish_reason": "stop"},
        ],
    ),
    part(reason="length", index=1),
    DONE,
]


@asynccontextmanager
async def provider(*replies: Reply) -> AsyncIterator[tuple[RunPodVLLMService, ScriptedProvider]]:
    async with runpod(in_turn(*replies)) as server, RunPodVLLMService(base_url=server.url) as service:
        yield service, server


async def deltas(stream: TextStream) -> list[Delta]:
    return [delta async for delta in stream.deltas()]


async def test_a_streamed_tool_call_is_in_the_deltas_and_in_the_answer() -> None:
    async with provider(events(*WEATHER)) as (service, _):
        stream = service.stream_chat(MESSAGES, tools=[{}])
        got = await deltas(stream)
    assert [delta.reasoning for delta in got if delta.reasoning] == ["I need the weather"]
    assert [one for delta in got for one in delta.tool_calls][:2] == [
        ToolCallPart(0, "call-a", "weather", ""),
        ToolCallPart(0, None, None, '{"city":'),
    ]
    assert (got[-1].finish_reason, got[-1].has_content) == ("tool_calls", False)
    answer = stream.answer
    assert (answer.message, answer.tool_calls, answer.text, answer.finish_reason) == (MESSAGE, CALLED, "", "tool_calls")
    assert answer.usage == Usage(10, 3)
    assert answer.ttft_ms is not None


async def test_texts_alone_are_as_before_and_the_answer_has_the_calls() -> None:
    chunks = [part({"content": "I look"}), *WEATHER]
    async with provider(events(*chunks)) as (service, _):
        stream = service.stream_chat(MESSAGES)
        assert [text async for text in stream] == ["I look"]
        assert stream.answer.tool_calls == CALLED


async def test_a_router_and_a_sync_client_deliver_tool_calls_too() -> None:
    async with two(own=events(*WEATHER)) as places, LLMRouter("QUALITY", places.catalog) as router:
        stream = router.stream_chat(MESSAGES)
        assert [text async for text in stream] == []
        assert (stream.answer.tool_calls, stream.answer.message, stream.answer.provider) == (CALLED, MESSAGE, "own")


def read_in_thread(url: str) -> tuple[int, Any]:
    with RunPodVLLMServiceSync(base_url=url) as service:
        stream = service.stream_chat(MESSAGES)
        return len(list(stream.deltas())), stream.answer.tool_calls


async def test_a_sync_client_has_deltas() -> None:
    async with runpod(events(*WEATHER)) as server:
        assert await asyncio.to_thread(read_in_thread, server.url) == (7, CALLED)


async def test_a_stream_that_breaks_within_a_tool_call_is_not_generated_again() -> None:
    broken = begun(part(call(0, "", "call-a", "weather")), part(call(0, '{"ci'))).then(Close())
    async with provider(broken, events(*WEATHER)) as (service, server):
        stream = service.stream_chat(MESSAGES, retry=AT_ONCE)
        with pytest.raises(StreamBroken):
            await deltas(stream)
    assert len(server.requests) == 1


async def test_leaving_the_deltas_leaves_the_provider() -> None:
    async with provider(begun(part({"content": "fo"})).then(Pause(None))) as (service, server):
        reading = service.stream_chat(MESSAGES).deltas()
        assert (await anext(reading)).text == "fo"
        await reading.aclose()
        await asyncio.wait_for(server.was_left.wait(), 10)


async def test_choices_of_one_stream_are_kept_apart() -> None:
    async with provider(events(*TWO)) as (service, server):
        stream = service.stream_chat(MESSAGES, n=2)
        got = await deltas(stream)
    assert [(delta.choice, delta.text) for delta in got if delta.text] == [(0, "One"), (1, "Eins"), (1, "!"), (0, ".")]
    assert [(one.index, one.text, one.finish_reason) for one in stream.answer.choices] == [
        (0, "One.", "stop"),
        (1, "Eins!", "length"),
    ]
    assert server.requests[0].json["n"] == 2


@pytest.mark.parametrize("client", ["service", "router"])
async def test_texts_of_several_choices_are_refused_and_nothing_is_sent(client: str) -> None:
    async with two(own=events(*TWO)) as places, LLMRouter("QUALITY", places.catalog) as router:
        async with RunPodVLLMService(base_url=places.own.url) as service:
            caller: Any = service if client == "service" else router
            with pytest.raises(errors.InvalidRequest, match=r"n: .*deltas\(\)"):
                await anext(caller.stream_chat(MESSAGES, n=2))
            with pytest.raises(errors.InvalidRequest, match="n: generate returns one text; use complete"):
                await caller.generate("hi", n=2)
        assert places.own.requests == []


async def test_a_batch_of_texts_refuses_several_choices_and_a_batch_of_answers_has_them() -> None:
    choices = [{"index": number, "text": f"text {number}", "finish_reason": "stop"} for number in range(2)]
    async with provider(whole({"choices": choices})) as (service, server):
        with pytest.raises(errors.InvalidRequest, match="n: batch_generate"):
            await service.batch_generate(["hi"], n=2)
        assert server.requests == []
        (item,) = await service.batch(["hi"], n=2)
    assert item.answer is not None
    assert [one.text for one in item.answer.choices] == ["text 0", "text 1"]


@pytest.mark.parametrize(
    "last",
    [{"usage": USAGE}, {"choices": [], "usage": USAGE}, {"choices": None, "usage": USAGE}, {"usage": USAGE, "id": "x"}],
)
async def test_a_last_chunk_with_usage_alone_is_the_usage(last: dict[str, Any]) -> None:
    async with provider(events(part({"content": "fine"}), part(reason="stop"), last, DONE)) as (service, _):
        stream = service.stream_chat(MESSAGES)
        assert [text async for text in stream] == ["fine"]
    assert stream.answer.usage == Usage(10, 3)


@pytest.mark.parametrize(
    ("delta", "expected"),
    [
        ({"content": 5, "tool_calls": "x", "reasoning": 1}, Delta()),
        ({"tool_calls": [None, {"function": "f", "index": "x", "id": 3}]}, (0, 1)),
        ({"reasoning": "hm", "refusal": "no"}, Delta(reasoning="hm", refusal="no")),
        ({"content": None}, Delta()),
    ],
)
def test_members_of_odd_types_are_left_out(delta: dict[str, Any], expected: Any) -> None:
    (got,) = read_chunk({"choices": [{"delta": delta}]}).deltas
    if isinstance(expected, Delta):
        assert (got.text, got.tool_calls, got.reasoning, got.refusal) == ("", (), expected.reasoning, expected.refusal)
    else:
        assert got.tool_calls == tuple(ToolCallPart(index, None, None, "") for index in expected)


def test_calls_without_an_index_are_told_apart_by_their_ids() -> None:
    assembly = Assembly(is_chat=True)
    for call_id, arguments in [("a", "{1"), (None, "}"), ("b", "{2}"), ("b", "!")]:
        assembly.add(Delta(tool_calls=(ToolCallPart(0, call_id, None, arguments),)))
    (choice,) = assembly.choices()
    assert choice.message is not None
    called = [(one["id"], one["function"]["arguments"]) for one in choice.message["tool_calls"]]
    assert called == [("a", "{1}"), ("b", "{2}!")]
