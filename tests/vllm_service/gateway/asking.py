"""Chat calls to the gateway, with and without the official client."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from tests.vllm_service.gateway.running import Running
from vllm_service.testing import ReceivedRequest, Reply, chat, chat_events, chat_stream, event

MESSAGES: Any = [{"role": "user", "content": "Hi"}]
HEADERS = {"x-annotate": "off"}


def answers(request: ReceivedRequest) -> Reply:
    return chat_stream("Hel", "lo") if request.is_stream else chat("Hello there")


def joined(items: Iterable[object]) -> bytes:
    """The bytes of these events."""
    return b"".join(event(item) for item in items)


#: What a caller who asked for no usage reads of a stream of `answers`.
SHOWN = joined(chat_events("Hel", "lo", usage=None))


async def posted(gateway: Running, body: Any, **headers: str) -> tuple[int, dict[str, str], bytes]:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = await gateway.http.post(f"{gateway.url}/chat/completions", content=content, headers=headers)
    return response.status_code, dict(response.headers), response.content
