"""The workers of an endpoint: states, heartbeats, stop signals, meters. Processes are in workers/fleet.py."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from runpod_emulator.billing.bill import Bill, Meter, Phase, bill_line
from runpod_emulator.errors import NotFound
from runpod_emulator.settings import EndpointSettings
from runpod_emulator.signals import Signal


class State(StrEnum):
    """Where a worker stands."""

    INITIALIZING = "initializing"  # until its first job-take
    IDLE = "idle"
    RUNNING = "running"
    UNHEALTHY = "unhealthy"  # its heartbeats stopped, or it never got ready
    STOPPED = "stopped"


PHASES = {
    State.INITIALIZING: Phase.COLD_START,
    State.IDLE: Phase.IDLE,
    State.RUNNING: Phase.RUNNING,
    State.UNHEALTHY: Phase.UNHEALTHY,
}
READY = frozenset({State.IDLE, State.RUNNING})
ALIVE = READY | {State.INITIALIZING}


@dataclass(eq=False)
class Worker:
    """One worker, from its start until after its end. Times are seconds of the endpoint's clock."""

    id: str
    started_at: float
    meter: Meter
    state: State = State.INITIALIZING
    since: float = 0
    jobs: int = 0
    last_ping: float | None = None
    is_stopping: bool = False  # it gets no more jobs
    exit_code: int | None = None
    stop_ids: list[str] = field(default_factory=list)
    stops: Signal = field(default_factory=Signal)

    @property
    def gets_jobs(self) -> bool:
        """Whether a job-take may be answered with one."""
        return self.state in READY and not self.is_stopping

    def take_stop_ids(self) -> list[str]:
        """The jobs it should stop; each is named once."""
        taken, self.stop_ids = self.stop_ids, []
        return taken


class WorkerRegistry:
    """Every worker that ever was, by id. Changes of state go through here, so that the meters agree with them.

    Strangers, which nobody started here, are workers too where `admits_strangers` says so.
    """

    def __init__(
        self, settings: EndpointSettings, clock: Callable[[], float], *, admits_strangers: bool = True
    ) -> None:
        self.workers: dict[str, Worker] = {}
        self.min_workers = settings.min_workers  # as it is now
        self._former: list[Worker] = []  # whose id another stranger has taken since
        self._admits_strangers = admits_strangers
        self._settings = settings
        self._clock = clock

    def get(self, worker_id: str) -> Worker:
        """A worker that was started here, or a stranger, known from now on; raises NotFound."""
        worker = self.workers.get(worker_id)
        if worker is None and not self._admits_strangers:
            raise NotFound(f"no worker {worker_id}: this endpoint starts its own")
        return worker or self.start(worker_id)

    def start(self, worker_id: str) -> Worker:
        """A worker whose process starts now."""
        now = self._clock()
        if worker_id in self.workers:
            self._former.append(self.workers[worker_id])
        worker = self.workers[worker_id] = Worker(worker_id, now, Meter(now), since=now)
        return worker

    def takes(self, worker_id: str) -> Worker:
        """It asks for jobs: so it is ready. A stranger that ended and asks again is a new one. Raises NotFound."""
        worker = self.get(worker_id)
        if worker.state is State.STOPPED and self._admits_strangers:
            worker = self.start(worker_id)
        if worker.state is State.INITIALIZING and not worker.is_stopping:
            self._move(worker, State.IDLE)
        return worker

    def ping(self, worker_id: str) -> None:
        """A heartbeat: a worker that was given up is back; one that has stopped is not. Raises NotFound."""
        worker = self.get(worker_id)
        worker.last_ping = self._clock()
        if worker.state is State.UNHEALTHY:
            self._move(worker, State.IDLE)

    def holds(self, worker_id: str, jobs: int) -> None:
        """It now works on so many jobs."""
        worker = self.workers[worker_id]
        worker.jobs = jobs
        if worker.state in READY:
            self._move(worker, State.RUNNING if jobs else State.IDLE)

    def stop_job(self, worker_id: str, job_id: str) -> None:
        """Its stop channel will name the job."""
        worker = self.workers[worker_id]
        worker.stop_ids.append(job_id)
        worker.stops.notify_all()

    def make_unhealthy(self, worker: Worker) -> None:
        """It is no longer counted on, nor billed."""
        self._move(worker, State.UNHEALTHY)

    def end(self, worker: Worker, exit_code: int | None) -> None:
        """Its process is gone."""
        worker.exit_code = exit_code
        worker.is_stopping = True
        self._move(worker, State.STOPPED)
        worker.meter.stop(self._clock())
        worker.stops.notify_all()

    def alive(self) -> list[Worker]:
        """Those that take jobs, or will; the oldest first."""
        return [worker for worker in self.workers.values() if worker.state in ALIVE and not worker.is_stopping]

    def lost(self) -> list[tuple[Worker, str]]:
        """Those that cannot be counted on any more, and why."""
        now, settings = self._clock(), self._settings
        lost: list[tuple[Worker, str]] = []
        for worker in self.alive():
            if worker.last_ping is not None and now - worker.last_ping > settings.heartbeat_timeout_seconds:
                lost.append((worker, f"worker {worker.id} sent no heartbeat for {now - worker.last_ping:.1f} s"))
            elif worker.state is State.INITIALIZING and now - worker.started_at > settings.init_timeout_seconds:
                lost.append((worker, f"worker {worker.id} was not ready after {settings.init_timeout_seconds:g} s"))
        return lost

    def idle_too_long(self) -> list[Worker]:
        """Those to stop: idle for the idle time-out, as far as `min_workers` allows; the longest idle first."""
        now = self._clock()
        idle = [
            worker
            for worker in self.alive()
            if worker.state is State.IDLE and now - worker.since >= self._settings.idle_timeout_seconds
        ]
        spare = max(0, len(self.alive()) - self.min_workers)
        return sorted(idle, key=lambda worker: worker.since)[:spare]

    def counts(self) -> dict[str, int]:
        """As /health reports them. `throttled` never happens here."""
        states = Counter(worker.state for worker in self.workers.values())
        ready = sum(states[state] for state in READY)
        reported = (State.IDLE, State.INITIALIZING, State.RUNNING, State.UNHEALTHY)
        return {"ready": ready, "throttled": 0} | {state.value: states[state] for state in reported}

    def bill(self, clock_began_at: float | None = None) -> Bill:
        """What all workers have cost until now; with times where it is known when the clock's 0 was."""
        now, price = self._clock(), self._settings.usd_per_second
        workers = sorted([*self._former, *self.workers.values()], key=lambda worker: worker.started_at)
        return Bill(
            price,
            tuple(
                bill_line(worker.id, worker.meter, now, price, worker.exit_code, clock_began_at=clock_began_at)
                for worker in workers
            ),
        )

    def _move(self, worker: Worker, state: State) -> None:
        if worker.state is state or worker.state is State.STOPPED:
            return
        worker.state, worker.since = state, self._clock()
        if phase := PHASES.get(state):
            worker.meter.enter(phase, worker.since)
