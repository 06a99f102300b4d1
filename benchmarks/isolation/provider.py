"""A provider that serves good requests at a set pace, and misbehaves where a request's text has a word of `FAULTS`.

`python -m benchmarks.isolation.provider`; the first line on stdout is its URL. An attacker makes it misbehave by what
stands in a prompt, as some prompts make real providers fail. All requests come to one provider with one pool.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Callable

import uvloop

from benchmarks.gateway_upstream import ANSWER, CHUNK, HEAD, LAST

#: The time of a whole answer, and between the chunks of a stream.
ANSWER_SECONDS = 0.020
CHUNK_SECONDS = 0.005
CHUNKS = 10
#: Bounds of what a misbehaving answer sends in all.
BIG_EVENT_BYTES = 15 * 2**20
ENDLESS_BYTES = 300 * 2**20
LONG_STREAM_CHUNKS = 600
HANG_SECONDS = 120

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_WORD = re.compile(rb"attack:([a-z-]+)")
_OK = b"HTTP/1.1 200 OK\r\n"
_EVENTS = _OK + b"content-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


async def _fail(writer: asyncio.StreamWriter) -> None:
    body = b'{"error":{"message":"internal error","type":"server_error"}}'
    head = b"HTTP/1.1 500 Internal Server Error\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    writer.write(head % len(body) + body)


async def _reset(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def _hang(writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(HANG_SECONDS)


async def _garbage(writer: asyncio.StreamWriter) -> None:
    writer.write(_OK + b"content-type: application/json\r\ncontent-length: 4\r\n\r\n<ha>")


async def _long_stream(writer: asyncio.StreamWriter) -> None:
    writer.write(HEAD)
    for _ in range(LONG_STREAM_CHUNKS):
        writer.write(CHUNK)
        await writer.drain()
        await asyncio.sleep(0.1)
    writer.write(LAST)


async def _fast_stream(writer: asyncio.StreamWriter) -> None:
    """Sends chunks as fast as they are taken, for callers that do not read."""
    writer.write(HEAD)
    piece = CHUNK * (65536 // len(CHUNK))
    for _ in range(ENDLESS_BYTES // len(piece)):
        writer.write(piece)
        await writer.drain()
    writer.write(LAST)


async def _big_event(writer: asyncio.StreamWriter) -> None:
    """Sends one event of 15 MB in HTTP chunks of 100 bytes."""
    writer.write(_EVENTS + b"6\r\ndata: \r\n")
    piece = (b"64\r\n" + b"x" * 100 + b"\r\n") * 600
    for _ in range(BIG_EVENT_BYTES // 60_000):
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0)
    writer.write(b"2\r\n\n\n\r\n" + LAST)


async def _headers(writer: asyncio.StreamWriter) -> None:
    writer.write(_OK)
    piece = b"x-more: " + b"a" * 65520 + b"\r\n"
    for _ in range(ENDLESS_BYTES // len(piece)):
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0)
    writer.write(b"content-length: 0\r\n\r\n")


async def _trailers(writer: asyncio.StreamWriter) -> None:
    """Sends a whole stream, then trailers without an end."""
    writer.write(HEAD + CHUNK + LAST.removesuffix(b"\r\n"))
    piece = b"x-more: " + b"a" * 1000 + b"\r\n"
    for _ in range(ENDLESS_BYTES // 50 // len(piece)):
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0)
    writer.write(b"\r\n")


async def _whole(writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(ANSWER_SECONDS)
    writer.write(ANSWER)


async def _stream(writer: asyncio.StreamWriter) -> None:
    writer.write(HEAD + CHUNK)
    for _ in range(CHUNKS - 1):
        await asyncio.sleep(CHUNK_SECONDS)
        writer.write(CHUNK)
    writer.write(LAST)


FAULTS: dict[bytes, Callable[[asyncio.StreamWriter], Awaitable[None]]] = {
    b"fail": _fail,
    b"reset": _reset,
    b"hang": _hang,
    b"garbage": _garbage,
    b"long-stream": _long_stream,
    b"fast-stream": _fast_stream,
    b"big-event": _big_event,
    b"headers": _headers,
    b"trailers": _trailers,
}


async def _serve_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        while not writer.is_closing():
            head = await reader.readuntil(b"\r\n\r\n")
            length = _LENGTH.search(head)
            body = await reader.readexactly(int(length.group(1))) if length else b""
            # The word stands near an end of the body; a search through 15 MB would cost the good requests.
            word = _WORD.search(body[:2000]) or _WORD.search(body[-2000:])
            is_stream = b'"stream":true' in body[:2000]
            answer = FAULTS.get(word.group(1)) if word else None
            await (answer or (_stream if is_stream else _whole))(writer)
            await writer.drain()
    writer.close()


async def _serve() -> None:
    server = await asyncio.start_server(_serve_connection, "127.0.0.1", 0, backlog=1024, limit=2**20)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)  # noqa: T201
    await server.serve_forever()


def main() -> None:
    """Serves until it is killed."""
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(_serve())


if __name__ == "__main__":
    main()
