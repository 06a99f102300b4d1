"""The remote engine against real sockets: a server that answers, and servers that fail in every way."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from benchmarks.paced_upstream import PacedUpstream
from handler.engine.protocol import Document, EngineRequest, Stream
from handler.engine.remote import RemoteEngine
from handler.errors import ConfigurationError, EngineUnavailable, NotBegun, StreamBroken
from tests.support import event_data
from tests.waiting import until, until_seen
from vllm_service.testing import CLOSES, Close, Reply, Script, ScriptedProvider, in_turn, refused, whole

MODELS = EngineRequest("GET", "/v1/models")
WELL, LOADING = whole({}), whole({}, 503)


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


async def healthy(engine: RemoteEngine) -> None:
    async def is_well() -> bool:
        with contextlib.suppress(EngineUnavailable):
            await engine.check_health()
            return True
        return False

    await until_seen(is_well)


def server(script: Script | Reply, port: int = 0) -> ScriptedProvider:
    """Its URL has no path, as VLLM_BASE_URL may have none."""
    return ScriptedProvider(script, path="", port=port)


def healthy_but(path: str, reply: Reply) -> ScriptedProvider:
    """A server that is well, except on one path, and on those below it."""
    return server(lambda request: reply if request.target.startswith(path) else WELL)


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
    async with (
        healthy_but("/v1/completions", refused(404, "no such model")) as upstream,
        running(upstream.url) as engine,
        engine.send(completion(stream=False)) as response,
    ):
        assert response.status == 404
        assert isinstance(response, Document)
        assert b"no such model" in await response.read()


@pytest.mark.parametrize("content_type", ["text/event-stream", "application/json"])
async def test_a_redirect_is_neither_followed_nor_a_stream(content_type: str) -> None:
    elsewhere = whole(b"data: [DONE]\n\n", 307, {"location": "/v1/models"}, content_type)
    async with (
        healthy_but("/v1/completions", elsewhere) as upstream,
        running(upstream.url) as engine,
        engine.send(completion(stream=True)) as response,
    ):
        assert response.status == 307
        assert isinstance(response, Document)


@pytest.mark.parametrize(
    ("location", "named"),
    [("https://vllm.example/login?key=SECRET", "https://vllm.example"), ("/elsewhere", "http://127.0.0.1")],
)
async def test_a_server_that_only_redirects_ends_the_start_with_the_address_to_set(location: str, named: str) -> None:
    async with server(whole(b"", 308, {"location": location})) as upstream:
        with pytest.raises(ConfigurationError, match=r"redirects to .*set VLLM_BASE_URL") as caught:
            await RemoteEngine(upstream.url).start()
    assert named in caught.value.message
    assert "SECRET" not in caught.value.message


async def test_a_server_that_is_gone_takes_no_more_until_it_answers_again() -> None:
    """The capacity is what keeps the job loop from taking jobs only to fail them."""
    async with server(WELL) as upstream:
        engine = RemoteEngine(upstream.url, capacity=7)
        await engine.start()
        assert engine.capacity == 7
    with pytest.raises(NotBegun):
        async with engine.send(MODELS):
            pass
    assert engine.capacity == 0
    await engine.check_health()  # it is not given up yet
    async with server(WELL, port=upstream.port):
        await until(lambda: engine.capacity == 7)
        await engine.stop()


@pytest.mark.parametrize("status", [502, 503, 504])
async def test_a_proxy_whose_server_is_gone_counts_as_a_server_that_is_gone(status: int) -> None:
    gone = True
    async with server(lambda request: whole({}, status) if gone else WELL) as upstream:
        engine = RemoteEngine(upstream.url, capacity=7)
        gone = False
        await engine.start()
        gone = True
        async with engine.send(completion(stream=False)) as response:
            assert response.status == status
        assert engine.capacity == 0
        gone = False
        await until(lambda: engine.capacity == 7)
        await engine.stop()


async def test_an_answer_that_breaks_off_is_a_first_sign_too() -> None:
    cut = whole({"a": "x" * 100}).cut_at(whole({}).head_size + 20, Close())
    async with healthy_but("/v1/completions", cut) as upstream, running(upstream.url) as engine:
        async with engine.send(completion(stream=False)) as response:
            assert isinstance(response, Document)
            with pytest.raises(StreamBroken):
                await response.read()
        assert engine.capacity == 0
        await until(lambda: engine.capacity == RemoteEngine.DEFAULT_CAPACITY)


async def test_an_answer_that_is_cut_is_a_broken_stream() -> None:
    cut = whole({"a": "x" * 100}).cut_at(whole({}).head_size + 20, Close())
    async with (
        healthy_but("/v1/completions", cut) as upstream,
        running(upstream.url) as engine,
        engine.send(completion(stream=False)) as response,
    ):
        assert isinstance(response, Document)
        with pytest.raises(StreamBroken, match="broke off"):
            await response.read()


async def test_a_refused_connection_is_remembered_until_the_server_is_back() -> None:
    async with server(WELL) as upstream:
        engine = RemoteEngine(upstream.url, patience=0)
        await engine.start()
    with pytest.raises(EngineUnavailable, match=upstream.url):
        async with engine.send(MODELS):
            pass
    with pytest.raises(EngineUnavailable):
        await engine.check_health()
    async with server(WELL, port=upstream.port) as back:
        await back.until_requests(1)  # no caller sends a request: the engine looks by itself
        await healthy(engine)
        await engine.stop()


async def test_one_lost_connection_does_not_make_the_engine_dead() -> None:
    async with server(WELL) as upstream:
        engine = RemoteEngine(upstream.url)
        await engine.start()
    for _ in range(2):
        with pytest.raises(EngineUnavailable, match="cannot be reached"):
            async with engine.send(MODELS):
                pass
        await engine.check_health()
    await engine.stop()


async def test_a_server_that_hangs_up_before_it_answers_is_unavailable() -> None:
    async with healthy_but("/v1/completions", CLOSES) as upstream, running(upstream.url) as engine:
        with pytest.raises(EngineUnavailable, match="ServerDisconnectedError"):
            async with engine.send(completion(stream=False)):
                pass


async def test_start_waits_for_a_server_that_is_still_loading() -> None:
    async with server(in_turn(*[LOADING] * 4, WELL)) as upstream, running(upstream.url) as engine:
        await engine.check_health()
    paths = [request.target for request in upstream.requests]
    assert paths == ["/v1/models", "/health", "/v1/models", "/health", "/v1/models"]


async def test_start_gives_up_and_names_the_url_without_its_credentials() -> None:
    async with server(LOADING) as upstream:
        engine = RemoteEngine(upstream.url.replace("://", "://user:secret@"), start_timeout=0.1)
        with pytest.raises(EngineUnavailable, match=f"{upstream.url} gave no answer within 0.1 s"):
            await engine.start()
    with pytest.raises(EngineUnavailable, match="not started"):
        await engine.check_health()
    with pytest.raises(EngineUnavailable, match="not started"):
        async with engine.send(MODELS):
            pass


@pytest.mark.parametrize(("key", "header"), [("sk-1", "Bearer sk-1"), (None, "Basic dTpw")])
async def test_credentials_go_with_every_request(key: str | None, header: str) -> None:
    async with (
        server(WELL) as upstream,
        running(upstream.url.replace("://", "://u:p@"), api_key=key) as engine,
        engine.send(MODELS),
    ):
        pass
    assert [request.headers["authorization"] for request in upstream.requests] == [header] * 2


async def test_a_refused_key_ends_the_start_at_once() -> None:
    async with healthy_but("/v1/models", refused(401)) as upstream:
        with pytest.raises(ConfigurationError, match="refuses the API key"):
            await RemoteEngine(upstream.url).start()


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://host", "http://", "http://h/v1?x=1", "http://h:port"])
def test_a_base_url_that_cannot_be_used_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="VLLM_BASE_URL"):
        RemoteEngine(url)
