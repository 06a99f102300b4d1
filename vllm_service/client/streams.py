"""Streams: an answer as it comes, as texts or as deltas, and at its end the whole of it with tokens, cost and times.

`async for text in stream` gives the texts of an answer. `stream.deltas()` gives everything of it: texts, tool calls and
reasoning, of each choice by its index.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from types import AsyncGeneratorType, TracebackType
from typing import Protocol, Self, cast

from vllm_service.client.boundary import raises_ours
from vllm_service.client.connection import Connection
from vllm_service.client.deltas import Assembly, Delta, read_chunk
from vllm_service.client.event_stream import EventStream
from vllm_service.client.payload import CHAT, Payload, request_id
from vllm_service.client.per_loop import running_loop
from vllm_service.client.results import Answer
from vllm_service.client.retry import retrying
from vllm_service.client.settings import RetryPolicy
from vllm_service.domain.reported_usage import ReportedUsage
from vllm_service.domain.usage import Usage
from vllm_service.errors import ConfigurationError, InvalidRequest

#: The end of the chunks; None would be a JSON null.
END = object()


class Pieces(Protocol):
    """The deltas of an answer that has begun."""

    @property
    def usage(self) -> Usage | None:
        """Returns the tokens; None until the provider has sent them."""
        ...

    @property
    def request_id(self) -> str | None:
        """Returns the provider's id of the request."""
        ...

    async def next_delta(self) -> Delta | None:
        """Returns the next delta that holds something; None at the end. Raises ServiceError."""
        ...

    async def close(self) -> None:
        """Ends the request if the answer has not ended."""
        ...


@dataclass(frozen=True, slots=True)
class Begun:
    """An answer whose first content has come."""

    pieces: Pieces
    #: The first delta; None for an empty answer.
    first: Delta | None
    connection: Connection
    #: The request, by the provider's name of the model.
    ask: Payload
    #: How many requests were made for it.
    attempts: int
    route_reason: str | None = None
    #: The stream with the gateway's annotations, if the server may be a gateway.
    opened: OpenedStream | None = None


@raises_ours
class TextStream(AsyncIterator[str]):
    """Pieces of text. The request is made for the first piece; closing or dropping the stream cancels it.

    `deltas()` gives tool calls and reasoning as well, and must be used for several choices (`n`), whose texts would be
    mixed. Either is read to the end, not both. It must be read in the event loop in which it was begun, by one task at
    a time; else it raises ServiceError. An error of the call's arguments, too, comes with the first piece.

    Transient errors are retried until the first content has come, never after it. From then on a stream that ends
    early raises errors.StreamBroken.
    """

    def __init__(self, begin: Callable[[], Awaitable[Begun]], *, choices: object = 1) -> None:
        """choices: how many answers are requested, as the caller gave it."""
        self._begin = begin
        self._choices = choices
        self._answer: Answer | None = None
        self._deltas = cast("AsyncGeneratorType[Delta, None]", self._read())
        self._loop: asyncio.AbstractEventLoop | None = None

    @classmethod
    def failing(cls, error: Exception) -> Self:
        """Returns a stream that raises the error when it is read."""

        async def fail() -> Begun:
            raise error

        return cls(fail)

    @property
    def answer(self) -> Answer:
        """Returns the whole answer. Raises InvalidRequest before the end of the stream."""
        if self._answer is None:
            raise InvalidRequest("the stream has not been read to its end, so there is no answer yet")
        return self._answer

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        if self._choices != 1:
            raise InvalidRequest(
                "n: the texts of several choices would be mixed; read deltas(), each of which has its choice", param="n"
            )
        while True:
            delta = await self._next()
            if delta.text and delta.choice == 0:
                return delta.text

    async def deltas(self) -> AsyncGenerator[Delta]:
        """Yields every part of the answer: texts, tool calls, reasoning, the reason of the end, of each choice.

        Leaving it ends the request, as leaving the stream does.
        """
        try:
            while True:
                yield await self._next()
        except StopAsyncIteration:
            return
        except GeneratorExit:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        """Ends the request; the provider stops generating."""
        if self._loop is not None and self._loop.is_closed():  # the loop has closed its generators at its end
            return
        self._enter()
        await self._deltas.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _next(self) -> Delta:
        self._enter()
        return await anext(self._deltas)

    def _enter(self) -> None:
        loop = running_loop("TextStream")
        if self._deltas.ag_running:
            raise InvalidRequest("the stream is being read already: one task at a time can read it")
        if self._answer is None and self._loop is not None and self._loop is not loop:
            raise ConfigurationError(
                "the stream was begun in another event loop, or before a fork: read it to its end where it was begun, "
                "or use RunPodVLLMServiceSync, whose streams any thread can read"
            )
        self._loop = self._loop or loop

    async def _read(self) -> AsyncGenerator[Delta]:
        started = time.perf_counter()
        begun = await self._begin()
        delta = begun.first
        ttft_ms = (time.perf_counter() - started) * 1000 if delta is not None and delta.has_content else None
        assembly = Assembly(is_chat=begun.ask.route == CHAT)
        pieces = begun.pieces
        try:
            while delta is not None:
                assembly.add(delta)
                yield delta
                delta = await pieces.next_delta()
        finally:
            await pieces.close()
        self._answer = _answer_of(begun, assembly, (time.perf_counter() - started) * 1000, ttft_ms)


def _answer_of(begun: Begun, assembly: Assembly, latency_ms: float, ttft_ms: float | None) -> Answer:
    first, *others = assembly.choices()
    usage = begun.pieces.usage
    cost = begun.connection.cost_picousd(begun.ask.model, usage)
    answer = Answer(
        text=first.text,
        model=begun.ask.model,
        provider=begun.connection.provider,
        usage=usage,
        cost_picousd=cost,
        cost_is_estimate=cost is not None and usage is not None and usage.estimated,
        latency_ms=latency_ms,
        ttft_ms=ttft_ms,
        request_id=begun.pieces.request_id,
        finish_reason=first.finish_reason,
        attempts=begun.attempts,
        message=first.message,
        route_reason=begun.route_reason,
        others=tuple(others),
    )
    return answer if begun.opened is None else begun.opened.annotated(answer)


def stream_of(connection: Connection, ask: Payload, policy: RetryPolicy) -> TextStream:
    """Returns the stream of one endpoint, which is retried by the policy until it has begun."""

    async def attempt(number: int) -> Begun:
        pieces, first = await begin(connection, ask)
        return Begun(pieces, first, connection, ask, number, opened=pieces)

    return TextStream(lambda: retrying(attempt, policy), choices=ask.choices)


async def begin(
    connection: Connection, ask: Payload, on_data: Callable[[], None] | None = None
) -> tuple[OpenedStream, Delta | None]:
    """Makes one request, and returns its stream with the first delta; None: the answer is empty. Raises ServiceError.

    on_data: is called whenever something has come, also a comment.
    """
    opened = OpenedStream(connection, await connection.open_stream(ask), ask)
    opened.on_data(on_data)
    try:
        return opened, await opened.next_delta()
    except BaseException:
        await opened.close()
        raise


class OpenedStream:
    """The deltas of one response's chunks, and the usage of the others."""

    def __init__(self, connection: Connection, stream: EventStream, ask: Payload) -> None:
        self._ask = ask
        self._reported: ReportedUsage | None = None
        #: How many deltas with content have come: providers send about one token with each.
        self._deltas = 0
        self.request_id = request_id(stream.response.headers)
        self._connection = connection
        self._stream = stream
        #: What has come of the last chunk and is not handed out.
        self._waiting: deque[Delta] = deque()
        self._begun = False

    async def next_delta(self) -> Delta | None:
        """Returns the next delta that holds something; None at the end.

        Raises ServiceError; StreamBroken once content has come.
        """
        with self._connection.raising_ours(begun=self._begun):
            while not self._waiting:
                if (document := await anext(self._stream, END)) is END:
                    return None
                chunk = read_chunk(document)
                if chunk.usage is not None:
                    self._reported = chunk.usage.after(self._reported)
                self._waiting.extend(delta for delta in chunk.deltas if delta.has_content or delta.finish_reason)
        delta = self._waiting.popleft()
        self._begun = self._begun or delta.has_content
        self._deltas += delta.has_content
        return delta

    @property
    def usage(self) -> Usage | None:
        """Returns the tokens by what has come; None until the provider has reported some."""
        return self._ask.counted(self._reported, lambda: self._deltas)

    def on_data(self, call: Callable[[], None] | None) -> None:
        """Calls the function whenever something comes from now on, also a comment."""
        self._stream.on_data = call

    def annotated(self, answer: Answer) -> Answer:
        """Returns the answer with the gateway's annotation from the stream's last events."""
        return self._connection.annotated(answer, self._stream.annotated)

    async def close(self) -> None:
        """Returns the connection to the pool, or closes it if the answer has not ended."""
        await self._stream.close()
