"""The ASGI app of HTTP mode: the health check, and every allowed path to the engine as it is."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from handler.door.body import ClientGone, read_body
from handler.engine.protocol import Answer, Engine, EngineRequest, Header, Stream
from handler.errors import InvalidInput, WorkerError
from handler.guided_decoding import translated_text
from handler.http.readiness import EngineLoading, Readiness, WorkerDraining
from handler.jobs import is_allowed, is_plain
from handler.request_limits import DEFAULT, RequestLimits

logger = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

# The health check of RunPod, which its documentation writes without the slash.
PING_PATHS = ("/ping", "/ping/")
JSON_TYPE = "application/json"
METHODS = ("GET", "HEAD", "POST", "DELETE")
QUERY = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@/?%-]*")
RETRY_AFTER: Header = (b"retry-after", b"5")
# What concerns one connection, or the door of this worker, and not the request behind it.
KEPT_HERE = frozenset(
    {b"host", b"connection", b"keep-alive", b"transfer-encoding", b"te", b"trailer", b"upgrade", b"expect"}
    | {b"content-length", b"content-type", b"accept-encoding", b"authorization", b"proxy-authorization", b"cookie"}
    | {b"origin", b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto"}
)
OWN_HEADERS = frozenset(
    {b"connection", b"keep-alive", b"transfer-encoding", b"trailer", b"upgrade", b"content-length", b"content-type"}
    | {b"content-encoding", b"date", b"server", b"set-cookie", b"vary"}
)
CLOSE: Header = (b"connection", b"close")


class HttpApp:
    """Answers with one engine. `running` holds the tasks of the requests that are in it, which may be cancelled."""

    def __init__(
        self,
        engine: Engine,
        readiness: Readiness,
        *,
        allowed_paths: Collection[str],
        max_body_bytes: int,
        limits: RequestLimits = DEFAULT,
        ping_paths: Collection[str] = PING_PATHS,
    ) -> None:
        self.running: set[asyncio.Task[None]] = set()
        self._engine = engine
        self._readiness = readiness
        self._allowed_paths = allowed_paths
        self._max_body_bytes = max_body_bytes
        self._limits = limits
        self._ping_paths = ping_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers the health check, and passes everything else to the engine."""
        if scope["path"] in self._ping_paths:
            await self._ping(scope, send)
            return
        reply = _Reply(send)
        try:
            await self._answer(scope, receive, reply)
        except ClientGone:
            return
        except WorkerError as error:
            await reply.fail(error)
        except Exception as error:
            # The message of a foreign error may quote the prompt: only its type leaves the worker.
            logger.error("request failed: %s", type(error).__name__, exc_info=logger.isEnabledFor(logging.DEBUG))
            await reply.fail(WorkerError(f"internal error of the worker: {type(error).__name__}"))

    async def _ping(self, scope: Scope, send: Send) -> None:
        if scope["method"] not in ("GET", "HEAD"):
            await _Reply(send).fail(MethodNotAllowed("method: expected GET", param="method"))
            return
        status = await self._readiness.ping()
        headers = [] if status == 204 else [(b"content-length", b"0")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body"})

    async def _answer(self, scope: Scope, receive: Receive, reply: _Reply) -> None:
        path = engine_path(scope, self._allowed_paths)
        body = await read_body(scope, receive, self._max_body_bytes)
        await self._readiness.check()
        # HEAD is GET to the engine; uvicorn leaves the body out.
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        sent_type = content_type(scope)
        if sent_type == JSON_TYPE:
            body = translated_text(body, lambda: self._engine.request_fields(path.partition("?")[0]))
            self._limits.check(body)
        request = EngineRequest(method, path, body or None, sent_type, passed_on(scope["headers"]))
        running = asyncio.create_task(self._forward(request, reply))
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

    async def _forward(self, request: EngineRequest, reply: _Reply) -> None:
        async with self._engine.send(request) as response:
            await reply.begin(response)
            async for piece in response.pieces:
                await reply.write(piece)
        await reply.end()


class _Reply:
    """The answer to one client. What has been sent so far decides how a failure can still be reported."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._begun: Answer | None = None
        self._between_events = True

    async def begin(self, response: Answer) -> None:
        self._begun = response
        content_type = response.content_type.encode("latin-1")
        headers = [(b"content-type", content_type)] if content_type else []
        headers += answer_headers(response.headers)
        await self._send({"type": "http.response.start", "status": response.status, "headers": headers})

    async def write(self, piece: bytes) -> None:
        self._between_events = piece.endswith(b"\n\n")
        await self._send({"type": "http.response.body", "body": piece, "more_body": True})

    async def end(self) -> None:
        await self._send({"type": "http.response.body"})

    async def fail(self, error: WorkerError) -> None:
        """Sends the error as a document with its status, or inside a stream as an event, or cuts the connection.

        An app that returns without completing its answer makes uvicorn cut the connection: the client sees an answer
        that is not whole, never one that looks complete.
        """
        document = error.to_json_text().encode()
        match self._begun:
            case None:
                headers = [(b"content-type", b"application/json"), (b"content-length", str(len(document)).encode())]
                headers += headers_of(error)
                await self._send({"type": "http.response.start", "status": error.status, "headers": headers})
                await self._send({"type": "http.response.body", "body": document})
            case Stream() if self._between_events:
                await self.write(b"data: " + document + b"\n\n")
                await self.end()


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class PathNotFound(InvalidInput):
    """The worker serves no such path."""

    status = 404
    code = "path_not_found"


class MethodNotAllowed(InvalidInput):
    """The engine's API has no such method."""

    status = 405
    code = "method_not_allowed"


def headers_of(error: WorkerError) -> list[Header]:
    """Returns the headers that go with an error's document."""
    if isinstance(error, WorkerDraining):
        return [RETRY_AFTER, CLOSE]
    if isinstance(error, EngineLoading):
        return [RETRY_AFTER]
    return [(b"allow", ", ".join(METHODS).encode())] if isinstance(error, MethodNotAllowed) else []


def engine_path(scope: Mapping[str, Any], allowed_paths: Collection[str]) -> str:
    """Returns path and query as they were written; raises PathNotFound or MethodNotAllowed."""
    path, query = scope["raw_path"].decode("latin-1"), scope["query_string"].decode("latin-1")
    if not is_plain(path) or not is_allowed(path, allowed_paths) or not QUERY.fullmatch(query):
        raise PathNotFound("path: this worker serves no such path", param="path")
    if scope["method"] not in METHODS:
        raise MethodNotAllowed(f"method: expected {', '.join(METHODS)}", param="method")
    return f"{path}?{query}" if query else path


def content_type(scope: Mapping[str, Any]) -> str:
    """Returns the content type that the engine is given: the client's for a form with files, else JSON."""
    written: str = dict(scope["headers"]).get(b"content-type", b"").decode("latin-1")
    return written if written.startswith("multipart/") else JSON_TYPE


def passed_on(headers: Iterable[Header]) -> tuple[Header, ...]:
    """Returns the headers that mean something to the engine. The worker has its own key and connection there."""
    return tuple(header for header in headers if header[0] not in KEPT_HERE)


def answer_headers(headers: Iterable[Header]) -> list[Header]:
    """Returns the engine's headers for the caller, a redirect without the engine's own address."""
    return [
        (name, inside(value) if name == b"location" else value)
        for name, value in headers
        if name not in OWN_HEADERS and not name.startswith(b"access-control-")
    ]


def inside(location: bytes) -> bytes:
    """Returns path and query of a redirect. Callers know this worker by another address than the engine has."""
    parts = urlsplit(location.decode("latin-1"))
    path = "/" + parts.path.lstrip("/") if parts.netloc or parts.path.startswith("/") else parts.path
    return (f"{path}?{parts.query}" if parts.query else path).encode("latin-1")
