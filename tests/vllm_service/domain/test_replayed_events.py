"""Whole answers written as streams: what the official SDKs put together from the events is the answer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from vllm_service.domain.answers import Form, Verdict
from vllm_service.domain.event_stream import EventSplitter, StreamJudge
from vllm_service.domain.replayed_events import events_of
from vllm_service.testing import USAGE, chat_document

CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a":1}'}}
RESPONSE: dict[str, Any] = {
    "id": "r",
    "object": "response",
    "status": "completed",
    "output": [
        {"type": "message", "id": "m", "role": "assistant", "content": [{"type": "output_text", "text": "Hi"}]},
        {"type": "function_call", "id": "f", "call_id": "c", "name": "add", "arguments": "{}"},
    ],
    "usage": {"input_tokens": 1, "output_tokens": 2},
}


def documents(form: Form, answer: object) -> list[Any]:
    """The JSON of each event; all of them together are a complete stream."""
    judge, events = StreamJudge(form), list(EventSplitter().feed(events_of(form, json.dumps(answer).encode())))
    for event in events:
        judge.take(event)
    assert judge.end().verdict is Verdict.ANSWER
    return [json.loads(event.data) for event in events if event.data != b"[DONE]"]


def test_a_chat_is_its_role_its_content_its_end_and_its_usage() -> None:
    role, content, end, usage = documents(Form.CHAT, chat_document("Hi"))
    assert {document["object"] for document in (role, content, end, usage)} == {"chat.completion.chunk"}
    assert role["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert content["choices"][0] == {"index": 0, "delta": {"content": "Hi"}, "finish_reason": None}
    assert end["choices"][0] == {"index": 0, "delta": {}, "finish_reason": "stop"}
    assert (usage["choices"], usage["usage"]) == ([], dict(USAGE))


def test_tool_calls_reasoning_and_logprobs_are_in_the_delta_with_the_content() -> None:
    message = {"role": "assistant", "content": None, "reasoning_content": "hm", "tool_calls": [CALL, CALL]}
    choice = {"index": 0, "message": message, "logprobs": {"content": []}, "finish_reason": "tool_calls"}
    _, content, end = documents(Form.CHAT, {"choices": [choice]})
    assert content["choices"][0]["delta"] == {
        "reasoning_content": "hm",
        "tool_calls": [{"index": 0, **CALL}, {"index": 1, **CALL}],
    }
    assert content["choices"][0]["logprobs"] == {"content": []}
    assert end["choices"][0]["finish_reason"] == "tool_calls"


def test_each_choice_has_its_own_events() -> None:
    choices = [{"message": {"content": text}, "finish_reason": "length"} for text in "ab"]
    made = documents(Form.CHAT, {"choices": choices})
    assert [document["choices"][0]["index"] for document in made] == [0, 0, 0, 1, 1, 1]


def test_a_chat_without_content_has_a_role_and_an_end() -> None:
    made = documents(Form.CHAT, {"choices": [{"message": {"content": None}, "finish_reason": None}]})
    assert [document["choices"][0]["finish_reason"] for document in made] == [None, "stop"]


def test_a_completion_is_one_chunk_for_each_choice_and_the_usage() -> None:
    choice = {"index": 0, "text": "Hi", "finish_reason": "stop"}
    text, usage = documents(Form.COMPLETIONS, {"object": "text_completion", "choices": [choice], "usage": USAGE})
    assert text == {"object": "text_completion", "choices": [choice]}
    assert usage["usage"] == dict(USAGE)


def test_a_response_is_the_events_of_its_items_in_order() -> None:
    made = documents(Form.RESPONSES, RESPONSE)
    assert [event["type"].removeprefix("response.") for event in made] == [
        "created",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]
    assert [event["sequence_number"] for event in made] == list(range(12))
    assert made[-1]["response"] == RESPONSE
    assert made[1]["item"] == {**RESPONSE["output"][0], "status": "in_progress", "content": []}


def test_a_bounded_response_ends_as_incomplete() -> None:
    assert documents(Form.RESPONSES, {**RESPONSE, "status": "incomplete"})[-1]["type"] == "response.incomplete"


@pytest.mark.parametrize("text", ["cut \\ud83d", "\\u6771\\u4eac"])
def test_escapes_are_kept_half_an_emoji_among_them(text: str) -> None:
    document = b'{"choices":[{"message":{"content":"%b"},"finish_reason":"stop"}]}' % text.encode()
    assert text.encode() in events_of(Form.CHAT, document)
