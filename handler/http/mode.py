"""The worker as a RunPod load-balancing endpoint: the engine's own API over HTTP, with no queue in between.

`GET /ping` says 204 while the engine loads, 200 when it serves, 503 when it drains or has died. Every allowed path goes
to the engine as it is; SIGTERM or SIGINT lets running requests finish, then ends the process with exit code 0.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, MutableMapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from typing import Any

import uvicorn

from handler.engine.asgi import Message
from handler.engine.protocol import Engine, EngineRequest, EngineResponse
from handler.errors import WorkerError
from handler.http.readiness import (
    ClientGone,
    MethodNotAllowed,
    Readiness,
    State,
    WorkerDraining,
    content_type,
    engine_path,
    headers_of,
    read_body,
)
from handler.start.signals import stop_signals

logger = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

EXIT_FAILURE = 1
# What slow readers get to take the rest of their answers off the socket.
LINGER_SECONDS = 2


async def serve(
    engine: Engine,
    *,
    host: str,
    port: int,
    health_port: int,
    allowed_paths: Collection[str],
    max_body_bytes: int,
    drain_seconds: float,
    ping_path: str = "/ping",
    stall_seconds: float = 120.0,
    on_listening: Callable[[int, int], None] | None = None,
) -> int:
    """Serves until SIGTERM or SIGINT; returns the exit code: 0 drained, 1 the engine failed.

    Listens before the engine starts, so that the platform sees it load. `on_listening` is given the two ports.
    """
    readiness = Readiness(engine)
    app = HttpApp(engine, readiness, allowed_paths=allowed_paths, max_body_bytes=max_body_bytes, ping_path=ping_path)
    health = HttpApp(engine, readiness, allowed_paths=(), max_body_bytes=0, ping_path=ping_path)
    with contextlib.ExitStack() as resources:
        try:
            ports = dict.fromkeys((port, health_port))  # one where they are the same
            listeners = [resources.enter_context(_listener(host, number)) for number in ports]
        except OSError as error:
            logger.error("cannot listen on %s: %s", host, error)
            return EXIT_FAILURE
        stop = asyncio.Event()
        resources.enter_context(stop_signals(stop.set))
        try:
            async with _servers([app, health], listeners):
                if on_listening:
                    on_listening(*(listeners[place].getsockname()[1] for place in (0, -1)))
                failed = await readiness.live_until(stop, lambda: bool(app.running), stall_seconds)
                await _drain(app, readiness, 0 if failed else drain_seconds)
        finally:
            await engine.stop()
    return EXIT_FAILURE if failed else 0


async def _drain(app: HttpApp, readiness: Readiness, seconds: float) -> None:
    """New requests are turned away from here on; running ones have `seconds` to finish, then they are aborted."""
    readiness.state = State.DRAINING
    if app.running:
        logger.info("draining: %d requests have %g s to finish", len(app.running), seconds)
        await asyncio.wait(app.running, timeout=seconds)
    for task in app.running:
        task.cancel()


def _listener(host: str, port: int) -> socket.socket:
    return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=2048)


class _Server(uvicorn.Server):
    """uvicorn without its own idea of signals."""

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
        return nullcontext()


@asynccontextmanager
async def _servers(apps: Sequence[HttpApp], listeners: Sequence[socket.socket]) -> AsyncIterator[None]:
    """Serves each app on its listener; at the end closes idle connections, and waits briefly for busy ones."""
    servers = [_Server(_config(app)) for app, _ in zip(apps, listeners, strict=False)]
    pairs = zip(servers, listeners, strict=True)
    tasks = [asyncio.create_task(server.serve(sockets=[listener])) for server, listener in pairs]
    try:
        yield
    finally:
        for server in servers:
            server.should_exit = True
        await asyncio.gather(*tasks)


def _config(app: HttpApp) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        lifespan="off",
        log_config=None,
        access_log=False,
        ws="none",
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=LINGER_SECONDS,
    )


class HttpApp:
    """Answers with one engine; `running` holds the requests that are in it, as tasks that may be cancelled."""

    def __init__(
        self,
        engine: Engine,
        readiness: Readiness,
        *,
        allowed_paths: Collection[str],
        max_body_bytes: int,
        ping_path: str = "/ping",
    ) -> None:
        self.running: set[asyncio.Task[None]] = set()
        self._engine = engine
        self._readiness = readiness
        self._allowed_paths = allowed_paths
        self._max_body_bytes = max_body_bytes
        self._ping_path = ping_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The health check, and the engine."""
        if scope["path"] == self._ping_path:
            await self._ping(scope, send)
            return
        answer = _Answer(send)
        try:
            await self._answer(scope, receive, answer)
        except ClientGone:
            return
        except WorkerError as error:
            await answer.fail(error)
        except Exception as error:
            # The message of a foreign error may quote the prompt: only its type leaves the worker.
            logger.error("request failed: %s", type(error).__name__, exc_info=logger.isEnabledFor(logging.DEBUG))
            await answer.fail(WorkerError(f"internal error of the worker: {type(error).__name__}"))

    async def _ping(self, scope: Scope, send: Send) -> None:
        if scope["method"] not in ("GET", "HEAD"):
            await _Answer(send).fail(MethodNotAllowed("method: expected GET", param="method"))
            return
        status = await self._readiness.ping()
        headers = [] if status == 204 else [(b"content-length", b"0")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body"})

    async def _answer(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        path = engine_path(scope, self._allowed_paths)
        body = await read_body(scope, receive, self._max_body_bytes)
        await self._readiness.check()
        request = EngineRequest(scope["method"], path, body or None, content_type(scope))
        running = asyncio.create_task(self._forward(request, answer))
        self.running.add(running)
        running.add_done_callback(self.running.discard)
        gone = asyncio.create_task(_disconnect(receive))
        try:
            await asyncio.wait({running, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            aborted = gone.done() and not running.done()
            running.cancel()
            gone.cancel()
            results = await asyncio.gather(running, gone, return_exceptions=True)
        if aborted:
            raise ClientGone
        if isinstance(results[0], asyncio.CancelledError):  # the time to drain is over
            raise WorkerDraining("this worker was shut down before the answer was complete")
        if results[0] is not None:
            raise results[0]

    async def _forward(self, request: EngineRequest, answer: _Answer) -> None:
        async with self._engine.send(request) as response:
            await answer.begin(response)
            async for piece in response.body:
                await answer.write(piece)
        await answer.end()


class _Answer:
    """What has been sent to one client so far, which decides how a failure can still be told."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._response: EngineResponse | None = None
        self._between_events = True

    async def begin(self, response: EngineResponse) -> None:
        self._response = response
        content_type = response.content_type.encode("latin-1")
        headers = [(b"content-type", content_type)] if content_type else []
        await self._send({"type": "http.response.start", "status": response.status, "headers": headers})

    async def write(self, piece: bytes) -> None:
        self._between_events = piece.endswith(b"\n\n")
        await self._send({"type": "http.response.body", "body": piece, "more_body": True})

    async def end(self) -> None:
        await self._send({"type": "http.response.body"})

    async def fail(self, error: WorkerError) -> None:
        """Its document with its status; in the middle of a stream an error event; else the connection is cut.

        An app that returns without completing its answer makes uvicorn cut the connection: the client sees an
        answer that is not whole, never one that looks complete.
        """
        document = error.to_json_text().encode()
        if self._response is None:
            headers = [(b"content-type", b"application/json"), (b"content-length", str(len(document)).encode())]
            headers += headers_of(error)
            await self._send({"type": "http.response.start", "status": error.status, "headers": headers})
            await self._send({"type": "http.response.body", "body": document})
        elif self._response.is_stream and self._between_events:
            await self.write(b"data: " + document + b"\n\n")
            await self.end()


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
