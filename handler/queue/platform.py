"""The two seams of the job loop: RunPod's worker API, and what answers a job."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, Protocol

from handler.jobs import ParsedJob
from handler.outputs import Output

Job = dict[str, Any]


class PostRejected(Exception):
    """The platform refuses this post for good: it is too large, or the job is no longer this worker's."""


class Platform(Protocol):
    """RunPod's worker API."""

    async def take(self, count: int) -> list[Job]:
        """Waits for jobs and returns at most `count`, or none. Cancelling it gives the wait up."""

    async def stop_signals(self) -> list[str]:
        """Waits for the ids of jobs that are to be stopped, and returns them."""

    async def post_stream(self, job: Job, text: str) -> None:
        """Delivers a piece of a stream; raises PostRejected, or anything else for a passing fault."""

    async def post_result(self, job: Job, result: dict[str, Any], *, is_stream: bool) -> None:
        """Delivers the end of a job; raises PostRejected, or anything else for a passing fault."""

    def started(self, job: Job) -> None:
        """Notes that the worker has the job: heartbeats name it."""

    def finished(self, job: Job) -> None:
        """Notes that the worker has the job no longer."""


class Answerer(Protocol):
    """Turns a job's input into its outputs: `dispatch.Dispatcher`."""

    def parse(self, job_input: object) -> ParsedJob:
        """Returns the job in its parsed form; raises WorkerError."""

    def outputs(self, job: ParsedJob) -> AsyncGenerator[Output, None]:
        """Yields the job's outputs; raises WorkerError. Closing it early aborts the request in the engine."""
