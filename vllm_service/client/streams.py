"""An answer in pieces: text as it comes, and the answer with its tokens, cost and times once it has ended."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator
from types import TracebackType
from typing import Self

from openai import AsyncStream

from vllm_service.client.asks import Ask, read_piece
from vllm_service.client.connection import Connection
from vllm_service.client.errors import Unreachable, request_id
from vllm_service.client.results import Answer
from vllm_service.client.retry import retrying
from vllm_service.client.settings import RetryPolicy
from vllm_service.domain.usage import Usage
from vllm_service.errors import InvalidRequest, UpstreamFailed

END = object()


class TextStream(AsyncIterator[str]):
    """Pieces of text. The request is made when the first is asked for; closing or dropping it cancels the request.

    Transient errors are tried again until the first piece of text has come, never after it; then a stream that
    ends early raises errors.StreamBroken.
    """

    def __init__(self, connection: Connection, ask: Ask, policy: RetryPolicy) -> None:
        self._connection = connection
        self._ask = ask
        self._policy = policy
        self._answer: Answer | None = None
        self._pieces = self._read()

    @property
    def answer(self) -> Answer:
        """The whole answer. Raises InvalidRequest while the stream has not been read to its end."""
        if self._answer is None:
            raise InvalidRequest("the stream has not been read to its end, so there is no answer yet")
        return self._answer

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        return await anext(self._pieces)

    async def aclose(self) -> None:
        """Leaves the stream; the provider stops generating."""
        await self._pieces.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _read(self) -> AsyncGenerator[str]:
        started = time.perf_counter()
        opened, first, attempts = await retrying(self._open, self._policy)
        ttft_ms = None if first is None else (time.perf_counter() - started) * 1000
        said: list[str] = []
        try:
            text = first
            while text is not None:
                said.append(text)
                yield text
                text = await opened.next_text()
        finally:
            await opened.close()
        self._answer = Answer(
            text="".join(said),
            model=self._ask.model,
            provider=self._connection.provider,
            usage=opened.usage,
            cost_picousd=self._connection.cost_picousd(self._ask.model, opened.usage),
            latency_ms=(time.perf_counter() - started) * 1000,
            ttft_ms=ttft_ms,
            request_id=opened.request_id,
            finish_reason=opened.finish_reason,
            attempts=attempts,
        )

    async def _open(self, number: int) -> tuple[OpenedStream, str | None, int]:
        opened = OpenedStream(self._connection, await self._connection.open_stream(self._ask))
        try:
            return opened, await opened.next_text(), number
        except BaseException:
            await opened.close()
            raise


class OpenedStream:
    """The text of one response's chunks, and what the other chunks said."""

    def __init__(self, connection: Connection, stream: AsyncStream[object]) -> None:
        self.finish_reason: str | None = None
        self.usage: Usage | None = None
        self.request_id = request_id(stream.response.headers)
        self._connection = connection
        self._stream = stream
        self._begun = False

    async def next_text(self) -> str | None:
        """The next text that is not empty; None at the end. Raises StreamBroken if text had come, else ServiceError."""
        with self._connection.raising_ours(begun=self._begun):
            while (chunk := await self._next_chunk()) is not END:
                piece = read_piece(chunk)
                self.finish_reason = piece.finish_reason or self.finish_reason
                self.usage = piece.usage or self.usage
                if piece.text:
                    self._begun = True
                    return piece.text
            if self.finish_reason is None:
                raise Unreachable("the stream ended before the answer did")
        return None

    async def close(self) -> None:
        """Gives the connection back, or ends it if the answer is still coming."""
        await self._stream.close()

    async def _next_chunk(self) -> object:
        try:
            return await anext(self._stream, END)
        except ValueError:
            raise UpstreamFailed("a chunk of the stream is not JSON") from None
