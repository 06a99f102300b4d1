"""An ASGI app answers in this process; leaving early tells it so."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from handler.engine.embedded import call_app
from handler.engine.protocol import Document, EngineRequest, Stream
from handler.errors import StreamBroken


async def echo(request: Request) -> JSONResponse:
    return JSONResponse(
        {
            "method": request.method,
            "path": request.url.path,
            "query": request.url.query,
            "key": request.headers.get("authorization"),
            "type": request.headers.get("content-type"),
            "body": (await request.body()).decode(),
        },
        status_code=201,
    )


async def test_the_app_sees_the_request_and_its_answer_comes_back() -> None:
    app = Starlette(routes=[Route("/echo/{rest}", echo, methods=["POST"])])
    request = EngineRequest("POST", "/echo/x?a=1", b"hello", "text/x")
    async with call_app(app, request, [(b"authorization", b"Bearer k")]) as response:
        assert isinstance(response, Document)
        body = await response.read()
    assert (response.status, response.content_type) == (201, "application/json")
    assert body == b'{"method":"POST","path":"/echo/x","query":"a=1","key":"Bearer k","type":"text/x","body":"hello"}'


async def test_pieces_arrive_while_the_app_still_works() -> None:
    go_on = asyncio.Event()

    async def stream(request: Request) -> StreamingResponse:
        async def pieces() -> Any:
            yield b"first"
            await go_on.wait()
            yield b"second"

        return StreamingResponse(pieces(), media_type="text/event-stream")

    async with call_app(Starlette(routes=[Route("/", stream)]), EngineRequest("GET", "/")) as response:
        assert isinstance(response, Stream)
        body = aiter(response.pieces)
        assert await anext(body) == b"first"
        go_on.set()
        assert await anext(body) == b"second"


async def test_leaving_early_closes_the_apps_stream() -> None:
    closed = asyncio.Event()

    async def stream(request: Request) -> StreamingResponse:
        async def pieces() -> Any:
            try:
                yield b"x"
                await asyncio.Event().wait()
            finally:
                closed.set()

        return StreamingResponse(pieces())

    async with call_app(Starlette(routes=[Route("/", stream)]), EngineRequest("GET", "/")) as response:
        assert await anext(aiter(response.pieces)) == b"x"
    assert closed.is_set()


async def test_leaving_while_a_plain_answer_is_awaited_tells_the_app_of_the_disconnect() -> None:
    seen: list[str] = []
    received = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        received.set()
        seen.append((await receive())["type"])

    async def ask() -> None:
        async with call_app(app, EngineRequest("GET", "/")):
            raise AssertionError("there is no answer")

    asking = asyncio.create_task(ask())
    await received.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert seen == ["http.disconnect"]


async def test_an_app_that_ignores_the_disconnect_is_cancelled() -> None:
    cancelled = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with call_app(app, EngineRequest("GET", "/"), wind_up_seconds=0.01) as response:
        assert response.status == 200
    assert cancelled.is_set()


async def test_an_error_before_the_answer_is_raised_and_one_inside_it_breaks_the_stream() -> None:
    async def fails_at_once(scope: Any, receive: Any, send: Any) -> None:
        raise KeyError("x")

    async def fails_later(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.pieces", "body": b"part", "more_body": True})
        raise KeyError("x")

    async def stops_short(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    with pytest.raises(KeyError):
        async with call_app(fails_at_once, EngineRequest("GET", "/")):
            pass
    for app in (fails_later, stops_short):
        async with call_app(app, EngineRequest("GET", "/")) as response:
            assert isinstance(response, Document)
            with pytest.raises(StreamBroken):
                await response.read()


@pytest.mark.parametrize(
    ("status", "content_type", "expected"),
    [
        (200, "text/event-stream; charset=utf-8", Stream),
        (200, "application/json", Document),
        (200, "", Document),
        (500, "text/event-stream", Document),
    ],
)
async def test_an_answer_is_a_stream_where_it_sends_events_and_is_no_refusal(
    status: int, content_type: str, expected: type
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-type", content_type.encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"data: 1\n\n"})

    async with call_app(app, EngineRequest("GET", "/")) as answer:
        assert type(answer) is expected
        assert [piece async for piece in answer.pieces] == [b"data: 1\n\n"]


async def test_a_reader_who_is_far_behind_loses_the_answer_and_the_app_ends() -> None:
    sent = 0
    closed = asyncio.Event()

    async def stream(request: Request) -> StreamingResponse:
        async def pieces() -> Any:
            nonlocal sent
            try:
                while True:
                    yield b"x" * 1_000
                    sent += 1
                    await asyncio.sleep(0)
            finally:
                closed.set()

        return StreamingResponse(pieces(), media_type="text/event-stream")

    app = Starlette(routes=[Route("/", stream)])
    async with call_app(app, EngineRequest("GET", "/"), most_unread_bytes=50_000) as response:
        body = aiter(response.pieces)
        assert await anext(body) == b"x" * 1_000
        await closed.wait()
        with pytest.raises(StreamBroken, match="given up: its reader was more than"):
            await anext(body)
    assert sent < 100


async def test_one_large_answer_is_never_too_much() -> None:
    async def whole(request: Request) -> JSONResponse:
        return JSONResponse("x" * 100_000)

    app = Starlette(routes=[Route("/", whole)])
    async with call_app(app, EngineRequest("GET", "/"), most_unread_bytes=1_000) as response:
        assert isinstance(response, Document)
        assert len(await response.read()) == 100_002
