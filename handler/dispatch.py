"""Answers jobs: parses the input, sends the request to the engine, yields outputs. Every failure is a WorkerError."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from handler import jobs
from handler.engine.protocol import Document, Engine, Stream, is_success
from handler.errors import EngineError, StreamBroken, WorkerError
from handler.jobs import ParsedJob
from handler.outputs import Output, StreamPiece, WholeAnswer
from handler.settings import WorkerSettings
from handler.streaming import Pace, checked, coalesce, error_event, whole_events

logger = logging.getLogger(__name__)


class Dispatcher:
    """Answers jobs with one engine; any number at a time."""

    def __init__(self, engine: Engine, settings: WorkerSettings) -> None:
        self._engine = engine
        self._settings = settings
        self._pace = Pace()

    def capacity(self) -> int:
        """Returns how many jobs may run at the same time, as things stand now; 0 while the engine cannot serve."""
        possible = self._engine.capacity
        return self._settings.max_concurrency or possible if possible else 0

    def parse(self, job_input: object) -> ParsedJob:
        """Returns the job in its parsed form; raises WorkerError."""
        try:
            return jobs.parse(
                job_input,
                allowed_paths=self._settings.allowed_paths,
                max_bytes=self._settings.max_input_bytes,
                request_fields=self._engine.request_fields,
                limits=self._settings.request_limits,
            )
        except WorkerError:
            raise
        except Exception as fault:
            raise _internal_error(fault) from fault

    async def outputs(self, job: ParsedJob) -> AsyncGenerator[Output, None]:
        """Yields the job's outputs: one whole answer, or pieces of a stream of events as they come.

        Raises WorkerError. A stream that has begun ends with an error event before that. Closing the iterator early
        aborts the request in the engine.
        """
        streaming = False
        try:
            async with self._engine.send(job.request) as answer:
                match answer:
                    case Stream():
                        events = checked(whole_events(answer.pieces))
                        async with aclosing(coalesce(events, pace=self._pace)) as pieces:
                            async for piece in pieces:
                                streaming = True
                                yield StreamPiece(piece)
                    case Document():
                        yield await _whole(answer)
        except Exception as fault:
            error = await self._as_worker_error(fault)
            if streaming and not isinstance(fault, EngineError):  # vLLM's own error has come as an event already
                yield StreamPiece(error_event(error.to_json()))
            raise error from fault

    async def _as_worker_error(self, fault: Exception) -> WorkerError:
        """Returns the error to report: that the engine is gone, where it is, rather than what its end looked like."""
        if isinstance(fault, WorkerError) and not (isinstance(fault, EngineError | StreamBroken) and fault.retryable):
            return fault
        try:
            await self._engine.check_health()
        except WorkerError as gone:
            return gone
        if isinstance(fault, WorkerError):
            return fault
        return _internal_error(fault)


async def _whole(answer: Document) -> WholeAnswer:
    """Returns the document; raises EngineError where it is a refusal, or sends elsewhere instead of answering."""
    body = await answer.read()
    if not is_success(answer.status):
        raise EngineError.from_response(answer.status, body)
    return WholeAnswer(_as_json(body, answer.content_type))


def _internal_error(fault: Exception) -> WorkerError:
    """Logs a fault of the worker and returns the error to report."""
    # The message of a foreign error may quote the prompt, so only its type is reported.
    logger.error("job failed: %s", type(fault).__name__, exc_info=logger.isEnabledFor(logging.DEBUG))
    return WorkerError(f"internal error of the worker: {type(fault).__name__}")


def _as_json(body: bytes, content_type: str) -> Any:
    """Returns JSON as it is, text as a string, anything else as base64 with its type."""
    if content_type.startswith("application/json"):
        return json.loads(body)
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError:
        return {"content_type": content_type, "base64": base64.b64encode(body).decode("ascii")}
