"""Hands requests to an ASGI application: everything outside the hot path is served this way."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import unquote_to_bytes

from vllm_service.http.messages import Request, ResponseWriter

Message = MutableMapping[str, Any]
Application = Callable[
    [Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]

#: Response headers that this server writes itself; the application's are dropped, or they would stand there twice.
_SERVER_HEADERS = (b"content-length", b"transfer-encoding", b"connection", b"date")


async def serve_asgi(application: Application, request: Request, caller: ResponseWriter) -> None:
    """Runs the application for one request and answers with what it sends. The application's exceptions pass."""
    exchange = _AsgiExchange(request, caller)
    try:
        await application(_scope(request), exchange.receive, exchange.send)
    finally:
        exchange.is_over.set()


def _scope(request: Request) -> Message:
    path, _, query = request.target.partition(b"?")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": request.http_version,
        # HEAD is GET without the body, which the connection leaves out: no route is needed for it.
        "method": "GET" if request.method == b"HEAD" else request.method.decode("latin-1"),
        "scheme": "http",
        "path": unquote_to_bytes(path).decode("utf-8", "replace"),
        "raw_path": path,
        "query_string": query,
        "root_path": "",
        "headers": request.headers,
        "client": (request.peer, 0),
        "server": None,
        "state": {},
    }


class _AsgiExchange:
    """One request and its answer, behind ASGI's `receive` and `send`."""

    def __init__(self, request: Request, caller: ResponseWriter) -> None:
        self._request = request
        self._caller = caller
        self._is_read = False
        self._status = 200
        self._headers = b""
        self._has_begun = False
        self._can_send = asyncio.Event()
        self._can_send.set()
        self.is_over = asyncio.Event()
        caller.set_source(self)

    def pause(self) -> None:
        """Implements FlowControl: the next `send` waits."""
        self._can_send.clear()

    def resume(self) -> None:
        """Implements FlowControl: a waiting `send` goes on."""
        self._can_send.set()

    async def receive(self) -> Message:
        """Returns the whole body, and once the exchange is over http.disconnect.

        A caller who leaves needs no message of its own: the connection cancels the task.
        """
        if not self._is_read:
            self._is_read = True
            return {"type": "http.request", "body": self._request.body, "more_body": False}
        await self.is_over.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Sends an answer of one piece with its length, any other in chunks."""
        if self.is_over.is_set():
            return
        if message["type"] == "http.response.start":
            self._status = message["status"]
            headers = message.get("headers", ())
            lines = (b"%b: %b\r\n" % (name, value) for name, value in headers if name not in _SERVER_HEADERS)
            self._headers = _with_head(b"".join(lines))
            return  # the head waits for the first piece: only then is it known whether a length can be sent
        body = bytes(message.get("body", b""))
        if not message.get("more_body", False):
            self._end(body)
            return
        if not self._has_begun:
            self._has_begun = True
            self._caller.begin(self._status, self._headers)
        self._send(body)
        await self._can_send.wait()

    def _end(self, body: bytes) -> None:
        self.is_over.set()
        if not self._has_begun:
            self._caller.answer(self._status, self._headers, body)
            return
        self._send(body)
        self._caller.end()

    def _send(self, body: bytes) -> None:
        if body and self._request.method != b"HEAD":
            self._caller.send(body)


def _with_head(headers: bytes) -> bytes:
    """Returns the header lines with HEAD beside a GET in Allow: the application sees the one as the other."""
    return re.sub(rb"(?im)^(allow: .*\bGET\b)", rb"\1, HEAD", headers)
