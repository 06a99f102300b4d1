"""Workers of an emulated endpoint that take and finish its jobs on a driven clock, without processes."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from benchmarks.billed_days.agenda import Agenda
from runpod_emulator.endpoint.placement import Placement, SamePlace
from runpod_emulator.endpoint.registry import State, Worker
from runpod_emulator.endpoint.state import Endpoint
from runpod_emulator.jobs.job import Job, Policy
from runpod_emulator.workers.scaling import ScalingInput, desired_workers

#: How often an endpoint looks whether a job has waited for too long.
_TICK_SECONDS = 1.0
#: From SIGTERM to the end of the process.
_STOP_SECONDS = 0.4
#: Seconds since 1970 are floats of some tenths of a microsecond: what is due then is surely due so much later.
_SURELY_SECONDS = 0.001


@dataclass(frozen=True, slots=True)
class Ended:
    """A job that has ended. Times are seconds since 1970."""

    #: When a worker took it from the queue.
    taken_at: float
    ended_at: float
    worker_id: str


class PlayedWorkers:
    """Starts and stops workers by the endpoint's own rules. A worker runs up to `concurrency` jobs at once.

    placements: the GPUs of each worker that starts.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        agenda: Agenda,
        draw: random.Random,
        placements: Iterator[Placement],
        *,
        cold_start_seconds: tuple[float, float],
        concurrency: int = 4,
    ) -> None:
        self._endpoint = endpoint
        self._agenda = agenda
        self._draw = draw
        self._placements = placements
        self._cold_start_seconds = cold_start_seconds
        self._concurrency = concurrency
        self._last_start = -math.inf
        self._number = 0
        self._ends: dict[str, Callable[[Ended], None]] = {}
        self._policy = Policy.parse(None, endpoint.settings)
        self._ticks = False

    def ask(self, execution_seconds: float, when_ended: Callable[[Ended], None]) -> None:
        """Adds a job to the queue now."""
        job = self._endpoint.store.add(execution_seconds, self._policy, keep_seconds=60)
        self._ends[job.id] = when_ended
        self._take()
        self._grow()

    def _grow(self) -> None:
        """Starts the workers that the queue needs, and looks again while a job waits."""
        registry = self._endpoint.registry
        present = ScalingInput(self._endpoint.store.load(), len(registry.alive()), self._agenda() - self._last_start)
        for _ in range(desired_workers(self._endpoint.settings, present) - present.workers):
            self._start()
        if present.load.queued and not self._ticks:
            self._ticks = True
            self._agenda.after(_TICK_SECONDS, self._tick)

    def _tick(self) -> None:
        self._ticks = False
        self._grow()

    def _start(self) -> None:
        self._last_start = self._agenda()
        self._number += 1
        self._endpoint.registry.placer = SamePlace(next(self._placements))
        worker = self._endpoint.registry.start(f"worker-{self._number}")
        self._agenda.after(self._draw.uniform(*self._cold_start_seconds), lambda: self._ready(worker))

    def _ready(self, worker: Worker) -> None:
        self._endpoint.registry.mark_ready(worker.id)
        self._take()
        self._watch_idle(worker)

    def _take(self) -> None:
        """Gives the jobs that wait to the workers that have room."""
        for worker in self._endpoint.registry.alive():
            if worker.gets_jobs and worker.jobs < self._concurrency:
                for job in self._endpoint.store.take(worker.id, self._concurrency - worker.jobs):
                    self._run(worker, job)

    def _run(self, worker: Worker, job: Job) -> None:
        self._agenda.after(job.input, lambda: self._finish(worker, job))

    def _finish(self, worker: Worker, job: Job) -> None:
        self._endpoint.store.finish(job.id, worker.id, {"output": "done"})
        self._ends.pop(job.id)(Ended(job.started_at or job.created_at, self._agenda(), worker.id))
        self._take()
        self._watch_idle(worker)

    def _watch_idle(self, worker: Worker) -> None:
        if worker.state is State.IDLE:
            self._agenda.after(self._endpoint.settings.idle_timeout_seconds + _SURELY_SECONDS, self._stop_idle)

    def _stop_idle(self) -> None:
        for worker in self._endpoint.registry.idle_too_long():
            self._endpoint.retire(worker)
            self._agenda.after(_STOP_SECONDS, partial(self._endpoint.end_worker, worker, 0))
