"""The jobs of the development API, finished or not, within a number of jobs and of bytes."""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from handler.errors import InvalidInput, WorkerError
from handler.outputs import Output, StreamPiece

# Finished or not. The oldest finished ones are forgotten first.
KEPT_JOBS = 1000
# Of the inputs of running jobs, and of all outputs.
KEPT_BYTES = 256 << 20


class TooManyJobs(WorkerError):
    """The running jobs have taken all the room, so that none can be forgotten for another one."""

    status = 429
    code = "too_many_jobs"


class OutputTooLarge(WorkerError):
    """The outputs of running jobs do not fit."""

    status = 507
    code = "output_too_large"


class JobNotFound(InvalidInput):
    """The job was never here, or has been forgotten since."""

    status = 404
    code = "job_not_found"


@dataclass
class LocalJob:
    """One job and its outputs so far."""

    id: str
    #: What it holds in memory: its input while it runs, and its outputs.
    held_bytes: int = 0
    outputs: list[Output] = field(default_factory=list)
    final_output: Any = None
    error: WorkerError | None = None
    task: asyncio.Task[None] | None = None
    #: How many outputs /stream has handed out.
    read: int = 0

    @property
    def is_done(self) -> bool:
        """True once nothing more will come."""
        return self.error is not None or (self.task is not None and self.task.done())

    @property
    def status(self) -> str:
        """RunPod's name of the job's state."""
        if self.error:
            return "FAILED"
        return "COMPLETED" if self.is_done else "IN_PROGRESS"

    def report(self) -> dict[str, Any]:
        """Returns the answer to `/status`."""
        document: dict[str, Any] = {"id": self.id, "status": self.status}
        if self.error:
            return document | {"error": self.error.to_json_text()}
        if self.status != "COMPLETED":
            return document
        return document | {"output": self.final_output}

    def unread(self) -> dict[str, Any]:
        """Returns the answer to `/stream`: the outputs since the call before."""
        chunks, self.read = self.outputs[self.read :], len(self.outputs)
        document: dict[str, Any] = {
            "id": self.id,
            "status": self.status,
            "stream": [{"output": chunk.value} for chunk in chunks],
        }
        return document | ({"error": self.error.to_json_text()} if self.error else {})


class KeptJobs:
    """Jobs by id. A running one is never forgotten."""

    def __init__(self, most_jobs: int = KEPT_JOBS, most_bytes: int = KEPT_BYTES) -> None:
        self._most_jobs, self._most_bytes = most_jobs, most_bytes
        self._jobs: OrderedDict[str, LocalJob] = OrderedDict()
        #: Of all jobs together.
        self.held_bytes = 0

    def __len__(self) -> int:
        """Returns how many there are."""
        return len(self._jobs)

    def find(self, job_id: str) -> LocalJob:
        """Returns the job; raises JobNotFound."""
        try:
            return self._jobs[job_id]
        except KeyError:
            raise JobNotFound("job_id: there is no such job here", param="job_id") from None

    def add(self, job: LocalJob) -> None:
        """Keeps a job that begins; raises TooManyJobs where running jobs leave no room for it."""
        if not self._make_room(jobs=1, size_bytes=job.held_bytes):
            raise TooManyJobs("there are too many jobs, or they are too large; try again when one has ended")
        self._jobs[job.id] = job
        self.held_bytes += job.held_bytes

    def keep(self, job: LocalJob, output: Output) -> None:
        """Keeps an output of a running job; raises OutputTooLarge."""
        size_bytes = _size(output)
        if not self._make_room(jobs=0, size_bytes=size_bytes):
            raise OutputTooLarge(f"the outputs of the running jobs have more than {self._most_bytes} bytes")
        job.outputs.append(output)
        job.held_bytes += size_bytes
        self.held_bytes += size_bytes

    def ended(self, job: LocalJob, input_bytes: int) -> None:
        """Counts the input of a job no longer."""
        job.held_bytes -= input_bytes
        self.held_bytes -= input_bytes

    def _make_room(self, *, jobs: int, size_bytes: int) -> bool:
        for job in list(self._jobs.values()):
            if len(self._jobs) + jobs <= self._most_jobs and self.held_bytes + size_bytes <= self._most_bytes:
                break
            if job.is_done:
                del self._jobs[job.id]
                self.held_bytes -= job.held_bytes
        return len(self._jobs) + jobs <= self._most_jobs and self.held_bytes + size_bytes <= self._most_bytes


def _size(output: Output) -> int:
    # Text takes up to four bytes a character in memory.
    return len(output.value) if isinstance(output, StreamPiece) else len(json.dumps(output.value))
