"""Whatever clients, workers and time do to the queue: no job is lost, none ends twice, none is held by two."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from runpod_emulator.jobs.job import RETRYABLE, Job, Status
from tests.runpod_emulator.support import Bench

WORKERS = st.sampled_from(["w1", "w2", "w3"])
PICK = st.integers(min_value=0)


class Queue(RuleBasedStateMachine):
    """Rules name a job by a number; an order about a job in the wrong state must do no harm."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench(max_redeliveries=2, execution_timeout_seconds=30, ttl_seconds=100)
        self.jobs: list[Job] = []
        self.ends: Counter[str] = Counter()
        self.retries: Counter[str] = Counter()
        self.bench.endpoint.when_finished.append(lambda job: self.ends.update([job.id]))

    def pick(self, number: int) -> Job | None:
        return self.jobs[number % len(self.jobs)] if self.jobs else None

    @rule(low=st.booleans())
    def add(self, low: bool) -> None:
        self.jobs.append(self.bench.job(keep_seconds=1e9, lowPriority=low))

    @rule(worker=WORKERS, limit=st.integers(1, 3))
    def take(self, worker: str, limit: int) -> None:
        taken = self.bench.take(worker, limit)
        assert all(job.status is Status.IN_PROGRESS for job in taken)

    @rule(worker=WORKERS)
    def take_in_vain(self, worker: str) -> None:
        self.bench.store.undo_take(worker, self.bench.take(worker))

    @rule(worker=WORKERS, number=PICK)
    def post_chunk(self, worker: str, number: int) -> None:
        if job := self.pick(number):
            holds = job.status is Status.IN_PROGRESS and job.worker_id == worker
            assert self.bench.store.add_chunk(job.id, worker, "piece") == holds

    @rule(number=PICK)
    def read(self, number: int) -> None:
        if job := self.pick(number):
            job.read_chunks()

    @rule(worker=WORKERS, number=PICK, result=st.sampled_from([{"output": 1}, {"error": "no"}]))
    def finish(self, worker: str, number: int, result: dict[str, Any]) -> None:
        if job := self.pick(number):
            holds = job.status is Status.IN_PROGRESS and job.worker_id == worker
            assert self.bench.store.finish(job.id, worker, result) == holds
            assert not holds or job.is_final

    @rule(number=PICK)
    def cancel(self, number: int) -> None:
        if job := self.pick(number):
            self.bench.store.cancel(job)
            assert job.is_final

    @rule(number=PICK)
    def retry(self, number: int) -> None:
        if (job := self.pick(number)) and job.status in RETRYABLE:
            self.retries[job.id] += 1
            self.bench.store.retry(job)

    @rule(number=PICK)
    def deliver_again(self, number: int) -> None:
        if (job := self.pick(number)) and job.status is Status.IN_PROGRESS:
            self.bench.store.deliver_again(job)

    @rule(worker=WORKERS)
    def lose_worker(self, worker: str) -> None:
        self.bench.registry.mark_ready(worker)
        self.bench.store.give_back(worker, "lost")

    @rule()
    def purge(self) -> None:
        self.bench.store.purge()

    @rule(seconds=st.sampled_from([0.1, 20.0, 50.0]))
    def pass_time(self, seconds: float) -> None:
        self.bench.clock.pass_(seconds)
        self.bench.store.expire()

    @invariant()
    def every_job_is_in_one_place(self) -> None:
        load = self.bench.store.load()
        statuses = Counter(job.status for job in self.jobs)
        assert load.queued == statuses[Status.IN_QUEUE]
        assert load.in_progress == statuses[Status.IN_PROGRESS]
        held = Counter(job.worker_id for job in self.jobs if job.status is Status.IN_PROGRESS)
        assert all(worker.jobs == held[worker.id] for worker in self.bench.registry.workers.values())

    @invariant()
    def every_job_ends_once_per_submission(self) -> None:
        assert all(self.ends[job.id] == self.retries[job.id] + job.is_final for job in self.jobs)

    @invariant()
    def every_failure_says_why(self) -> None:
        assert all(job.error for job in self.jobs if job.status in RETRYABLE)


TestQueue = Queue.TestCase
TestQueue.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
