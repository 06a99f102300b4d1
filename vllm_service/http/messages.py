"""A caller's request as it arrived, and the seam through which it is answered."""

from __future__ import annotations

from typing import Protocol

import httptools
import msgspec

REASONS = {
    200: b"OK", 201: b"Created", 202: b"Accepted", 204: b"No Content", 301: b"Moved Permanently", 302: b"Found",
    303: b"See Other", 304: b"Not Modified", 307: b"Temporary Redirect", 308: b"Permanent Redirect",
    400: b"Bad Request", 401: b"Unauthorized", 402: b"Payment Required", 403: b"Forbidden", 404: b"Not Found",
    405: b"Method Not Allowed", 406: b"Not Acceptable", 408: b"Request Timeout", 409: b"Conflict", 410: b"Gone",
    411: b"Length Required", 412: b"Precondition Failed", 413: b"Content Too Large", 415: b"Unsupported Media Type",
    422: b"Unprocessable Content", 424: b"Failed Dependency", 425: b"Too Early", 429: b"Too Many Requests",
    431: b"Request Header Fields Too Large", 500: b"Internal Server Error", 501: b"Not Implemented",
    502: b"Bad Gateway", 503: b"Service Unavailable", 504: b"Gateway Timeout",
}  # fmt: skip

#: The first lines of answers. A status that is not in it is sent with "-" for its reason.
STATUS_LINES = {status: b"HTTP/1.1 %d %b\r\n" % (status, reason) for status, reason in REASONS.items()}


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
