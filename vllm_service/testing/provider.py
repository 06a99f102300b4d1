"""A scripted provider: a real HTTP/1.1 server on loopback that sends what its script says, byte by byte."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import TracebackType
from typing import Any, Self, cast

from vllm_service.testing.completions import chat, chat_stream, completion, completion_stream
from vllm_service.testing.replies import Action, Close, Reply, Reset, Signal


@dataclass(frozen=True)
class ReceivedRequest:
    """One request. headers: by lower-case name, of a repeated one the last."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes

    @cached_property
    def json(self) -> Any:
        """The body, read as JSON; None where there is none."""
        return json.loads(self.body) if self.body else None

    @property
    def is_stream(self) -> bool:
        """True where the request is for a stream."""
        return isinstance(self.json, dict) and self.json.get("stream") is True

    @property
    def last_text(self) -> str:
        """The prompt, or the content of the last message."""
        text: str = self.json.get("prompt") or self.json["messages"][-1]["content"]
        return text


#: Makes the reply to a request, at once or when it is time to answer: a script may be a coroutine function.
Script = Callable[[ReceivedRequest], Reply | Awaitable[Reply]]


async def reply_of(script: Script | Reply, request: ReceivedRequest) -> Reply:
    """Returns what the script makes of the request; a reply is the same for every request."""
    made = script if isinstance(script, Reply) else script(request)
    return made if isinstance(made, Reply) else await made


def says(*texts: str) -> Callable[[ReceivedRequest], Reply]:
    """Answers every chat and every text completion, streamed where that is asked for."""

    def script(request: ReceivedRequest) -> Reply:
        if request.target.endswith("/completions") and not request.target.endswith("/chat/completions"):
            return completion_stream(*texts) if request.is_stream else completion("".join(texts))
        return chat_stream(*texts) if request.is_stream else chat("".join(texts))

    return script


def in_turn(*replies: Reply | Script) -> Script:
    """The first request gets the first reply, and so on; the last one stays."""
    remaining = list(replies)

    async def script(request: ReceivedRequest) -> Reply:
        return await reply_of(remaining.pop(0) if len(remaining) > 1 else remaining[0], request)

    return script


@dataclass
class ScriptedProvider:
    """The server, for as long as its context is entered. `script` may be replaced at any time."""

    script: Script | Reply
    #: The path of the base URL. Requests to any other are answered as well.
    path: str = "/v1"
    #: 0: any free one. A provider that comes back has the port of the one before.
    port: int = 0
    #: The base URL, with the path.
    url: str = ""
    requests: list[ReceivedRequest] = field(default_factory=list)
    #: How many connections were opened.
    connections: int = 0
    #: Set when a caller has left before the end of its answer.
    was_left: asyncio.Event = field(default_factory=asyncio.Event)
    #: Set when a reply has come to a pause without an end.
    is_silent: asyncio.Event = field(default_factory=asyncio.Event)
    #: Exceptions of the script. The first one is raised when the context is left.
    faults: list[Exception] = field(default_factory=list)
    _open: set[_ServedConnection] = field(default_factory=set)
    _arrived: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def until_requests(self, count: int) -> None:
        """Waits until so many requests have come."""
        async with self._arrived:
            await self._arrived.wait_for(lambda: len(self.requests) >= count)

    async def reply_to(self, request: ReceivedRequest) -> Reply:
        """Returns what the script makes of the request, and wakes `until_requests`."""
        async with self._arrived:
            self._arrived.notify_all()
        return await reply_of(self.script, request)

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _ServedConnection(self, self._open), "127.0.0.1", self.port, backlog=1024
        )
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}{self.path}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        await asyncio.gather(*(connection.end() for connection in list(self._open)))
        if self.faults and error is None:
            raise self.faults[0]


class _ServedConnection(asyncio.Protocol):
    """One caller's connection: a request at a time."""

    def __init__(self, provider: ScriptedProvider, opened: set[_ServedConnection]) -> None:
        self._provider, self._opened = provider, opened
        self._received = b""
        self._task: asyncio.Task[None] | None = None
        self._transport: asyncio.Transport
        self._has_ended = asyncio.Event()
        self._may_write = asyncio.Event()
        self._may_write.set()

    async def end(self) -> None:
        """Ends it, and waits for that."""
        self._transport.abort()
        await self._has_ended.wait()
        if self._task is not None:
            await asyncio.wait({self._task})

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass of it
        self._provider.connections += 1
        self._opened.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._opened.discard(self)
        self._has_ended.set()
        self._may_write.set()
        if self._task is not None and not self._task.done():
            self._provider.was_left.set()
            self._task.cancel()

    def pause_writing(self) -> None:
        self._may_write.clear()

    def resume_writing(self) -> None:
        self._may_write.set()

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._task is None or self._task.done():
            self._begin()

    def _begin(self) -> None:
        """Answers the next request, if all of it is there."""
        head, end, rest = self._received.partition(b"\r\n\r\n")
        if not end:
            return
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        length = int(headers.get("content-length", "0"))
        if len(rest) < length:
            return
        self._received = rest[length:]
        method, target, _ = first.split(" ", 2)
        request = ReceivedRequest(method, target, headers, rest[:length])
        self._provider.requests.append(request)
        self._task = asyncio.get_running_loop().create_task(self._answer(request))

    async def _answer(self, request: ReceivedRequest) -> None:
        try:
            reply = await self._provider.reply_to(request)
        except Exception as fault:  # it is the test's, which must learn of it
            self._provider.faults.append(fault)
            reply = Reply((Reset(),))
        for action in reply.actions:
            await self._do(action)
        if self._received:
            asyncio.get_running_loop().call_soon(self._begin)

    async def _do(self, action: Action) -> None:
        transport = self._transport
        if isinstance(action, bytes):
            await self._may_write.wait()
            transport.write(action)
        elif isinstance(action, Reset):
            lingers = struct.pack("ii", 1, 0)  # on, for no time: what is closed so is reset
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, lingers)
            transport.abort()
        elif isinstance(action, Close):
            transport.close()
        elif isinstance(action, Signal):
            action.event.set()
        elif isinstance(action.until, asyncio.Event):
            await action.until.wait()
        elif action.until is not None:
            await asyncio.sleep(action.until)
        else:
            self._provider.is_silent.set()
            await self._has_ended.wait()
