"""Answers of a model as OpenAI's API words them: chats and text completions, whole and streamed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vllm_service.testing.replies import DONE, Reply, events, whole

USAGE: Mapping[str, int] = {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13}


def chat_document(text: str, usage: Mapping[str, Any] | None = USAGE, **members: Any) -> dict[str, Any]:
    """Returns a whole chat completion. members: more of it, or other values for what it has."""
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return {**_envelope("chat.completion", choice, usage), **members}


def chat(text: str, usage: Mapping[str, Any] | None = USAGE) -> Reply:
    """Returns a reply with a whole chat completion."""
    return whole(chat_document(text, usage))


def chat_chunk(text: str | None, finish_reason: str | None = None, **members: Any) -> dict[str, Any]:
    """Returns one chunk of a streamed chat completion, without content if text is None. members: more of it."""
    delta = {} if text is None else {"content": text}
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return {**_envelope("chat.completion.chunk", choice, None), **members}


def chat_events(*texts: str, usage: Mapping[str, Any] | None = USAGE) -> list[object]:
    """Returns a whole streamed chat: a chunk for each text, the reason of the end, the usage, and [DONE]."""
    last = [] if usage is None else [chat_chunk(None, choices=[], usage=usage)]
    return [*(chat_chunk(text) for text in texts), chat_chunk(None, "stop"), *last, DONE]


def chat_stream(*texts: str, usage: Mapping[str, Any] | None = USAGE) -> Reply:
    """Returns a reply with a whole streamed chat, as `chat_events` has it."""
    return events(*chat_events(*texts, usage=usage))


def completion(text: str, usage: Mapping[str, Any] | None = USAGE, headers: Mapping[str, str] | None = None) -> Reply:
    """Returns a reply with a whole text completion."""
    choice = {"index": 0, "text": text, "finish_reason": "stop"}
    return whole(_envelope("text_completion", choice, usage), headers=headers)


def completion_chunk(text: str, finish_reason: str | None = None, **members: Any) -> dict[str, Any]:
    """Returns one chunk of a streamed text completion. members: more of it."""
    choice = {"index": 0, "text": text, "finish_reason": finish_reason}
    return {**_envelope("text_completion", choice, None), **members}


def completion_stream(*texts: str, usage: Mapping[str, Any] | None = None) -> Reply:
    """Returns a reply with a whole streamed text completion: as `chat_stream`, but without usage by default."""
    last = [] if usage is None else [completion_chunk("", choices=[], usage=usage)]
    return events(*(completion_chunk(text) for text in texts), completion_chunk("", "stop"), *last, DONE)


def _envelope(kind: str, choice: Mapping[str, Any], usage: Mapping[str, Any] | None) -> dict[str, Any]:
    envelope = {"id": "chatcmpl-1", "object": kind, "created": 1, "model": "there", "choices": [choice]}
    return envelope if usage is None else {**envelope, "usage": usage}
