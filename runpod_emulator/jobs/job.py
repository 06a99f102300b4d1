"""A job: its input, its status, its output. Times are seconds of the endpoint's clock."""

from __future__ import annotations

import json
import secrets
from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from runpod_emulator.errors import BadRequest
from runpod_emulator.settings import EndpointSettings
from runpod_emulator.signals import Signal

Json = dict[str, Any]


class Status(StrEnum):
    """The statuses of a job, as RunPod spells them."""

    IN_QUEUE = "IN_QUEUE"
    IN_PROGRESS = "IN_PROGRESS"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    TIMED_OUT = "TIMED_OUT"


FINAL = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELLED, Status.TIMED_OUT})
RETRYABLE = frozenset({Status.FAILED, Status.TIMED_OUT})


@dataclass(frozen=True)
class Policy:
    """The limits of one job's times, and its priority."""

    #: How long it may run on a worker.
    execution_timeout_seconds: float
    #: How long it may wait in the queue.
    ttl_seconds: float
    #: Whether all jobs of normal priority are taken before it.
    low_priority: bool = False

    @classmethod
    def parse(cls, document: object, settings: EndpointSettings) -> Policy:
        """Reads RunPod's `{"executionTimeout": ms, "ttl": ms, "lowPriority": bool}`; raises BadRequest."""
        if document is None:
            document = {}
        if not isinstance(document, dict):
            raise BadRequest("policy: expected an object")
        execution = _seconds(document, "executionTimeout", settings.execution_timeout_seconds)
        shortest = settings.shortest_execution_timeout_seconds
        longest = settings.longest_execution_timeout_seconds
        if "executionTimeout" in document and not shortest <= execution <= longest:
            raise BadRequest(f"policy.executionTimeout: expected {shortest * 1000:g} to {longest * 1000:g} ms")
        low = document.get("lowPriority", False)
        if not isinstance(low, bool):
            raise BadRequest("policy.lowPriority: expected true or false")
        return cls(execution, _seconds(document, "ttl", settings.ttl_seconds), low)


def _seconds(document: Json, name: str, default: float) -> float:
    milliseconds = document.get(name)
    if milliseconds is None:
        return default
    if isinstance(milliseconds, bool) or not isinstance(milliseconds, int | float) or milliseconds <= 0:
        raise BadRequest(f"policy.{name}: expected milliseconds above 0")
    return milliseconds / 1000


@dataclass(slots=True, eq=False)
class Job:
    """One job through all its attempts."""

    input: Any
    policy: Policy
    #: How long the result can be read after the end.
    keep_seconds: float
    created_at: float
    #: The URL to which the result is posted.
    webhook: str | None = None
    id: str = field(default_factory=lambda: secrets.token_hex(12))
    status: Status = Status.IN_QUEUE
    #: The worker that holds the job, or held it last; None in the queue.
    worker_id: str | None = None
    started_at: float | None = None
    finished_at: float | None = None
    #: How often it was queued again because its worker was lost.
    redeliveries: int = 0
    output: Any = None
    error: str | None = None
    #: The chunks that were posted and not yet read.
    chunks: deque[Any] = field(default_factory=deque)
    chunks_read: int = 0
    #: Wakes the job's clients at every chunk and every change of status.
    changed: Signal = field(default_factory=Signal)

    @property
    def is_final(self) -> bool:
        """Returns whether the job has ended, with success or without."""
        return self.status in FINAL

    def read_chunks(self) -> list[Any]:
        """Returns the chunks that were posted and not yet read; each chunk is returned once."""
        chunks = list(self.chunks)
        self.chunks.clear()
        self.chunks_read += len(chunks)
        return chunks

    def for_worker(self) -> Json:
        """Returns the job as job-take sends it."""
        document = {"id": self.id, "input": self.input}
        return document | {"webhook": self.webhook} if self.webhook else document

    def for_client(self, now: float) -> Json:
        """Returns the job as runsync and status send it: times in milliseconds, output and error if there is one."""
        document: Json = {"id": self.id, "status": self.status.value}
        if self.started_at is not None:
            ended_at = now if self.finished_at is None else self.finished_at
            document["delayTime"] = milliseconds(self.started_at - self.created_at)
            document["executionTime"] = milliseconds(ended_at - self.started_at)
        if self.worker_id is not None:
            document["workerId"] = self.worker_id
        if self.output is not None:
            document["output"] = self.output
        if self.error is not None:
            document["error"] = self.error
        return document


def milliseconds(seconds: float) -> int:
    """Returns whole milliseconds, as RunPod reports times."""
    return max(0, round(seconds * 1000))


def error_text(error: object) -> str:
    """Returns a failed job's error as one string."""
    return error if isinstance(error, str) else json.dumps(error)
