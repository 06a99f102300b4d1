"""Load over raw sockets, so that a gateway's measurement does not include the time of a client library."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import cycle
from urllib.parse import urlsplit

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


@dataclass
class Load:
    """The measurements of a run of load."""

    #: The seconds of each answer.
    totals: list[float] = field(default_factory=list)
    #: The seconds to the first byte after the head of each answer.
    ttfts: list[float] = field(default_factory=list)
    chunks: int = 0

    def add(self, begun: float, first: float) -> None:
        """Adds an answer that is complete now."""
        self.totals.append(time.perf_counter() - begun)
        self.ttfts.append(first - begun)


class Caller(asyncio.Protocol):
    """One connection that sends a request after each whole answer: `calls` times, or until `is_stopping` is set."""

    def __init__(self, requests: Iterator[bytes], load: Load, calls: int | None) -> None:
        self._requests = requests
        self._load = load
        self._left = calls
        self._transport: asyncio.Transport
        self._received = b""
        self._begun = self._first = 0.0
        self.is_stopping = False
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Sends the first request."""
        self._transport = transport  # type: ignore[assignment]
        self._ask()

    def data_received(self, data: bytes) -> None:
        """Measures the answer, and sends the next request once it is whole. `done` fails unless the status is 200."""
        if not self._received and not data.startswith(b"HTTP/1.1 200"):
            self._fail(data)
            return
        received = self._received = self._received + data
        head = received.find(b"\r\n\r\n")
        if head < 0 or len(received) == head + 4:
            return
        self._first = self._first or time.perf_counter()
        length = _LENGTH.search(received, 0, head)
        if length is None:
            self._load.chunks += data.count(b'data: {"')
            # Of a stream only the head and the last bytes are kept, which may be its end.
            self._received = received[: head + 4] + received[head + 4 :][-5:]
            is_whole = received.endswith(b"0\r\n\r\n")
        else:
            is_whole = len(received) >= head + 4 + int(length.group(1))
        if is_whole:
            self._load.add(self._begun, self._first)
            self._ask()

    def connection_lost(self, error: Exception | None) -> None:
        """Fails `done` unless all answers have come."""
        if not self.done.done():
            self.done.set_exception(ConnectionError("the gateway closed the connection"))

    def _ask(self) -> None:
        if self.is_stopping or self._left == 0:
            if not self.done.done():
                self.done.set_result(None)
            self._transport.close()
            return
        if self._left is not None:
            self._left -= 1
        self._received = b""
        self._first = 0.0
        self._begun = time.perf_counter()
        self._transport.write(next(self._requests))

    def _fail(self, data: bytes) -> None:
        if not self.done.done():
            self.done.set_exception(RuntimeError(f"expected HTTP/1.1 200, got {data[:300]!r}"))
        self._transport.abort()


async def closed_loop(
    url: str, requests: list[bytes], *, callers: int, seconds: float | None = None, calls: int | None = None
) -> Load:
    """Runs `callers` connections, each with one request at a time: for `seconds`, or `calls` each."""
    loop = asyncio.get_running_loop()
    load = Load()
    parts = urlsplit(url)
    all_callers: list[Caller] = []
    turns = cycle(requests)
    for _ in range(callers):
        _, caller = await loop.create_connection(
            lambda: Caller(turns, load, calls), parts.hostname or "", parts.port or 80
        )
        all_callers.append(caller)
    if seconds is not None:
        await asyncio.sleep(seconds)
        for caller in all_callers:
            caller.is_stopping = True
    await asyncio.gather(*(caller.done for caller in all_callers))
    return load


def requests_of(url: str, body: bytes, keys: list[str], path: str = "/v1/chat/completions") -> list[bytes]:
    """Returns the same request with each key, as the official client sends it, without its telemetry headers."""
    host = urlsplit(url).netloc
    return [
        (
            f"POST {path} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\n"
            f"accept: application/json\r\nuser-agent: AsyncOpenAI/Python\r\ncontent-length: {len(body)}\r\n\r\n"
        ).encode()
        + body
        for key in keys
    ]
