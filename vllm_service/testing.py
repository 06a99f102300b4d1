"""A scripted provider for tests: a real HTTP/1.1 server on loopback that executes a script, byte by byte.

    async with ScriptedProvider(in_turn(refused(503), chat("Hello"))) as provider:
        client = AsyncOpenAI(base_url=provider.url, api_key="any", max_retries=0)
        ...
    assert provider.requests[0].json["model"] == "small"

A script returns a `Reply` for each request. A reply is a sequence of actions: bytes to write, a pause, the end of the
connection, silence. So every failure of a provider, at every byte of its answer, can be written down as a reply.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self, cast

DONE = b"data: [DONE]\n\n"
USAGE: Mapping[str, int] = {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13}
#: The body of a 200 that is not an answer.
GARBAGE = b"<html>This is not JSON</html>"


@dataclass(frozen=True, slots=True)
class Pause:
    """Sends nothing for a while."""

    #: Seconds, or an event that ends the pause; None: until the caller leaves.
    until: float | asyncio.Event | None


@dataclass(frozen=True, slots=True)
class Close:
    """Closes the connection, as at the end of an answer."""


@dataclass(frozen=True, slots=True)
class Reset:
    """Resets the connection (RST)."""


Action = bytes | Pause | Close | Reset


@dataclass(frozen=True, slots=True)
class Reply:
    """The actions that answer one request. After the last one, the connection waits for the next request."""

    actions: tuple[Action, ...]

    @property
    def size(self) -> int:
        """The number of bytes that are sent, head included."""
        return sum(len(action) for action in self.actions if isinstance(action, bytes))

    @property
    def head_size(self) -> int:
        """The number of bytes of the head."""
        return b"".join(action for action in self.actions if isinstance(action, bytes)).index(b"\r\n\r\n") + 4

    def cut_at(self, position: int, *then: Action) -> Reply:
        """Returns the reply up to this many bytes, then other actions: by default the connection closes."""
        kept: list[Action] = []
        for action in self.actions:
            if isinstance(action, bytes):
                if len(action) >= position:
                    kept.append(action[:position])
                    break
                position -= len(action)
            kept.append(action)
        return Reply((*(action for action in kept if action != b""), *(then or (Close(),))))

    def after(self, until: float | asyncio.Event | None) -> Reply:
        """Returns the reply with a pause before it."""
        return Reply((Pause(until), *self.actions))

    def in_pieces(self, size: int, until: float = 0.0) -> Reply:
        """Returns the reply in pieces of `size` bytes, with a pause between them."""
        row: list[Action] = []
        for action in self.actions:
            if isinstance(action, bytes):
                row += [part for at in range(0, len(action), size) for part in (action[at : at + size], Pause(until))]
            else:
                row.append(action)
        return Reply(tuple(row[:-1] if row and isinstance(row[-1], Pause) else row))

    def then(self, *actions: Action) -> Reply:
        """Returns the reply with further actions."""
        return Reply((*self.actions, *actions))


@dataclass(frozen=True)
class ReceivedRequest:
    """A request that the provider has received."""

    method: str
    target: str
    #: By lower-case name; of a repeated header the last.
    headers: Mapping[str, str]
    body: bytes

    @cached_property
    def json(self) -> Any:
        """The body, read as JSON; None for an empty one."""
        return json.loads(self.body) if self.body else None

    @property
    def is_stream(self) -> bool:
        """True if a stream is requested."""
        return isinstance(self.json, dict) and self.json.get("stream") is True

    @property
    def last_text(self) -> str:
        """The prompt, or the content of the last message."""
        text: str = self.json.get("prompt") or self.json["messages"][-1]["content"]
        return text


Script = Callable[[ReceivedRequest], Reply]


def whole(
    document: object, status: int = 200, headers: Mapping[str, str] | None = None, content_type: str | None = None
) -> Reply:
    """Returns an answer in one piece: bytes as they are, anything else as JSON."""
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    lines = {"content-type": content_type or "application/json", "content-length": str(len(body)), **(headers or {})}
    return Reply((_head(status, lines), body))


def refused(status: int, message: str = "refused", retry_after: str | None = None, **members: Any) -> Reply:
    """Returns an error in the form of OpenAI's API. members: further members, such as `code`."""
    error = {"message": message, "type": "error", "param": None, "code": None, **members}
    return whole({"error": error}, status, {} if retry_after is None else {"retry-after": retry_after})


def events(*items: object, status: int = 200, content_type: str | None = None) -> Reply:
    """Returns a stream of server-sent events, each written by itself: bytes as they are, anything else as JSON."""
    lines = {"content-type": content_type or "text/event-stream", "transfer-encoding": "chunked"}
    chunks = [_chunk(event(item)) for item in items]
    return Reply((_head(status, lines), *chunks, b"0\r\n\r\n"))


def event(item: object) -> bytes:
    """Returns one server-sent event."""
    return item if isinstance(item, bytes) else b"data: %b\n\n" % json.dumps(item).encode()


def chat(text: str, usage: Mapping[str, Any] | None = USAGE) -> Reply:
    """Returns a whole chat completion."""
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return whole(_completion("chat.completion", choice, usage))


def chat_chunk(text: str | None, finish_reason: str | None = None) -> dict[str, Any]:
    """Returns one chunk of a streamed chat completion. text: None leaves the content out."""
    delta = {} if text is None else {"content": text}
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return _completion("chat.completion.chunk", choice, None)


def chat_stream(*texts: str, usage: Mapping[str, Any] | None = USAGE) -> Reply:
    """Returns a streamed chat completion: a chunk for each text, the finish reason, the usage, and [DONE]."""
    last = [] if usage is None else [{**chat_chunk(None), "choices": [], "usage": usage}]
    return events(*(chat_chunk(text) for text in texts), chat_chunk(None, "stop"), *last, DONE)


def says(*texts: str) -> Script:
    """Returns a script that answers every chat with these texts, streamed if requested."""
    return lambda request: chat_stream(*texts) if request.is_stream else chat("".join(texts))


def in_turn(*replies: Reply | Script) -> Script:
    """Returns a script that gives the first request the first reply, and so on; the last reply is repeated."""
    remaining = list(replies)

    def script(request: ReceivedRequest) -> Reply:
        reply = remaining.pop(0) if len(remaining) > 1 else remaining[0]
        return reply if isinstance(reply, Reply) else reply(request)

    return script


RESETS = Reply((Reset(),))
CLOSES = Reply((Close(),))
HANGS = Reply((Pause(None),))


@dataclass
class ScriptedProvider:
    """The server, which listens while its context is entered."""

    #: May be replaced at any time.
    script: Script | Reply
    #: The base URL, with `/v1`.
    url: str = ""
    requests: list[ReceivedRequest] = field(default_factory=list)
    #: The number of connections that were opened.
    connections: int = 0
    #: Set when a caller has left before the end of its answer.
    was_left: asyncio.Event = field(default_factory=asyncio.Event)
    #: Set when a reply has reached a pause without an end.
    is_silent: asyncio.Event = field(default_factory=asyncio.Event)
    _open: set[_ServedConnection] = field(default_factory=set)
    _arrived: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def until_requests(self, count: int) -> None:
        """Waits until this many requests have arrived."""
        while len(self.requests) < count:
            async with self._arrived:
                await self._arrived.wait()

    def reply_to(self, request: ReceivedRequest) -> Reply:
        """Records the request, and returns the script's reply."""
        self.requests.append(request)
        return self.script if isinstance(self.script, Reply) else self.script(request)

    async def notify(self) -> None:
        """Wakes the tasks that wait in `until_requests`."""
        async with self._arrived:
            self._arrived.notify_all()

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _ServedConnection(self, self._open), "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        await asyncio.gather(*(connection.end() for connection in list(self._open)))


class _ServedConnection(asyncio.Protocol):
    """A caller's connection, with one request at a time."""

    def __init__(self, provider: ScriptedProvider, opened: set[_ServedConnection]) -> None:
        self._provider = provider
        self._opened = opened
        self._received = b""
        self._task: asyncio.Task[None] | None = None
        self._transport: asyncio.Transport
        self._has_ended = asyncio.Event()
        self._may_write = asyncio.Event()
        self._may_write.set()

    async def end(self) -> None:
        """Ends the connection, and waits until it has ended."""
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
        """Answers the next request, if all of it has arrived."""
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
        reply = self._provider.reply_to(ReceivedRequest(method, target, headers, rest[:length]))
        self._task = asyncio.get_running_loop().create_task(self._answer(reply))

    async def _answer(self, reply: Reply) -> None:
        await self._provider.notify()
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
            linger = struct.pack("ii", 1, 0)  # SO_LINGER on, with no time: closing then sends RST instead of FIN
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            transport.abort()
        elif isinstance(action, Close):
            transport.close()
        elif isinstance(action.until, asyncio.Event):
            await action.until.wait()
        elif action.until is not None:
            await asyncio.sleep(action.until)
        else:
            self._provider.is_silent.set()
            await self._has_ended.wait()


def _completion(kind: str, choice: Mapping[str, Any], usage: Mapping[str, Any] | None) -> dict[str, Any]:
    envelope = {"id": "chatcmpl-1", "object": kind, "created": 1, "model": "there", "choices": [choice]}
    return envelope if usage is None else {**envelope, "usage": usage}


def _head(status: int, headers: Mapping[str, str]) -> bytes:
    phrase = HTTPStatus(status).phrase if status in {known.value for known in HTTPStatus} else "X"
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status} {phrase}\r\n{lines}\r\n".encode("latin-1")


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)
