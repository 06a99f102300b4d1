"""What several tests share: running a job, the trained pairs, and a fake engine behind the real seam."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from handler.dispatch import Dispatcher
from handler.engine.protocol import Answer, EngineRequest, Header, answer_of
from handler.errors import EngineUnavailable, NotBegun

Json = dict[str, Any]


@dataclass(frozen=True)
class Worker:
    """Job inputs in, outputs out."""

    dispatcher: Dispatcher

    async def outputs(self, job_input: object) -> list[Any]:
        """What RunPod is given of all outputs of a job; raises WorkerError."""
        return [output.value async for output in self.dispatcher.outputs(self.dispatcher.parse(job_input))]

    async def result(self, job_input: object) -> Any:
        """The one document that a plain job answers with."""
        (output,) = await self.outputs(job_input)
        return output

    async def openai(self, route: str, body: Json | None = None) -> Any:
        """The answer to a plain job on an OpenAI route."""
        return await self.result({"openai_route": route, "openai_input": body})

    async def chat(self, question: str, **fields: Any) -> str:
        """What the model says to one question at temperature 0."""
        body = {"messages": [{"role": "user", "content": question}], "temperature": 0, "max_tokens": 256} | fields
        answer: str = (await self.openai("/v1/chat/completions", body))["choices"][0]["message"]["content"]
        return answer

    async def events(self, job_input: object) -> list[Json]:
        """The JSON data of a stream's events, `[DONE]` apart."""
        return list(event_data("".join(await self.outputs(job_input))))


def event_data(text: str) -> Iterable[Json]:
    """The JSON documents in the `data:` lines of server-sent events."""
    for line in text.splitlines():
        if line.startswith("data:") and line != "data: [DONE]":
            yield json.loads(line.removeprefix("data:"))


@dataclass
class FakeEngine:
    """Answers every request with `pieces`, or as `answer` says; counts what was sent, and what was left early."""

    pieces: Iterable[bytes] = (b"{}",)
    status: int = 200
    content_type: str = "application/json"
    headers: Sequence[Header] = ()
    fields: Collection[str] = ()
    answer: Callable[[EngineRequest], AsyncIterator[bytes]] | None = None
    start_error: Exception | None = None
    requests: list[EngineRequest] = field(default_factory=list)
    started: bool = False
    stopped: bool = False
    left_early: int = 0
    #: The capacity while it lives.
    slots: int = 4
    progress: int | None = None
    dead: bool = False

    async def start(self) -> None:
        if self.start_error:
            raise self.start_error
        self.started = True

    @property
    def capacity(self) -> int:
        return 0 if self.dead else self.slots

    @asynccontextmanager
    async def send(self, request: EngineRequest) -> AsyncIterator[Answer]:
        if self.dead:
            raise NotBegun("the engine has died")
        self.requests.append(request)
        body = _Body(self.answer(request) if self.answer else _each(self.pieces))
        try:
            yield answer_of(self.status, self.content_type, body, self.headers)
        finally:
            self.left_early += not body.ended

    def request_fields(self, path: str) -> Collection[str]:
        return self.fields

    async def check_health(self) -> None:
        if self.dead:
            raise EngineUnavailable("the engine has died")

    async def stop(self) -> None:
        self.stopped = True


class _Body:
    """An iterator that knows whether it was read to its end."""

    def __init__(self, pieces: AsyncIterator[bytes]) -> None:
        self._pieces = pieces
        self.ended = False

    def __aiter__(self) -> _Body:
        return self

    async def __anext__(self) -> bytes:
        try:
            return await anext(self._pieces)
        except Exception:  # StopAsyncIteration, or the fault that the test asked for; not a cancellation
            self.ended = True
            raise


async def _each(pieces: Iterable[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece
