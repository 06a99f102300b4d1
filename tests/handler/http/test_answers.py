"""What the load-balancing worker answers: requests and streams passed on whole, refusals, failures, early leavers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest

from benchmarks.paced_upstream import PacedUpstream
from handler.engine.protocol import EngineRequest
from handler.engine.remote import RemoteEngine
from handler.errors import EngineUnavailable, StreamBroken
from tests.handler.http.http_worker import CHAT, SSE, FailingEngine, Held, worker
from tests.support import FakeEngine, event_data


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_method_path_query_and_body_reach_the_engine_and_its_answer_comes_back(method: str) -> None:
    engine = FakeEngine(status=418, content_type="text/x", pieces=[b"tea", b"pot"])
    async with worker(engine) as running:
        await running.ping_until(200)
        async with running.main.request(method, "/v1/responses/a-1?a=%20b&c=d", data=b"{}") as response:
            assert (response.status, response.content_type, await response.text()) == (418, "text/x", "teapot")
    assert engine.requests == [EngineRequest(method, "/v1/responses/a-1?a=%20b&c=d", b"{}")]


async def test_head_is_get_to_the_engine_and_has_no_body() -> None:
    engine = FakeEngine(content_type="application/json", pieces=[b'{"data": []}'])
    async with worker(engine) as running:
        await running.ping_until(200)
        async with running.main.head("/v1/models") as response:
            assert (response.status, response.content_type, await response.read()) == (200, "application/json", b"")
        async with running.main.get("/v1/models") as response:  # on the same connection
            assert await response.json() == {"data": []}
    assert [request.method for request in engine.requests] == ["GET", "GET"]


async def test_a_form_with_a_file_reaches_the_engine_as_it_is() -> None:
    engine = FakeEngine()
    form = aiohttp.FormData({"model": "m"}, default_to_multipart=True)
    form.add_field("file", b"RIFF", filename="a.wav", content_type="audio/wav")
    async with worker(engine) as running:
        await running.ping_until(200)
        async with running.main.post("/v1/audio/transcriptions", data=form) as response:
            assert response.status == 200
    (request,) = engine.requests
    assert request.content_type.startswith("multipart/form-data; boundary=")
    assert b"RIFF" in (request.body or b"")


async def test_a_stream_is_passed_on_while_it_grows() -> None:
    held = Held()
    async with worker(FakeEngine(content_type=SSE, answer=held)) as running:
        await running.ping_until(200)
        async with running.main.post(CHAT, json={}) as response:
            assert response.headers["content-type"] == SSE
            assert await response.content.readany() == b"data: 1\n\n"
            held.go_on.set()
            assert await response.content.readany() == b"data: 2\n\n"


async def test_a_client_that_leaves_aborts_its_request_in_the_engine() -> None:
    held = Held()
    engine = FakeEngine(content_type=SSE, answer=held)
    async with worker(engine) as running:
        await running.ping_until(200)
        async with running.main.post(CHAT, json={}) as response:
            await held.reached.wait()
            response.close()
        await held.dropped.wait()
        assert await running.ping() == 200


async def test_a_client_that_leaves_aborts_its_request_in_a_remote_engine() -> None:
    async def ask(*, stream: bool) -> None:
        async with running.main.post(CHAT, json={"stream": stream}) as response:
            await response.read()

    async with PacedUpstream(tokens=1000) as upstream, worker(RemoteEngine(upstream.url)) as running:
        await running.ping_until(200)
        for stream in (True, False):
            leaving = asyncio.create_task(ask(stream=stream))
            await upstream.until(lambda stats: stats.in_flight == 1)
            leaving.cancel()
            await upstream.until(lambda stats: stats.in_flight == 0)
        assert upstream.stats.aborted == 2


async def test_a_whole_stream_of_a_remote_engine_arrives() -> None:
    async with PacedUpstream(tokens=4, interval_seconds=0) as upstream, worker(RemoteEngine(upstream.url)) as running:
        await running.ping_until(200)
        async with running.main.post(CHAT, json={"stream": True}) as response:
            text = await response.text()
    assert len(list(event_data(text))) == 4
    assert text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize("path", ["/metrics", "/", "/v1", "/v1/../metrics", "/v1//models", "/v1/%2e%2e/x", "/docs"])
async def test_a_path_that_is_not_allowed_is_not_found(path: str) -> None:
    engine = FakeEngine()
    async with worker(engine) as running:
        await running.ping_until(200)
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert b'"code": "path_not_found"' in answer
    assert engine.requests == []


async def test_what_the_engine_cannot_be_given_is_refused() -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"x" * 100

    engine = FakeEngine()
    async with worker(engine) as running:
        await running.ping_until(200)
        for body in (b"x" * 1001, endless()):
            async with running.main.post(CHAT, data=body) as response:
                assert response.status == 413
                assert (await response.json())["error"]["code"] == "body_too_large"
        async with running.main.put(CHAT, data=b"{}") as response:
            assert response.status == 405
        async with running.main.post(CHAT, data=b"x" * 1000) as response:
            assert response.status == 200
    assert len(engine.requests) == 1


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [(EngineUnavailable("gone"), 503, "engine_unavailable"), (ValueError("a prompt"), 500, "worker_error")],
)
async def test_a_failure_before_the_answer_is_a_document_with_its_status(
    error: Exception, status: int, code: str
) -> None:
    async with worker(FailingEngine(error=error)) as running:
        await running.ping_until(200)
        async with running.main.post(CHAT, json={}) as response:
            assert response.status == status
            document = await response.json()
    assert document["error"]["code"] == code
    assert "a prompt" not in str(document)


async def test_a_stream_that_breaks_between_events_ends_in_an_error_event() -> None:
    async def answer(request: EngineRequest) -> AsyncIterator[bytes]:
        yield b'data: {"a": 1}\n\n'
        raise StreamBroken("cut")

    async with worker(FakeEngine(content_type=SSE, answer=answer)) as running:
        await running.ping_until(200)
        async with running.main.post(CHAT, json={}) as response:
            first, last = event_data(await response.text())
    assert first == {"a": 1}
    assert last["error"]["code"] == "stream_broken"


@pytest.mark.parametrize("content_type", [SSE, "application/json"])
async def test_an_answer_that_breaks_anywhere_else_is_cut_so_that_it_cannot_look_whole(content_type: str) -> None:
    async def answer(request: EngineRequest) -> AsyncIterator[bytes]:
        yield b'data: {"a'
        raise StreamBroken("cut")

    async with worker(FakeEngine(content_type=content_type, answer=answer)) as running:
        await running.ping_until(200)
        async with running.main.post(CHAT, json={}) as response:
            with pytest.raises(aiohttp.ClientPayloadError):
                await response.read()


async def test_a_request_that_would_keep_others_waiting_is_refused_before_the_engine() -> None:
    engine = FakeEngine()
    async with worker(engine) as running:
        await running.ping_until(200)
        async with running.main.post("/v1/completions", json={"prompt": ["a"] * 100, "n": 100}) as response:
            document = await response.json()
            assert (response.status, document["error"]["param"]) == (400, "prompt")
    assert engine.requests == []
