"""A caller's connection: HTTP/1.1 requests, answered one after the other, with keep-alive, pipelining and limits."""

from __future__ import annotations

import asyncio
import logging
import socket
from asyncio.trsock import TransportSocket
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, cast

from vllm_service.errors import RequestTimeout, ServiceError, Unauthorized
from vllm_service.http.bounded_reader import BoundedReader
from vllm_service.http.byte_budget import ByteBudget
from vllm_service.http.eager_task import EagerTask
from vllm_service.http.error_answers import error_body, error_headers
from vllm_service.http.head_check import HeadCheck
from vllm_service.http.limits import ConnectionLimits
from vllm_service.http.messages import CLOSE, STATUS_LINES, FlowControl, Request, ResponseWriter, status_line
from vllm_service.http.write_buffer import WriteBuffer
from vllm_service.logs import source_location

DISCARD_SECONDS = 2.0  # how long bytes after a refusal are read and dropped
_log = logging.getLogger(__name__)
Handler = Callable[[Request, ResponseWriter], Coroutine[Any, Any, None]]


class Server(Protocol):
    """The part of a server that its connections share."""

    limits: ConnectionLimits
    loop: asyncio.AbstractEventLoop
    write_buffer: WriteBuffer
    #: The `date` header line, renewed twice a second.
    date_line: bytes
    #: Answers close their connections.
    is_stopping: bool
    handle: Handler
    #: Requests that are being answered, of all connections.
    tasks: set[EagerTask]
    head_check: HeadCheck
    budget: ByteBudget

    def opened(self, connection: ServerConnection) -> None:
        """Counts a new connection."""
        ...

    def lost(self, connection: ServerConnection) -> None:
        """Forgets a connection."""
        ...


def whole_answer(status: int, headers: bytes, last: bytes, body: bytes) -> bytes:
    """Returns an HTTP answer with its length. headers, last: lines, each ended by CRLF."""
    first = STATUS_LINES.get(status) or status_line(status)
    return b"%b%b%bcontent-length: %d\r\n\r\n%b" % (first, headers, last, len(body), body)


class ServerConnection(BoundedReader):
    """Reads requests and is the ResponseWriter of the one being answered; one object for both saves one a request."""

    def __init__(self, server: Server) -> None:
        super().__init__(server.limits, server.loop, server.write_buffer, server.head_check, server.budget)
        self._server = server
        #: The task whose answer is not complete.
        self._task: EagerTask | None = None
        self._keeps_alive = True
        self._is_chunked = self._is_head = False
        self._stalled_since: float | None = None
        #: The loop's time of the last answer, or of the beginning.
        self._idle_since = self._last_data
        self.outlives_caller = self.has_begun = self.has_left = False
        self._flow: FlowControl | None = None

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps the transport and sets TCP_NODELAY.

        asyncio does not set it where the listening socket was made without a protocol number; then the second piece of
        each stream waits 40 ms.
        """
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass of asyncio.Transport
        if isinstance(own := transport.get_extra_info("socket"), socket.socket | TransportSocket):
            own.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer = transport.get_extra_info("peername")
        self._peer = peer[0] if isinstance(peer, tuple) else ""
        self.record, self.is_of_proxy = self._head_check.connected(self._peer)
        self._server.opened(self)

    def connection_lost(self, error: Exception | None) -> None:
        """Cancels the task that answers, since the caller has left, unless it outlives the caller."""
        self._transport = None
        self.has_left = True
        self._unsent.clear()
        self.forget_unread()
        self._server.lost(self)
        if self._task is None or not self.outlives_caller:
            self.release()
        if self._task is not None and not self.outlives_caller:
            self._task.cancel()
        # The source was paused for a caller who reads slowly; resume_writing will not come any more.
        if self.outlives_caller and self._flow is not None and self._stalled_since is not None:
            self._flow.resume()

    def pause_writing(self) -> None:
        """Pauses the answer's source: the caller reads slower than the provider sends."""
        self._stalled_since = self._loop.time()
        if self._flow is not None:
            self._flow.pause()
        if self._transport is not None:
            self._stalled_bytes = self._transport.get_write_buffer_size()
            if not self.count():
                self._loop.call_soon(self.disconnect)  # not from within the transport's own method

    def resume_writing(self) -> None:
        """Resumes the answer's source: the caller has caught up."""
        self._stalled_since = None
        self._stalled_bytes = 0
        self.count()
        if self._flow is not None:
            self._flow.resume()
        if self._requests and self._task is None:
            self._loop.call_soon(self.begin_next)

    def received(self, request: Request, keeps_alive: bool) -> None:
        """Begins to answer the request, or queues it behind those before it."""
        if self._task is None and not self._requests and self._stalled_since is None:
            self._begin(request, keeps_alive)
            return
        self.queue(request, keeps_alive)

    @property
    def is_busy(self) -> bool:
        """Implements RequestReader."""
        return self._task is not None or bool(self._requests)

    # ResponseWriter

    def answer(self, status: int, headers: bytes, body: bytes) -> None:
        """Implements ResponseWriter."""
        if status == 401:  # no row in the ledger counts it
            self._head_check.refusals[Unauthorized.code] += 1
        if self._transport is not None:
            last = self._server.date_line if self._keeps_alive else CLOSE
            # A lone request is written at once; under load, writes of one turn are joined.
            write = self.write if len(self._server.tasks) > 1 else self.write_now
            data = whole_answer(status, headers, last, body)
            write(data.removesuffix(body) if self._is_head else data)
        self._answered()

    def begin(self, status: int, headers: bytes) -> None:
        """Implements ResponseWriter. An HTTP/1.0 caller gets no chunks: its stream ends with the connection."""
        self.has_begun = True
        framing = b"transfer-encoding: chunked\r\n" if self._is_chunked else b""
        last = self._server.date_line if self._keeps_alive else CLOSE
        self.write(b"%b%b%b%b\r\n" % (status_line(status), headers, last, framing))

    def send(self, data: bytes) -> None:
        """Implements ResponseWriter."""
        self.write_now(b"%x\r\n%b\r\n" % (len(data), data) if self._is_chunked else data)

    def end(self) -> None:
        """Implements ResponseWriter."""
        if self._is_chunked and not self._is_head:
            self.write(b"0\r\n\r\n")
        self._answered()

    def set_source(self, flow: FlowControl) -> None:
        """Implements ResponseWriter."""
        self._flow = flow
        if self._stalled_since is not None:
            flow.pause()

    def abort(self) -> None:
        """Implements ResponseWriter."""
        self._task = None
        if self._transport is not None:
            self._transport.abort()

    # Timeouts, stopping, and one request after the other

    def check(self, now: float) -> None:
        """Ends the connection if it has waited too long. The server calls this twice a second."""
        limits = self._limits
        if self._stalled_since is not None:
            since, longest = self._stalled_since, limits.stalled_write_seconds
        elif self._task is not None or self._requests:  # the gateway is at work, under its own deadlines
            return
        elif self._transport is not None and self._transport.is_closing():  # the rest of the last answer is sent
            since, longest = self._idle_since, limits.stalled_write_seconds
        elif self._is_discarding:
            since, longest = self._last_data, DISCARD_SECONDS
        elif self.is_receiving:
            longest = limits.body_seconds if self._has_head else limits.head_seconds
            if now - self._began > longest or now - self._last_data > limits.body_idle_seconds:
                self.refuse(RequestTimeout("The request did not arrive in time."))
            return
        else:
            since, longest = self._idle_since, limits.head_seconds if self._is_new else limits.keep_alive_seconds
        if now - since > longest:
            self.disconnect()

    def close_when_done(self) -> None:
        """Makes the current request the last, and closes an idle connection. For a server that is stopping."""
        self.end_reading()
        if not (self._task or self._requests or self.is_receiving) and self._transport is not None:
            self.flush()
            self._transport.close()

    def disconnect(self) -> None:
        """Ends the connection as if the caller had left; connection_lost then cancels the task."""
        if self._transport is not None:
            self._transport.abort()

    def _begin(self, request: Request, keeps_alive: bool) -> None:
        server = self._server
        self._is_chunked = request.http_version == "1.1"
        self._is_head = request.method == b"HEAD"
        self._keeps_alive = self._keeps_alive and keeps_alive and self._is_chunked and not server.is_stopping
        self._answered_bytes = len(request.body)
        caller = request.caller
        is_known = caller is None or caller.secret is None
        answer = server.handle(request, self) if is_known else self._identified(request)
        task = self._task = EagerTask(answer, self._loop, self._ended)
        server.tasks.add(task)
        task.begin()

    async def _identified(self, request: Request) -> None:
        """Looks the key of a whole request up, and answers it."""
        if request.caller is not None:
            try:
                await self._head_check.identify(request.caller)
            except ServiceError as error:
                self._answer_error(error)
                return
        await self._server.handle(request, self)

    def _answer_error(self, error: ServiceError) -> None:
        if error.status != 401:  # `answer` counts that
            self._head_check.refusals[error.code] += 1
        self.answer(error.status, error_headers(error), error_body(error, None))

    def _ended(self, task: EagerTask) -> None:
        """Answers 500 for a task that failed before its answer. The error's text is not shown: it may hold a secret."""
        self._server.tasks.discard(task)
        if self._transport is None:
            self.release()
        failure = None if task.cancelled() else task.exception()
        if failure is not None:
            _log.error("a request could not be answered: %s", source_location(failure))
        if self._task is not task:  # its answer is complete
            return
        if failure is None or self.has_begun:
            self.abort()
        else:
            error = ServiceError("The gateway failed on this request.")
            self.answer(error.status, error_headers(error), error_body(error, None))

    def _answered(self) -> None:
        """Frees the connection for the next request, while the task may still book what it has answered."""
        self._task = self._flow = None
        self.outlives_caller = self.has_begun = False
        self._answered_bytes = 0
        if self._transport is None:
            return
        if self._is_counted:
            self.count()
        if not self._keeps_alive:
            self._is_discarding = True  # or the rest of what has been read would be parsed and answered, too
            self.forget_unread()
            self.flush()
            self._idle_since = self._loop.time()
            self._transport.close()
        elif self._requests:
            self._loop.call_soon(self.begin_next)  # not from within this task: an EagerTask cannot begin in another
        else:
            self._idle_since = self._loop.time()

    def begin_next(self) -> None:
        """Implements BoundedReader. Nothing waits if the caller has left meanwhile."""
        if self._task is None and self._stalled_since is None and (waiting := self.unqueue()) is not None:
            self._begin(*waiting)
        self.pace_reading()

    def refuse(self, error: ServiceError) -> None:
        """Answers with an error of the connection itself, unless another answer is under way, and reads no further."""
        if self._is_discarding:
            return
        self._head_check.refusals[error.code] += 1
        self._is_discarding = True
        self.end_reading()
        is_busy = self.is_busy
        self.forget_unread()
        # The error must not be mixed into an answer, nor overtake one: the connection closes after the one before it.
        if is_busy or self._transport is None:
            return
        body = error_body(error, None)
        answer = whole_answer(error.status, error_headers(error), CLOSE, body)
        self.write(answer.removesuffix(body) if self._parser.get_method() == b"HEAD" else answer)
        # Closing while the caller still sends would reset the connection, and a reset may overtake the answer. Closes
        # only the sending side, then reads and drops for DISCARD_SECONDS.
        self.flush()
        self._transport.write_eof()
        if self._is_reading_paused:
            self._is_reading_paused = False
            self._transport.resume_reading()

    def end_reading(self) -> None:
        """Closes the connection after the current answer."""
        self._keeps_alive = False
