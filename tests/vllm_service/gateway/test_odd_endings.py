"""Streams that end in odd ways: without an end of the body, or with ends that are none."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.vllm_service.gateway.asking import MESSAGES
from tests.vllm_service.gateway.running import gateway_to
from vllm_service.domain.requests import Outcome
from vllm_service.testing import (
    DONE,
    USAGE,
    Pause,
    ScriptedProvider,
    begun,
    chat_chunk,
    chat_events,
    completion_chunk,
    events,
    whole,
)
from vllm_service.testing.replies import Reply


async def test_a_caller_who_leaves_after_done_has_had_the_whole_answer() -> None:
    """The official SDK reads up to [DONE]; the provider never ends its body."""
    async with gateway_to(ScriptedProvider(begun(*chat_events("Hel", "lo")).then(Pause(None)))) as gateway:
        stream = await gateway.client.chat.completions.create(model="small", messages=MESSAGES, stream=True)
        async with asyncio.timeout(5):
            assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == "Hello"
            await stream.close()
            row = await gateway.books.row()
    assert (row.outcome, row.status, row.error_code) == (Outcome.COMPLETED, 200, None)
    assert row.usage is not None
    assert row.usage.total_tokens == USAGE["total_tokens"]


@pytest.mark.parametrize("finished", [0, 1, 2])
async def test_a_stream_for_a_list_of_prompts_is_complete_when_all_are_answered(finished: int) -> None:
    def part(index: int, reason: str | None) -> dict[str, Any]:
        return completion_chunk("", choices=[{"index": index, "text": "a", "finish_reason": reason}])

    items = [part(index, "stop" if index < finished else None) for index in range(2)]
    async with gateway_to(ScriptedProvider(events(*items))) as gateway:
        body = {"model": "small", "prompt": ["x", "y"], "stream": True}
        response = await gateway.http.post(f"{gateway.url}/completions", json=body)
        row = await gateway.books.row()
    assert (row.outcome is Outcome.COMPLETED) is (finished == 2)
    assert (DONE in response.content) is (finished == 2)


async def test_an_empty_finish_reason_ends_nothing() -> None:
    """Some providers write it into every chunk."""
    async with gateway_to(ScriptedProvider(events(chat_chunk("Hel", ""), chat_chunk("lo", "")))) as gateway:
        body = {"model": "small", "messages": MESSAGES, "stream": True}
        response = await gateway.http.post(f"{gateway.url}/chat/completions", json=body)
        row = await gateway.books.row()
    assert row.outcome is Outcome.FAILED
    assert DONE not in response.content


async def test_a_document_whose_byte_order_mark_is_cut_is_replayed() -> None:
    head, body = (action for action in whole({"choices": [chat_message("Hi")]}).actions if isinstance(action, bytes))
    marked = b"\xef\xbb\xbf" + body
    head = head.replace(b"content-length: %d" % len(body), b"content-length: %d" % len(marked))
    reply = Reply((head, marked[:1], Pause(0.02), marked[1:2], Pause(0.02), marked[2:]))
    async with gateway_to(ScriptedProvider(reply)) as gateway:
        stream = await gateway.client.chat.completions.create(model="small", messages=MESSAGES, stream=True)
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == "Hi"


async def test_an_error_that_is_no_event_of_an_error_ends_a_stream_all_the_same() -> None:
    flat = {"message": "The engine is gone.", "code": 500}
    async with gateway_to(ScriptedProvider(events(chat_chunk("Hi"), flat, DONE))) as gateway:
        body = {"model": "small", "messages": MESSAGES, "stream": True}
        response = await gateway.http.post(f"{gateway.url}/chat/completions", json=body)
        row = await gateway.books.row()
    assert row.outcome is Outcome.FAILED
    assert json.loads(response.content.split(b"data: ")[-1])["error"]["code"] == "UPSTREAM_502"


def chat_message(text: str) -> dict[str, Any]:
    return {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
