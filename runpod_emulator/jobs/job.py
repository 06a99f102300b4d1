"""A job: what was asked, where it stands, what has come back. Times are seconds of the endpoint's clock."""

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
    """As RunPod writes them."""

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
    """How long a job may run and wait, in seconds, and whether others go first."""

    execution_timeout_seconds: float
    ttl_seconds: float
    low_priority: bool = False

    @classmethod
    def parse(cls, document: object, settings: EndpointSettings) -> Policy:
        """Reads RunPod's `{"executionTimeout": ms, "ttl": ms, "lowPriority": bool}`; raises BadRequest."""
        if document is None:
            document = {}
        if not isinstance(document, dict):
            raise BadRequest("policy: expected an object")
        execution = _seconds(document, "executionTimeout", settings.execution_timeout_seconds)
        shortest, longest = settings.shortest_execution_timeout_seconds, settings.longest_execution_timeout_seconds
        if "executionTimeout" in document and not shortest <= execution <= longest:
            raise BadRequest(f"policy.executionTimeout: from {shortest * 1000:g} to {longest * 1000:g} ms")
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
    """One job through all its attempts. `changed` wakes its clients at every chunk and every change of status."""

    input: Any
    policy: Policy
    keep_seconds: float
    created_at: float
    webhook: str | None = None
    id: str = field(default_factory=lambda: secrets.token_hex(12))
    status: Status = Status.IN_QUEUE
    worker_id: str | None = None
    started_at: float | None = None
    finished_at: float | None = None
    redeliveries: int = 0
    output: Any = None
    error: str | None = None
    chunks: deque[Any] = field(default_factory=deque)
    chunks_read: int = 0
    changed: Signal = field(default_factory=Signal)

    @property
    def is_final(self) -> bool:
        """Whether it has ended, well or not."""
        return self.status in FINAL

    def read_chunks(self) -> list[Any]:
        """What was posted and not yet read; each chunk is handed out once."""
        chunks = list(self.chunks)
        self.chunks.clear()
        self.chunks_read += len(chunks)
        return chunks

    def for_worker(self) -> Json:
        """What a job-take answers."""
        document = {"id": self.id, "input": self.input}
        return document | {"webhook": self.webhook} if self.webhook else document

    def for_client(self, now: float) -> Json:
        """What run, runsync and status answer; times in milliseconds, output and error when there is one."""
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
    """Whole milliseconds, as RunPod's answers have them."""
    return max(0, round(seconds * 1000))


def error_text(error: object) -> str:
    """The one string that a failed job carries."""
    return error if isinstance(error, str) else json.dumps(error)
