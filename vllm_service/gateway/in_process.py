"""The way in without a socket: where the answer of a request goes that comes from within this process.

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

# A reader that is this far behind pauses the provider's connection; it goes on when half of it is read.
MOST_WAITING_BYTES = 256 * 1024
#: Begins to answer a request; the task ends when the request is settled and recorded.
Begin = Callable[[RequestContext], "asyncio.Task[None]"]


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole answer, and what became of the request. What is not known is None."""

    request_id: str
    #: The answer's JSON as a caller from outside would get it; of a stream, what was read of it is not here.
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
        """The answer, read."""
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
    """Returns the request as if it had been received. headers: routing headers, a deadline, an id.

    It has no address, so no limit of addresses counts it.
    """
    named = {name.lower().encode("latin-1"): value.encode("latin-1") for name, value in headers.items()}
    sent = {**body, "stream": True} if stream else {name: value for name, value in body.items() if name != "stream"}
    return Request(b"POST", b"", list(named.items()), named, json.dumps(sent, ensure_ascii=False).encode())


class WholeAnswer:
    """A ResponseWriter that keeps an answer."""

    def __init__(self) -> None:
        self.body = b""
        self.stays = False
        self.has_begun = False
        self.has_left = False

    def answer(self, status: int, headers: bytes, body: bytes) -> None:
        """Keeps the body; an error has its own way."""
        self.body = body

    def begin(self, status: int, headers: bytes) -> None:
        """Begins a stream, where a provider sent one although none was asked for."""
        self.has_begun = True

    def send(self, data: bytes) -> None:
        """Keeps a piece of such a stream."""
        self.body += data

    def end(self) -> None:
        """Does nothing: the end is when the request is recorded."""

    def fed_by(self, flow: FlowControl) -> None:
        """Does nothing: what is kept is bounded by the provider's answer."""

    def abort(self) -> None:
        """Does nothing: the request's outcome says what happened."""


async def finished(task: asyncio.Task[None], writer: WholeAnswer) -> None:
    """Waits until the request is recorded. When this is cancelled, the request is, as if its caller had left.

    An answer that is to be read to its end (`on_disconnect: drain`) goes on without a reader.
    """
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        writer.has_left = True
        if not writer.stays and task.cancel():
            await asyncio.wait([task])
        raise


class EventStream:
    """The events of a streamed answer, as bytes; the pieces hold whole events.

    Begins with the first `anext`, or with `async with`, which also ends it. Raises ServiceError: before the first piece
    when no provider answers, after the last one when the stream broke. `completion` is there when all has been read.
    """

    def __init__(self, context: Callable[[EventStream], RequestContext], begin: Begin) -> None:
        self.stays = False
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
        """The outcome. Raises the stream's error, and RuntimeError before the end."""
        if self._task is None or not self._task.done() or self._pieces:
            raise RuntimeError("the stream has not been read to its end")
        return completion_of(self._context)

    # The reader's side

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        task = self._begun()
        while not self._pieces:
            if task.done():
                completion_of(self._context)
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
        if self.stays:
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
                raise RuntimeError("the stream has been closed")
            self._task = self._begin(self._context)
            self._task.add_done_callback(lambda _: self._changed.set())
        return self._task

    # The ResponseWriter

    def answer(self, status: int, headers: bytes, body: bytes) -> None:
        """Passes on an answer that came in one piece; an error has its own way."""
        if self._context.error is None:
            self.send(body)

    def begin(self, status: int, headers: bytes) -> None:
        """Notes that the stream has begun."""
        self.has_begun = True

    def send(self, data: bytes) -> None:
        """Keeps a piece until it is read. The event that says that the stream broke is raised instead."""
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

    def fed_by(self, flow: FlowControl) -> None:
        """Notes what is paused while the reader is behind."""
        self._flow = flow

    def abort(self) -> None:
        """Does nothing: the request's outcome says what happened."""

    def _resume(self) -> None:
        if self._is_paused and self._flow is not None:
            self._is_paused = False
            self._flow.resume()
