"""Writes a whole answer as the stream that was requested, for providers that do not stream. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from vllm_service.domain.answers import Form
from vllm_service.domain.in_band_errors import loaded

Json = dict[str, Any]
# Of a message: what a chunk has in another place, or as another member.
_NOT_IN_DELTA = ("role", "tool_calls")


def events_of(form: Form, document: bytes) -> bytes:
    """Returns the events of an answer that `judge_whole` took for one; the usage is an event of its own, as always.

    An SDK that reads them ends with the same answer as from the document.
    """
    answer = loaded(document)
    if form is Form.RESPONSES:
        events = (_event(event, event["type"]) for event in _numbered(_response_events(answer)))
        return b"".join(events)
    events = (_event(chunk) for chunk in _chunks(form, answer))
    return b"".join(events) + b"data: [DONE]\n\n"


def _event(document: Json, name: str = "") -> bytes:
    # Escapes keep what the provider wrote, half an emoji included.
    data = json.dumps(document, separators=(",", ":")).encode()
    return b"event: %b\ndata: %b\n\n" % (name.encode(), data) if name else b"data: %b\n\n" % data


def _chunks(form: Form, answer: Json) -> Iterator[Json]:
    envelope = {name: value for name, value in answer.items() if name not in ("choices", "usage")}
    if form is Form.CHAT:
        envelope["object"] = "chat.completion.chunk"
    for place, choice in enumerate(answer["choices"]):
        indexed = {"index": place, **choice}
        for part in _chat_parts(indexed) if form is Form.CHAT else [indexed]:
            yield {**envelope, "choices": [part]}
    if isinstance(answer.get("usage"), Mapping):
        yield {**envelope, "choices": [], "usage": answer["usage"]}


def _chat_parts(choice: Json) -> Iterator[Json]:
    """Yields the role, the content with everything beside it, and the reason of the end."""
    message = choice["message"]
    delta = {name: value for name, value in message.items() if name not in _NOT_IN_DELTA and value not in (None, [])}
    calls = message.get("tool_calls")
    if isinstance(calls, list) and calls:
        delta["tool_calls"] = [
            {"index": place, **call} for place, call in enumerate(calls) if isinstance(call, Mapping)
        ]
    around = {name: value for name, value in choice.items() if name not in ("message", "finish_reason", "index")}
    index = {"index": choice["index"]}
    yield {**index, "delta": {"role": message.get("role") or "assistant", "content": ""}, "finish_reason": None}
    if delta:
        yield {**index, **around, "delta": delta, "finish_reason": None}
    yield {**index, "delta": {}, "finish_reason": choice.get("finish_reason") or "stop"}


def _numbered(events: Iterable[Json]) -> Iterator[Json]:
    for number, event in enumerate(events):
        yield {**event, "sequence_number": number}


def _response_events(answer: Json) -> Iterator[Json]:
    begun = {**answer, "status": "in_progress", "output": [], "usage": None}
    yield {"type": "response.created", "response": begun}
    for place, item in enumerate(answer["output"]):
        if not isinstance(item, Mapping):
            continue
        at = {"output_index": place, "item_id": item.get("id") or f"item_{place}"}
        yield {"type": "response.output_item.added", "output_index": place, "item": {**item, **_emptied(item)}}
        yield from _item_events(item, at)
        yield {"type": "response.output_item.done", "output_index": place, "item": item}
    end = "response.incomplete" if answer.get("status") == "incomplete" else "response.completed"
    yield {"type": end, "response": answer}


def _emptied(item: Mapping[str, Any]) -> Json:
    """Returns the members that an item does not have yet when it begins."""
    empty: Json = {"content": [], "arguments": ""}
    return {"status": "in_progress", **{name: value for name, value in empty.items() if name in item}}


def _item_events(item: Mapping[str, Any], at: Json) -> Iterator[Json]:
    content = item.get("content")
    for place, part in enumerate(content if isinstance(content, list) else []):
        if isinstance(part, Mapping) and part.get("type") == "output_text":
            where = {**at, "content_index": place}
            text = part.get("text") or ""
            yield {"type": "response.content_part.added", **where, "part": {**part, "text": ""}}
            yield {"type": "response.output_text.delta", **where, "delta": text, "logprobs": []}
            yield {"type": "response.output_text.done", **where, "text": text, "logprobs": []}
            yield {"type": "response.content_part.done", **where, "part": part}
    if isinstance(item.get("arguments"), str):
        kind = "response.function_call_arguments"
        yield {"type": f"{kind}.delta", **at, "delta": item["arguments"]}
        yield {"type": f"{kind}.done", **at, "arguments": item["arguments"], "name": item.get("name")}
