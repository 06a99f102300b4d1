"""A server whose answers are raw bytes, one after the other, for what no real platform says on request."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

#: Answers without an end; the first may follow bytes.
HANG, ENDLESS, ENDLESS_HEAD = b"<hang>", b"<endless>", b"<endless head>"
PROBLEM = "application/problem+json"


@dataclass
class Scripted:
    """The answers to come, and the requests that came: method, target, headers in lower case, body."""

    origin: str = ""
    answers: list[bytes] = field(default_factory=list)
    asked: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
            body = await reader.readexactly(int(headers.get("content-length") or 0))
            method, target, _ = head[0].split(" ")
            self.asked.append((method, target, headers, body))
            await self._answer(self.answers.pop(0), reader, writer)
        writer.close()

    async def _answer(self, answer: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if answer.endswith(HANG):
            writer.write(answer.removesuffix(HANG))
            await reader.read()
        elif answer == ENDLESS:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n{")
            while True:
                writer.write(b" " * 2**20)
                await writer.drain()
        elif answer == ENDLESS_HEAD:
            writer.write(b"HTTP/1.1 200 OK\r\n")
            while True:
                writer.write(b"x: %b\r\n" % (b"y" * 2**16))
                await writer.drain()
        else:
            writer.write(answer)
            await writer.drain()


def raw(status: int, body: bytes = b"", content_type: str = "application/json", **headers: str) -> bytes:
    """Returns an answer; `_` in the name of a header stands for `-`."""
    lines = {"content-type": content_type, "content-length": str(len(body)), "connection": "close"}
    lines |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 {status} -\r\n{head}\r\n".encode() + body


def says(document: object, status: int = 200, **headers: str) -> bytes:
    return raw(status, json.dumps(document).encode(), **headers)


def problem(status: int, detail: str | None = None, **members: object) -> bytes:
    """Returns a problem document (RFC 9457), as RunPod sends it."""
    document = {"title": "Problem", "status": status, "detail": detail} | members
    return raw(
        status, json.dumps({name: value for name, value in document.items() if value is not None}).encode(), PROBLEM
    )


@asynccontextmanager
async def scripted() -> AsyncIterator[Scripted]:
    script = Scripted()
    server = await asyncio.start_server(script.serve, "127.0.0.1", 0)
    script.origin = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield script
    finally:
        server.close()
