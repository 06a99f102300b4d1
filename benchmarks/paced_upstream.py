"""A model server without a model: it answers any request with N tokens at a fixed interval.

`python -m benchmarks.paced_upstream --port 8000 --tokens 32 --interval-ms 10` or `async with PacedUpstream() as up:`.
The times are absolute, so a busy machine delays a token, but not those after it. It is an asyncio.Protocol and not a
framework's server, so that a measurement of the worker does not include much of its upstream.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Self

import httptools

MODEL = "paced"
CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found"}


@dataclass
class Stats:
    """The numbers of requests for tokens."""

    in_flight: int = 0
    finished: int = 0
    aborted: int = 0


class PacedUpstream:
    """The server. Entering the context binds it, leaving it closes every connection. Port 0 takes a free one."""

    def __init__(
        self, *, tokens: int = 32, interval_seconds: float = 0.010, host: str = "127.0.0.1", port: int = 0
    ) -> None:
        self.tokens = tokens
        self.interval_seconds = interval_seconds
        self.stats = Stats()
        self.connections: set[_Connection] = set()
        self._answers = {path: _Answers.of(path, tokens) for path in (CHAT, COMPLETIONS)}
        self._address = (host, port)
        self._server: asyncio.Server | None = None
        self._changed = asyncio.Event()

    @property
    def url(self) -> str:
        """Returns the URL without /v1."""
        assert self._server is not None, "the context has not been entered"
        host, port = self._server.sockets[0].getsockname()[:2]
        return f"http://{host}:{port}"

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), *self._address, backlog=1024)
        return self

    async def __aexit__(self, *exception: object) -> None:
        if self._server is not None:
            self._server.close()
            for connection in list(self.connections):
                connection.close()
            await self.until(lambda stats: not self.connections)
            await self._server.wait_closed()

    async def until(self, condition: Callable[[Stats], bool]) -> None:
        """Waits until the numbers meet the condition."""
        while not condition(self.stats):
            await self._changed.wait()

    def changed(self) -> None:
        """Wakes the coroutines that wait in `until`."""
        changed = self._changed
        self._changed = asyncio.Event()
        changed.set()

    def answers(self, path: str) -> _Answers | None:
        """Returns the answers of a path that makes tokens; None for other paths."""
        return self._answers.get(path)

    def document(self, path: str) -> dict[str, Any] | None:
        """Returns the document of any other path; None if there is none."""
        documents: dict[str, dict[str, Any]] = {
            "/v1/models": {"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "benchmarks"}]},
            "/health": {},
            "/stats": asdict(self.stats),
        }
        return documents.get(path)


@dataclass(frozen=True)
class _Answers:
    """Both answers of one route, encoded once: the chunks with their HTTP framing, and the whole document."""

    chunks: list[bytes]
    usage: bytes
    done: bytes
    whole: bytes

    @classmethod
    def of(cls, path: str, tokens: int) -> _Answers:
        texts = [f" {number}" for number in range(1, tokens + 1)]
        usage = {"prompt_tokens": 1, "completion_tokens": tokens, "total_tokens": tokens + 1}
        chat = path == CHAT
        piece, whole = ("chat.completion.chunk", "chat.completion") if chat else ("text_completion", "text_completion")
        envelope: dict[str, Any] = {"id": f"{'chatcmpl' if chat else 'cmpl'}-paced", "created": 0, "model": MODEL}

        def document(kind: str, choices: list[dict[str, Any]], **more: Any) -> bytes:
            return json.dumps({**envelope, "object": kind, "choices": choices, **more}).encode()

        def choice(text: str, reason: str | None, field: str = "delta") -> dict[str, Any]:
            content = {field: {"role": "assistant", "content": text}} if chat else {"text": text}
            return {"index": 0, **content, "finish_reason": reason}

        chunks = [document(piece, [choice(text, None)]) for text in texts[:-1]]
        chunks.append(document(piece, [choice(texts[-1], "stop")]))
        return cls(
            chunks=[_event(chunk) for chunk in chunks],
            usage=_event(document(piece, [], usage=usage)),
            done=_event(b"[DONE]") + b"0\r\n\r\n",
            whole=_response(200, document(whole, [choice("".join(texts), "stop", "message")], usage=usage)),
        )


class _Connection(asyncio.Protocol):
    """One client's connection: parses its requests, and answers them one after the other."""

    def __init__(self, upstream: PacedUpstream) -> None:
        self._upstream = upstream
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport
        self._timer: asyncio.TimerHandle | None = None
        self._target = self._body = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._upstream.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._upstream.connections.discard(self)
        if self._timer is not None:
            self._timer.cancel()
            self._upstream.stats.in_flight -= 1
            self._upstream.stats.aborted += 1
        self._upstream.changed()

    def close(self) -> None:
        """Ends the connection, in the middle of an answer too."""
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._transport.close()

    def on_message_begin(self) -> None:
        if self._timer is not None:  # a pipelined request, which is not supported
            self._transport.close()
        self._target = self._body = b""

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        if self._transport.is_closing():
            return
        path = self._target.partition(b"?")[0].decode("latin-1")
        answers = self._upstream.answers(path)
        if answers is not None and self._parser.get_method() == b"POST":
            self._answer(answers)
            return
        document = self._upstream.document(path)
        status = 404 if document is None else 200
        self._transport.write(_response(status, json.dumps(_error(status) if document is None else document).encode()))

    def _answer(self, answers: _Answers) -> None:
        try:
            request = json.loads(self._body)
            stream = request.get("stream")
            with_usage = (request.get("stream_options") or {}).get("include_usage")
        except (ValueError, AttributeError):
            self._transport.write(_response(400, json.dumps(_error(400)).encode()))
            return
        self._upstream.stats.in_flight += 1
        self._upstream.changed()
        start = self._loop.time()
        if stream:
            self._transport.write(STREAM_HEAD)
            tail = (answers.usage if with_usage else b"") + answers.done
            self._wait(start, 1, self._stream, answers.chunks, tail, start, 0)
        else:
            self._wait(start, self._upstream.tokens, self._finish, answers.whole)

    def _wait(self, start: float, tokens: int, then: Callable[..., None], *arguments: object) -> None:
        """Calls `then` at the time of that token, counted from the start of the answer."""
        self._timer = self._loop.call_at(start + tokens * self._upstream.interval_seconds, then, *arguments)

    def _stream(self, chunks: list[bytes], tail: bytes, start: float, position: int) -> None:
        if position == len(chunks) - 1:
            self._finish(chunks[position] + tail)
            return
        self._transport.write(chunks[position])
        self._wait(start, position + 2, self._stream, chunks, tail, start, position + 1)

    def _finish(self, data: bytes) -> None:
        self._transport.write(data)
        self._timer = None
        self._upstream.stats.in_flight -= 1
        self._upstream.stats.finished += 1
        self._upstream.changed()


def _event(data: bytes) -> bytes:
    """A server-sent event in one HTTP chunk."""
    return b"%x\r\ndata: %b\n\n\r\n" % (len(data) + 8, data)


def _response(status: int, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status} {REASONS[status]}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


def _error(status: int) -> dict[str, Any]:
    return {"error": {"message": REASONS[status], "type": "Error", "code": status, "param": None}}


async def _serve(options: argparse.Namespace) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    interval = options.interval_ms / 1000
    upstream = PacedUpstream(tokens=options.tokens, interval_seconds=interval, host=options.host, port=options.port)
    async with upstream:
        print(upstream.url, flush=True)  # noqa: T201
        await stop.wait()


def main() -> None:
    """Serves until SIGINT or SIGTERM. The first line on stdout is the URL."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.paced_upstream", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=0, help="0 takes any free port (default: 0)")
    parser.add_argument("--tokens", type=int, default=32, metavar="N", help="of an answer (default: %(default)s)")
    parser.add_argument(
        "--interval-ms", type=float, default=10.0, metavar="MS", help="between two tokens (default: %(default)s)"
    )
    asyncio.run(_serve(parser.parse_args()))


if __name__ == "__main__":
    main()
