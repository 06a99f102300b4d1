"""A caller's request as it arrived, and the seam through which it is answered."""

from __future__ import annotations

from typing import Protocol

import httptools
import msgspec


def fault_in(error: Exception) -> BaseException | None:
    """What code of ours raised, which httptools wraps in an error of its own; None: what came is not HTTP."""
    if isinstance(error, httptools.HttpParserCallbackError):
        raised = error.__context__
        return None if isinstance(raised, httptools.HttpParserError) else raised
    return None if isinstance(error, httptools.HttpParserError | httptools.HttpParserUpgrade) else error


class Request(msgspec.Struct, gc=False):
    """Method, target and headers (names in lower case, in their order), the whole body.

    named: the headers by name, of a repeated one the last. peer: the connection's address, empty where it has none.
    """

    method: bytes
    target: bytes
    headers: list[tuple[bytes, bytes]]
    named: dict[bytes, bytes]
    body: bytes
    peer: str = ""
    http_version: str = "1.1"


class FlowControl(Protocol):
    """Something that can be told to wait: whatever fills an answer faster than its caller reads."""

    def pause(self) -> None:
        """The caller is behind."""
        ...

    def resume(self) -> None:
        """The caller has caught up."""
        ...


class ResponseWriter(Protocol):
    """Where an answer goes: whole with `answer`, or as a stream with `begin`, `send`..., `end`. One per request.

    When the caller leaves, the task that answers is cancelled, unless `stays` is set: then what is sent goes nowhere.
    has_begun: whether a stream has. has_left: whether the connection is gone.
    """

    stays: bool
    has_begun: bool

    @property
    def has_left(self) -> bool:
        """See above."""
        ...

    def answer(self, status: int, headers: bytes, body: bytes) -> None:
        """The whole answer. headers: lines, each ended by CRLF, without the length."""
        ...

    def begin(self, status: int, headers: bytes) -> None:
        """A stream begins."""
        ...

    def send(self, data: bytes) -> None:
        """A piece of the stream; not empty."""
        ...

    def end(self) -> None:
        """The stream is complete."""
        ...

    def fed_by(self, flow: FlowControl) -> None:
        """`flow` is told to wait while the caller is behind."""
        ...

    def abort(self) -> None:
        """The answer cannot be completed: the connection ends, so that nobody takes it for whole."""
        ...
