"""All jobs of an endpoint: the queue, the jobs that workers hold, and every change of status.

There is no I/O here, and time comes from the clock that is passed in.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

from runpod_emulator.errors import BadRequest, NotFound
from runpod_emulator.jobs.job import RETRYABLE, Job, Json, Policy, Status, error_text
from runpod_emulator.settings import EndpointSettings
from runpod_emulator.signals import Signal

Clock = Callable[[], float]

NO_JOBS: Mapping[str, Job] = MappingProxyType({})


class Listener(Protocol):
    """The callbacks of a job store."""

    def job_queued(self) -> None:
        """Is called after a job was put into the queue."""

    def held_jobs_changed(self, worker_id: str, jobs: int) -> None:
        """Is called with the number of jobs that the worker now holds."""

    def stop_requested(self, worker_id: str, job_id: str) -> None:
        """Is called for a job that has ended while the worker still works on it."""

    def job_finished(self, job: Job) -> None:
        """Is called after the job has ended."""


@dataclass(frozen=True)
class Load:
    """The work on an endpoint: what scaling depends on."""

    queued: int
    in_progress: int
    #: The time that the oldest queued job has waited; 0 if the queue is empty.
    oldest_wait_seconds: float


class JobStore:
    """A job is in the queue, held by one worker, or ended; each method is one atomic step between these."""

    def __init__(self, settings: EndpointSettings, clock: Clock, listener: Listener) -> None:
        #: Wakes one open job-take poll for each job that can be taken.
        self.available = Signal()
        #: Jobs by final status since the start, and `retried`.
        self.counts: Counter[str] = Counter()
        self._settings = settings
        self._clock = clock
        self._listener = listener
        self._jobs: dict[str, Job] = {}
        self._normal: OrderedDict[str, Job] = OrderedDict()
        self._low_priority: OrderedDict[str, Job] = OrderedDict()
        #: Jobs that a worker holds and that the next take delivers once more: an injected fault.
        self._duplicates: deque[Job] = deque()
        self._held: defaultdict[str, dict[str, Job]] = defaultdict(dict)
        #: Ended jobs by their time to live: within one deque all live equally long, so the first expires first.
        self._ended: defaultdict[float, deque[tuple[float, Job]]] = defaultdict(deque)

    def __len__(self) -> int:
        return len(self._jobs)

    def get(self, job_id: str) -> Job:
        """Returns a job. Raises NotFound if it does not exist or its result has expired."""
        job = self._jobs.get(job_id)
        if job is None:
            raise NotFound(f"no job {job_id}: it does not exist, or its result has expired")
        return job

    def add(self, job_input: Any, policy: Policy, *, keep_seconds: float, webhook: str | None = None) -> Job:
        """Adds a new job at the end of the queue, and returns it."""
        job = Job(job_input, policy, keep_seconds, self._clock(), webhook)
        self.enqueue(job)
        return job

    def enqueue(self, job: Job) -> None:
        """Adds a job that was made before, and has waited elsewhere, at the end of the queue."""
        job.created_at = self._clock()
        self._jobs[job.id] = job
        self._enqueue(job)

    def take(self, worker_id: str, limit: int) -> list[Job]:
        """Moves at most `limit` jobs to the worker and returns them: the oldest first, low priority last."""
        taken = [self._duplicates.popleft() for _ in range(min(limit, len(self._duplicates)))]
        now = self._clock()
        held = self._held[worker_id]
        while len(taken) < limit and (queue := self._normal or self._low_priority):
            _, job = queue.popitem(last=False)
            job.status = Status.IN_PROGRESS
            job.worker_id = worker_id
            job.started_at = now
            held[job.id] = job
            taken.append(job)
        if taken:
            self._listener.held_jobs_changed(worker_id, len(held))
        return taken

    def deliver_again(self, job: Job) -> None:
        """Adds the job to the next take although its worker still holds it: an injected fault."""
        self._duplicates.append(job)
        self.available.notify_one()

    def add_chunk(self, job_id: str, worker_id: str, chunk: Any) -> bool:
        """Adds a chunk of the job's output. Returns False, and ignores it, if the worker does not hold the job."""
        job = self._held.get(worker_id, NO_JOBS).get(job_id)
        if job is None:
            return False
        job.chunks.append(chunk)
        job.changed.notify_all()
        return True

    def finish(self, job_id: str, worker_id: str, result: Json) -> bool:
        """Ends the job with the worker's result, or records its progress.

        Returns False, and ignores the result, if the worker does not hold the job: no job may have two results.
        """
        job = self._held.get(worker_id, NO_JOBS).get(job_id)
        if job is None:
            return False
        if result.get("status") == Status.IN_PROGRESS:
            job.output = result.get("output")
            job.changed.notify_all()
        elif result.get("error"):
            self._end(job, Status.FAILED, output=result.get("output"), error=error_text(result["error"]))
        else:
            self._end(job, Status.COMPLETED, output=result.get("output"))
        return True

    def cancel(self, job: Job) -> None:
        """Ends a job that has not ended yet, and requests its worker to stop it."""
        if not job.is_final:
            self._interrupt(job, Status.CANCELLED, None)

    def retry(self, job: Job) -> None:
        """Puts a failed or timed-out job back under its own id; raises BadRequest for any other."""
        if job.status not in RETRYABLE:
            raise BadRequest(f"job {job.id} is {job.status}: only FAILED and TIMED_OUT jobs can be retried")
        job.created_at = self._clock()
        job.redeliveries = 0
        job.chunks_read = 0
        self._requeue(job, last=True)

    def purge(self) -> int:
        """Cancels all jobs in the queue. Returns their number."""
        waiting = [*self._normal.values(), *self._low_priority.values()]
        for job in waiting:
            self._end(job, Status.CANCELLED)
        return len(waiting)

    def cancel_all(self) -> None:
        """Cancels all jobs that wait or run, and requests their workers to stop them."""
        self.purge()
        for job in [job for held in self._held.values() for job in held.values()]:
            self.cancel(job)

    def fail_waiting(self, reason: str) -> None:
        """Fails all jobs in the queue."""
        for job in [*self._normal.values(), *self._low_priority.values()]:
            self._end(job, Status.FAILED, error=reason)

    def give_back(self, worker_id: str, reason: str) -> None:
        """Queues the jobs of a lost worker again, in their order and before all others, or fails them."""
        # Each goes to the head of the queue: the last one first keeps their order.
        for job in reversed(list(self._held[worker_id].values())):
            # After a client has read chunks, a second run would append another answer to them.
            if job.chunks_read:
                self._end(job, Status.FAILED, error=f"{reason}, after part of the answer had been read")
            elif job.redeliveries >= self._settings.max_redeliveries:
                self._end(job, Status.FAILED, error=f"{reason}; given up after {job.redeliveries + 1} attempts")
            else:
                self._release(job)
                job.redeliveries += 1
                self._requeue(job, last=False)

    def undo_take(self, worker_id: str, jobs: Iterable[Job]) -> None:
        """Puts jobs that never reached the worker back at the head of the queue. It is not a redelivery."""
        for job in reversed([job for job in jobs if job.worker_id == worker_id and not job.is_final]):
            self._release(job)
            self._enqueue(job, last=False)

    def expire(self) -> None:
        """Ends jobs that have waited or run too long, and removes expired results."""
        now = self._clock()
        for job in [*self._normal.values(), *self._low_priority.values()]:
            if now >= job.created_at + job.policy.ttl_seconds:
                self._end(
                    job, Status.TIMED_OUT, error=f"no worker took it within its ttl, {job.policy.ttl_seconds:g} s"
                )
        for job in [job for held in self._held.values() for job in held.values()]:
            limit = job.policy.execution_timeout_seconds
            if job.started_at is not None and now >= job.started_at + limit:
                self._interrupt(job, Status.TIMED_OUT, f"ran longer than its executionTimeout, {limit:g} s")
        for keep_seconds, ended in self._ended.items():
            while ended and now >= ended[0][0] + keep_seconds:
                finished_at, job = ended.popleft()
                # A retried job has another end, or none yet: this entry is not about it any more.
                if job.finished_at == finished_at:
                    self._jobs.pop(job.id, None)

    def load(self) -> Load:
        """Returns how many jobs wait and run, and how long the oldest has waited."""
        oldest = [next(iter(queue.values())).created_at for queue in (self._normal, self._low_priority) if queue]
        wait = self._clock() - min(oldest) if oldest else 0.0
        return Load(len(self._normal) + len(self._low_priority), sum(map(len, self._held.values())), wait)

    def _enqueue(self, job: Job, *, last: bool = True) -> None:
        job.status = Status.IN_QUEUE
        job.worker_id = None
        job.started_at = None
        queue = self._low_priority if job.policy.low_priority else self._normal
        queue[job.id] = job
        queue.move_to_end(job.id, last=last)
        self.available.notify_one()
        self._listener.job_queued()
        job.changed.notify_all()

    def _requeue(self, job: Job, *, last: bool) -> None:
        job.finished_at = job.output = job.error = None
        job.chunks.clear()
        self.counts["retried"] += 1
        self._enqueue(job, last=last)

    def _release(self, job: Job) -> None:
        """Removes a job from the queue or from its worker."""
        self._normal.pop(job.id, None)
        self._low_priority.pop(job.id, None)
        if job in self._duplicates:
            self._duplicates.remove(job)
        if job.worker_id and self._held[job.worker_id].pop(job.id, None):
            self._listener.held_jobs_changed(job.worker_id, len(self._held[job.worker_id]))

    def _interrupt(self, job: Job, status: Status, error: str | None) -> None:
        if job.status is Status.IN_PROGRESS and job.worker_id:
            self._listener.stop_requested(job.worker_id, job.id)
        self._end(job, status, error=error)

    def _end(self, job: Job, status: Status, *, output: Any = None, error: str | None = None) -> None:
        self._release(job)
        job.status = status
        job.output = output
        job.error = error
        job.finished_at = self._clock()
        self._ended[job.keep_seconds].append((job.finished_at, job))
        self.counts[status] += 1
        job.changed.notify_all()
        self._listener.job_finished(job)
