"""Replies of a scripted provider: rows of bytes, pauses and ends, and the HTTP answers made of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

DONE = b"data: [DONE]\n\n"
#: What ends a chunked body.
END_OF_CHUNKS = b"0\r\n\r\n"
#: An answer of 200 that holds no answer.
GARBAGE = b"<html>This is not JSON</html>"


@dataclass(frozen=True, slots=True)
class Pause:
    """Nothing is sent for so long, or until the event is set; None: until the caller leaves."""

    until: float | asyncio.Event | None


@dataclass(frozen=True, slots=True)
class Close:
    """The connection ends as if this were the end of the answer."""


@dataclass(frozen=True, slots=True)
class Reset:
    """The connection breaks (RST)."""


@dataclass(frozen=True, slots=True)
class Signal:
    """Sets the event: whatever stands before it has been handed to the socket."""

    event: asyncio.Event


Action = bytes | Pause | Close | Reset | Signal


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to one request. After the last action the connection waits for the next request."""

    actions: tuple[Action, ...]

    @property
    def size(self) -> int:
        """The number of bytes that are sent, head included."""
        return sum(len(action) for action in self.actions if isinstance(action, bytes))

    @property
    def head_size(self) -> int:
        """The number of these that are the head."""
        return b"".join(action for action in self.actions if isinstance(action, bytes)).index(b"\r\n\r\n") + 4

    def cut_at(self, position: int, *then: Action) -> Reply:
        """Returns the reply cut after so many bytes, then something else; by default the connection ends."""
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
        """The same, only later."""
        return Reply((Pause(until), *self.actions))

    def in_pieces(self, size: int, until: float = 0.0) -> Reply:
        """Sent so many bytes at a time, with a pause before each piece but the first."""
        row: list[Action] = []
        for action in self.actions:
            if isinstance(action, bytes):
                row += [part for at in range(0, len(action), size) for part in (action[at : at + size], Pause(until))]
            else:
                row.append(action)
        return Reply(tuple(row[:-1] if row and isinstance(row[-1], Pause) else row))

    def then(self, *actions: Action) -> Reply:
        """The same, and more."""
        return Reply((*self.actions, *actions))


RESETS = Reply((Reset(),))
CLOSES = Reply((Close(),))
HANGS = Reply((Pause(None),))


def whole(
    document: object, status: int = 200, headers: Mapping[str, str] | None = None, content_type: str | None = None
) -> Reply:
    """An answer in one piece: bytes as they are, anything else as JSON."""
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    lines = {"content-type": content_type or "application/json", "content-length": str(len(body)), **(headers or {})}
    return Reply((_head(status, lines), body))


def refused(
    status: int,
    message: str = "refused",
    retry_after: str | None = None,
    headers: Mapping[str, str] | None = None,
    **members: Any,
) -> Reply:
    """An error as OpenAI's API words it; members: more of it, such as `code`."""
    error = {"message": message, "type": "error", "param": None, "code": None, **members}
    return whole({"error": error}, status, {**(headers or {}), **({"retry-after": retry_after} if retry_after else {})})


def begun(*items: object, status: int = 200, content_type: str | None = None) -> Reply:
    """Returns a stream of server-sent events, as `events` does, but without its end."""
    lines = {"content-type": content_type or "text/event-stream", "transfer-encoding": "chunked"}
    return Reply((_head(status, lines), *(_chunk(event(item)) for item in items)))


def events(*items: object, status: int = 200, content_type: str | None = None) -> Reply:
    """A stream of server-sent events, each written by itself: bytes as they are, anything else as JSON."""
    return begun(*items, status=status, content_type=content_type).then(END_OF_CHUNKS)


def event(item: object) -> bytes:
    """One server-sent event."""
    return item if isinstance(item, bytes) else b"data: %b\n\n" % json.dumps(item).encode()


def _head(status: int, headers: Mapping[str, str]) -> bytes:
    phrase = HTTPStatus(status).phrase if status in {known.value for known in HTTPStatus} else "X"
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status} {phrase}\r\n{lines}\r\n".encode("latin-1")


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)
