"""Jobs whose input says what becomes of them, and a job loop that runs them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from handler.engine.protocol import EngineRequest
from handler.errors import EngineUnavailable, InvalidInput, NotBegun
from handler.jobs import GenericRoute, OpenAIRoute, ParsedJob
from handler.metrics import WorkerMetrics
from handler.outputs import Output, StreamPiece, WholeAnswer
from handler.queue.job_loop import JobLoop, Pauses
from tests.handler.queue.fake_platform import FakePlatform
from tests.waiting import turns

QUICK = Pauses(retry=0.001, longest_retry=0.004, deliver=0.5, grace=5.0, last_look=0.001, look_again=0.001)


class Script:
    """An answerer whose jobs say in their input what becomes of them."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.closed: list[str] = []
        #: The engine is not there: nothing begins.
        self.gone = False
        self.running = 0
        self.most_running = 0

    def parse(self, job_input: Any) -> ParsedJob:
        """An OpenAI route where the input names one; any other input is the body of a generic route."""
        route = job_input.get("openai_route")
        form = (
            OpenAIRoute(openai_route=route, openai_input=job_input) if route else GenericRoute(route="", body=job_input)
        )
        return ParsedJob(form, EngineRequest("POST", "/"))

    async def outputs(self, job: ParsedJob) -> AsyncGenerator[Output, None]:
        job_input = script_of(job)
        if self.gone:
            raise NotBegun("the engine has died")
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            if job_input.get("wait"):
                await self.go_on.wait()
            if job_input.get("fail"):
                raise InvalidInput("wrong", param="x")
            for piece in job_input.get("pieces", ()):
                yield StreamPiece(piece)
                await turns(job_input.get("turns", 0))
                if job_input.get("hang"):
                    await asyncio.Event().wait()
            if job_input.get("break"):
                raise EngineUnavailable("the engine has died")
            if "pieces" not in job_input:
                yield WholeAnswer({"said": job_input})
        finally:
            self.running -= 1
            self.closed.append(job_input.get("name", ""))


def script_of(job: ParsedJob) -> dict[str, Any]:
    """Returns the input as it was."""
    match job.form:
        case OpenAIRoute(openai_input=script) | GenericRoute(body=script):
            return script or {}
    raise AssertionError(job)


@asynccontextmanager
async def running(
    platform: FakePlatform,
    answerer: Script,
    capacity: int | Callable[[], int] = 4,
    pauses: Pauses = QUICK,
    metrics: WorkerMetrics | None = None,
) -> AsyncIterator[JobLoop]:
    loop = JobLoop(platform, answerer, capacity if callable(capacity) else lambda: capacity, pauses, metrics)
    task = asyncio.create_task(loop.run())
    try:
        yield loop
    finally:
        loop.shut_down()
        async with asyncio.timeout(5):
            await task
