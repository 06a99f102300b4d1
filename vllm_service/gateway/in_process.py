"""The way in without a socket: the requests that come from within this process, and the writers of their answers.

`Gateway.complete` and `Gateway.stream` use it. Keys, limits, routing, ledger and cache hold as for a request from
outside; an error is raised instead of being written.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from vllm_service.domain.requests import Outcome
from vllm_service.domain.usage import Usage
from vllm_service.gateway.context import RequestContext
from vllm_service.http.messages import FlowControl, Request

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
    """Returns the outcome of a request that has ended. Raises its error, if it had one."""
    if context.error is not None:
        raise context.error
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


def request_of(body: Mapping[str, Any], headers: Mapping[str, str], *, stream: bool) -> Request:
    """Returns a request as if it had been received. headers: routing headers, a deadline, an id.

    It has no address, so no limit by address counts it. The argument `stream` overrides the body's member.
    """
    named = {name.lower().encode("latin-1"): value.encode("latin-1") for name, value in headers.items()}
    members = {**body, "stream": True} if stream else {name: value for name, value in body.items() if name != "stream"}
    return Request(b"POST", b"", list(named.items()), named, json.dumps(members, ensure_ascii=False).encode())


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


class EventStream:
    """The events of a streamed answer, as pieces of bytes that hold whole events.

    The request begins with the first `anext` or with `async with`; the latter also ends it. Raises ServiceError: before
    the first piece if no provider answers, after the last one if the stream broke. `completion` is there at the end.
    """

    def __init__(self, context: Callable[[EventStream], RequestContext], begin: Begin) -> None:
        self.outlives_caller = False
        self.has_begun = False
        self.has_left = False
        self._context = context(self)
        self._begin = begin
        self._task: asyncio.Task[None] | None = None
        self._pieces: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._flow: FlowControl | None = None
        self._is_paused = False
        self._changed = asyncio.Event()

    @property
    def completion(self) -> Completion:
        """The outcome. Raises the stream's error if it had one, and RuntimeError before the stream's end."""
        if self._task is None or not self._task.done() or self._pieces:
            raise RuntimeError("the stream has not been read to its end: iterate over it before using `completion`")
        return completion_of(self._context)

    # The reader's side

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        task = self._begun()
        while not self._pieces:
            if task.done():
                completion_of(self._context)  # raises the stream's error
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        piece = self._pieces.popleft()
        self._waiting_bytes -= len(piece)
        if self._is_paused and self._waiting_bytes * 2 <= MOST_WAITING_BYTES:
            self._resume()
        return piece

    async def aclose(self) -> None:
        """Leaves the stream as a caller from outside would: the request is cancelled, or drained, and recorded."""
        self.has_left = True
        self._pieces.clear()
        task = self._task
        if task is None or task.done():
            return
        if self.outlives_caller:
            self._resume()
        elif task.cancel():
            await asyncio.wait([task])

    async def __aenter__(self) -> Self:
        self._begun()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def _begun(self) -> asyncio.Task[None]:
        if self._task is None:
            if self.has_left:
                raise RuntimeError("the stream has been closed and cannot be read; make a new one")
            self._task = self._begin(self._context)
            # A request can end without a last piece: a waiting reader is woken for that, too.
            self._task.add_done_callback(lambda _: self._changed.set())
        return self._task

    # The ResponseWriter

    def answer(self, status: int, headers: bytes, body: bytes) -> None:
        """Passes on an answer that came in one piece; an error is raised to the reader instead."""
        if self._context.error is None:
            self.send(body)

    def begin(self, status: int, headers: bytes) -> None:
        """Notes that the stream has begun."""
        self.has_begun = True

    def send(self, data: bytes) -> None:
        """Keeps a piece until it is read. The error event of a broken stream is dropped: the reader gets the error."""
        if self.has_left or self._context.error is not None:
            return
        self._pieces.append(data)
        self._waiting_bytes += len(data)
        if self._waiting_bytes > MOST_WAITING_BYTES and self._flow is not None and not self._is_paused:
            self._is_paused = True
            self._flow.pause()
        self._changed.set()

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
