"""All jobs of an endpoint: the queue, who holds what, and every change of status. No I/O; time comes from the clock."""

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

NOTHING: Mapping[str, Job] = MappingProxyType({})


class Listener(Protocol):
    """Who must know what happens to jobs."""

    def arrived(self) -> None:
        """A job was put into the queue."""

    def holds(self, worker_id: str, jobs: int) -> None:
        """The worker now holds so many jobs."""

    def stop(self, worker_id: str, job_id: str) -> None:
        """The worker should stop a job that it still works on."""

    def finished(self, job: Job) -> None:
        """The job has ended."""


@dataclass(frozen=True)
class Load:
    """What scaling looks at."""

    queued: int
    in_progress: int
    oldest_wait_seconds: float


class JobStore:
    """A job is in the queue, held by one worker, or ended; each method is one atomic step between these."""

    def __init__(self, settings: EndpointSettings, clock: Clock, listener: Listener) -> None:
        self.available = Signal()
        self.counts: Counter[str] = Counter()
        self._settings = settings
        self._clock = clock
        self._listener = listener
        self._jobs: dict[str, Job] = {}
        self._first: OrderedDict[str, Job] = OrderedDict()
        self._later: OrderedDict[str, Job] = OrderedDict()
        self._again: deque[Job] = deque()
        self._held: defaultdict[str, dict[str, Job]] = defaultdict(dict)
        self._kept: defaultdict[float, deque[tuple[float, Job]]] = defaultdict(deque)

    def __len__(self) -> int:
        return len(self._jobs)

    def get(self, job_id: str) -> Job:
        """Raises NotFound for a job that never was, or whose result is no longer kept."""
        job = self._jobs.get(job_id)
        if job is None:
            raise NotFound(f"no job {job_id}: it never was, or its result is no longer kept")
        return job

    def add(self, job_input: Any, policy: Policy, *, keep_seconds: float, webhook: str | None = None) -> Job:
        """A new job at the end of the queue."""
        job = Job(job_input, policy, keep_seconds, self._clock(), webhook)
        self._jobs[job.id] = job
        self._enqueue(job)
        return job

    def take(self, worker_id: str, limit: int) -> list[Job]:
        """At most `limit` jobs, the oldest first, those of low priority last; the worker holds them from now on."""
        taken = [self._again.popleft() for _ in range(min(limit, len(self._again)))]
        now, held = self._clock(), self._held[worker_id]
        while len(taken) < limit and (queue := self._first or self._later):
            _, job = queue.popitem(last=False)
            job.status, job.worker_id, job.started_at = Status.IN_PROGRESS, worker_id, now
            held[job.id] = job
            taken.append(job)
        if taken:
            self._listener.holds(worker_id, len(held))
        return taken

    def deliver_again(self, job: Job) -> None:
        """A fault: the next take gets this job too, though its first worker still holds it."""
        self._again.append(job)
        self.available.notify_one()

    def add_chunk(self, job_id: str, worker_id: str, chunk: Any) -> bool:
        """Whether the worker holds the job; otherwise the chunk is ignored."""
        job = self._held.get(worker_id, NOTHING).get(job_id)
        if job is None:
            return False
        job.chunks.append(chunk)
        job.changed.notify_all()
        return True

    def finish(self, job_id: str, worker_id: str, result: Json) -> bool:
        """Whether the worker holds the job; otherwise its result is ignored, so that no job is answered twice."""
        job = self._held.get(worker_id, NOTHING).get(job_id)
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
        """Ends a job that has not ended yet; a worker that holds it is told to stop."""
        if not job.is_final:
            self._interrupt(job, Status.CANCELLED, None)

    def retry(self, job: Job) -> None:
        """Puts a failed or timed-out job back under its own id; raises BadRequest for any other."""
        if job.status not in RETRYABLE:
            raise BadRequest(f"job {job.id} is {job.status}: only FAILED and TIMED_OUT jobs can be retried")
        job.created_at, job.redeliveries, job.chunks_read = self._clock(), 0, 0
        self._requeue(job, last=True)

    def purge(self) -> int:
        """Cancels all that wait in the queue; how many that were."""
        waiting = [*self._first.values(), *self._later.values()]
        for job in waiting:
            self._end(job, Status.CANCELLED)
        return len(waiting)

    def give_back(self, worker_id: str, reason: str) -> None:
        """Queues what a lost worker held, in its old order and before all others; or fails what cannot run again.

        A job that somebody has read chunks of is not run again: two answers would follow one another.
        """
        for job in reversed(list(self._held[worker_id].values())):
            if job.chunks_read:
                self._end(job, Status.FAILED, error=f"{reason}, after part of the answer had been read")
            elif job.redeliveries >= self._settings.max_redeliveries:
                self._end(job, Status.FAILED, error=f"{reason}; given up after {job.redeliveries + 1} attempts")
            else:
                self._release(job)
                job.redeliveries += 1
                self._requeue(job, last=False)

    def undo_take(self, worker_id: str, jobs: Iterable[Job]) -> None:
        """The worker never got these: its connection was gone."""
        for job in reversed([job for job in jobs if job.worker_id == worker_id and not job.is_final]):
            self._release(job)
            self._enqueue(job, last=False)

    def expire(self) -> None:
        """Ends what has waited or run too long, forgets results that were kept long enough."""
        now = self._clock()
        for job in [*self._first.values(), *self._later.values()]:
            if now >= job.created_at + job.policy.ttl_seconds:
                self._end(
                    job, Status.TIMED_OUT, error=f"no worker took it within its ttl, {job.policy.ttl_seconds:g} s"
                )
        for job in [job for held in self._held.values() for job in held.values()]:
            limit = job.policy.execution_timeout_seconds
            if job.started_at is not None and now >= job.started_at + limit:
                self._interrupt(job, Status.TIMED_OUT, f"ran longer than its executionTimeout, {limit:g} s")
        for keep_seconds, kept in self._kept.items():
            while kept and now >= kept[0][0] + keep_seconds:
                finished_at, job = kept.popleft()
                if job.finished_at == finished_at:
                    self._jobs.pop(job.id, None)

    def load(self) -> Load:
        """How much waits, how much runs, and how long the oldest has waited."""
        oldest = [next(iter(queue.values())).created_at for queue in (self._first, self._later) if queue]
        wait = self._clock() - min(oldest) if oldest else 0.0
        return Load(len(self._first) + len(self._later), sum(map(len, self._held.values())), wait)

    def _enqueue(self, job: Job, *, last: bool = True) -> None:
        job.status, job.worker_id, job.started_at = Status.IN_QUEUE, None, None
        queue = self._later if job.policy.low_priority else self._first
        queue[job.id] = job
        queue.move_to_end(job.id, last=last)
        self.available.notify_one()
        self._listener.arrived()
        job.changed.notify_all()

    def _requeue(self, job: Job, *, last: bool) -> None:
        job.finished_at = job.output = job.error = None
        job.chunks.clear()
        self.counts["retried"] += 1
        self._enqueue(job, last=last)

    def _release(self, job: Job) -> None:
        """Takes a job from the queue or from its worker."""
        self._first.pop(job.id, None)
        self._later.pop(job.id, None)
        if job in self._again:
            self._again.remove(job)
        if job.worker_id and self._held[job.worker_id].pop(job.id, None):
            self._listener.holds(job.worker_id, len(self._held[job.worker_id]))

    def _interrupt(self, job: Job, status: Status, error: str | None) -> None:
        if job.status is Status.IN_PROGRESS and job.worker_id:
            self._listener.stop(job.worker_id, job.id)
        self._end(job, status, error=error)

    def _end(self, job: Job, status: Status, *, output: Any = None, error: str | None = None) -> None:
        self._release(job)
        job.status, job.output, job.error, job.finished_at = status, output, error, self._clock()
        self._kept[job.keep_seconds].append((job.finished_at, job))
        self.counts[status] += 1
        job.changed.notify_all()
        self._listener.finished(job)
