"""Requests over raw sockets from chosen loopback addresses, so that each party has addresses of its own."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
CHAT_PATH = "/v1/chat/completions"


@dataclass(frozen=True)
class Address:
    """The gateway's address, and the one to come from. Linux lets every 127.x.y.z connect without set-up."""

    host: str
    port: int
    source: str

    @classmethod
    def of(cls, url: str, source: str) -> Address:
        """Returns the address of a URL."""
        parts = urlsplit(url)
        return cls(parts.hostname or "", parts.port or 80, source)


@dataclass
class Connection:
    """One connection, with one request at a time."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    #: Whether the gateway takes another request on it.
    is_kept: bool = True

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Sends a request; returns status and whole body. Raises OSError or IncompleteReadError."""
        self.writer.write(request)
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = _LENGTH.search(head)
        self.is_kept = b"connection: close" not in head.lower()
        if length is not None:
            body = await self.reader.readexactly(int(length.group(1)))
        elif b"chunked" in head:
            body = b"".join([piece async for piece in self._chunks()])
        else:
            body = await self.reader.read()
        return int(head[9:12]), body

    async def _chunks(self) -> AsyncIterator[bytes]:
        while (size := int(await self.reader.readline(), 16)) > 0:
            yield (await self.reader.readexactly(size + 2))[:-2]
        await self.reader.readline()

    def close(self) -> None:
        """Closes at once, with whatever is unsent."""
        self.writer.transport.abort()


async def connect(address: Address, *, read_limit: int = 2**20) -> Connection:
    """Returns a connection. Raises OSError."""
    # Not wait_for: until Python 3.12 it may lose a cancellation.
    async with asyncio.timeout(10):
        source = (address.source, 0)
        opened = await asyncio.open_connection(address.host, address.port, local_addr=source, limit=read_limit)
    return Connection(*opened)


@asynccontextmanager
async def connected(address: Address, *, read_limit: int = 2**20) -> AsyncIterator[Connection]:
    """Connects, and closes afterwards. Raises what `connect` raises."""
    connection = await connect(address, read_limit=read_limit)
    try:
        yield connection
    finally:
        connection.close()


def chat_body(text: str, *, stream: bool = False, **more: Any) -> bytes:
    """Returns the body of a chat request."""
    message = [{"role": "user", "content": text}]
    return json.dumps({"model": "small", "stream": stream, "messages": message} | more, separators=(",", ":")).encode()


def post(key: str | None, body: bytes, path: str = CHAT_PATH, headers: str = "", length: int | None = None) -> bytes:
    """Returns a request. headers: more lines, each ended by CRLF. length: another one than the body's."""
    return head(key, path, f"content-length: {len(body) if length is None else length}\r\n{headers}") + body


def head(key: str | None, path: str = CHAT_PATH, lines: str = "") -> bytes:
    """Returns the head of a POST with these further lines, each ended by CRLF."""
    authorization = "" if key is None else f"authorization: Bearer {key}\r\n"
    return (
        f"POST {path} HTTP/1.1\r\nhost: gateway\r\n{authorization}content-type: application/json\r\n{lines}\r\n"
    ).encode()


def get(path: str, key: str | None = None) -> bytes:
    """Returns a GET."""
    authorization = "" if key is None else f"authorization: Bearer {key}\r\n"
    return f"GET {path} HTTP/1.1\r\nhost: gateway\r\n{authorization}\r\n".encode()
