"""A scripted provider for tests: a real HTTP/1.1 server on loopback that does what a script says, byte by byte.

    async with ScriptedProvider(in_turn(refused(503), chat("Hello"))) as provider:
        client = AsyncOpenAI(base_url=provider.url, api_key="any", max_retries=0)
        ...
    assert provider.requests[0].json["model"] == "small"

A script makes a `Reply` of each request; a reply is a row of actions: bytes to write, a pause, the end of the
connection, silence. Whatever such a row can say, a provider can do to its callers.
"""

from __future__ import annotations

from vllm_service.testing.completions import (
    USAGE,
    chat,
    chat_chunk,
    chat_document,
    chat_events,
    chat_stream,
    completion,
    completion_chunk,
    completion_stream,
)
from vllm_service.testing.provider import ReceivedRequest, Script, ScriptedProvider, in_turn, reply_of, says
from vllm_service.testing.replies import (
    CLOSES,
    DONE,
    GARBAGE,
    HANGS,
    RESETS,
    Action,
    Close,
    Pause,
    Reply,
    Reset,
    Signal,
    begun,
    event,
    events,
    refused,
    whole,
)

__all__ = [
    "CLOSES",
    "DONE",
    "GARBAGE",
    "HANGS",
    "RESETS",
    "USAGE",
    "Action",
    "Close",
    "Pause",
    "ReceivedRequest",
    "Reply",
    "Reset",
    "Script",
    "ScriptedProvider",
    "Signal",
    "begun",
    "chat",
    "chat_chunk",
    "chat_document",
    "chat_events",
    "chat_stream",
    "completion",
    "completion_chunk",
    "completion_stream",
    "event",
    "events",
    "in_turn",
    "refused",
    "reply_of",
    "says",
    "whole",
]
