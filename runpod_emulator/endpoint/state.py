"""One endpoint's state, without HTTP and without processes: its jobs, workers, limits and faults."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from runpod_emulator.endpoint.failed_starts import FailedStarts
from runpod_emulator.endpoint.faults import FaultInjector, Faults
from runpod_emulator.endpoint.health import Health
from runpod_emulator.endpoint.limits import RateLimiter
from runpod_emulator.endpoint.open_requests import OpenRequests
from runpod_emulator.endpoint.registry import Worker, WorkerRegistry
from runpod_emulator.endpoint.release import Release
from runpod_emulator.errors import BadRequest
from runpod_emulator.jobs.batch import Batches
from runpod_emulator.jobs.job import Job
from runpod_emulator.jobs.store import Clock, JobStore, Load
from runpod_emulator.settings import EndpointSettings
from runpod_emulator.signals import Signal

logger = logging.getLogger(__name__)

FinishedCallback = Callable[[Job], None]


class Endpoint:
    """The state that the APIs and the worker fleet share."""

    def __init__(
        self,
        settings: EndpointSettings,
        *,
        clock: Clock = time.monotonic,
        clock_began_at: float | None = None,
        starts_workers: bool = False,
    ) -> None:
        self.settings = settings
        self.clock = clock
        #: The clock's 0 in seconds since 1970. It is read once, so that the times on the bill never change.
        self.clock_began_at = time.time() - clock() if clock_began_at is None else clock_began_at
        #: Wakes the supervisor when there may be work to do.
        self.changed = Signal()
        self.is_closing = False
        self.registry = WorkerRegistry(
            settings, clock, admits_external=not starts_workers, clock_began_at=self.clock_began_at
        )
        self.store = JobStore(settings, clock, self)
        #: The requests of finalized batches.
        self.batch_store = JobStore(settings, clock, self)
        self.batches = Batches(settings, self.batch_store, clock, self.wall_clock)
        #: Those of the load balancer, which has no jobs.
        self.requests = OpenRequests()
        self.limiter = RateLimiter(settings.rate_limits, settings.rate_window_seconds, clock)
        self.injector = FaultInjector()
        self.failed_starts = FailedStarts(settings, clock)
        self.health = Health(self.store, self.requests, self.registry, self.failed_starts, clock)
        #: Called with each job that has ended.
        self.when_finished: list[FinishedCallback] = []
        #: Every min_workers that was set since the start, the latest last.
        self.minima: list[int] = []
        self._starts_workers = starts_workers
        #: When a job last came, or the maximum of workers was set.
        self._used_at = clock()

    def wall_clock(self) -> float:
        """Returns the time in seconds since 1970."""
        return self.clock_began_at + self.clock()

    def iso_time(self, moment: float) -> str:
        """Returns a time of the clock in ISO 8601, UTC."""
        wall = datetime.fromtimestamp(self.clock_began_at + moment, UTC)
        return wall.isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def store_of(self, worker_id: str) -> JobStore:
        """Returns the jobs that this worker takes: the queue's, or those of batches. An unknown one has no batches."""
        worker = self.registry.workers.get(worker_id)
        return self.batch_store if worker is not None and worker.takes_batches else self.store

    def wanted_batch_workers(self) -> int:
        """Returns how many workers the waiting requests of batches may have."""
        load = self.batch_store.load()
        return min(self.settings.max_batch_workers, load.queued + load.in_progress)

    def load(self) -> Load:
        """Returns the jobs or requests that scaling counts."""
        if not self.settings.is_balanced:
            return self.store.load()
        return Load(self.requests.waiting, self.requests.in_progress, 0)

    def inject(self, faults: Faults) -> None:
        """Replaces all faults. Raises BadRequest for a crash of external workers."""
        if faults.worker_crash_after_seconds is not None and not self._starts_workers:
            raise BadRequest(
                "worker_crash_after_seconds: the emulator did not start these workers; kill them where they run"
            )
        self.injector.inject(faults, self.clock())
        self.health.record(faults.health_late_seconds)
        self.changed.notify_all()

    def set_min_workers(self, workers: int) -> None:
        """Sets the number of workers that always run; others stop by their idle time-out. Raises ValueError."""
        self.change(min_workers=workers)

    def change(self, **settings: Any) -> None:
        """Changes fields of the settings: worker bounds, scaling and time-outs act at once. Raises ValueError."""
        self.settings = self.registry.settings = replace(self.settings, **settings)
        if "min_workers" in settings:
            self.minima.append(self.settings.min_workers)
        self.changed.notify_all()

    def note_use(self) -> None:
        """Counts the time without use from now on."""
        self._used_at = self.clock()

    def roll_out(self, release: Release) -> None:
        """Makes a new release: workers of a former one are replaced when they go idle."""
        self.registry.release = release
        self.changed.notify_all()

    def housekeep(self) -> None:
        """Handles what depends on time: time-outs, expired results, workers without a heartbeat."""
        self.store.expire()
        self.batch_store.expire()
        self.batches.settle()
        self._scale_down_unused()
        self.health.record(self.injector.faults.health_late_seconds)
        if self.registry.has_ready():
            self.failed_starts.end()
        elif self.failed_starts.fails_jobs and not self.registry.alive():
            self.store.fail_waiting(self.failed_starts.message())
            self.batches.fail(self.failed_starts.message())
        for worker, reason in self.registry.lost():
            self.registry.make_unhealthy(worker)
            store = self.store_of(worker.id)
            store.give_back(worker.id, reason)
            # The lost worker's own open poll must end: it would take the jobs again.
            store.available.notify_all()

    def _scale_down_unused(self) -> None:
        """Lowers the maximum of workers of an endpoint without a request, as RunPod does by itself."""
        settings, unused_seconds = self.settings, self.clock() - self._used_at
        most = settings.max_workers
        if unused_seconds >= settings.unused_until_stopped_seconds:
            most = 0
        elif unused_seconds >= settings.unused_until_reduced_seconds:
            most = min(most, settings.unused_max_workers)
        if most < settings.max_workers:
            logger.warning(
                "endpoint %s had no request for %.0f s: its maximum of workers is %d now",
                *(settings.endpoint_id, unused_seconds, most),
            )
            fewer = {"min_workers": most} if most < settings.min_workers else {}
            self.change(max_workers=most, **fewer)

    def retire(self, worker: Worker) -> None:
        """Gives the worker no more jobs, and answers its open polls at once, so that it can stop."""
        worker.is_stopping = True
        self.store_of(worker.id).available.notify_all()
        worker.stops.notify_all()

    def end_worker(self, worker: Worker, exit_code: int | None) -> None:
        """Marks the worker stopped, and puts its jobs back into the queue."""
        self.registry.end(worker, exit_code)
        self.store_of(worker.id).give_back(worker.id, f"worker {worker.id} ended with exit code {exit_code}")
        self.changed.notify_all()

    def close(self) -> None:
        """Answers all open polls."""
        self.is_closing = True
        for worker in self.registry.workers.values():
            self.retire(worker)

    # The callbacks of the job store (jobs.store.Listener).

    def job_queued(self) -> None:
        """Wakes the supervisor if the job may need a new worker at once, before the next tick."""
        self.note_use()
        if self.settings.scaling == "request_count" or not self.registry.alive_for(batches=False):
            self.changed.notify_all()

    def held_jobs_changed(self, worker_id: str, jobs: int) -> None:
        """Makes the worker running or idle."""
        self.registry.set_held_jobs(worker_id, jobs)

    def stop_requested(self, worker_id: str, job_id: str) -> None:
        """Sends the job's id to the worker's job-stop poll."""
        self.registry.stop_job(worker_id, job_id)

    def job_finished(self, job: Job) -> None:
        """Calls every callback in `when_finished`."""
        for callback in self.when_finished:
            callback(job)
