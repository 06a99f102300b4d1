"""A caller's request as it arrived, and the interface through which it is answered."""

from __future__ import annotations

from typing import Protocol

import httptools
import msgspec

from vllm_service.domain.keys import ApiKey
from vllm_service.http.addresses import AddressRecord

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

#: First lines of answers by status, built once. A status that is missing here is sent with "-" as its reason.
STATUS_LINES = {status: b"HTTP/1.1 %d %b\r\n" % (status, reason) for status, reason in REASONS.items()}
CLOSE = b"connection: close\r\n"


def status_line(status: int) -> bytes:
    """Returns the first line of an HTTP answer."""
    return STATUS_LINES.get(status) or b"HTTP/1.1 %d -\r\n" % status


def fault_in(error: Exception) -> BaseException | None:
    """Returns the exception of our own code that caused a parser's error, or None if the bytes were not HTTP.

    httptools wraps whatever a callback raises in HttpParserCallbackError; the original is its context.
    """
    if isinstance(error, httptools.HttpParserCallbackError):
        raised = error.__context__
        return None if isinstance(raised, httptools.HttpParserError) else raised
    return None if isinstance(error, httptools.HttpParserError | httptools.HttpParserUpgrade) else error


class Caller(msgspec.Struct, gc=False):
    """The caller of a request, as far as its head shows it."""

    #: The client's address; None where it has none: a Unix socket, this process.
    record: AddressRecord | None
    #: None until it is known, and for paths that need none.
    key: ApiKey | None
    #: A key that is not in memory and has to be looked up.
    secret: str | None
    #: The request needs a key, and its body may be large.
    is_operation: bool
    #: What the address is counted under.
    address: str | None = None
    #: Until this time of the loop, a request with the same `head` has the same caller.
    until: float = 0.0
    #: The address's record, method, target and Authorization header.
    head: tuple[AddressRecord | None, bytes, bytes, bytes | None] | None = None


class Request(msgspec.Struct, gc=False):
    """A whole request. `gc=False`: it holds no cycle, and the garbage collector need not walk it."""

    method: bytes
    #: Path and query as they were sent.
    target: bytes
    #: In their order; names in lower case.
    headers: list[tuple[bytes, bytes]]
    #: The last header of each name.
    headers_by_name: dict[bytes, bytes]
    body: bytes
    #: The address at the other end of the connection; empty on a Unix socket.
    peer: str = ""
    http_version: str = "1.1"
    #: None for a request from within this process.
    caller: Caller | None = None


class FlowControl(Protocol):
    """The source of an answer, which may produce faster than the caller reads."""

    def pause(self) -> None:
        """Stops producing: the caller is behind."""
        ...

    def resume(self) -> None:
        """Produces again: the caller has caught up."""
        ...


class ResponseWriter(Protocol):
    """Writes the answer to one request: whole with `answer`, or as a stream with `begin`, `send`..., `end`.

    When the caller leaves, the task that answers is cancelled, unless it `outlives_caller`.
    """

    #: The task goes on when the caller leaves; what it sends then is dropped.
    outlives_caller: bool
    #: A stream has begun.
    has_begun: bool

    @property
    def has_left(self) -> bool:
        """Returns true when the caller's connection is gone."""
        ...

    def answer(self, status: int, headers: bytes, body: bytes) -> None:
        """Sends a whole answer. headers: lines, each ended by CRLF, without the length."""
        ...

    def begin(self, status: int, headers: bytes) -> None:
        """Sends the head of a stream. headers: as for `answer`."""
        ...

    def send(self, data: bytes) -> None:
        """Sends a piece of the stream; it must not be empty, since an empty chunk would end the stream."""
        ...

    def end(self) -> None:
        """Completes the stream."""
        ...

    def set_source(self, flow: FlowControl) -> None:
        """Sets what is paused while the caller reads slower than the stream comes."""
        ...

    def abort(self) -> None:
        """Closes the connection, so that an answer that cannot be completed is not taken for whole."""
        ...
