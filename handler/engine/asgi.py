"""Calls an ASGI app in this process and streams its answer, with no socket and no HTTP parsing in between."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

from handler.engine.protocol import EngineRequest, EngineResponse
from handler.errors import StreamBroken

Message = MutableMapping[str, Any]
AsgiApp = Callable[
    [MutableMapping[str, Any], Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]
Header = tuple[bytes, bytes]

# How long an app that was told of the disconnect may take to end by itself.
WIND_UP_SECONDS = 1.0


@asynccontextmanager
async def call(
    app: AsgiApp,
    request: EngineRequest,
    headers: Iterable[Header] = (),
    *,
    wind_up_seconds: float = WIND_UP_SECONDS,
) -> AsyncIterator[EngineResponse]:
    """Runs `app` for one request. Leaving the context before the body ended tells the app that its client is gone.

    Raises whatever the app raises before it answers; StreamBroken if it fails or falls silent after that.
    """
    exchange = _Exchange(request)
    task = asyncio.create_task(_run(app, _scope(request, headers), exchange))
    try:
        status, content_type = await exchange.head
        yield EngineResponse(status, content_type, exchange.body())
    finally:
        exchange.gone.set()
        await _finish(task, wind_up_seconds)


async def _run(app: AsgiApp, scope: MutableMapping[str, Any], exchange: _Exchange) -> None:
    try:
        await app(scope, exchange.receive, exchange.send)
        exchange.end(StreamBroken("the engine ended its answer without completing it"))
    except Exception as error:
        exchange.end(error)


async def _finish(task: asyncio.Task[None], wind_up_seconds: float) -> None:
    """Lets an app that was told of the disconnect wind up, so that vLLM aborts the request; then cancels it."""
    done, _ = await asyncio.wait({task}, timeout=wind_up_seconds)
    if not done:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


class _Exchange:
    """The two ends of one request: what the app receives, and what it sends.

    `send` never waits, so an app that streams is always caught inside its own generator when the caller leaves: there a
    cancellation aborts vLLM's request at once, while a generator abandoned at a `yield` would live until the garbage
    collector finds it. What piles up for a slow reader is bounded by the answer's own length (max_tokens).
    """

    def __init__(self, request: EngineRequest) -> None:
        self.gone = asyncio.Event()
        self.head: asyncio.Future[tuple[int, str]] = asyncio.get_running_loop().create_future()
        self._request_body: bytes | None = request.body or b""
        self._pieces: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()
        self._complete = False

    async def receive(self) -> Message:
        body, self._request_body = self._request_body, None
        if body is not None:
            return {"type": "http.request", "body": body, "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = dict(message.get("headers", ()))
            if not self.head.done():  # it is cancelled when the caller left before the answer
                self.head.set_result((message["status"], headers.get(b"content-type", b"").decode("latin-1")))
            return
        if piece := message.get("body", b""):
            self._pieces.put_nowait(bytes(piece))
        if not message.get("more_body", False):
            self._complete = True
            self._pieces.put_nowait(None)

    def end(self, error: Exception) -> None:
        """The app has returned: passes on `error`, unless its answer was complete or nobody waits for it."""
        if self.gone.is_set():
            return
        if not self.head.done():
            self.head.set_exception(error)
        elif not self._complete:
            broken = StreamBroken(f"the engine failed in the middle of its answer: {type(error).__name__}")
            self._pieces.put_nowait(error if isinstance(error, StreamBroken) else broken)

    async def body(self) -> AsyncIterator[bytes]:
        while (piece := await self._pieces.get()) is not None:
            if isinstance(piece, Exception):
                raise piece
            yield piece


def _scope(request: EngineRequest, headers: Iterable[Header]) -> MutableMapping[str, Any]:
    path, _, query = request.path.partition("?")
    return {
        "type": "http",
        # 2.3, so that Starlette watches for the disconnect while it streams; from 2.4 on it waits for a send to fail.
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(b"host", b"worker"), (b"content-type", request.content_type.encode("latin-1")), *headers],
        "client": ("127.0.0.1", 0),
        "server": ("worker", 80),
        "state": {},
    }
