"""A provider that answers a chat call at once with 1 KB, and streams chunks at set times, with very little CPU.

`python -m benchmarks.gateway_upstream --port 0 --chunks 200 --interval-ms 5`; the first line on stdout is its URL.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re

import uvloop

USAGE = {"prompt_tokens": 200, "completion_tokens": 160, "total_tokens": 360}
_BOUND = re.compile(rb'"max_tokens": *(\d+)')
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


def _answer() -> bytes:
    message = {"role": "assistant", "content": "word " * 130}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    envelope = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "fake", "choices": choices}
    body = json.dumps({**envelope, "usage": USAGE}).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


def _chunk(choices: list[object], usage: object = None) -> bytes:
    document = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "fake",
        "choices": choices,
    }
    data = b"data: %b\n\n" % json.dumps(document | ({"usage": usage} if usage else {})).encode()
    return b"%x\r\n%b\r\n" % (len(data), data)


ANSWER = _answer()
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
CHUNK = _chunk([{"index": 0, "delta": {"content": " word"}, "finish_reason": None}])
LAST = _chunk([], USAGE) + b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"


class Provider(asyncio.Protocol):
    """One connection of a client."""

    def __init__(self, chunks: int, interval_seconds: float) -> None:
        self._chunks = chunks
        self._interval_seconds = interval_seconds
        self._received = b""
        self._transport: asyncio.Transport
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps the transport."""
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """Answers as soon as the body is complete, and a GET (a gateway's health check) at once."""
        received = self._received = self._received + data
        head = received.find(b"\r\n\r\n")
        if head < 0:
            return
        length = _LENGTH.search(received, 0, head)
        if len(received) < head + 4 + (int(length.group(1)) if length else 0):
            return
        # A POST without content-length has a chunked body.
        if length is None and received.startswith(b"POST") and not received.endswith(b"0\r\n\r\n"):
            return
        self._received = b""
        if b'"stream":true' in received or b'"stream": true' in received:
            bound = _BOUND.search(received)
            self._transport.write(HEAD + CHUNK)
            self._next(self._loop.time(), 1, min(self._chunks, int(bound.group(1)) if bound else self._chunks))
        else:
            self._transport.write(ANSWER)

    def _next(self, begun: float, number: int, chunks: int) -> None:
        """Sends chunk `number`, and schedules the next one."""
        # The times are absolute: a busy machine delays a chunk, but not those after it.
        if self._transport.is_closing():
            return
        if number > 1:
            self._transport.write(CHUNK)
        if number == chunks:
            self._transport.write(LAST)
            return
        self._loop.call_at(begun + number * self._interval_seconds, self._next, begun, number + 1, chunks)


async def _serve(options: argparse.Namespace) -> None:
    loop = asyncio.get_running_loop()
    interval = options.interval_ms / 1000
    server = await loop.create_server(
        lambda: Provider(options.chunks, interval), "127.0.0.1", options.port, backlog=1024
    )
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)  # noqa: T201
    await server.serve_forever()


def main() -> None:
    """Serves until it is killed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gateway_upstream", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0 takes any free port (default: 0)")
    parser.add_argument("--chunks", type=int, default=200, metavar="N", help="of a stream (default: %(default)s)")
    parser.add_argument(
        "--interval-ms", type=float, default=5.0, metavar="MS", help="between two chunks (default: %(default)s)"
    )
    uvloop.run(_serve(parser.parse_args()))


if __name__ == "__main__":
    main()
