"""Reads callers' requests: HTTP/1.1 by httptools within limits of size."""

from __future__ import annotations

import asyncio
import logging
from abc import abstractmethod
from collections import deque

import httptools

from vllm_service.errors import HeadTooLarge, InvalidRequest, ServiceError
from vllm_service.http.addresses import AddressRecord
from vllm_service.http.body_blocks import BodyBlocks
from vllm_service.http.head_check import HeadCheck, refuse_contradiction
from vllm_service.http.limits import ConnectionLimits
from vllm_service.http.messages import Caller, Request, fault_in
from vllm_service.http.other_heads import in_origin_form, without_upgrade
from vllm_service.http.write_buffer import WriteBuffer, Writer
from vllm_service.logs import source_location

_log = logging.getLogger(__name__)
#: The parser gets so much at once, and limits are looked at after each piece. So this is the most by which a limit is
#: passed, and the most pipelined requests that one piece can hold are a few hundred.
_HEAD_SLICE_BYTES = 8_192
_BODY_SLICE_BYTES = 16_384
#: The framing of a chunked body may have this share of the body, beside as many bytes as a head: chunks of 48 bytes
#: and more always pass. Each piece of a body costs a call, however small it is.
_BODY_BYTES_PER_FRAMING_BYTE = 8
_LARGE_FRAMING = "The chunks' sizes, extensions and trailers are larger than is allowed: send larger chunks."
#: A larger body is joined in a thread.
_JOINED_AT_ONCE_BYTES = 2**20


class RequestReader(Writer):
    """The reading half of a caller's connection. Calls `received` for each whole request and `refuse` for a bad one."""

    __slots__ = (
        "_bare_bytes", "_began", "_blocks", "_body", "_body_limit", "_caller", "_framing_bytes", "_has_head",
        "_head_bytes", "_head_check", "_headers", "_headers_by_name", "_is_discarding", "_is_new",
        "_is_reading_paused", "_last_data", "_limits", "_loop", "_method", "_owes_continue", "_parser", "_peer",
        "_requests", "_target", "_trailers", "_unread", "_url", "is_of_proxy", "is_receiving", "record",
    )  # fmt: skip

    def __init__(
        self,
        limits: ConnectionLimits,
        loop: asyncio.AbstractEventLoop,
        write_buffer: WriteBuffer,
        head_check: HeadCheck,
    ) -> None:
        super().__init__(write_buffer)
        self._limits = limits
        self._loop = loop
        self._head_check = head_check
        self._parser = httptools.HttpRequestParser(self)
        self._peer = ""
        #: The record of the connection's own address.
        self.record: AddressRecord | None = None
        #: The other end is a trusted proxy, whose requests are of the clients that their headers name.
        self.is_of_proxy = False
        #: The target as it comes, and as it came.
        self._url: bytes | bytearray = b""
        self._target = self._method = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._headers_by_name: dict[bytes, bytes] = {}
        self._caller: Caller | None = None
        self._body = b""
        #: The body once it has come in more than one piece.
        self._blocks: BodyBlocks | None = None
        #: The most that the current request's body may have.
        self._body_limit = 0
        #: A request has begun and is not complete.
        self.is_receiving = False
        self._has_head = False
        #: Bytes of reads since the last head was complete, while no body is expected.
        self._head_bytes = 0
        #: Bytes of the current request that are neither head nor body, all of them and those since the last body byte.
        self._framing_bytes = self._bare_bytes = 0
        self._trailers = 0
        #: "100 Continue" is owed until the caller's key has been found.
        self._owes_continue = False
        #: Bytes that came while nothing may be read.
        self._unread: bytes = b""
        self._is_reading_paused = False
        #: Read ahead, each with whether its caller keeps the connection, and its bytes.
        self._requests: deque[tuple[Request, bool, int]] = deque()
        #: The loop's time of the current request's first byte, and of the last byte.
        self._began = self._last_data = self._loop.time()
        #: No request has come on this connection yet.
        self._is_new = True
        #: A request was refused; whatever comes after it is dropped.
        self._is_discarding = False

    @property
    @abstractmethod
    def is_busy(self) -> bool:
        """True if a request is being answered or waits for its turn."""

    @abstractmethod
    def received(self, request: Request, keeps_alive: bool) -> None:
        """Takes a whole request."""

    @abstractmethod
    def join(self, request: Request, blocks: BodyBlocks, keeps_alive: bool) -> None:
        """Takes a whole request whose large body is in blocks."""

    @abstractmethod
    def refuse(self, error: ServiceError) -> None:
        """Answers with an error and reads no further."""

    @abstractmethod
    def end_reading(self) -> None:
        """Makes the current request the connection's last."""

    @abstractmethod
    def after_reading(self) -> None:
        """Looks at what has been read: counts it, looks the key up, pauses. Not called for small whole requests."""

    def data_received(self, data: bytes) -> None:
        """Feeds the parser. Drops bytes after an error: closing with unread bytes resets and could lose the answer."""
        if self._is_discarding:
            return
        self._last_data = self._loop.time()
        if self._is_reading_paused or len(data) > _HEAD_SLICE_BYTES:
            self._unread = self._unread + data if self._unread else data
            self.read_on()
            return
        rest = self._fed(data)
        if rest is not None:
            self._feed(rest)
        if self.is_receiving or self._requests:
            self.after_reading()

    def read_on(self) -> None:
        """Feeds what has been read and not been parsed, as long as reading is not paused."""
        unread = memoryview(self._unread)
        self._unread = b""
        at = 0
        while at < len(unread) and not (self._is_reading_paused or self._is_discarding):
            piece = unread[at : at + (_BODY_SLICE_BYTES if self._has_head else _HEAD_SLICE_BYTES)]
            at += len(piece)
            self._feed(piece)
            self.after_reading()
        if at < len(unread) and not self._is_discarding:
            self._unread = bytes(unread[at:]) + self._unread
            self.after_reading()  # what waits is held, too

    def _feed(self, data: bytes | memoryview) -> None:
        """Gives one piece to the parser. A request that offers an upgrade is read again, and what follows it."""
        rest: bytes | memoryview | None = data
        while rest is not None and not self._is_discarding:
            rest = self._fed(rest)

    def _fed(self, data: bytes | memoryview) -> bytes | None:
        """Parses these bytes and counts them. Returns what is to be parsed next, after an offer of an upgrade."""
        headers = self._headers if self._has_head else None
        if headers is not None:
            before = self.body_size()
        else:
            # Counts whole pieces, which may hold other bytes too: cheap, and enough to stop a head that never ends.
            # on_headers_complete measures exactly where this is over the limit.
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            return self._without_upgrade(bytes(data[upgrade.args[0] :]))
        except httptools.HttpParserError as error:
            self._refuse_for(error)
        else:
            if headers is not None:
                if self._has_head and self._headers is headers:
                    self._count_framing(len(data), self.body_size() - before)
            elif self.is_receiving or self._head_bytes:
                self._check_unfinished_head()
        return None

    def _check_unfinished_head(self) -> None:
        """Refuses a head that is too large before it is complete, and blank lines in place of one."""
        limits = self._limits
        if not self._has_head and (self._head_bytes > limits.head_bytes or len(self._headers) > limits.headers):
            self.refuse(limits.head_too_large())

    def _refuse_for(self, error: httptools.HttpParserError) -> None:
        own = fault_in(error)
        if own is None:
            self.refuse(InvalidRequest("This is not a valid HTTP/1.1 request."))
        elif isinstance(own, ServiceError):  # raised by a callback, which stops the parser there
            self.refuse(own)
        else:  # an error of this code is not blamed on the caller
            _log.error("a request could not be read: %s", source_location(own))
            self.refuse(ServiceError("The gateway failed on this request."))

    def _count_framing(self, read: int, body: int) -> None:
        """Counts what came of a chunked body besides its data: sizes, extensions, trailers."""
        self._framing_bytes += read - body
        self._bare_bytes = 0 if body else self._bare_bytes + read
        most = self._limits.head_bytes
        if self._bare_bytes > most or self._framing_bytes > most + self.body_size() // _BODY_BYTES_PER_FRAMING_BYTE:
            self.refuse(HeadTooLarge(_LARGE_FRAMING))

    # httptools' callbacks

    def on_message_begin(self) -> None:
        """Begins a request."""
        self.is_receiving = True
        self._has_head = False
        self._url = self._body = b""
        self._blocks = None
        self._headers = []
        self._began = self._last_data

    def on_url(self, url: bytes) -> None:
        """Adds a part of the target."""
        if not self._url:
            self._url = url
        elif isinstance(self._url, bytes):  # a bytearray grows without being copied each time
            self._url = bytearray(self._url + url)
        else:
            self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Adds a header; drops trailers, which follow a chunked body and could contradict the head."""
        if not self._has_head:
            self._headers.append((name.lower(), value))
            return
        self._trailers += 1
        if self._trailers > self._limits.headers:
            raise HeadTooLarge(f"The request has more than {self._limits.headers} trailers.")

    def on_headers_complete(self) -> None:
        """Refuses what the head shows to be wrong, before the body is sent and kept."""
        limits = self._limits
        self._has_head = True
        if len(self._headers) > limits.headers or (self._head_bytes > limits.head_bytes and self._head_is_too_large()):
            raise limits.head_too_large()
        self._head_bytes = self._framing_bytes = self._bare_bytes = self._trailers = 0
        target = self._target = self._url if isinstance(self._url, bytes) else bytes(self._url)
        if self._parser.should_upgrade():  # it is read again
            return
        if not target.startswith(b"/"):
            found = in_origin_form(self._parser.get_method(), target, self._headers)
            if found is None:
                raise InvalidRequest("The request's target is neither a path nor a URL that begins with http.")
            self._target, self._headers = found
        self._admit()

    def _admit(self) -> None:
        """Has the head checked, and sets the limit of the body by that. Raises ServiceError."""
        headers = self._headers_by_name = dict(self._headers)
        check = self._head_check
        limits = self._limits
        now = self._last_data
        target = self._target
        method = self._method = self._parser.get_method()
        record = check.behind(self._peer, self._headers) if self.is_of_proxy else self.record
        if record is not None and (wait := record.requests.take(now)):
            check.refuse_too_many(target, wait)
            self.end_reading()
        if len(headers) != len(self._headers):
            refuse_contradiction(self._headers)
        caller = self._caller
        head = record, method, target, headers.get(b"authorization")
        if caller is None or not now < caller.until or caller.head != head:
            caller = self._caller = check.caller(record, method, target, headers, now)
        most = limits.body_bytes if caller.is_operation else min(limits.body_bytes, limits.small_body_bytes)
        self._body_limit = most
        if int(headers.get(b"content-length", 0)) > most:  # llhttp has checked the digits
            raise limits.body_too_large(most)
        if b"expect" in headers and headers[b"expect"].lower() == b"100-continue":
            # In the middle of an answer it would be taken for a part of that: HTTP lets it be left out.
            self._owes_continue = not self.is_busy
            if caller.secret is None:
                self.pay_continue()

    def pay_continue(self) -> None:
        """Lets the caller send its body, if it waits for that."""
        if self._owes_continue:
            self._owes_continue = False
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        """Adds a piece of the body. Most bodies come in one piece, which is not copied."""
        if not self._body:
            self._body = body
            size = len(body)
        else:
            if self._blocks is None:
                self._blocks = BodyBlocks(self._body)
            self._blocks.add(body)
            size = self._blocks.size
        if size > self._body_limit:  # chunked: there was no length to check
            raise self._limits.body_too_large(self._body_limit)

    def body_size(self) -> int:
        """Returns how many bytes of the current body have come."""
        return len(self._body) if self._blocks is None else self._blocks.size

    def on_message_complete(self) -> None:
        """Passes the whole request on. One that offers an upgrade is read again: see _without_upgrade."""
        parser = self._parser
        if self._is_discarding or parser.should_upgrade():
            return
        self.is_receiving = self._has_head = self._is_new = False
        self._owes_continue = False
        body = self._body
        self._body = b""
        version = parser.get_http_version()
        headers, by_name = self._headers, self._headers_by_name
        request = Request(self._method, self._target, headers, by_name, body, self._peer, version, self._caller)
        if (blocks := self._blocks) is not None:
            self._blocks = None
            if blocks.size > _JOINED_AT_ONCE_BYTES:
                request.body = b""
                self.join(request, blocks, parser.should_keep_alive())
                return
            request.body = blocks.joined()
        self.received(request, parser.should_keep_alive())

    def _without_upgrade(self, rest: bytes) -> bytes | None:
        """Returns what is to be read in place of a request that offers another protocol.

        Java's HTTP client offers HTTP/2 with its first POST. The parser takes everything after such a head for the
        other protocol, so the body would be lost. rest: the bytes after the head.
        """
        method = self._parser.get_method()
        if method == b"CONNECT":
            self.refuse(InvalidRequest("CONNECT is not served: this is no proxy. Send requests to it directly."))
            return None
        self._parser = httptools.HttpRequestParser(self)
        self._has_head = False
        return without_upgrade(method, self._target, self._headers) + rest

    def _head_is_too_large(self) -> bool:
        """Measures the head alone, without what came in the same reads. 4: the colon, the space and the line's end."""
        size = len(self._url) + sum(len(name) + len(value) + 4 for name, value in self._headers)
        return size > self._limits.head_bytes
