"""HEAD on every path that GET has, and request targets that are whole URLs, byte by byte."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from tests.vllm_service.api.service import dependencies
from tests.vllm_service.gateway.asking import answers
from tests.vllm_service.gateway.running import SECRET, Running, catalog_of, running
from tests.vllm_service.http.test_raw_http import LAST, post, statuses
from vllm_service.api.fastapi_app import make_app
from vllm_service.http.asgi import Application
from vllm_service.testing import ScriptedProvider

GET_PATHS = (
    *("/", "/openapi.json", "/health", "/health/live", "/health/ready", "/v1/health", "/metrics", "/v1/metrics"),
    *("/models", "/v1/models", "/v1/models/llama", "/v1/models/unknown", "/performance", "/nothing/here"),
)


@asynccontextmanager
async def whole_gateway() -> AsyncIterator[Running]:
    """The gateway with its real FastAPI side."""
    application = cast("Application", make_app(dependencies()))
    async with ScriptedProvider(answers) as upstream, running(catalog_of(upstream.url), application=application) as one:
        yield one


def get(target: str, method: str = "GET", more: str = LAST) -> bytes:
    return f"{method} {target} HTTP/1.1\r\nhost: x\r\n{more}\r\n".encode()


def head_of(received: bytes) -> dict[str, str]:
    """The headers that do not change from one request to the next, and the first line."""
    first, *lines = received.partition(b"\r\n\r\n")[0].decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    return {"": first} | {name: text for name, text in headers.items() if name not in ("x-request-id", "date")}


@pytest.mark.parametrize("path", GET_PATHS)
async def test_head_is_get_without_the_body(path: str) -> None:
    async with whole_gateway() as gateway:
        await gateway.raw(get(path))  # the first reading of some paths is longer than the next
        full = await gateway.raw(get(path))
        short = await gateway.raw(get(path, "HEAD"))
    assert short.partition(b"\r\n\r\n")[2] == b""
    same = head_of(full)
    assert int(same["content-length"]) > 0
    if path not in ("/metrics", "/v1/metrics", "/performance", "/health", "/v1/health"):  # their figures change
        assert head_of(short) == same
    assert head_of(short)[""] == same[""]


async def test_every_path_that_takes_get_takes_head() -> None:
    async with whole_gateway() as gateway:
        document = (await gateway.http.get(f"http://127.0.0.1:{gateway.port}/openapi.json")).json()
        paths = [path.replace("{model}", "llama") for path, methods in document["paths"].items() if "get" in methods]
        assert len(paths) > 10
        for path in paths:
            received = await gateway.raw(get(path, "HEAD"))
            assert statuses(received) in ([200], [503], [500]), path
            assert received.endswith(b"\r\n\r\n"), path


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/models"])
async def test_a_refused_method_names_the_right_ones_and_head_has_no_body(path: str) -> None:
    async with whole_gateway() as gateway:
        wrong = "HEAD" if path != "/v1/models" else "DELETE"
        received = await gateway.raw(get(path, wrong))
    assert statuses(received) == [405]
    assert head_of(received)["allow"] == ("POST" if wrong == "HEAD" else "GET, HEAD")
    assert (received.partition(b"\r\n\r\n")[2] == b"") is (wrong == "HEAD")


async def test_answers_after_head_on_the_same_connection_are_whole() -> None:
    async with whole_gateway() as gateway:
        received = await gateway.raw(get("/health/live", "HEAD", "") * 3 + get("/health/live"))
    assert statuses(received) == [200] * 4
    assert received.count(b"alive") == 1


async def test_head_of_a_streamed_answer_has_no_chunks() -> None:
    async def streamed(scope: Any, receive: Any, send: Any) -> None:
        assert scope["method"] == "GET"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"piece", "more_body": True})
        await send({"type": "http.response.body", "body": b"last"})

    async with ScriptedProvider(answers) as upstream, running(catalog_of(upstream.url), application=streamed) as one:
        received = await one.raw(get("/x", "HEAD", "") + get("/x"))
    assert statuses(received) == [200, 200]
    assert received.count(b"piece") == received.count(b"0\r\n\r\n") == 1


@pytest.mark.parametrize("bad", [b"content-length: x\r\n\r\n", b"x: " + b"y" * 40_000 + b"\r\n\r\n"])
async def test_an_error_before_any_route_has_no_body_for_head(bad: bytes) -> None:
    async with whole_gateway() as gateway:
        received = await gateway.raw(b"HEAD / HTTP/1.1\r\nhost: x\r\n" + bad)
    assert statuses(received)[0] in (400, 431)
    assert received.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("http://gateway.test/health/any", "/health/any"),
        ("http://gateway.test:8090/health/any?x=1", "/health/any?x=1"),
        ("HTTP://GATEWAY.test/health/any", "/health/any"),
        ("https://[::1]:8090/a//b", "/a//b"),
        ("http://gateway.test", "/"),
        ("http://gateway.test?x=/y", "/?x=/y"),
    ],
)
async def test_a_whole_url_as_target_is_its_path(target: str, path: str) -> None:
    seen: list[tuple[bytes, list[bytes]]] = []

    async def seeing(scope: Any, receive: Any, send: Any) -> None:
        query = b"?" + scope["query_string"] if scope["query_string"] else b""
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        seen.append((scope["raw_path"] + query, hosts))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async with ScriptedProvider(answers) as upstream, running(catalog_of(upstream.url), application=seeing) as one:
        assert statuses(await one.raw(get(target))) == [200]
    host = target.partition("//")[2].partition("/")[0].partition("?")[0]
    assert seen == [(path.encode(), [host.encode()])]


async def test_a_completion_is_answered_at_a_whole_url() -> None:
    async with whole_gateway() as gateway:
        for target in ("http://any.test/v1/chat/completions", "https://any.test/v1/chat/completions?api-version=1"):
            received = await gateway.raw(post(more=LAST, path=target))
            assert statuses(received) == [200]
        upgraded = post(
            more="upgrade: h2c\r\nconnection: Upgrade, close\r\n", path="http://any.test/v1/chat/completions"
        )
        assert statuses(await gateway.raw(upgraded)) == [200]
    assert SECRET not in received.decode()


@pytest.mark.parametrize(
    "target",
    ["ftp://gateway.test/health/live", "http://user@gateway.test/health/live", "http:///health/live", "gateway:1", "*"],
)
async def test_any_other_target_is_refused(target: str) -> None:
    async with whole_gateway() as gateway:
        assert statuses(await gateway.raw(get(target))) == [400]
