"""Whether a request may go to the engine: how far the worker is in its life, and the method, path and size asked."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Collection, Mapping
from enum import Enum
from typing import Any

from handler import watchdog
from handler.engine.asgi import Message
from handler.engine.paths import is_allowed, is_plain
from handler.engine.protocol import Engine
from handler.errors import EngineUnavailable, InvalidInput, WorkerError

logger = logging.getLogger(__name__)

METHODS = ("GET", "POST", "DELETE")
QUERY = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@/?%-]*")
Header = tuple[bytes, bytes]
RETRY_AFTER: Header = (b"retry-after", b"5")
CLOSE: Header = (b"connection", b"close")


class State(Enum):
    """How far the worker is in its life."""

    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"


class Readiness:
    """The worker's state together with the engine's health."""

    def __init__(self, engine: Engine) -> None:
        self.state = State.LOADING
        self._engine = engine

    async def check(self) -> None:
        """Raises EngineLoading at first, WorkerDraining at the end, and EngineUnavailable when the engine has died."""
        if self.state is State.LOADING:
            raise EngineLoading("the engine is still loading")
        if self.state is State.DRAINING:
            raise WorkerDraining("this worker is shutting down")
        await self._engine.check_health()

    async def ping(self) -> int:
        """RunPod's health check: 200 healthy, 204 initialising, anything else unhealthy."""
        try:
            await self.check()
        except EngineLoading:
            return 204
        except EngineUnavailable:
            return 503
        return 200

    async def live(self, busy: Callable[[], bool], stall_seconds: float) -> None:
        """Starts the engine; returns, with the reason in the log, when it did not start, has died, or stands still."""
        try:
            await self._engine.start()
        except WorkerError as error:
            logger.error("the worker cannot start: %s", error.message)
            return
        except Exception:
            logger.exception("the worker cannot start")
            return
        self.state = State.READY
        failure = await watchdog.failure(self._engine, busy, stall_seconds)
        logger.error("the worker ends: %s", failure.message)

    async def live_until(self, stop: asyncio.Event, busy: Callable[[], bool], stall_seconds: float) -> bool:
        """`live` until the worker is told to stop; True when the engine has failed before that."""
        life = asyncio.create_task(self.live(busy, stall_seconds))
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({life, stopping}, return_when=asyncio.FIRST_COMPLETED)
            return life.done()
        finally:
            life.cancel()
            stopping.cancel()
            await asyncio.gather(life, stopping, return_exceptions=True)


class EngineLoading(EngineUnavailable):
    """The engine has not finished loading."""

    code = "engine_loading"


class WorkerDraining(EngineUnavailable):
    """The worker finishes what it has, and takes nothing new."""

    code = "worker_draining"


class ClientGone(Exception):
    """The client has left: there is nobody to answer."""


class PathNotFound(InvalidInput):
    """Not a path that this worker serves."""

    status = 404
    code = "path_not_found"


class MethodNotAllowed(InvalidInput):
    """The engine's API has no such method."""

    status = 405
    code = "method_not_allowed"


class BodyTooLarge(InvalidInput):
    """More than RunPod itself lets through."""

    status = 413
    code = "body_too_large"


def headers_of(error: WorkerError) -> list[Header]:
    """The headers that go with an error's document."""
    if isinstance(error, WorkerDraining):
        return [RETRY_AFTER, CLOSE]
    if isinstance(error, EngineLoading):
        return [RETRY_AFTER]
    return [(b"allow", ", ".join(METHODS).encode())] if isinstance(error, MethodNotAllowed) else []


def engine_path(scope: Mapping[str, Any], allowed_paths: Collection[str]) -> str:
    """Path and query as they were written; raises PathNotFound or MethodNotAllowed."""
    path, query = scope["raw_path"].decode("latin-1"), scope["query_string"].decode("latin-1")
    if not is_plain(path) or not is_allowed(path, allowed_paths) or not QUERY.fullmatch(query):
        raise PathNotFound("path: this worker serves no such path", param="path")
    if scope["method"] not in METHODS:
        raise MethodNotAllowed(f"method: expected {', '.join(METHODS)}", param="method")
    return f"{path}?{query}" if query else path


def content_type(scope: Mapping[str, Any]) -> str:
    """As the client wrote it for a form with files; anything else is JSON to the engine, whatever a client calls it."""
    written: str = dict(scope["headers"]).get(b"content-type", b"").decode("latin-1")
    return written if written.startswith("multipart/") else "application/json"


async def read_body(scope: Mapping[str, Any], receive: Callable[[], Awaitable[Message]], max_bytes: int) -> bytes:
    """The whole body; raises BodyTooLarge before it is all here, or ClientGone."""
    headers = dict(scope["headers"])
    too_large = BodyTooLarge(f"body: at most {max_bytes} bytes are taken", param="body")
    if int(headers.get(b"content-length", b"0")) > max_bytes:
        raise too_large
    body = bytearray()
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > max_bytes:
            raise too_large
    return bytes(body)
