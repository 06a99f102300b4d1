"""A persistent HTTP/1.1 connection to a provider and the answer it carries: one at a time, whole or as a stream."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol, cast

import httptools
import msgspec

from vllm_service.domain.event_stream import StreamBeginning
from vllm_service.http.fair_queue import Flow
from vllm_service.http.messages import fault_in
from vllm_service.http.upstream import CutShort, ProviderFault
from vllm_service.http.write_buffer import WriteBuffer, Writer
from vllm_service.logs import source_location

LONGEST_ANSWER_BYTES = 128 * 2**20
LONGEST_ERROR_BYTES = 2**20
#: Of a stream, until its first content has come: comments and pings, and then the event itself.
LONGEST_BEGINNING_BYTES = 8 * 2**20


class AnswerConnection(Protocol):
    """The connection that carries an answer."""

    def fail(self, fault: ProviderFault) -> None:
        """Ends the connection."""

    def pause(self) -> None:
        """Stops reading."""

    def resume(self) -> None:
        """Reads on."""


class ProviderAnswer(msgspec.Struct, eq=False):
    """A provider's answer (upstream.Answer), while its connection carries it and after."""

    _connection: AnswerConnection
    headers: dict[bytes, bytes]
    #: 0 until the head is complete.
    status: int = 0
    #: Reads the first bytes of what was requested as a stream; None if a whole answer was requested, or for an error.
    beginning: StreamBeginning | None = None
    #: Whether the first content of a stream has come, or an error within it.
    is_stream: bool = False
    #: The head has neither a length nor chunks: the body lasts until the provider closes the connection.
    ends_with_connection: bool = False
    #: Set by `relay`: takes the pieces that come.
    received: Callable[[bytes], None] | None = None
    _kept: bytes | bytearray = b""
    _end: asyncio.Future[None] | None = None
    _fault: Exception | None = None
    _is_over: bool = False

    @property
    def body(self) -> bytes:
        """Returns the bytes that have come and are not relayed."""
        if not isinstance(self._kept, bytes):
            self._kept = bytes(self._kept)
        return self._kept

    def keep(self, data: bytes) -> None:
        """Keeps a piece. Most bodies come in one piece, which is not copied; a second one makes a bytearray."""
        kept = self._kept
        if not kept:
            self._kept = data
        elif isinstance(kept, bytes):
            self._kept = bytearray(kept + data)
        else:
            kept += data
        what, most = "answer", LONGEST_ERROR_BYTES if self.status >= 400 else LONGEST_ANSWER_BYTES
        if self.beginning is not None and not self.beginning.is_document:
            what, most = "beginning of the stream", LONGEST_BEGINNING_BYTES
        if len(self._kept) > most:
            self._connection.fail(CutShort(f"the {what} is longer than {most} bytes"))

    def relay(self, receive: Callable[[bytes], None]) -> asyncio.Future[None]:
        """Implements upstream.Answer."""
        self._end = asyncio.get_running_loop().create_future()
        kept, self._kept = self.body, b""
        self.received = receive
        if kept:
            receive(kept)
        if self._is_over:
            self.ended(self._fault)
        return self._end

    def ended(self, fault: Exception | None) -> None:
        """Called by the connection when the body is complete or, with a fault, broken."""
        self._is_over = True
        self._fault = fault
        if self._end is None or self._end.done():
            return
        if fault is None:
            self._end.set_result(None)
        else:
            self._end.set_exception(fault)
            self._end.exception()  # marks it as seen, or asyncio warns when the caller has left and does not await it

    def pause(self) -> None:
        """Implements upstream.Answer."""
        if not self._is_over:
            self._connection.pause()

    def resume(self) -> None:
        """Implements upstream.Answer."""
        if not self._is_over:
            self._connection.resume()

    def close(self) -> None:
        """Implements upstream.Answer."""
        if not self._is_over:
            self._connection.fail(CutShort("the answer was dropped before its end"))


#: Of an answer's head, with interim answers before it. Also of all between two pieces of the body, and behind the last
#: one: extensions of chunks, trailers. httptools has no limits of its own.
LONGEST_HEAD_BYTES = 64 * 2**10
#: A connection that was closed before a request fails within a round trip; a later failure may have cost GPU time.
STALE_SECONDS = 1.0
_log = logging.getLogger(__name__)


class Connection(Writer):
    """Sends one request at a time, parses its answer, and calls `freed` when it is free again or has ended."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, write_buffer: WriteBuffer, freed: Callable[[Connection], None]
    ) -> None:
        super().__init__(write_buffer)
        self._loop = loop
        self._freed = freed
        self._pieces: list[bytes] = []
        self.on_body = self._pieces.append  # the parser's callback, without a Python call for each of many chunks
        self._parser = httptools.HttpResponseParser(self)
        self._answer: ProviderAnswer | None = None
        self._waiter: asyncio.Future[ProviderAnswer] | None = None
        self._beginning: StreamBeginning | None = None
        self.received_bytes = self._most_bytes = 0
        self._has_ended = self._keeps_alive = False
        # By the loop's clock; the pool checks them from one timer, since a timer for each chunk would cost more.
        self.quiet_since = self.ends_at = self.first_byte_seconds = 0.0
        self.is_paused = False
        self.flow: Flow | None = None  # set and cleared by the pool: what it carries a request for

    @property
    def is_open(self) -> bool:
        """Returns true if the connection can still carry a request."""
        return self._transport is not None and not self._transport.is_closing()

    @property
    def is_busy(self) -> bool:
        """Returns true while the connection carries a request."""
        return self._waiter is not None or self._answer is not None

    @property
    def was_stale(self) -> bool:
        """Returns true if the connection ended at once and unanswered: it had been closed before the request."""
        return self.received_bytes == 0 and self._loop.time() - self.quiet_since <= STALE_SECONDS

    @property
    def _has_head(self) -> bool:
        return self._answer is not None and self._answer.status != 0

    @property
    def is_streaming(self) -> bool:
        """Returns true once the provider has begun to answer a request for a stream."""
        return self._answer is not None and self._beginning is not None

    def request(
        self,
        request: bytes,
        first_byte_seconds: float,
        total_seconds: float,
        *,
        is_alone: bool,
        beginning: StreamBeginning | None = None,
    ) -> asyncio.Future[ProviderAnswer]:
        """Sends a request. The future gets its answer when it is whole, or when the beginning of a stream is clear.

        beginning: see upstream.Upstream. is_alone: no other connection is busy, so nothing is gained by waiting for the
        end of the turn. Raises CutShort when the connection has been closed. A task that is cancelled while it waits
        must call `abandon`.
        """
        self.received_bytes = 0
        self._most_bytes = LONGEST_HEAD_BYTES
        self.quiet_since = now = self._loop.time()
        self.ends_at = now + total_seconds
        self.first_byte_seconds = first_byte_seconds
        transport = self._transport
        if transport is None or transport.is_closing():
            raise CutShort("the connection has been closed")
        self._has_ended = self._keeps_alive = False
        self._beginning = beginning
        waiter = self._waiter = self._loop.create_future()
        if is_alone:
            self.write_now(request)
        else:
            self.write(request)
        return waiter

    def abandon(self, waiter: asyncio.Future[ProviderAnswer]) -> None:
        """Gives up a request and its connection: its late answer would be taken for the next request's."""
        if waiter is self._waiter:
            self.fail(CutShort("the request was dropped before its answer"))
        # The answer came in this very turn, and the connection may carry another request already.
        elif not waiter.cancelled() and waiter.exception() is None:
            waiter.result().close()

    def fail(self, fault: ProviderFault | RuntimeError) -> None:
        """Ends the connection and its exchange with this fault; a RuntimeError is the gateway's own."""
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()
        self._unsent.clear()
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_exception(fault)
        answer, self._answer = self._answer, None
        if answer is not None:
            answer.ended(fault)
        self._freed(self)

    def pause(self) -> None:
        """Stops reading, so that TCP slows the provider down."""
        if self._transport is not None and not self.is_paused:
            self._transport.pause_reading()
            self.is_paused = True

    def resume(self) -> None:
        """Reads on. The pause does not count as the provider's silence."""
        if self._transport is not None and self.is_paused:
            self._transport.resume_reading()
            self.is_paused = False
            self.quiet_since = self._loop.time()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps the transport. TCP_NODELAY is set: asyncio and uvloop do so for connections that they make."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass of asyncio.Transport

    def data_received(self, data: bytes) -> None:
        """Feeds the parser. Bytes that are no answer to a request end the connection."""
        self.quiet_since = self._loop.time()
        self.received_bytes += len(data)
        try:
            self._parser.feed_data(data)
            if self._pieces:
                self._most_bytes = self.received_bytes + LONGEST_HEAD_BYTES
                self._deliver()
        except Exception as error:
            self._fail_for(error)
        else:
            if self._has_ended:
                self._complete()
            elif self.received_bytes > self._most_bytes:
                what = "trailer" if self._has_head else "head"
                self.fail(CutShort(f"the answer's {what} is longer than {LONGEST_HEAD_BYTES} bytes"))

    def _deliver(self) -> None:
        """Passes the body's part of one read on as one piece, or keeps it until the answer can be given out."""
        pieces = self._pieces
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        answer = self._answer
        if answer is None:
            return
        if answer.received is not None:
            answer.received(data)
            return
        answer.keep(data)
        if answer.beginning is not None and self._waiter is not None and answer.beginning.feed(data):
            answer.is_stream = True
            self._resolve(answer)

    def _fail_for(self, error: Exception) -> None:
        """Ends the connection. An error of our own code must not count against the provider's breaker."""
        fault = fault_in(error)
        if fault is None:
            self.fail(CutShort("what the provider sent is not an HTTP answer"))
        elif isinstance(fault, ProviderFault):
            self.fail(fault)
        else:
            _log.error("an answer could not be passed on: %s", source_location(fault))
            self.fail(RuntimeError(f"the gateway failed on an answer ({type(fault).__name__})"))

    def connection_lost(self, error: Exception | None) -> None:
        """Completes an answer without a length: httptools has no call for the end of input. Any other is cut short."""
        if self._transport is None:  # closed by this side
            return
        if self._answer is not None and self._answer.ends_with_connection and error is None:
            self._transport = None
            self._complete()
        else:
            self.fail(CutShort("the connection ended before the answer"))

    # httptools' callbacks

    def on_message_begin(self) -> None:
        """Begins an answer. Raises CutShort for one without a request: it would be taken for the next request's."""
        if self._waiter is None or self._has_ended:
            raise CutShort("an answer without a request")
        self._answer = ProviderAnswer(self, {})

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keeps a header of the head. What stands in a trailer means nothing, and would take memory."""
        if self._answer is not None and not self._answer.status:
            self._answer.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        """Decides whether the answer may be a stream, and how it will end. An error status is never one."""
        answer = self._answer
        assert answer is not None
        answer.status = self._parser.get_status_code()
        headers = answer.headers
        if answer.status == 200:
            answer.beginning = self._beginning  # what was requested and the bytes decide, not the content type
        answer.ends_with_connection = b"content-length" not in headers and b"transfer-encoding" not in headers

    def on_message_complete(self) -> None:
        """Marks the answer as complete. Drops an interim one (1xx), since the real one follows."""
        if self._answer is not None and self._answer.status < 200:
            self._answer = None
        else:
            self._has_ended = True
            self._keeps_alive = self._parser.should_keep_alive()  # the parser resets this when the callback returns

    def _resolve(self, answer: ProviderAnswer) -> None:
        """Gives the answer out. Clears the waiter at once: when its task runs, another request may be on the way."""
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(answer)

    def _complete(self) -> None:
        """Ends an exchange whose answer is complete. The connection is free if both sides keep it open."""
        answer, self._answer = self._answer, None
        if self.is_paused:
            self.resume()
        if answer is not None:
            if self._waiter is not None:
                self._resolve(answer)
            answer.ended(None)
        if not (self._keeps_alive and self._has_ended) and self._transport is not None:
            self._transport.abort()
            self._transport = None
        self._freed(self)
