"""A caller's connection: HTTP/1.1 requests in, one answered after the other, keep-alive, pipelining, limits."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, cast

import httptools

from vllm_service.errors import BodyTooLarge, HeadTooLarge, InvalidRequest, RequestTimeout, ServiceError
from vllm_service.gateway.error_answers import REASONS, error_body, error_headers, whole_answer
from vllm_service.gateway.incoming import Flow, Incoming

if TYPE_CHECKING:
    from vllm_service.gateway.http_server import HttpServer

DISCARD_SECONDS = 2.0  # what still comes after a refusal is read for so long
_Task = asyncio.Task[None]


class ClientConnection(asyncio.Protocol):
    """Also the Caller (incoming.py) of the request that is being answered; there is one at a time."""

    def __init__(self, server: HttpServer) -> None:
        self._server = server
        self._limits = server.limits
        self._loop = server.loop
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._peer = ""
        self._requests: deque[tuple[Incoming, bool]] = deque()
        self._task: _Task | None = None
        self._keeps_alive = True
        self._is_chunked = False
        self._is_discarding = False
        self._is_reading_paused = False
        self._stalled_since: float | None = None
        self._target = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._body = b""
        self._pieces: bytearray | None = None
        self._is_receiving = False
        self._has_head = False
        self._head_bytes = 0
        self._began = self._last_data = self._loop.time()
        self._is_new = True
        self.stays = False
        self.has_begun = False
        self._flow: Flow | None = None

    # asyncio.Protocol: what the caller sends

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """uvloop's transport is no subclass of asyncio's; both set TCP_NODELAY."""
        self._transport = cast("asyncio.Transport", transport)
        peer = transport.get_extra_info("peername")
        self._peer = peer[0] if isinstance(peer, tuple) else ""
        self._server.opened(self)

    def data_received(self, data: bytes) -> None:
        """Feeds the parser. After an error what still comes is dropped: closing at once could lose the answer."""
        if self._is_discarding:
            return
        self._last_data = self._loop.time()
        if not self._has_head:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._keep_no_longer()
        except httptools.HttpParserError:
            self.refuse(InvalidRequest("This is not a valid HTTP/1.1 request."))
        else:
            if self._is_receiving and not self._has_head and self._head_bytes > self._limits.head_bytes:
                self.refuse(HeadTooLarge(f"The request's head is larger than {self._limits.head_bytes} bytes."))

    def connection_lost(self, error: Exception | None) -> None:
        """The caller has left; whoever answers is stopped, unless it stays to the end."""
        self._transport = None
        self._requests.clear()
        self._server.lost(self)
        if self._task is not None and not self.stays:
            self._task.cancel()
        if self.stays and self._flow is not None and self._stalled_since is not None:
            self._flow.resume()

    def pause_writing(self) -> None:
        """The caller reads slower than the provider writes."""
        self._stalled_since = self._loop.time()
        if self._flow is not None:
            self._flow.pause()

    def resume_writing(self) -> None:
        """The caller has caught up."""
        self._stalled_since = None
        if self._flow is not None:
            self._flow.resume()

    # httptools' callbacks: what the parser finds

    def on_message_begin(self) -> None:
        """A request begins."""
        self._is_receiving, self._has_head = True, False
        self._target, self._headers, self._body, self._pieces = b"", [], b"", None
        self._began = self._last_data

    def on_url(self, url: bytes) -> None:
        """A part of the target."""
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; what follows a chunked body is dropped."""
        if not self._has_head:
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Everything that can be refused is refused before the body comes."""
        self._has_head = True
        limits = self._limits
        if len(self._headers) > limits.headers or (self._head_bytes > limits.head_bytes and self._head_is_too_large()):
            self.refuse(HeadTooLarge(f"The request's head is larger than {limits.head_bytes} bytes, or too long."))
            return
        self._head_bytes = 0
        for name, value in self._headers:
            if name == b"content-length" and int(value) > limits.body_bytes:
                self._refuse_body()
            elif name == b"expect" and value.lower() == b"100-continue" and not self._is_discarding:
                self._write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        """A piece of the body: most come in one."""
        if self._is_discarding:
            return
        if not self._body:
            self._body = body
        else:
            if self._pieces is None:
                self._pieces = bytearray(self._body)
            self._pieces += body
        if len(self._pieces or self._body) > self._limits.body_bytes:
            self._refuse_body()

    def on_message_complete(self) -> None:
        """The request is there: it is answered now, or after those before it."""
        if self._is_discarding:
            return
        self._is_receiving = self._has_head = False
        body = self._body if self._pieces is None else bytes(self._pieces)
        version = self._parser.get_http_version()
        request = Incoming(
            self._parser.get_method(), self._target, self._headers, body, peer=self._peer, http_version=version
        )
        self._requests.append((request, self._parser.should_keep_alive()))
        self._is_new = False
        if self._task is None:
            self._next()
        elif len(self._requests) >= self._limits.pipelined and not self._is_reading_paused and self._transport:
            self._is_reading_paused = True
            self._transport.pause_reading()

    # The Caller that is answered

    @property
    def has_left(self) -> bool:
        """See Caller."""
        return self._transport is None

    def answer(self, status: int, headers: bytes, body: bytes) -> None:
        """See Caller."""
        if self._transport is not None:
            last = self._server.date_line if self._keeps_alive else b"connection: close\r\n"
            self._transport.write(whole_answer(status, headers + last, body))
        self._answered()

    def begin(self, status: int, headers: bytes) -> None:
        """See Caller."""
        self.has_begun = True
        framing = b"transfer-encoding: chunked\r\n" if self._is_chunked else b""
        last = self._server.date_line if self._keeps_alive else b"connection: close\r\n"
        self._write(b"HTTP/1.1 %d %b\r\n%b%b%b\r\n" % (status, REASONS.get(status, b"-"), headers, last, framing))

    def send(self, data: bytes) -> None:
        """See Caller."""
        if self._transport is not None:
            self._transport.write(b"%x\r\n%b\r\n" % (len(data), data) if self._is_chunked else data)

    def end(self) -> None:
        """See Caller."""
        if self._is_chunked:
            self._write(b"0\r\n\r\n")
        self._answered()

    def fed_by(self, flow: Flow) -> None:
        """See Caller."""
        self._flow = flow
        if self._stalled_since is not None:
            flow.pause()

    def abort(self) -> None:
        """See Caller."""
        self._task = None
        if self._transport is not None:
            self._transport.abort()

    # its life

    def check(self, now: float) -> None:
        """Called by the server twice a second: ends what has waited for too long."""
        limits = self._limits
        if self._stalled_since is not None:
            since, longest = self._stalled_since, limits.stalled_write_seconds
        elif self._is_discarding:
            since, longest = self._last_data, DISCARD_SECONDS
        elif self._task is not None:
            return
        elif self._is_receiving:
            longest = limits.body_seconds if self._has_head else limits.head_seconds
            if now - self._began > longest or now - self._last_data > limits.body_idle_seconds:
                self.refuse(RequestTimeout("The request did not arrive in time."))
            return
        else:
            since, longest = self._last_data, limits.head_seconds if self._is_new else limits.keep_alive_seconds
        if now - since > longest:
            self._leave()

    def close_when_done(self) -> None:
        """The server is stopping: no further request on this connection."""
        self._keep_no_longer()
        if self._task is None and not self._is_receiving and self._transport is not None:
            self._transport.close()

    def close_at_once(self) -> None:
        """The server has stopped."""
        self._leave()

    def _leave(self) -> None:
        """Ends the connection as if the caller had: whoever answers is told."""
        if self._transport is not None:
            self._transport.abort()

    def _next(self) -> None:
        request, keeps_alive = self._requests.popleft()
        self._keeps_alive = self._keeps_alive and keeps_alive and not self._server.is_stopping
        self._is_chunked = request.http_version == "1.1"
        if not self._is_chunked:
            self._keeps_alive = False
        self._task = self._server.start(request, self)

    def _answered(self) -> None:
        """What the task still does, it does for itself; the caller's next request may begin."""
        self._task, self.stays, self.has_begun, self._flow = None, False, False, None
        if self._transport is None:
            return
        if not self._keeps_alive:
            self._requests.clear()
            self._transport.close()
        elif self._requests:
            self._next()
            if self._is_reading_paused and self._transport is not None:
                self._is_reading_paused = False
                self._transport.resume_reading()
        else:
            self._last_data = self._loop.time()

    def refuse(self, error: ServiceError) -> None:
        """An error of the connection itself. An answer under way is not mixed with it."""
        if self._is_discarding:
            return
        self._keep_no_longer()
        if self._task is not None or self._requests or self._transport is None:
            return
        self._write(
            whole_answer(error.status, error_headers(error) + b"connection: close\r\n", error_body(error, None))
        )
        # Ends our side and reads on for a moment: a reset could overtake the answer.
        self._is_discarding = True
        self._transport.write_eof()

    def _refuse_body(self) -> None:
        self.refuse(BodyTooLarge(f"The body is larger than {self._limits.body_bytes} bytes."))

    def _keep_no_longer(self) -> None:
        """Nothing more is read from here."""
        self._keeps_alive = False

    def _head_is_too_large(self) -> bool:
        size = len(self._target) + sum(len(name) + len(value) + 4 for name, value in self._headers)
        return size > self._limits.head_bytes

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)
