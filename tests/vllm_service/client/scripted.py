"""A provider that does what a test says, byte by byte, over real sockets: answers, errors, resets, cut streams."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from vllm_service import RetryPolicy

AT_ONCE = RetryPolicy(attempts=3, wait_min_seconds=0, wait_max_seconds=0.001, jitter_seconds=0)
RESET, HANG = object(), object()  # instead of bytes: the connection is reset; nothing more comes
Reply = list[Any]  # bytes to be written one after the other, or RESET, or HANG


@dataclass(frozen=True)
class Request:
    """What came."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any

    @property
    def asked(self) -> str:
        """The prompt, or what was said last."""
        asked: str = self.body.get("prompt") or self.body["messages"][-1]["content"]
        return asked


@dataclass
class Scripted:
    """`reply` decides on each request. `left` is set when a client goes away before its answer has ended."""

    reply: Callable[[Request], Reply]
    url: str = ""
    requests: list[Request] = field(default_factory=list)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    hanging: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (request := await _request(reader)) is not None:
                self.requests.append(request)
                await self._answer(self.reply(request), reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            self.left.set()
        finally:
            writer.close()

    async def _answer(self, reply: Reply, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for piece in reply:
            if piece is RESET:
                writer.transport.abort()
                raise ConnectionResetError
            if piece is HANG:
                self.hanging.set()
                if not await reader.read(1):
                    self.left.set()
                raise ConnectionResetError
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)


@asynccontextmanager
async def scripted(reply: Callable[[Request], Reply]) -> AsyncIterator[Scripted]:
    """A server on a free port."""
    server = Scripted(reply)
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        with suppress(asyncio.CancelledError):  # asyncio would log it as an error of this callback
            await server.serve(reader, writer)

    listening = await asyncio.start_server(connected, "127.0.0.1", 0, backlog=1024)
    server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v2/ep/openai/v1"
    try:
        yield server
    finally:
        listening.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def in_turn(*replies: Reply) -> Callable[[Request], Reply]:
    """The first request gets the first reply, and so on; the last stays."""
    remaining = list(replies)
    return lambda request: remaining.pop(0) if len(remaining) > 1 else remaining[0]


def answer(document: object, status: int = 200, **headers: str) -> Reply:
    """A whole HTTP answer. Header names with _ for -."""
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    more = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n{more}\r\n"
    return [head.encode(), body]


def refused(status: int, message: str = "no", **headers: str) -> Reply:
    """An OpenAI error."""
    return answer({"error": {"message": message, "type": "X", "code": status, "param": None}}, status, **headers)


def completion(text: str) -> Reply:
    """A whole completion of three and two tokens."""
    choice = {"index": 0, "text": text, "finish_reason": "stop"}
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    return answer({"object": "text_completion", "choices": [choice], "usage": usage}, x_request_id="req-1")


def stream(*events: object, then: Reply | None = None) -> Reply:
    """A chunked stream: strings are pieces of text, other values are events as they are; `then` instead of its end."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    pieces = [_chunk(_event(event)) for event in events]
    return [head, *pieces, *([b"0\r\n\r\n"] if then is None else then)]


def stop(text: str = "") -> dict[str, Any]:
    """The chunk with the reason of the end."""
    return {"choices": [{"index": 0, "text": text, "finish_reason": "stop"}]}


USAGE = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}}
DONE = b"data: [DONE]\n\n"


def _event(event: object) -> bytes:
    if isinstance(event, bytes):
        return event
    if isinstance(event, str):
        event = {"choices": [{"index": 0, "text": event, "finish_reason": None}]}
    return b"data: " + json.dumps(event).encode() + b"\n\n"


def _chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


async def _request(reader: asyncio.StreamReader) -> Request | None:
    """None when the client has closed its connection between two requests."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise
        return None
    first, *lines = head.rstrip().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    method, path, _ = first.split(" ")
    return Request(method, path, headers, json.loads(body) if body else None)
