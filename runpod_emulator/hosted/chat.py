"""/v1/chat/completions and /v1/completions: a reply as one document, or as events that are each due with a token."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

from runpod_emulator.hosted.answers import Answer
from runpod_emulator.hosted.reply import CREATED, Json, Reply

#: An event, after the number of tokens that must have been generated before it is sent.
Event = tuple[int, bytes]
DONE = b"data: [DONE]\n\n"
# One encoder for all events: json.dumps with options makes a new one for each call.
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def chat_document(reply: Reply) -> Json:
    """Returns a chat completion."""
    choices = [
        {"index": index, "message": _message(choice), "logprobs": None, "finish_reason": choice.finish}
        for index, choice in enumerate(reply.answers)
    ]
    return _document(reply, "chat.completion", choices)


def completion_document(reply: Reply) -> Json:
    """Returns a text completion."""
    choices = [
        {"index": index, "text": choice.text, "logprobs": None, "finish_reason": choice.finish}
        for index, choice in enumerate(reply.answers)
    ]
    return _document(reply, "text_completion", choices)


def chat_events(reply: Reply) -> Iterator[Event]:
    """Yields the role, a delta per token, the finish reason, the usage if it is sent, and [DONE]."""
    for index, choice in enumerate(reply.answers):
        yield reply.reasoning_tokens, _event(reply, "chat.completion.chunk", _delta(index, _opening(choice)), 0)
    for count, index, piece in _tokens(reply):
        delta = {"content": piece}
        if reply.answers[index].tool is not None:
            delta = {"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}  # type: ignore[dict-item]
        yield count, _event(reply, "chat.completion.chunk", _delta(index, delta), count)
    last = [_delta(index, {}, choice.finish) for index, choice in enumerate(reply.answers)]
    yield from _ending(reply, "chat.completion.chunk", last)


def completion_events(reply: Reply) -> Iterator[Event]:
    """Yields an event per token, the finish reason, the usage if it is sent, and [DONE]."""
    for count, index, piece in _tokens(reply):
        yield count, _event(reply, "text_completion", _text(index, piece), count)
    last = [_text(index, "", choice.finish) for index, choice in enumerate(reply.answers)]
    yield from _ending(reply, "text_completion", last)


def sse(document: Json, name: str | None = None) -> bytes:
    """Returns a server-sent event."""
    event = f"event: {name}\n" if name else ""
    return f"{event}data: {_encode(document)}\n\n".encode()


def _tokens(reply: Reply) -> Iterator[tuple[int, int, str]]:
    """Yields each token as its running number, the index of its choice, and its text. The choices take turns."""
    count = reply.reasoning_tokens
    for pieces in zip_longest(*(choice.pieces for choice in reply.answers)):
        for index, piece in enumerate(pieces):
            if piece is not None:
                count += 1
                yield count, index, piece


def _ending(reply: Reply, kind: str, choices: list[Json]) -> Iterator[Event]:
    total = reply.completion_tokens
    position = reply.settings.usage_place if reply.sends_usage else "nowhere"
    for number, choice in enumerate(choices, 1):
        extra: Json = {}
        if number == len(choices) and position == "last_choice":
            extra = {"usage": reply.usage()}
        elif number == len(choices) and position == "x_groq":
            extra = {"x_groq": {"id": reply.id, "usage": reply.usage()}}
        yield total, _event(reply, kind, choice, total, extra)
    if position in ("own_chunk", "every_chunk"):
        yield total, sse(_envelope(reply, kind) | {"choices": [], "usage": reply.usage()})
    yield total, DONE


def _event(reply: Reply, kind: str, choice: Json, count: int, extra: Json | None = None) -> bytes:
    usage: Json = {}
    if reply.sends_usage and reply.settings.usage_place == "every_chunk":
        usage = {"usage": reply.usage(count)}
    elif reply.sends_usage and reply.settings.usage_place == "own_chunk":
        usage = {"usage": None}  # OpenAI sends null in every chunk but the last
    return sse(_envelope(reply, kind) | {"choices": [choice]} | usage | (extra or {}))


def _document(reply: Reply, kind: str, choices: list[Json]) -> Json:
    usage = {"usage": reply.usage()} if reply.sends_usage else {}
    return _envelope(reply, kind) | {"choices": choices} | usage


def _envelope(reply: Reply, kind: str) -> Json:
    return {"id": reply.id, "object": kind, "created": CREATED, "model": reply.model.id}


def _message(choice: Answer) -> Json:
    if choice.tool is None:
        return {"role": "assistant", "content": choice.text, "refusal": None}
    return {"role": "assistant", "content": None, "refusal": None, "tool_calls": [_call(choice.tool, choice.text)]}


def _opening(choice: Answer) -> Json:
    if choice.tool is None:
        return {"role": "assistant", "content": ""}
    return {"role": "assistant", "content": None, "tool_calls": [{"index": 0} | _call(choice.tool, "")]}


def _call(name: str, arguments: str) -> Json:
    return {"id": f"call_{name}", "type": "function", "function": {"name": name, "arguments": arguments}}


def _delta(index: int, delta: Json, finish: str | None = None) -> Json:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}


def _text(index: int, text: str, finish: str | None = None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": None, "finish_reason": finish}
