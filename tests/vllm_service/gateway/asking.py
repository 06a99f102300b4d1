"""Chat calls to the gateway, with and without the official client."""

from __future__ import annotations

import json
from typing import Any

from tests.vllm_service.gateway.running import Running
from tests.vllm_service.upstream import Asked, completion, events

MESSAGES: Any = [{"role": "user", "content": "Hi"}]
HEADERS = {"x-annotate": "off"}


async def answers(asked: Asked) -> None:
    await asked.stream(events("Hel", "lo")) if asked.body.get("stream") else await asked.json(completion())


async def posted(gateway: Running, body: Any, **headers: str) -> tuple[int, dict[str, str], bytes]:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = await gateway.http.post(f"{gateway.url}/chat/completions", content=content, headers=headers)
    return response.status_code, dict(response.headers), response.content
