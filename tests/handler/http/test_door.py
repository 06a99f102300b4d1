"""HTTP mode behind its door, on real sockets: keys, web pages of other origins, ids, redirects, prefixes, TLS."""

from __future__ import annotations

import asyncio
import logging

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from handler.door.flags import Door
from handler.engine.protocol import EngineRequest
from handler.engine.remote import RemoteEngine
from tests.handler.http.http_worker import CHAT, SSE, SlowEngine, worker
from tests.support import FakeEngine

LOCKED = Door(api_keys=("secret-one", "secret-two"))
PATHS = ["/v1/models", CHAT, "/tokenize", "/health", "/version", "/metrics", "/docs", "/openapi.json", "/", "/pingx"]
PATHS += ["/v1/../metrics", "/ping/../v1/models", "//ping", "/PING", "/ping/x", "/nothing"]


async def raw(port: int, target: str, *headers: str, method: str = "GET") -> bytes:
    """The whole answer to a request that no client library has made tidy."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    lines = [f"{method} {target} HTTP/1.1", "host: x", "connection: close", *headers]
    writer.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


@pytest.mark.parametrize("path", PATHS)
async def test_without_a_key_everything_but_ping_is_401(path: str) -> None:
    engine = FakeEngine()
    async with worker(engine, door=LOCKED) as running:
        await running.ping_until(200)
        for method in ("GET", "POST", "DELETE", "PUT", "OPTIONS", "HEAD"):
            answer = await raw(running.port, path, "content-length: 0", method=method)
            assert answer.startswith(b"HTTP/1.1 401 "), method
            assert b"www-authenticate: Bearer" in answer
    assert engine.requests == []


@pytest.mark.parametrize("path", ["/ping", "/ping/", "/%70ing"])
async def test_the_health_check_needs_no_key(path: str) -> None:
    async with worker(FakeEngine(), door=LOCKED) as running:
        await running.ping_until(200)
        assert (await raw(running.port, path)).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "headers",
    [
        ["authorization: Bearer wrong"],
        ["authorization: Bearer secret-on"],
        ["authorization: Bearer secret-onee"],
        ["authorization: Bearer"],
        ["authorization: Bearer "],
        ["authorization: secret-one"],
        ["authorization: Basic secret-one"],
        ["authorization: Bearer secret-one, secret-two"],
        ["authorization: Bearer \xe9"],
        ["authorization: Bearer secret-one", "authorization: Bearer wrong"],
        ["x-api-key: secret-one"],
        ["api-key: secret-one"],
    ],
)
async def test_anything_but_a_whole_key_is_401(headers: list[str]) -> None:
    engine = FakeEngine()
    async with worker(engine, door=LOCKED) as running:
        await running.ping_until(200)
        answer = await raw(running.port, "/v1/models", *headers)
        assert answer.startswith(b"HTTP/1.1 401 ")
        assert b"invalid_api_key" in answer
        assert b"secret" not in answer
    assert engine.requests == []


@pytest.mark.parametrize("key", LOCKED.api_keys)
@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
async def test_each_key_opens_and_stays_at_the_door(key: str, scheme: str) -> None:
    engine = FakeEngine()
    async with worker(engine, door=LOCKED) as running:
        await running.ping_until(200)
        async with running.main.get("/v1/models", headers={"Authorization": f"{scheme} {key}"}) as response:
            assert response.status == 200
    (request,) = engine.requests
    assert b"authorization" not in dict(request.headers)


async def test_while_the_engine_loads_the_key_is_asked_for_too() -> None:
    engine = SlowEngine()
    async with worker(engine, door=LOCKED) as running:
        assert await running.ping() == 204
        async with running.main.post(CHAT, json={}) as response:
            assert response.status == 401
        async with running.main.post(CHAT, json={}, headers={"Authorization": "Bearer secret-one"}) as response:
            assert response.status == 503
        engine.loaded.set()


@pytest.mark.parametrize(
    ("door", "host", "warns"),
    [(Door(), "0.0.0.0", True), (LOCKED, "0.0.0.0", False), (Door(), "127.0.0.1", False)],
)
async def test_an_open_door_on_a_public_address_is_a_loud_warning(
    door: Door, host: str, warns: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "handler"):
        async with worker(FakeEngine(), door=door, host=host) as running:
            await running.ping_until(200)
    assert ("NO API KEY" in caplog.text) is warns


async def test_pages_of_allowed_origins_may_call_and_read_refusals() -> None:
    door = Door(api_keys=("k",), allowed_origins=("https://page",))
    engine = FakeEngine()
    async with worker(engine, door=door) as running:
        await running.ping_until(200)
        asks = {"Origin": "https://page", "Access-Control-Request-Method": "POST"}
        asks["Access-Control-Request-Headers"] = "authorization"
        async with running.main.options(CHAT, headers=asks) as response:
            assert (response.status, response.headers["access-control-allow-origin"]) == (200, "https://page")
            assert response.headers["access-control-allow-headers"] == "authorization"
        async with running.main.options(CHAT, headers=asks | {"Origin": "https://other"}) as response:
            assert response.status == 400
        async with running.main.post(CHAT, json={}, headers={"Origin": "https://page"}) as response:
            assert (response.status, response.headers["access-control-allow-origin"]) == (401, "https://page")
        sent = {"Origin": "https://page", "Authorization": "Bearer k"}
        async with running.main.post(CHAT, json={}, headers=sent) as response:
            assert response.status == 200
            assert response.headers.getall("access-control-allow-origin") == ["https://page"]
    assert b"origin" not in dict(engine.requests[0].headers)


async def test_without_allowed_origins_no_page_is_let_in() -> None:
    engine = FakeEngine(headers=[(b"access-control-allow-origin", b"*")])
    async with worker(engine) as running:
        await running.ping_until(200)
        async with running.main.get("/v1/models", headers={"Origin": "https://page"}) as response:
            assert "access-control-allow-origin" not in response.headers


async def test_answers_carry_the_id_of_their_request_where_that_is_asked_for() -> None:
    engine = FakeEngine(headers=[(b"x-request-id", b"of-the-engine")])
    async with worker(engine, door=Door(request_id_headers=True, api_keys=("k",))) as running:
        await running.ping_until(200)
        for key, status in (("k", 200), ("x", 401)):
            sent = {"X-Request-Id": "mine-1", "Authorization": f"Bearer {key}"}
            async with running.main.get("/v1/models", headers=sent) as response:
                assert (response.status, response.headers.getall("x-request-id")) == (status, ["mine-1"])
        async with running.main.get("/ping") as first, running.main.get("/ping") as second:
            ids = {answer.headers["x-request-id"] for answer in (first, second)}
            assert {len(made) for made in ids} == {32}
            assert len(ids) == 2
    assert dict(engine.requests[0].headers)[b"x-request-id"] == b"mine-1"


async def test_without_that_flag_the_engine_still_gets_the_id_and_its_own_headers_pass() -> None:
    engine = FakeEngine(headers=[(b"x-engine", b"1"), (b"connection", b"close"), (b"content-length", b"99")])
    async with worker(engine) as running:
        await running.ping_until(200)
        async with running.main.get("/v1/models", headers={"X-Request-Id": "mine"}) as response:
            assert "x-request-id" not in response.headers
            assert (response.headers["x-engine"], await response.read()) == ("1", b"{}")
    sent = dict(engine.requests[0].headers)
    assert sent[b"x-request-id"] == b"mine"
    assert not {b"host", b"connection", b"content-length"} & set(sent)


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("http://worker/v1/models", "/v1/models"),
        ("http://127.0.0.1:8000/v1/models?a=b", "/v1/models?a=b"),
        ("https://user:word@10.0.0.1/v1/models", "/v1/models"),
        ("//10.0.0.1/v1/models", "/v1/models"),
        ("http://worker//evil.example/x", "/evil.example/x"),
        ("http://worker", "/"),
        ("/v1/models", "/v1/models"),
    ],
)
async def test_a_redirect_leads_nowhere_but_to_this_worker(location: str, expected: str) -> None:
    engine = FakeEngine(status=307, headers=[(b"location", location.encode())])
    async with worker(engine) as running:
        await running.ping_until(200)
        async with running.main.get("/v1/models/", allow_redirects=False) as response:
            assert (response.status, response.headers["location"]) == (307, expected)


async def test_a_prefix_that_a_proxy_leaves_in_the_path_is_taken_off_before_the_key_is_checked() -> None:
    engine = FakeEngine(content_type=SSE)
    async with worker(engine, door=Door(root_path="/llm", api_keys=("k",))) as running:
        await running.ping_until(200)
        assert (await raw(running.port, "/llm/ping")).startswith(b"HTTP/1.1 200 ")
        assert (await raw(running.port, "/llm/v1/models")).startswith(b"HTTP/1.1 401 ")
        for path in ("/llm/v1/models", "/v1/models"):
            assert (await raw(running.port, path, "authorization: Bearer k")).startswith(b"HTTP/1.1 200 ")
        assert (await raw(running.port, "/llmx/v1/models", "authorization: Bearer k")).startswith(b"HTTP/1.1 404 ")
    assert [request.path for request in engine.requests] == ["/v1/models", "/v1/models"]


async def test_headers_reach_a_remote_engine_and_the_callers_key_does_not() -> None:
    """The engine is another worker, which needs a key of its own."""
    behind = FakeEngine(headers=[(b"x-engine", b"1")])
    async with worker(behind, door=Door(api_keys=("inner",))) as inner:
        await inner.ping_until(200)
        engine = RemoteEngine(f"http://127.0.0.1:{inner.port}/v1", api_key="inner")
        await engine.start()
        request = EngineRequest("GET", "/v1/models", headers=((b"x-request-id", b"r"),))
        async with engine.send(request) as answer:
            assert answer.status == 200
            assert dict(answer.headers)[b"x-engine"] == b"1"
        await engine.stop()
    sent = dict(behind.requests[-1].headers)
    assert sent[b"x-request-id"] == b"r"


async def test_a_redirect_below_the_path_of_a_remote_engine_starts_after_it() -> None:
    async def redirect(request: web.Request) -> web.Response:
        if request.path.endswith("/models"):
            return web.json_response({})
        return web.Response(status=307, headers={"Location": f"http://{request.host}/deep/v1/models"})

    app = web.Application()
    app.router.add_route("*", "/deep/{rest:.*}", redirect)
    async with TestServer(app) as server:
        engine = RemoteEngine(f"http://127.0.0.1:{server.port}/deep/v1")
        await engine.start()
        async with engine.send(EngineRequest("GET", "/v1/models/")) as answer:
            assert dict(answer.headers)[b"location"].endswith(b"/v1/models")
            assert b"deep" not in dict(answer.headers)[b"location"]
        await engine.stop()
