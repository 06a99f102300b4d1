"""The app between a socket and the worker: keys, web pages of other origins, ids of requests, a prefix of all paths."""

from __future__ import annotations

import hashlib
import logging
import secrets
import uuid
from collections.abc import Awaitable, Callable, Collection, Iterable, MutableMapping
from typing import Any

from starlette.middleware.cors import CORSMiddleware

from handler.door.flags import Door, is_public
from handler.errors import WorkerError

logger = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

REQUEST_ID = b"x-request-id"


class KeyRefused(WorkerError):
    """The caller sent no key of this worker."""

    status = 401
    code = "invalid_api_key"


def behind_door(app: App, door: Door, open_paths: Collection[str] = ()) -> App:
    """Returns the app as the door's flags let callers reach it. `open_paths` need no key."""
    if door.api_keys:
        app = Guard(app, door.api_keys, open_paths)
    if door.root_path:
        app = _without_prefix(app, door.root_path)
    if door.request_id_headers:
        app = _with_request_ids(app)
    if door.allowed_origins:
        # Outermost, so that a page can read refusals too.
        app = CORSMiddleware(
            app,
            allow_origins=door.allowed_origins,
            allow_methods=door.allowed_methods,
            allow_headers=door.allowed_headers,
            allow_credentials=door.allow_credentials,
        )
    return app


def warn_of_an_open_door(door: Door, host: str) -> None:
    """Warns where callers from elsewhere need no key."""
    if not door.api_keys and is_public(host):
        logger.warning(
            "NO API KEY: everyone who reaches %s can use this model and the GPU behind it. Set API_KEY, or listen on "
            "127.0.0.1 (HOST). RunPod's own key protects only what comes through RunPod's load balancer",
            host,
        )


class Guard:
    """Lets a request through that carries one of the keys as `Authorization: Bearer KEY`; answers 401 to others.

    Digests are compared, all of them and in constant time, so that the time of an answer says nothing about a key.
    """

    def __init__(self, app: App, keys: Iterable[str], open_paths: Collection[str]) -> None:
        self._app = app
        self._digests = [_digest(key.encode()) for key in keys]
        self._open_paths = frozenset(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on, or refuses it before its body is read."""
        if scope["type"] == "lifespan" or scope["path"] in self._open_paths or self._is_allowed(scope):
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await _refuse(send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    def _is_allowed(self, scope: Scope) -> bool:
        written = [value for name, value in scope["headers"] if name == b"authorization"]
        scheme, _, key = (written[0] if len(written) == 1 else b"").partition(b" ")
        given = _digest(key)
        found = False
        for digest in self._digests:
            found |= secrets.compare_digest(given, digest)
        return found and scheme.lower() == b"bearer"


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


async def _refuse(send: Send) -> None:
    error = KeyRefused("a key of this worker (API_KEY) is needed: send it as `Authorization: Bearer KEY`")
    document = error.to_json_text().encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(document)).encode()),
        (b"www-authenticate", b"Bearer"),
    ]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": document})


def _without_prefix(app: App, prefix: str) -> App:
    """Returns an app that also answers below `prefix`, for a proxy that leaves it in the path."""
    raw_prefix = prefix.encode()

    async def shortened(scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("path", "").startswith(f"{prefix}/"):
            raw_path = scope["raw_path"].removeprefix(raw_prefix)
            scope = {**scope, "path": scope["path"].removeprefix(prefix), "raw_path": raw_path}
        await app(scope, receive, send)

    return shortened


def _with_request_ids(app: App) -> App:
    """Returns an app whose answers carry the `X-Request-Id` of their request, or a new one."""

    async def identified(scope: Scope, receive: Receive, send: Send) -> None:
        given = next((value for name, value in scope.get("headers", ()) if name == REQUEST_ID), None)

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                others = [header for header in message.get("headers", ()) if header[0].lower() != REQUEST_ID]
                message = {**message, "headers": [*others, (REQUEST_ID, given or uuid.uuid4().hex.encode())]}
            await send(message)

        await app(scope, receive, send_with_id)

    return identified
