"""A provider that does as it is told: answers, streams, cuts, stalls, splits at any byte. Raw asyncio."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Self

USAGE = {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13}
DONE = b"data: [DONE]\n\n"


@dataclass
class Asked:
    """One request to the provider, and the ways in which it may be answered."""

    target: str
    headers: dict[str, str]
    raw: bytes
    writer: asyncio.StreamWriter

    @property
    def body(self) -> Any:
        """As JSON."""
        return json.loads(self.raw)

    async def send(self, data: bytes) -> None:
        """Any bytes."""
        self.writer.write(data)
        await self.writer.drain()

    async def json(self, document: object, status: int = 200, headers: str = "") -> None:
        """A whole answer."""
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n{headers}content-length: {len(body)}\r\n\r\n"
        await self.send(head.encode() + body)

    async def begin(self) -> None:
        """The head of a stream."""
        await self.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")

    async def chunk(self, data: bytes) -> None:
        """A piece of the stream."""
        await self.send(b"%x\r\n%b\r\n" % (len(data), data))

    async def stream(self, pieces: Iterable[bytes]) -> None:
        """A whole stream."""
        await self.begin()
        for piece in pieces:
            await self.chunk(piece)
        await self.send(b"0\r\n\r\n")

    def cut(self) -> None:
        """The connection ends now; what was sent arrives."""
        self.writer.close()


Script = Callable[[Asked], Awaitable[None]]


@dataclass
class ScriptedUpstream:
    """The server. Entering the context binds it to a free port. `script` may be replaced at any time."""

    script: Script
    asked: list[Asked] = field(default_factory=list)
    connections: int = 0
    left: asyncio.Event = field(default_factory=asyncio.Event)
    url: str = ""

    async def __aenter__(self) -> Self:
        self._writers: set[asyncio.StreamWriter] = set()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        while self._writers:
            await asyncio.sleep(0)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            while not writer.is_closing():
                asked = await _read(reader, writer)
                self.asked.append(asked)
                await self._answer(asked, reader)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    async def _answer(self, asked: Asked, reader: asyncio.StreamReader) -> None:
        """Stops the script when the gateway leaves, and says so in `left`."""
        script = asyncio.ensure_future(self.script(asked))
        watch = asyncio.ensure_future(_gone(reader))
        await asyncio.wait({script, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not script.done():
            self.left.set()
            script.cancel()
        watch.cancel()
        await asyncio.gather(script, watch, return_exceptions=True)


async def _read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Asked:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    first, *lines = head.strip().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Asked(first.split(" ")[1], headers, body, writer)


async def _gone(reader: asyncio.StreamReader) -> None:
    """Until the other side has closed; looks without reading, for the next request may be on its way."""
    while not reader.at_eof() and reader.exception() is None:
        await asyncio.sleep(0.005)


def completion(text: str = "Hello there", **more: Any) -> dict[str, Any]:
    """A whole chat completion."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    envelope = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "there"}
    return {**envelope, "choices": [choice], "usage": USAGE, **more}


def event(document: object) -> bytes:
    """A server-sent event."""
    return b"data: " + json.dumps(document).encode() + b"\n\n"


def chunk(text: str, **more: Any) -> dict[str, Any]:
    """A chunk of a chat completion."""
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    envelope = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "there"}
    return {**envelope, "choices": [choice], **more}


def events(*texts: str, usage: bool = True) -> list[bytes]:
    """A whole stream: a chunk for each text, the usage chunk, [DONE]."""
    last = [event(chunk("", choices=[], usage=USAGE))] if usage else []
    return [*(event(chunk(text)) for text in texts), *last, DONE]
