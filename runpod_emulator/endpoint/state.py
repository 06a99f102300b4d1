"""One endpoint's state, without HTTP and without processes: jobs, workers, limits and faults, tied together."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from runpod_emulator.endpoint.faults import FaultInjector, Faults
from runpod_emulator.endpoint.health import Health
from runpod_emulator.endpoint.limits import RateLimiter
from runpod_emulator.endpoint.registry import Worker, WorkerRegistry
from runpod_emulator.errors import BadRequest
from runpod_emulator.jobs.job import Job
from runpod_emulator.jobs.store import Clock, JobStore
from runpod_emulator.settings import EndpointSettings
from runpod_emulator.signals import Signal

FinishedCallback = Callable[[Job], None]


class Endpoint:
    """What both APIs and the worker fleet work on. `changed` wakes the supervisor when there may be work to do."""

    def __init__(
        self, settings: EndpointSettings, *, clock: Clock = time.monotonic, starts_workers: bool = False
    ) -> None:
        self.settings = settings
        self.clock = clock
        self.clock_began_at = time.time() - clock()  # read once: a bill says the same whenever it is asked for
        self.changed = Signal()
        self.is_closing = False
        self.registry = WorkerRegistry(settings, clock, admits_strangers=not starts_workers)
        self.store = JobStore(settings, clock, self)
        self.limiter = RateLimiter(settings.rate_limits, settings.rate_window_seconds, clock)
        self.injector = FaultInjector()
        self.health = Health(self.store, self.registry, clock)
        self.when_finished: list[FinishedCallback] = []
        self.minima: list[int] = []  # each min_workers that was ordered since the start, the latest last
        self._starts_workers = starts_workers

    def inject(self, faults: Faults) -> None:
        """From now on these faults and no others. Raises BadRequest for a crash of workers that others started."""
        if faults.worker_crash_after_seconds is not None and not self._starts_workers:
            raise BadRequest(
                "worker_crash_after_seconds: these workers were not started here; kill them where they were"
            )
        self.injector.inject(faults, self.clock())
        self.health.note(faults.health_late_seconds)
        self.changed.notify_all()

    def set_min_workers(self, workers: int) -> None:
        """So many are there always, from now on; those beyond leave by their idle time-out. Raises ValueError."""
        self.settings = replace(self.settings, min_workers=workers)
        self.registry.min_workers = workers
        self.minima.append(workers)
        self.changed.notify_all()

    def housekeep(self) -> None:
        """Whatever time has brought about: time-outs, results no longer kept, workers without a heartbeat."""
        self.store.expire()
        self.health.note(self.injector.faults.health_late_seconds)
        for worker, reason in self.registry.lost():
            self.registry.make_unhealthy(worker)
            self.store.give_back(worker.id, reason)
            self.store.available.notify_all()  # its open poll must not take them again

    def retire(self, worker: Worker) -> None:
        """It gets no more jobs; its open polls are answered at once, so that it can leave."""
        worker.is_stopping = True
        self.store.available.notify_all()
        worker.stops.notify_all()

    def end_worker(self, worker: Worker, exit_code: int | None) -> None:
        """Its process is gone: what it held goes back into the queue."""
        self.registry.end(worker, exit_code)
        self.store.give_back(worker.id, f"worker {worker.id} ended with exit code {exit_code}")
        self.changed.notify_all()

    def close(self) -> None:
        """Answers all open polls."""
        self.is_closing = True
        for worker in self.registry.workers.values():
            self.retire(worker)

    # What the store reports (jobs.store.Listener).

    def arrived(self) -> None:
        """There may be a worker to start: now, and not at the next tick."""
        if self.settings.scaling == "request_count" or not self.registry.alive():
            self.changed.notify_all()

    def holds(self, worker_id: str, jobs: int) -> None:
        """The worker is busy, or idle."""
        self.registry.holds(worker_id, jobs)

    def stop(self, worker_id: str, job_id: str) -> None:
        """The worker's stop channel names the job."""
        self.registry.stop_job(worker_id, job_id)

    def finished(self, job: Job) -> None:
        """Webhooks, and whoever else asked."""
        for tell in self.when_finished:
            tell(job)
