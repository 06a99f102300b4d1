"""A caller's connection: HTTP/1.1 requests in, one answered after the other, keep-alive, pipelining, limits."""

from __future__ import annotations

import asyncio
import logging
import socket
from asyncio.tasks import _enter_task, _leave_task
from asyncio.trsock import TransportSocket
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from typing import Any, Protocol, cast

from vllm_service.errors import RequestTimeout, ServiceError
from vllm_service.http.error_answers import error_body, error_headers
from vllm_service.http.limits import ConnectionLimits
from vllm_service.http.messages import STATUS_LINES, FlowControl, Request, ResponseWriter
from vllm_service.http.request_reader import RequestReader
from vllm_service.http.write_buffer import WriteBuffer
from vllm_service.logs import source_location


class EagerTask(asyncio.Future[None]):
    """Runs a coroutine, up to its first wait within `begin`, as asyncio's own tasks can from Python 3.12 on.

    Within the coroutine it is the current task, by the rules of "Extending asyncio" in Python's documentation, so that
    asyncio.timeout works. It takes half of what a Task takes. Not to be begun within another task.
    ended: called when the coroutine has come to its end.
    """

    def __init__(
        self,
        coroutine: Coroutine[Any, Any, None],
        loop: asyncio.AbstractEventLoop,
        ended: Callable[[EagerTask], None],
    ) -> None:
        super().__init__(loop=loop)
        self._own_loop = loop
        self._coroutine = coroutine
        self._ended = ended
        self._context = copy_context()
        self._awaited: asyncio.Future[Any] | None = None
        self._is_to_cancel = False
        self._cancellations = 0

    def begin(self) -> None:
        """To the first wait."""
        self._context.run(self._step)

    def cancel(self, msg: object = None) -> bool:
        """Throws CancelledError into the coroutine where it waits. msg: not used, as in asyncio since Python 3.11."""
        if self.done():
            return False
        self._cancellations += 1
        if self._awaited is None or not self._awaited.cancel():
            self._is_to_cancel = True
        return True

    def cancelling(self) -> int:
        """How often it was asked to end."""
        return self._cancellations

    def uncancel(self) -> int:
        """One who asked has seen to it (asyncio.timeout)."""
        self._cancellations = max(0, self._cancellations - 1)
        return self._cancellations

    def _step(self, _: asyncio.Future[Any] | None = None) -> None:
        """To the next wait. A future that was awaited gives its result or error itself when the coroutine goes on."""
        self._awaited = None
        loop = self._own_loop
        _enter_task(loop, self)  # type: ignore[arg-type]
        try:
            if self._is_to_cancel:
                self._is_to_cancel = False
                awaited = self._coroutine.throw(asyncio.CancelledError())
            else:
                awaited = self._coroutine.send(None)
            if awaited is None:  # asyncio.sleep(0)
                loop.call_soon(self._step, context=self._context)
                return
            awaited._asyncio_future_blocking = False  # what a task says to a future that it awaits
            self._awaited = awaited
            awaited.add_done_callback(self._step, context=self._context)
            if self._is_to_cancel and awaited.cancel():
                self._is_to_cancel = False
        except StopIteration:
            self.set_result(None)
            self._ended(self)
        except asyncio.CancelledError:
            super().cancel()
            self._ended(self)
        except BaseException as error:
            self.set_exception(error)
            self._ended(self)
            if not isinstance(error, Exception):
                raise
        finally:
            _leave_task(loop, self)  # type: ignore[arg-type]


DISCARD_SECONDS = 2.0  # what still comes after a refusal is read for so long
CLOSE = b"connection: close\r\n"
_log = logging.getLogger(__name__)
Handler = Callable[[Request, ResponseWriter], Coroutine[Any, Any, None]]


class Server(Protocol):
    """The part of a server that its connections share."""

    limits: ConnectionLimits
    loop: asyncio.AbstractEventLoop
    outbox: WriteBuffer
    #: The `date` header line, renewed twice a second.
    date_line: bytes
    is_stopping: bool
    handle: Handler
    #: Requests that are being answered, of all connections.
    tasks: set[EagerTask]

    def opened(self, connection: ServerConnection) -> None:
        """Counts a new connection."""
        ...

    def lost(self, connection: ServerConnection) -> None:
        """Forgets a connection."""
        ...


def status_line(status: int) -> bytes:
    """Returns the first line of an HTTP answer."""
    return STATUS_LINES.get(status) or b"HTTP/1.1 %d -\r\n" % status


def whole_answer(status: int, headers: bytes, last: bytes, body: bytes) -> bytes:
    """Returns an HTTP answer with its length. headers, last: lines, each ended by CRLF."""
    first = STATUS_LINES.get(status) or status_line(status)
    return b"%b%b%bcontent-length: %d\r\n\r\n%b" % (first, headers, last, len(body), body)


class ServerConnection(RequestReader):
    """Also the Caller (incoming.py) of the request that is being answered; there is one at a time."""

    def __init__(self, server: Server) -> None:
        super().__init__(server.limits, server.loop, server.outbox)
        self._server = server
        self._requests: deque[tuple[Request, bool]] = deque()
        self._task: EagerTask | None = None
        self._keeps_alive = True
        self._is_chunked = False
        self._is_reading_paused = False
        self._stalled_since: float | None = None
        self.stays = self.has_begun = self.has_left = False
        self._flow: FlowControl | None = None

    # asyncio.Protocol: what the caller sends

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """uvloop's transport is no subclass of asyncio's.

        TCP_NODELAY is set here: asyncio does not where the listening socket was made without naming the protocol, and
        then the second piece of each stream waits 40 ms.
        """
        self._transport = cast("asyncio.Transport", transport)
        if isinstance(own := transport.get_extra_info("socket"), socket.socket | TransportSocket):
            own.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer = transport.get_extra_info("peername")
        self._peer = peer[0] if isinstance(peer, tuple) else ""
        self._server.opened(self)

    def connection_lost(self, error: Exception | None) -> None:
        """The caller has left; whoever answers is stopped, unless it stays to the end."""
        self._transport = None
        self.has_left = True
        self._unsent.clear()
        self._requests.clear()
        self._server.lost(self)
        if self._task is not None and not self.stays:
            self._task.cancel()
        if self.stays and self._flow is not None and self._stalled_since is not None:
            self._flow.resume()

    def pause_writing(self) -> None:
        """The caller reads slower than the provider writes."""
        self._stalled_since = self._loop.time()
        if self._flow is not None:
            self._flow.pause()

    def resume_writing(self) -> None:
        """The caller has caught up."""
        self._stalled_since = None
        if self._flow is not None:
            self._flow.resume()

    def received(self, request: Request, keeps_alive: bool) -> None:
        """The request is there: it is answered now, or after those before it."""
        if self._task is None and not self._requests:
            self._begin(request, keeps_alive)
            return
        self._requests.append((request, keeps_alive))
        if len(self._requests) >= self._limits.pipelined and not self._is_reading_paused and self._transport:
            self._is_reading_paused = True
            self._transport.pause_reading()

    # The Caller that is answered

    def answer(self, status: int, headers: bytes, body: bytes) -> None:
        """See Caller."""
        if self._transport is not None:
            last = self._server.date_line if self._keeps_alive else CLOSE
            write = self.write if len(self._server.tasks) > 1 else self.write_now
            write(whole_answer(status, headers, last, body))
        self._answered()

    def begin(self, status: int, headers: bytes) -> None:
        """See Caller."""
        self.has_begun = True
        framing = b"transfer-encoding: chunked\r\n" if self._is_chunked else b""
        last = self._server.date_line if self._keeps_alive else CLOSE
        self.write(b"%b%b%b%b\r\n" % (status_line(status), headers, last, framing))

    def send(self, data: bytes) -> None:
        """See Caller."""
        self.write_now(b"%x\r\n%b\r\n" % (len(data), data) if self._is_chunked else data)

    def end(self) -> None:
        """See Caller."""
        if self._is_chunked:
            self.write(b"0\r\n\r\n")
        self._answered()

    def fed_by(self, flow: FlowControl) -> None:
        """See Caller."""
        self._flow = flow
        if self._stalled_since is not None:
            flow.pause()

    def abort(self) -> None:
        """See Caller."""
        self._task = None
        if self._transport is not None:
            self._transport.abort()

    # its life

    def check(self, now: float) -> None:
        """Called by the server twice a second: ends what has waited for too long."""
        limits = self._limits
        if self._stalled_since is not None:
            since, longest = self._stalled_since, limits.stalled_write_seconds
        elif self._is_discarding:
            since, longest = self._last_data, DISCARD_SECONDS
        elif self._task is not None or self._requests:
            return
        elif self._is_receiving:
            longest = limits.body_seconds if self._has_head else limits.head_seconds
            if now - self._began > longest or now - self._last_data > limits.body_idle_seconds:
                self.refuse(RequestTimeout("The request did not arrive in time."))
            return
        else:
            since, longest = self._last_data, limits.head_seconds if self._is_new else limits.keep_alive_seconds
        if now - since > longest:
            self.leave()

    def close_when_done(self) -> None:
        """The server is stopping: no further request on this connection."""
        self.reads_no_more()
        if not (self._task or self._requests or self._is_receiving) and self._transport is not None:
            self.flush()
            self._transport.close()

    def leave(self) -> None:
        """Ends the connection as if the caller had: whoever answers is told."""
        if self._transport is not None:
            self._transport.abort()

    def _begin(self, request: Request, keeps_alive: bool) -> None:
        server = self._server
        self._is_chunked = request.http_version == "1.1"
        self._keeps_alive = self._keeps_alive and keeps_alive and self._is_chunked and not server.is_stopping
        task = self._task = EagerTask(server.handle(request, self), self._loop, self._ended)
        server.tasks.add(task)
        task.begin()

    def _ended(self, task: EagerTask) -> None:
        """The task is over. What it did not answer by itself, the gateway has failed on; the caller learns no more."""
        self._server.tasks.discard(task)
        failure = None if task.cancelled() else task.exception()
        if failure is not None:
            _log.error("a request could not be answered: %s", source_location(failure))
        if self._task is not task:
            return
        if failure is None or self.has_begun:
            self.abort()
        else:
            error = ServiceError("The gateway failed on this request.")
            self.answer(error.status, error_headers(error), error_body(error, None))

    def _answered(self) -> None:
        """What the task still does, it does for itself; the caller's next request may begin."""
        self._task, self.stays, self.has_begun, self._flow = None, False, False, None
        if self._transport is None:
            return
        if not self._keeps_alive:
            self._requests.clear()
            self.flush()
            self._transport.close()
        elif self._requests:
            self._loop.call_soon(self._next)  # not within the task that is here
        else:
            self._last_data = self._loop.time()

    def _next(self) -> None:
        """Begins with the first request that waits, unless the caller has left meanwhile."""
        if self._requests and self._task is None:
            self._begin(*self._requests.popleft())
        if self._is_reading_paused and self._transport is not None:
            self._is_reading_paused = False
            self._transport.resume_reading()

    def refuse(self, error: ServiceError) -> None:
        """An error of the connection itself. An answer under way is not mixed with it."""
        if self._is_discarding:
            return
        self.reads_no_more()
        if self._task is not None or self._requests or self._transport is None:
            return
        self.write(whole_answer(error.status, error_headers(error), CLOSE, error_body(error, None)))
        # Ends our side and reads on for a moment: a reset could overtake the answer.
        self._is_discarding = True
        self.flush()
        self._transport.write_eof()

    def reads_no_more(self) -> None:
        """Nothing more is read from here."""
        self._keeps_alive = False
