"""Streams: the text of an answer as it comes, and the whole answer with its tokens, cost and times at the end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from types import AsyncGeneratorType, TracebackType
from typing import Protocol, Self, cast

from vllm_service.client.connection import Connection, EventStream
from vllm_service.client.errors import Unreachable
from vllm_service.client.payload import Payload, read_piece, request_id
from vllm_service.client.per_loop import running_loop
from vllm_service.client.results import Answer
from vllm_service.client.retry import retrying
from vllm_service.client.settings import RetryPolicy
from vllm_service.domain.usage import Usage
from vllm_service.errors import ConfigurationError, InvalidRequest, UpstreamFailed

#: The end of the chunks; None would be a JSON null.
END = object()


class Pieces(Protocol):
    """The texts of an answer that has begun."""

    @property
    def finish_reason(self) -> str | None:
        """Returns why the answer ended; None before its end."""
        ...

    @property
    def usage(self) -> Usage | None:
        """Returns the tokens; None until the provider has sent them."""
        ...

    @property
    def request_id(self) -> str | None:
        """Returns the provider's id of the request."""
        ...

    async def next_text(self) -> str | None:
        """Returns the next text that is not empty; None at the end. Raises ServiceError."""
        ...

    async def close(self) -> None:
        """Ends the request if the answer has not ended."""
        ...


@dataclass(frozen=True, slots=True)
class Begun:
    """An answer whose first text has come."""

    pieces: Pieces
    #: The first text; None for an empty answer.
    first: str | None
    connection: Connection
    model: str
    #: How many requests were made for it.
    attempts: int
    route_reason: str | None = None
    #: The stream with the gateway's annotations, if the server may be a gateway.
    opened: OpenedStream | None = None


class TextStream(AsyncIterator[str]):
    """Pieces of text. The request is made for the first piece; closing or dropping the stream cancels it.

    It must be read in the event loop in which it was begun, by one task at a time; else it raises ServiceError.

    Transient errors are retried until the first piece of text has come, never after it. From then on a stream that ends
    early raises errors.StreamBroken.
    """

    def __init__(self, begin: Callable[[], Awaitable[Begun]]) -> None:
        self._begin = begin
        self._answer: Answer | None = None
        self._texts = cast("AsyncGeneratorType[str, None]", self._read())
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def answer(self) -> Answer:
        """Returns the whole answer. Raises InvalidRequest before the end of the stream."""
        if self._answer is None:
            raise InvalidRequest("the stream has not been read to its end, so there is no answer yet")
        return self._answer

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        self._enter()
        return await anext(self._texts)

    async def aclose(self) -> None:
        """Ends the request; the provider stops generating."""
        if self._loop is not None and self._loop.is_closed():  # the loop has closed its generators at its end
            return
        self._enter()
        await self._texts.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def _enter(self) -> None:
        loop = running_loop("TextStream")
        if self._texts.ag_running:
            raise InvalidRequest("the stream is being read already: one task at a time can read it")
        if self._answer is None and self._loop is not None and self._loop is not loop:
            raise ConfigurationError(
                "the stream was begun in another event loop, or before a fork: read it to its end where it was begun, "
                "or use RunPodVLLMServiceSync, whose streams any thread can read"
            )
        self._loop = self._loop or loop

    async def _read(self) -> AsyncGenerator[str]:
        started = time.perf_counter()
        begun = await self._begin()
        ttft_ms = None if begun.first is None else (time.perf_counter() - started) * 1000
        texts: list[str] = []
        pieces = begun.pieces
        try:
            text = begun.first
            while text is not None:
                texts.append(text)
                yield text
                text = await pieces.next_text()
        finally:
            await pieces.close()
        answer = Answer(
            text="".join(texts),
            model=begun.model,
            provider=begun.connection.provider,
            usage=pieces.usage,
            cost_picousd=begun.connection.cost_picousd(begun.model, pieces.usage),
            latency_ms=(time.perf_counter() - started) * 1000,
            ttft_ms=ttft_ms,
            request_id=pieces.request_id,
            finish_reason=pieces.finish_reason,
            attempts=begun.attempts,
            route_reason=begun.route_reason,
        )
        self._answer = answer if begun.opened is None else begun.opened.annotated(answer)


def stream_of(connection: Connection, ask: Payload, policy: RetryPolicy) -> TextStream:
    """Returns the stream of one endpoint, which is retried by the policy until it has begun."""

    async def attempt(number: int) -> Begun:
        pieces, first = await begin(connection, ask)
        return Begun(pieces, first, connection, ask.model, number, opened=pieces)

    return TextStream(lambda: retrying(attempt, policy))


async def begin(connection: Connection, ask: Payload) -> tuple[OpenedStream, str | None]:
    """Makes one request, and returns its stream with the first text; None: the answer is empty. Raises ServiceError."""
    opened = OpenedStream(connection, await connection.open_stream(ask))
    try:
        return opened, await opened.next_text()
    except BaseException:
        await opened.close()
        raise


class OpenedStream:
    """The texts of one response's chunks, with the finish reason and usage of the others."""

    def __init__(self, connection: Connection, stream: EventStream) -> None:
        self.finish_reason: str | None = None
        self.usage: Usage | None = None
        self.request_id = request_id(stream.response.headers)
        self._connection = connection
        self._stream = stream
        self._begun = False

    async def next_text(self) -> str | None:
        """Returns the next text that is not empty; None at the end. Raises ServiceError, StreamBroken after text."""
        with self._connection.raising_ours(begun=self._begun):
            while (chunk := await self._next_chunk()) is not END:
                piece = read_piece(chunk)
                self.finish_reason = piece.finish_reason or self.finish_reason
                self.usage = piece.usage or self.usage
                if piece.text:
                    self._begun = True
                    return piece.text
            # A connection may close cleanly in the middle of an answer.
            if self.finish_reason is None:
                raise Unreachable("the stream ended before the answer did")
        return None

    def annotated(self, answer: Answer) -> Answer:
        """Returns the answer with the gateway's annotation from the stream's last events."""
        return self._connection.annotated(answer, self._stream.annotated)

    async def close(self) -> None:
        """Returns the connection to the pool, or closes it if the answer has not ended."""
        await self._stream.close()

    async def _next_chunk(self) -> object:
        try:
            return await anext(self._stream, END)
        except ValueError:
            raise UpstreamFailed("a chunk of the stream is not JSON") from None
