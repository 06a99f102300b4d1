"""Calls of the REST API whose every answer is held against the published schema."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx

from runpod_emulator import Emulator
from tests.contract.rest_contract import check_answer, check_request

WANTED: dict[str, Any] = {
    "name": "chat",
    "type": "QUEUE",
    "image": "example/worker:1",
    "env": {"MODEL_NAME": "x"},
    "gpu": {"pools": ["ADA_24"]},
    "scaling": {"type": "QUEUE_DELAY", "queueDelay": 4},
}


class RestCalls:
    """One client of an emulator's REST API."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client

    async def __call__(self, method: str, path: str, body: object = None) -> httpx.Response:
        """Sends a request as our own code does: by the schema. A text is sent as it is, and may be wrong."""
        content = body if isinstance(body, str) else "" if body is None else json.dumps(body)
        parts = urlsplit(path)
        if not isinstance(body, str):
            check_request(method, parts.path, parts.query, content.encode())
        answer = await self.client.request(method, path, content=content)
        check_answer(method, parts.path, answer.status_code, answer.content, answer.headers)
        return answer

    async def created(self, **fields: Any) -> dict[str, Any]:
        """Returns a new endpoint."""
        answer = await self("POST", "/v2/serverless", WANTED | fields)
        assert answer.status_code == 201, answer.text
        document: dict[str, Any] = answer.json()
        return document


@asynccontextmanager
async def rest_of(emulator: Emulator, **headers: str) -> AsyncIterator[RestCalls]:
    """Opens a client."""
    async with httpx.AsyncClient(base_url=emulator.origin, timeout=60, headers=headers, trust_env=False) as client:
        yield RestCalls(client)
