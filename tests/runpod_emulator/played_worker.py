"""A worker played by the test, and an emulator with short times for it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable
from typing import Any

import httpx

from runpod_emulator import EndpointSettings

SETTINGS = EndpointSettings(
    max_run_bytes=1000,
    max_runsync_bytes=2000,
    max_chunk_bytes=500,
    take_poll_seconds=0.2,
    stop_poll_seconds=0.2,
    stream_wait_seconds=0.2,
    shortest_wait_ms=10,
    shortest_execution_timeout_seconds=0.05,
    tick_seconds=0.02,
)
CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


class PlayedWorker:
    """Speaks the worker API as the SDK does."""

    def __init__(self, client: httpx.AsyncClient, name: str = "w1") -> None:
        self.client = client
        self.name = name

    async def take(self) -> dict[str, Any] | None:
        answer = await self.client.get(f"/job-take/{self.name}?gpu=x&job_in_progress=0")
        return answer.json() if answer.status_code == 200 else None

    async def batch(self, size: int) -> list[dict[str, Any]]:
        answer = await self.client.get(f"/job-take-batch/{self.name}?gpu=x&batch_size={size}&job_in_progress=1")
        jobs: list[dict[str, Any]] = answer.json() if answer.status_code == 200 else []
        return jobs

    async def post(self, kind: str, job: str, document: object) -> httpx.Response:
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        url = f"/job-{kind}/{self.name}/{job}?gpu=x&isStream=false"
        return await self.client.post(url, content=json.dumps(document), headers=headers)

    async def answer(self, *chunks: object, **result: object) -> dict[str, Any]:
        job = None
        while job is None:
            job = await self.take()
        for chunk in chunks:
            await self.post("stream", job["id"], {"output": chunk})
        await self.post("done", job["id"], result)
        return job


async def alongside(worker: Awaitable[Any], call: Awaitable[Any]) -> tuple[Any, Any]:
    first, second = await asyncio.gather(worker, call)
    return first, second
