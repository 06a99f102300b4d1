"""The remote engine against real sockets: a server that answers, and servers that fail in every way."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from benchmarks.paced_upstream import PacedUpstream
from handler.engine.protocol import Document, EngineRequest, Stream
from handler.engine.remote import RemoteEngine
from handler.errors import ConfigurationError, EngineUnavailable, StreamBroken
from tests.support import event_data

MODELS = EngineRequest("GET", "/v1/models")
Answer = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


def completion(*, stream: bool) -> EngineRequest:
    return EngineRequest("POST", "/v1/completions", json.dumps({"prompt": "Hi", "stream": stream}).encode())


@asynccontextmanager
async def running(url: str, *, api_key: str | None = None) -> AsyncIterator[RemoteEngine]:
    engine = RemoteEngine(url, api_key=api_key, start_timeout=5)
    await engine.start()
    try:
        yield engine
    finally:
        await engine.stop()


@asynccontextmanager
async def raw_server(answer: Answer, port: int = 0) -> AsyncIterator[str]:
    """One request per connection: `answer` is given its head, and writes what it likes."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await answer(await reader.readuntil(b"\r\n\r\n"), writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", port)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def healthy(engine: RemoteEngine) -> None:
    async with asyncio.timeout(5):
        while True:
            with contextlib.suppress(EngineUnavailable):
                return await engine.check_health()
            await asyncio.sleep(0)


def reply(status: str, body: bytes = b"{}", length: int | None = None) -> bytes:
    length = len(body) if length is None else length
    head = (
        f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body


def healthy_but(path: bytes, answer: bytes) -> Answer:
    """A server that is well, except on one path."""

    async def say(head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(answer if path in head.split(b"\r\n")[0] else reply("200 OK"))

    return say


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
async def test_the_base_url_may_end_in_v1(suffix: str) -> None:
    async with PacedUpstream() as upstream, running(upstream.url + suffix) as engine:
        async with engine.send(MODELS) as response:
            assert (response.status, response.content_type) == (200, "application/json")
            assert isinstance(response, Document)
            assert json.loads(await response.read())["data"][0]["id"] == "paced"
        await engine.check_health()
        assert engine.capacity == 256
        assert engine.request_fields("/v1/completions") == ()


async def test_a_stream_arrives_piece_by_piece() -> None:
    async with (
        PacedUpstream(tokens=5, interval_seconds=0.005) as upstream,
        running(upstream.url) as engine,
        engine.send(completion(stream=True)) as response,
    ):
        assert isinstance(response, Stream)
        pieces = [piece async for piece in response.pieces]
    assert len(pieces) > 1
    assert len(list(event_data(b"".join(pieces).decode()))) == 5


async def test_connections_are_kept_for_the_next_request() -> None:
    async with PacedUpstream(tokens=2, interval_seconds=0) as upstream, running(upstream.url) as engine:
        for _ in range(5):
            async with engine.send(completion(stream=True)) as response:
                assert [piece async for piece in response.pieces]
        assert len(upstream.connections) == 1


async def test_leaving_a_stream_early_aborts_it_upstream() -> None:
    async with PacedUpstream(tokens=1000) as upstream, running(upstream.url) as engine:
        async with engine.send(completion(stream=True)) as response:
            assert await anext(aiter(response.pieces))
        await upstream.until(lambda stats: stats.aborted == 1)


async def test_leaving_before_the_answer_aborts_it_upstream() -> None:
    async def ask() -> None:
        async with engine.send(completion(stream=False)):
            pass

    async with PacedUpstream(tokens=1000) as upstream, running(upstream.url) as engine:
        task = asyncio.create_task(ask())
        await upstream.until(lambda stats: stats.in_flight == 1)
        task.cancel()
        await upstream.until(lambda stats: stats.aborted == 1)
        await engine.check_health()


async def test_an_error_of_the_server_is_an_answer() -> None:
    missing = reply("404 Not Found", b'{"error": {"message": "no such model"}}')
    async with (
        raw_server(healthy_but(b"/v1/completions", missing)) as url,
        running(url) as engine,
        engine.send(completion(stream=False)) as response,
    ):
        assert response.status == 404
        assert isinstance(response, Document)
        assert b"no such model" in await response.read()


async def test_an_answer_that_is_cut_is_a_broken_stream() -> None:
    cut = reply("200 OK", b'{"a": ', length=100)
    async with (
        raw_server(healthy_but(b"/v1/completions", cut)) as url,
        running(url) as engine,
        engine.send(completion(stream=False)) as response,
    ):
        assert isinstance(response, Document)
        with pytest.raises(StreamBroken, match="broke off"):
            await response.read()


async def test_a_refused_connection_is_remembered_until_the_server_is_back() -> None:
    well = healthy_but(b"/nothing", b"")
    async with raw_server(well) as url:
        engine = RemoteEngine(url, patience=0)
        await engine.start()
    with pytest.raises(EngineUnavailable, match=url):
        async with engine.send(MODELS):
            pass
    with pytest.raises(EngineUnavailable):
        await engine.check_health()
    asked = asyncio.Event()

    async def well_again(head: bytes, writer: asyncio.StreamWriter) -> None:
        await well(head, writer)
        asked.set()

    async with raw_server(well_again, port=int(url.rpartition(":")[2])):
        await asked.wait()  # nobody sends a request: the engine looks by itself
        await healthy(engine)
        await engine.stop()


async def test_one_lost_connection_does_not_make_the_engine_dead() -> None:
    async with raw_server(healthy_but(b"/nothing", b"")) as url:
        engine = RemoteEngine(url)
        await engine.start()
    for _ in range(2):
        with pytest.raises(EngineUnavailable, match="cannot be reached"):
            async with engine.send(MODELS):
                pass
        await engine.check_health()
    await engine.stop()


async def test_a_server_that_hangs_up_before_it_answers_is_unavailable() -> None:
    async with raw_server(healthy_but(b"/v1/completions", b"")) as url, running(url) as engine:
        with pytest.raises(EngineUnavailable, match="ServerDisconnectedError"):
            async with engine.send(completion(stream=False)):
                pass


async def test_start_waits_for_a_server_that_is_still_loading() -> None:
    requests: list[bytes] = []

    async def loading(head: bytes, writer: asyncio.StreamWriter) -> None:
        requests.append(head.split(b" ")[1])
        writer.write(reply("503 Loading" if len(requests) < 5 else "200 OK"))

    async with raw_server(loading) as url, running(url) as engine:
        await engine.check_health()
    assert requests == [b"/v1/models", b"/health", b"/v1/models", b"/health", b"/v1/models"]


async def test_start_gives_up_and_names_the_url_without_its_credentials() -> None:
    async with raw_server(healthy_but(b"/", reply("503 Loading"))) as url:
        engine = RemoteEngine(url.replace("://", "://user:secret@"), start_timeout=0.1)
        with pytest.raises(EngineUnavailable, match=f"{url} gave no answer within 0.1 s"):
            await engine.start()
    with pytest.raises(EngineUnavailable, match="not started"):
        await engine.check_health()
    with pytest.raises(EngineUnavailable, match="not started"):
        async with engine.send(MODELS):
            pass


@pytest.mark.parametrize(("key", "header"), [("sk-1", b"Bearer sk-1"), (None, b"Basic dTpw")])
async def test_credentials_go_with_every_request(key: str | None, header: bytes) -> None:
    heads: list[bytes] = []

    async def listen(head: bytes, writer: asyncio.StreamWriter) -> None:
        heads.append(head)
        writer.write(reply("200 OK"))

    async with (
        raw_server(listen) as url,
        running(url.replace("://", "://u:p@"), api_key=key) as engine,
        engine.send(MODELS),
    ):
        pass
    assert len(heads) == 2
    assert all(b"Authorization: " + header in head for head in heads)


async def test_a_refused_key_ends_the_start_at_once() -> None:
    async with raw_server(healthy_but(b"/v1/models", reply("401 Unauthorized"))) as url:
        with pytest.raises(ConfigurationError, match="refuses the API key"):
            await RemoteEngine(url).start()


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://host", "http://", "http://h/v1?x=1", "http://h:port"])
def test_a_base_url_that_cannot_be_used_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="VLLM_BASE_URL"):
        RemoteEngine(url)
