"""POSTs over kept HTTP/1.1 connections, with as little work per post as possible.

A general client spends 0.2 ms of CPU per post on options, cookies, redirects and timers that a worker never uses. With
64 streams that is a third of a core (docs/benchmarks.md).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from typing import cast
from urllib.parse import urlsplit

import httptools

# Servers close idle connections, RunPod's after an unknown time. aiohttp's client uses 15 s as well.
KEEP_ALIVE_SECONDS = 15.0
CONNECT_SECONDS = 30.0
ANSWER_SECONDS = 600.0  # as the runpod SDK allows


class NeverSent(ConnectionError):
    """No connection could be made, so the post may be sent again without arriving twice."""


class PostConnections:
    """Posts to one host. Each connection carries one post at a time; there are as many as posts under way."""

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        """Prepares posts to the host of `url`, each with `headers`."""
        parts = urlsplit(url)
        self._host = parts.hostname or ""
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._port = parts.port or (443 if self._tls else 80)
        own = {"Host": parts.netloc.rpartition("@")[2], "Content-Type": "application/x-www-form-urlencoded"}
        self._headers = "".join(f"{name}: {value}\r\n" for name, value in (own | dict(headers)).items())
        self._idle: list[_Connection] = []

    async def post(self, target: str, body: bytes, headers: str = "") -> int:
        """Returns the status of the answer; its body is read and dropped.

        target: path and query. headers: whole lines.

        Raises NeverSent, or another ConnectionError or TimeoutError where the post may or may not have arrived.
        """
        head = f"POST {target} HTTP/1.1\r\n{self._headers}{headers}Content-Length: {len(body)}\r\n\r\n"
        connection = self._idle_connection() or await self._connect()
        status = await connection.exchange(head.encode("latin-1") + body)
        if connection.is_open:
            self._idle.append(connection)
        return status

    def close(self) -> None:
        """Closes the idle connections. A post under way closes its own."""
        while self._idle:
            self._idle.pop().close()

    def _idle_connection(self) -> _Connection | None:
        """Returns the connection used last, so that surplus ones grow old."""
        while self._idle:
            connection = self._idle.pop()
            if connection.is_usable:
                return connection
            connection.close()
        return None

    async def _connect(self) -> _Connection:
        events = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                _, connection = await events.create_connection(
                    lambda: _Connection(events), self._host, self._port, ssl=self._tls
                )
        except OSError as error:  # includes TimeoutError
            raise NeverSent(f"no connection to {self._host}:{self._port}: {type(error).__name__}") from error
        if not connection.is_open:
            raise NeverSent(f"{self._host}:{self._port} hung up at once")
        return connection


class _Connection(asyncio.Protocol):
    """One connection and the answer to the post that it carries."""

    def __init__(self, events: asyncio.AbstractEventLoop) -> None:
        self._events = events
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._answer: asyncio.Future[int] | None = None
        self._status = 0
        self._used_at = 0.0

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    @property
    def is_usable(self) -> bool:
        return self.is_open and self._events.time() - self._used_at < KEEP_ALIVE_SECONDS

    async def exchange(self, request: bytes) -> int:
        assert self._transport is not None
        self._answer = self._events.create_future()
        too_late = self._events.call_later(ANSWER_SECONDS, self._fail, TimeoutError("the post got no answer"))
        try:
            self._transport.write(request)
            return await self._answer
        except BaseException:
            self.close()
            raise
        finally:
            too_late.cancel()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast, because uvloop's transport is no subclass. Both loops set TCP_NODELAY.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.close()
            self._fail(ConnectionError("the answer is not HTTP"))

    def on_headers_complete(self) -> None:
        self._status = self._parser.get_status_code()

    def on_message_complete(self) -> None:
        if self._status < 200:  # an interim answer: the real one follows
            return
        if not self._parser.should_keep_alive():
            self.close()
        self._used_at = self._events.time()
        self._answered()

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if self._status >= 200:
            self._answered()  # an answer that ends with its connection
        else:
            self._fail(ConnectionResetError("the connection was closed before the answer"))

    def _answered(self) -> None:
        if self._answer and not self._answer.done():
            self._answer.set_result(self._status)
        self._status = 0

    def _fail(self, error: Exception) -> None:
        if self._answer and not self._answer.done():
            self._answer.set_exception(error)
