"""One kept HTTP/1.1 connection to a provider, and the answer that it carries: one at a time, whole or as a stream."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from typing import Protocol, cast

import httptools
import msgspec

from vllm_service.http.messages import fault_in
from vllm_service.http.upstream import CutShort, ProviderFault
from vllm_service.http.write_buffer import WriteBuffer, Writer
from vllm_service.logs import source_location

LONGEST_ANSWER_BYTES = 128 * 2**20
# Of a stream, before its first event is whole: comments and pings, and then the event itself.
LONGEST_BEGINNING_BYTES = 16 * 2**20
# Comments, which keep connections alive, are no events; an answer that only began one has not begun.
_EVENT_BEGINS = re.compile(rb"(?:^|\n)(?:data|event):")
_EVENT_ENDS = re.compile(rb"\n\n|\r\n\r\n")
_LONGEST_MARK = len(b"\nevent:")  # no other is longer; a piece may end within one


class Carrier(Protocol):
    """The connection."""

    def fail(self, fault: ProviderFault) -> None:
        """Ends it."""

    def pause(self) -> None:
        """Reads no further."""

    def resume(self) -> None:
        """Reads on."""


class StreamOrWhole(msgspec.Struct, eq=False):
    """A provider's answer (protocol.Answer) while its connection still carries it, and after."""

    _connection: Carrier
    headers: dict[bytes, bytes]
    status: int = 0
    is_stream: bool = False
    ends_with_connection: bool = False
    received: Callable[[bytes], None] | None = None
    _kept: bytes | bytearray = b""
    _end: asyncio.Future[None] | None = None
    _fault: Exception | None = None
    _is_over: bool = False
    _has_event: bool = False
    _searched: int = 0  # bytes in which nothing was found

    @property
    def body(self) -> bytes:
        """What has come and was not relayed."""
        if not isinstance(self._kept, bytes):
            self._kept = bytes(self._kept)
        return self._kept

    def keep(self, data: bytes) -> None:
        """Adds a piece to what is kept: the most come in one."""
        kept = self._kept
        if not kept:
            self._kept = data
        elif isinstance(kept, bytes):
            self._kept = bytearray(kept + data)
        else:
            kept += data
        most = LONGEST_BEGINNING_BYTES if self.is_stream else LONGEST_ANSWER_BYTES
        if len(self._kept) > most:
            what = "first event" if self.is_stream else "answer"
            self._connection.fail(CutShort(f"the {what} is longer than {most} bytes"))

    def has_begun(self) -> bool:
        """See protocol.Answer. What was searched once is not searched again when more has come."""
        kept = self._kept
        if not self._has_event:
            found = _EVENT_BEGINS.search(kept, self._searched)
            if found is not None:
                self._has_event, self._searched = True, found.end()
        if self._has_event and _EVENT_ENDS.search(kept, self._searched) is not None:
            return True
        self._searched = max(self._searched, len(kept) - _LONGEST_MARK + 1)
        return False

    def relay(self, receive: Callable[[bytes], None]) -> asyncio.Future[None]:
        """See protocol.Answer."""
        self._end = asyncio.get_running_loop().create_future()
        kept, self._kept = self.body, b""
        self.received = receive
        if kept:
            receive(kept)
        if self._is_over:
            self.ended(self._fault)
        return self._end

    def ended(self, fault: Exception | None) -> None:
        """Called by the connection: the body is complete, or broken."""
        self._is_over, self._fault = True, fault
        if self._end is None or self._end.done():
            return
        if fault is None:
            self._end.set_result(None)
        else:
            self._end.set_exception(fault)
            self._end.exception()  # whoever has left does not look

    def pause(self) -> None:
        """See protocol.Answer."""
        if not self._is_over:
            self._connection.pause()

    def resume(self) -> None:
        """See protocol.Answer."""
        if not self._is_over:
            self._connection.resume()

    def close(self) -> None:
        """See protocol.Answer."""
        if not self._is_over:
            self._connection.fail(CutShort("left before its end"))


LONGEST_HEAD_BYTES = 64 * 2**10
STALE_SECONDS = 1.0  # a connection that had been closed says so within a round trip; later, somebody was at work
_EVENT_STREAM = b"text/event-stream"
_log = logging.getLogger(__name__)


class Connection(Writer):
    """Parses what the provider says and hands it to whoever waits; `freed` is called when it is free, or has ended.

    `quiet_since` is the loop's time of the last byte, or of the request: the pool ends connections that stay quiet, and
    answers that take until `ends_at`.
    Nothing here sets a timer: thousands of streams would set one for each chunk.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, outbox: WriteBuffer, freed: Callable[[Connection], None]
    ) -> None:
        super().__init__(outbox)
        self._loop = loop
        self._freed = freed
        self._pieces: list[bytes] = []
        self.on_body = self._pieces.append  # a callback too: of what comes in one read there may be many pieces
        self._parser = httptools.HttpResponseParser(self)
        self._answer: StreamOrWhole | None = None
        self._waiter: asyncio.Future[StreamOrWhole] | None = None
        self._head_bytes = 0
        self._has_ended = self._keeps_alive = False
        self.quiet_since = self.ends_at = self.first_byte_seconds = 0.0
        self.is_paused = False

    @property
    def is_open(self) -> bool:
        """Whether it can still carry a request."""
        return self._transport is not None and not self._transport.is_closing()

    @property
    def is_busy(self) -> bool:
        """Whether it carries a request."""
        return self._waiter is not None or self._answer is not None

    @property
    def was_stale(self) -> bool:
        """Whether it ended at once, and no byte came back for its last request: it had been closed before."""
        return self._head_bytes == 0 and self._loop.time() - self.quiet_since <= STALE_SECONDS

    @property
    def _has_head(self) -> bool:
        """Whether the head of an answer is there: its status is read with the last of it."""
        return self._answer is not None and self._answer.status != 0

    @property
    def is_answering(self) -> bool:
        """Whether the provider has begun to answer."""
        return self._answer is not None

    def ask(
        self, request: bytes, first_byte_seconds: float, total_seconds: float, *, is_alone: bool
    ) -> asyncio.Future[StreamOrWhole]:
        """Sends a request. The future has its answer when it is whole, or of a stream when its first event is there.

        is_alone: no other connection carries one, so it need not wait for the end of the turn. Raises CutShort when it
        cannot be sent. Whoever is cancelled while they wait calls `leave`.
        """
        self._head_bytes = 0
        self.quiet_since = now = self._loop.time()
        self.ends_at = now + total_seconds
        self.first_byte_seconds = first_byte_seconds
        transport = self._transport
        if transport is None or transport.is_closing():
            raise CutShort("the connection has been closed")
        self._has_ended = self._keeps_alive = False
        waiter = self._waiter = self._loop.create_future()
        if is_alone:
            self.write_now(request)
        else:
            self.write(request)
        return waiter

    def leave(self, waiter: asyncio.Future[StreamOrWhole]) -> None:
        """Nobody waits any more. An answer that came in the same turn is left too; a later exchange is not touched."""
        if waiter is self._waiter:
            self.fail(CutShort("left before the answer"))
        elif not waiter.cancelled() and waiter.exception() is None:
            waiter.result().close()

    def fail(self, fault: ProviderFault | RuntimeError) -> None:
        """Ends the connection, and with this fault whoever waits for its answer. RuntimeError: the fault is our own."""
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
        """Stops reading."""
        if self._transport is not None and not self.is_paused:
            self._transport.pause_reading()
            self.is_paused = True

    def resume(self) -> None:
        """Reads on; the time that the reader took is not the provider's silence."""
        if self._transport is not None and self.is_paused:
            self._transport.resume_reading()
            self.is_paused = False
            self.quiet_since = self._loop.time()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Both event loops set TCP_NODELAY; uvloop's transport is no subclass of asyncio's."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Feeds the parser; whatever is not the answer to a request ends the connection."""
        self.quiet_since = self._loop.time()
        answer = self._answer
        if answer is None or not answer.status:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
            if self._pieces:
                self._deliver()
        except Exception as error:
            self._fail_for(error)
        else:
            if self._has_ended:
                self._complete()
            elif self._head_bytes > LONGEST_HEAD_BYTES and not self._has_head:
                self.fail(CutShort(f"the answer's head is longer than {LONGEST_HEAD_BYTES} bytes"))

    def _deliver(self) -> None:
        """Passes on what was read at once as one piece, or keeps it until the whole is there."""
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
        if answer.is_stream and self._waiter is not None and answer.has_begun():
            self._resolve(answer)

    def _fail_for(self, error: Exception) -> None:
        """A fault of our own, unlike what was found in the answer, is nothing against the provider."""
        fault = fault_in(error)
        if fault is None:
            self.fail(CutShort("what the provider sent is not an HTTP answer"))
        elif isinstance(fault, ProviderFault):
            self.fail(fault)
        else:
            _log.error("an answer could not be passed on: %s", source_location(fault))
            self.fail(RuntimeError(f"the gateway failed on an answer ({type(fault).__name__})"))

    def connection_lost(self, error: Exception | None) -> None:
        """An answer without a length ends with its connection; httptools cannot be told, so it is judged here."""
        if self._transport is None:
            return
        answer = self._answer
        if answer is not None and answer.ends_with_connection and error is None:
            self._transport = None
            self._complete()
            return
        self.fail(CutShort("the connection ended before the answer"))

    # httptools' callbacks

    def on_message_begin(self) -> None:
        """An answer that nobody asked for is a reason to leave."""
        if self._waiter is None or self._has_ended:
            raise CutShort("an answer without a request")
        self._answer = StreamOrWhole(self, {})

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keeps the header."""
        if self._answer is not None:
            self._answer.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        """Decides how the answer is passed on."""
        answer = self._answer
        assert answer is not None
        answer.status = status = self._parser.get_status_code()
        headers = answer.headers
        if status == 200:
            answer.is_stream = headers.get(b"content-type", b"").lower().startswith(_EVENT_STREAM)
        answer.ends_with_connection = b"content-length" not in headers and b"transfer-encoding" not in headers

    def on_message_complete(self) -> None:
        """Interim answers (1xx) are dropped: the real one follows."""
        if self._answer is not None and self._answer.status < 200:
            self._answer = None
        else:
            self._has_ended = True
            self._keeps_alive = self._parser.should_keep_alive()  # the parser forgets when it returns

    def _resolve(self, answer: StreamOrWhole) -> None:
        """Forgets who waited at once: when they wake, the connection may carry another's request."""
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(answer)

    def _complete(self) -> None:
        """The answer is there to its last byte; the connection is free when both sides keep it."""
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
