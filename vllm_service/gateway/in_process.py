"""The way in without a socket: the requests that come from within this process, and the writers of their answers.

`Gateway.complete` and `Gateway.stream` use it. Keys, limits, routing, ledger and cache hold as for a request from
outside; an error is raised instead of being written.
"""

from __future__ import annotations

import asyncio
import json
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from vllm_service.domain.requests import Outcome
from vllm_service.domain.usage import Usage
from vllm_service.errors import BodyTooLarge, InvalidRequest, ServiceError
from vllm_service.gateway.context import RequestContext
from vllm_service.http.messages import FlowControl, Request, ResponseWriter

#: The provider's connection is paused while its reader is so far behind; it goes on when half of this has been read.
MOST_WAITING_BYTES = 256 * 1024
#: Begins to answer a request; the task ends when the request is settled and recorded.
Begin = Callable[[RequestContext], "asyncio.Task[None]"]


@dataclass(frozen=True, slots=True)
class Completion:
    """The outcome of a request, with its answer if that was not streamed. What is not known is None."""

    request_id: str
    #: The answer's JSON as a caller from outside would get it; empty for a stream.
    body: bytes
    provider: str | None
    upstream_model: str | None
    usage: Usage | None
    cost_picousd: int | None
    baseline_picousd: int | None
    is_estimate: bool
    is_cached: bool
    attempts: int
    route_reason: str | None

    @property
    def document(self) -> Any:
        """The answer, parsed."""
        return json.loads(self.body)


def completion_of(context: RequestContext, body: bytes = b"") -> Completion:
    """Returns the outcome of a request that has ended. Raises its error if it had one, or was cancelled."""
    if context.error is not None:
        raise context.error
    if context.outcome is Outcome.CANCELLED:
        raise ServiceError(f"Request {context.request_id} was cancelled before its end.")
    step = context.step
    return Completion(
        request_id=context.request_id,
        body=body,
        provider=step.provider if step else None,
        upstream_model=step.model if step else None,
        usage=context.usage,
        cost_picousd=context.cost_picousd,
        baseline_picousd=context.baseline_picousd,
        is_estimate=context.is_estimate,
        is_cached=context.outcome is Outcome.CACHED,
        attempts=context.attempts,
        route_reason=context.reason,
    )


def request_of(body: Mapping[str, Any], headers: Mapping[str, str], *, stream: bool, most_bytes: int) -> Request:
    """Returns a request as if it had been received. headers: routing headers, a deadline, an id.

    It has no address, so no limit by address counts it. The argument `stream` overrides the body's member. Raises
    InvalidRequest, and BodyTooLarge beyond `most_bytes`.
    """
    try:
        named = {name.lower().encode("latin-1"): value.encode("latin-1") for name, value in headers.items()}
    except (AttributeError, UnicodeEncodeError):
        raise InvalidRequest("headers: names and values are Latin-1 texts.", param="headers") from None
    try:
        members = {**body, "stream": stream}
        if not stream:
            del members["stream"]
        encoded = json.dumps(members, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequest(f"body: cannot be written as JSON ({type(error).__name__}).", param="body") from None
    if len(encoded) > most_bytes:
        raise BodyTooLarge(f"The body is larger than MAX_BODY_BYTES, {most_bytes} bytes.")
    return Request(b"POST", b"", list(named.items()), named, encoded)


class WholeAnswer:
    """A ResponseWriter that keeps the whole answer."""

    def __init__(self) -> None:
        self.body = b""
        self.outlives_caller = False
        self.has_begun = False
        self.has_left = False

    def answer(self, status: int, headers: bytes, body: bytes) -> None:
        """Keeps the body; `completion_of` raises an error instead."""
        self.body = body

    def begin(self, status: int, headers: bytes) -> None:
        """Notes that a provider streams although the request was not for a stream."""
        self.has_begun = True

    def send(self, data: bytes) -> None:
        """Keeps a piece of such a stream."""
        self.body += data

    def end(self) -> None:
        """Does nothing: the end is when the request is recorded."""

    def set_source(self, flow: FlowControl) -> None:
        """Does nothing: the answer is kept as a whole, and the upstream connection bounds its length."""

    def abort(self) -> None:
        """Does nothing: the request's outcome holds what happened."""


async def finished(task: asyncio.Task[None], writer: WholeAnswer) -> None:
    """Waits until the request is recorded. Cancelling this cancels the request, as if its caller had left.

    An answer that is to be read to its end (`on_disconnect: drain`) goes on without a reader.
    """
    try:
        # The shield leaves the decision to this function: a plain await would cancel a draining answer as well.
        await asyncio.shield(task)
    except asyncio.CancelledError:
        writer.has_left = True
        if not writer.outlives_caller and task.cancel():
            await asyncio.wait([task])  # until the row is written
        raise


class _Pieces:
    """A ResponseWriter that keeps the pieces of a stream until they are read."""

    def __init__(self) -> None:
        self.outlives_caller = False
        self.has_begun = False
        self.has_left = False
        self.context: RequestContext
        self.task: asyncio.Task[None]
        self.waiting: deque[bytes] = deque()
        self.waiting_bytes = 0
        self.changed = asyncio.Event()
        self._flow: FlowControl | None = None
        self._is_paused = False

    def take(self) -> bytes:
        """Returns the next piece; lets the provider go on when half of what may wait has been read."""
        piece = self.waiting.popleft()
        self.waiting_bytes -= len(piece)
        if self.waiting_bytes * 2 <= MOST_WAITING_BYTES:
            self._resume()
        return piece

    def leave(self) -> bool:
        """Leaves as a caller from outside would. Returns whether the request is being cancelled, and not drained."""
        self.has_left = True
        self.waiting.clear()
        self.changed.set()
        if self.outlives_caller:
            self._resume()
            return False
        return self.task.cancel()

    def answer(self, status: int, headers: bytes, body: bytes) -> None:
        """Passes on an answer that came in one piece; an error is raised to the reader instead."""
        if self.context.error is None:
            self.send(body)

    def begin(self, status: int, headers: bytes) -> None:
        """Notes that the stream has begun."""
        self.has_begun = True

    def send(self, data: bytes) -> None:
        """Keeps a piece until it is read. The error event of a broken stream is dropped: the reader gets the error."""
        if self.has_left or self.context.error is not None:
            return
        self.waiting.append(data)
        self.waiting_bytes += len(data)
        if self.waiting_bytes > MOST_WAITING_BYTES and self._flow is not None and not self._is_paused:
            self._is_paused = True
            self._flow.pause()
        self.changed.set()

    def end(self) -> None:
        """Does nothing: the reader sees the end when the request is recorded."""

    def set_source(self, flow: FlowControl) -> None:
        """Takes the connection that is paused while the reader is behind."""
        self._flow = flow

    def abort(self) -> None:
        """Does nothing: the request's outcome holds what happened."""

    def _resume(self) -> None:
        if self._is_paused and self._flow is not None:
            self._is_paused = False
            self._flow.resume()


class EventStream:
    """The events of a streamed answer, as pieces of bytes that hold whole events. It has one reader.

    The request begins with the first `anext` or with `async with`; the latter also ends it, and so does the loss of the
    last reference. Raises ServiceError: before the first piece if no provider answers, after the last one if the stream
    broke. `completion` is there at the end.
    """

    def __init__(self, context: Callable[[ResponseWriter], RequestContext], begin: Begin) -> None:
        self._pieces = _Pieces()
        self._pieces.context = context(self._pieces)
        self._begin: Begin | None = begin
        self._is_being_read = False

    @property
    def completion(self) -> Completion:
        """The outcome. Raises the stream's error if it had one, and RuntimeError before the stream's end."""
        if self._begin is not None or not self._pieces.task.done() or self._pieces.waiting:
            raise RuntimeError("the stream has not been read to its end: iterate over it before using `completion`")
        return completion_of(self._pieces.context)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        pieces = self._begun()
        if self._is_being_read:
            raise RuntimeError("the stream is being read already: it has one reader")
        self._is_being_read = True
        try:
            while not pieces.waiting:
                if pieces.has_left:
                    raise RuntimeError("the stream has been closed and cannot be read; make a new one")
                if pieces.task.done():
                    completion_of(pieces.context)  # raises the stream's error
                    raise StopAsyncIteration
                pieces.changed.clear()
                await pieces.changed.wait()
        finally:
            self._is_being_read = False
        return pieces.take()

    async def aclose(self) -> None:
        """Leaves the stream as a caller from outside would: the request is cancelled, or drained, and recorded."""
        pieces = self._pieces
        pieces.has_left = True
        if self._begin is not None or pieces.task.done():
            return
        await asyncio.sleep(0)  # a task that has not had its first step would leave no row
        if pieces.leave():
            await asyncio.wait([pieces.task])

    async def __aenter__(self) -> Self:
        self._begun()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def _begun(self) -> _Pieces:
        pieces = self._pieces
        if self._begin is not None:
            if pieces.has_left:
                raise RuntimeError("the stream has been closed and cannot be read; make a new one")
            pieces.task = self._begin(pieces.context)
            # A request can end without a last piece: a waiting reader is woken for that, too.
            pieces.task.add_done_callback(lambda _: pieces.changed.set())
            weakref.finalize(self, _leave_in, asyncio.get_running_loop(), pieces).atexit = False
            self._begin = None
        return pieces


def _leave_in(loop: asyncio.AbstractEventLoop, pieces: _Pieces) -> None:
    """Leaves a stream that is no longer referred to; in its loop, whichever thread collects it."""
    if not loop.is_closed() and not pieces.task.done():
        loop.call_soon_threadsafe(pieces.leave)
