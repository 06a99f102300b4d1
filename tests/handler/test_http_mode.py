"""The load-balancing worker on real sockets, with a fake engine behind it, stopped by a real SIGTERM."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
import pytest

from benchmarks.paced_upstream import PacedUpstream
from handler import http_mode
from handler.engine.protocol import Engine, EngineRequest, EngineResponse
from handler.engine.remote import RemoteEngine
from handler.errors import ConfigurationError, EngineUnavailable, StreamBroken
from handler.settings import ALLOWED_PATHS
from tests.support import FakeEngine, event_data

SSE = "text/event-stream; charset=utf-8"
CHAT = "/v1/chat/completions"


@dataclass
class SlowEngine(FakeEngine):
    """Loads until it is told that it has loaded."""

    loaded: asyncio.Event = field(default_factory=asyncio.Event)

    async def start(self) -> None:
        await self.loaded.wait()
        await super().start()


@dataclass
class FailingEngine(FakeEngine):
    """Fails before it answers."""

    error: Exception | None = None

    @asynccontextmanager
    async def send(self, request: EngineRequest) -> AsyncIterator[EngineResponse]:
        if self.error:
            raise self.error
        async with super().send(request) as response:
            yield response


@dataclass
class Held:
    """An answer that sends one event, then waits for leave to send the rest; knows whether it was dropped."""

    pieces: tuple[bytes, ...] = (b"data: 1\n\n", b"data: 2\n\n")
    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    dropped: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, request: EngineRequest) -> AsyncIterator[bytes]:
        first, *rest = self.pieces
        yield first
        self.reached.set()
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.dropped.set()
            raise
        for piece in rest:
            yield piece


@dataclass
class Running:
    """The worker under test: a client of each of its ports, and its end."""

    main: aiohttp.ClientSession
    health: aiohttp.ClientSession
    task: asyncio.Task[int]
    port: int

    async def ping(self) -> int:
        async with self.health.get("/ping") as response:
            assert await response.read() == b""
            return response.status

    async def ping_until(self, status: int) -> None:
        async with asyncio.timeout(5):
            while await self.ping() != status:
                pass

    def terminate(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)


@asynccontextmanager
async def worker(engine: Engine, *, two_ports: bool = False, drain_seconds: float = 5) -> AsyncIterator[Running]:
    """Serves `engine` on free ports; at the end sends SIGTERM if the worker still runs."""
    ports: asyncio.Future[tuple[int, int]] = asyncio.get_running_loop().create_future()
    serving = http_mode.serve(
        engine,
        host="127.0.0.1",
        port=0,
        health_port=await free_port() if two_ports else 0,
        allowed_paths=ALLOWED_PATHS,
        max_body_bytes=1000,
        drain_seconds=drain_seconds,
        stall_seconds=0.05,
        on_listening=lambda *both: ports.set_result(both),
    )
    task = asyncio.create_task(serving)
    main, health = await ports
    async with (
        aiohttp.ClientSession(f"http://127.0.0.1:{main}") as client,
        aiohttp.ClientSession(f"http://127.0.0.1:{health}") as health_client,
    ):
        running = Running(client, health_client, task, main)
        try:
            yield running
        finally:
            if not task.done():
                running.terminate()
            await task


async def free_port() -> int:
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    async with server:
        port: int = server.sockets[0].getsockname()[1]
        return port


@pytest.mark.parametrize("two_ports", [False, True])
async def test_ping_tells_loading_ready_and_draining(two_ports: bool) -> None:
    engine, held = SlowEngine(content_type=SSE), Held()
    engine.answer = held
    async with worker(engine, two_ports=two_ports) as running:
        assert await running.ping() == 204
        async with running.main.post(CHAT, json={}) as response:
            assert (response.status, response.headers["retry-after"]) == (503, "5")
            assert (await response.json())["error"]["code"] == "engine_loading"
        engine.loaded.set()
        await running.ping_until(200)
        async with running.main.post(CHAT, json={}) as response:
            running.terminate()
            await running.ping_until(503)
            async with running.main.post(CHAT, json={}) as late:
                assert (late.status, late.headers["connection"]) == (503, "close")
                assert (await late.json())["error"]["code"] == "worker_draining"
            held.go_on.set()
            assert await response.text() == "data: 1\n\ndata: 2\n\n"
        assert await running.task == 0
    assert engine.stopped
    assert len(engine.requests) == 1


async def test_the_health_port_serves_nothing_else() -> None:
    async with worker(FakeEngine(), two_ports=True) as running:
        await running.ping_until(200)
        async with running.health.get("/v1/models") as response:
            assert response.status == 404
        async with running.main.get("/ping") as response:
            assert response.status == 200
        async with running.health.post("/ping") as response:
            assert (response.status, response.headers["allow"]) == (405, "GET, POST, DELETE")


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_method_path_query_and_body_reach_the_engine_and_its_answer_comes_back(method: str) -> None:
    engine = FakeEngine(status=418, content_type="text/x", pieces=[b"tea", b"pot"])
    async with worker(engine) as running:
        await running.ping_until(200)
        async with running.main.request(method, "/v1/responses/a-1?a=%20b&c=d", data=b"{}") as response:
            assert (response.status, response.content_type, await response.text()) == (418, "text/x", "teapot")
    assert engine.requests == [EngineRequest(method, "/v1/responses/a-1?a=%20b&c=d", b"{}")]


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


async def test_what_does_not_finish_in_the_grace_period_is_aborted() -> None:
    held = Held()
    engine = FakeEngine(content_type=SSE, answer=held)
    async with worker(engine, drain_seconds=0.05) as running:
        await running.ping_until(200)
        async with running.main.post(CHAT, json={}) as response:
            running.terminate()
            text = await response.text()
        assert '"code": "worker_draining"' in text
        assert held.dropped.is_set()
        assert await running.task == 0
    assert engine.stopped


async def test_sigterm_while_loading_ends_the_worker() -> None:
    engine = SlowEngine()
    async with worker(engine) as running:
        assert await running.ping() == 204
        running.terminate()
        assert await running.task == 0
    assert engine.stopped


@pytest.mark.parametrize("error", [ConfigurationError("no such model"), RuntimeError("CUDA")])
async def test_an_engine_that_does_not_start_ends_the_worker_with_code_1(error: Exception) -> None:
    engine = FakeEngine(start_error=error)
    async with worker(engine) as running:
        assert await running.task == 1
    assert engine.stopped


async def test_an_engine_that_dies_ends_the_worker_with_code_1_and_its_requests_with_an_error() -> None:
    engine = FakeEngine(content_type=SSE, answer=Held())
    async with worker(engine) as running:
        await running.ping_until(200)
        async with running.main.post(CHAT, json={}) as response:
            engine.dead = True
            assert '"status": 503' in await response.text()
        assert await running.task == 1


async def test_an_engine_that_stands_still_while_requests_run_ends_the_worker_with_code_1() -> None:
    engine = FakeEngine(content_type=SSE, answer=Held(), progress=7)
    async with worker(engine) as running:
        await running.ping_until(200)
        async with running.main.post(CHAT, json={}) as response:
            assert '"status": 503' in await response.text()
        assert await running.task == 1


async def test_a_port_that_is_taken_ends_the_worker_with_code_1() -> None:
    engine = FakeEngine()
    async with PacedUpstream() as other:
        port = int(other.url.rpartition(":")[2])
        exit_code = await http_mode.serve(
            engine,
            host="127.0.0.1",
            port=port,
            health_port=port,
            allowed_paths=ALLOWED_PATHS,
            max_body_bytes=1,
            drain_seconds=1,
        )
    assert exit_code == 1
    assert not engine.started
