"""The paced upstream keeps its schedule, speaks OpenAI's protocol, and knows who left."""

from __future__ import annotations

import asyncio
import json
import time

import aiohttp
import pytest

from benchmarks.paced_upstream import PacedUpstream
from tests.support import event_data

CHAT = {"model": "paced", "messages": [{"role": "user", "content": "Hi"}]}


async def test_a_stream_holds_one_event_per_token_then_done() -> None:
    async with PacedUpstream(tokens=3, interval_seconds=0) as upstream, aiohttp.ClientSession(upstream.url) as client:
        body = CHAT | {"stream": True, "stream_options": {"include_usage": True}}
        async with client.post("/v1/chat/completions", json=body) as response:
            text = await response.text()
    assert response.content_type == "text/event-stream"
    assert text.endswith("data: [DONE]\n\n")
    *chunks, usage = event_data(text)
    assert [chunk["choices"][0]["delta"]["content"] for chunk in chunks] == [" 1", " 2", " 3"]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, "stop"]
    assert usage["usage"]["completion_tokens"] == 3


async def test_a_completion_comes_whole_after_all_its_intervals() -> None:
    async with (
        PacedUpstream(tokens=5, interval_seconds=0.01) as upstream,
        aiohttp.ClientSession(upstream.url) as client,
    ):
        start = time.perf_counter()
        async with client.post("/v1/completions", json={"prompt": "Hi"}) as response:
            document = await response.json()
        assert time.perf_counter() - start >= 0.05
    assert document["choices"][0]["text"] == " 1 2 3 4 5"
    assert upstream.stats.finished == 1


async def test_a_late_token_does_not_delay_those_after_it() -> None:
    async with (
        PacedUpstream(tokens=20, interval_seconds=0.005) as upstream,
        aiohttp.ClientSession(upstream.url) as client,
    ):
        async with client.post("/v1/completions", json={"prompt": "Hi", "stream": True}) as response:
            start = time.perf_counter()
            await response.content.readany()
            time.sleep(0.05)  # the whole loop stands still
            await response.read()
        assert 0.085 <= time.perf_counter() - start < 0.14


async def test_a_client_that_leaves_early_is_counted() -> None:
    async with PacedUpstream(tokens=2, interval_seconds=60) as upstream, aiohttp.ClientSession(upstream.url) as client:
        async with client.post("/v1/completions", json={"prompt": "Hi", "stream": True}) as streaming:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await client.post("/v1/completions", json={"prompt": "Hi"})
            await upstream.until(lambda stats: stats.aborted == 1)
            assert upstream.stats.in_flight == 1
            streaming.close()
        await upstream.until(lambda stats: stats.aborted == 2)
        async with client.get("/stats") as response:
            assert await response.json() == {"in_flight": 0, "finished": 0, "aborted": 2}


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/v1/models", b"", 200),
        ("GET", "/health", b"", 200),
        ("GET", "/v1/completions", b"", 404),
        ("POST", "/v1/nothing", b"{}", 404),
        ("POST", "/v1/completions", b"{", 400),
        ("POST", "/v1/completions", b"[]", 400),
    ],
)
async def test_other_requests_get_a_document(method: str, path: str, body: bytes, status: int) -> None:
    async with (
        PacedUpstream() as upstream,
        aiohttp.ClientSession(upstream.url) as client,
        client.request(method, path, data=body) as response,
    ):
        assert response.status == status
        assert ("error" in json.loads(await response.read())) == (status >= 400)
