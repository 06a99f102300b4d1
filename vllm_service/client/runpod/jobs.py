"""A job of RunPod's queue as its API reports it. Unknown fields are ignored, because the platform adds some."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from vllm_service.client.errors import JobCancelled, at_endpoint, from_job
from vllm_service.errors import GatewayTimeout, ServiceError, UpstreamFailed


class JobStatus(StrEnum):
    """The statuses of a job, as RunPod spells them."""

    IN_QUEUE = "IN_QUEUE"
    IN_PROGRESS = "IN_PROGRESS"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    TIMED_OUT = "TIMED_OUT"


FINAL = frozenset({JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED, JobStatus.TIMED_OUT})


@dataclass(frozen=True, slots=True)
class Job:
    """The state of a job."""

    id: str
    status: JobStatus
    #: The result of a completed job.
    output: Any = None
    error_text: str | None = None
    #: How long it waited in the queue, and has run; None before it runs.
    delay_ms: int | None = None
    execution_ms: int | None = None
    worker_id: str | None = None

    @property
    def is_final(self) -> bool:
        """Returns whether the job has ended, with success or without."""
        return self.status in FINAL

    def error(self, endpoint: str) -> ServiceError | None:
        """Returns the error of a job that has ended without success, else None. FAILED has the engine's own error."""
        reason: ServiceError
        match self.status:
            case JobStatus.FAILED:
                reason = from_job(self.error_text, endpoint)
            case JobStatus.CANCELLED:
                reason = JobCancelled(f"job {self.id} was cancelled")
            case JobStatus.TIMED_OUT:
                reason = GatewayTimeout(
                    f"job {self.id} timed out: {self.error_text or 'no worker finished it in time'}"
                )
            case _:
                return None
        reason.request_id = self.id
        return at_endpoint(reason, endpoint)


def read_job(document: object) -> Job:
    """Returns the job of a response. Raises UpstreamFailed if it is none."""
    fields = document if isinstance(document, Mapping) else {}
    job_id = fields.get("id")
    status = fields.get("status")
    if not isinstance(job_id, str) or not isinstance(status, str) or status not in JobStatus.__members__:
        raise UpstreamFailed("the answer is not a job of RunPod's")
    error = fields.get("error")
    return Job(
        id=job_id,
        status=JobStatus(status),
        output=fields.get("output"),
        error_text=error if isinstance(error, str) or error is None else str(error),
        delay_ms=_number(fields.get("delayTime")),
        execution_ms=_number(fields.get("executionTime")),
        worker_id=fields["workerId"] if isinstance(fields.get("workerId"), str) else None,
    )


def read_chunks(document: object) -> list[Any]:
    """Returns the outputs in a response of /stream."""
    chunks = document.get("stream") if isinstance(document, Mapping) else None
    if not isinstance(chunks, list):
        return []
    return [chunk["output"] for chunk in chunks if isinstance(chunk, Mapping) and "output" in chunk]


def _number(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return round(value) if isinstance(value, int) or math.isfinite(value) else None
