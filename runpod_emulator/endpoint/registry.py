"""The workers of an endpoint: states, heartbeats, stop signals, meters. Processes are in workers/fleet.py."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from runpod_emulator.billing.bill import Bill, Meter, Phase, bill_line
from runpod_emulator.endpoint.address import WorkerAddress
from runpod_emulator.endpoint.output import WorkerOutput
from runpod_emulator.endpoint.placement import NOWHERE, Placement, Placer, SamePlace
from runpod_emulator.endpoint.release import Release
from runpod_emulator.errors import NotFound
from runpod_emulator.settings import EndpointSettings
from runpod_emulator.signals import Signal


class State(StrEnum):
    """The state of a worker, as /health names it."""

    #: It waits for GPUs, and has no process.
    THROTTLED = "throttled"
    #: Until its first job-take.
    INITIALIZING = "initializing"
    IDLE = "idle"
    RUNNING = "running"
    #: Its heartbeats stopped, or it did not become ready in time.
    UNHEALTHY = "unhealthy"
    STOPPED = "stopped"


PHASES = {
    State.INITIALIZING: Phase.COLD_START,
    State.IDLE: Phase.IDLE,
    State.RUNNING: Phase.RUNNING,
    State.UNHEALTHY: Phase.UNHEALTHY,
}
READY = frozenset({State.IDLE, State.RUNNING})
ALIVE = READY | {State.INITIALIZING}
#: How many workers' output is kept after their ends.
KEPT_OUTPUTS = 20


@dataclass(eq=False)
class Worker:
    """One worker, from its start until after its end. Times are seconds of the endpoint's clock."""

    id: str
    started_at: float
    meter: Meter
    #: The endpoint's release when the worker started.
    release: Release
    placement: Placement
    output: WorkerOutput
    state: State = State.INITIALIZING
    #: When the state began.
    since: float = 0
    #: It takes the requests of batch jobs only; the others take those of the queue only.
    takes_batches: bool = False
    #: How many jobs it holds, or requests of the load balancer.
    jobs: int = 0
    #: Where it serves the load balancer's requests; None before its process starts, and with a queue.
    address: WorkerAddress | None = None
    #: When its last heartbeat came; None before the first.
    last_ping: float | None = None
    #: It gets no more jobs.
    is_stopping: bool = False
    exit_code: int | None = None
    #: The jobs to name in its next job-stop answer.
    stop_ids: list[str] = field(default_factory=list)
    #: Wakes its job-stop poll.
    stops: Signal = field(default_factory=Signal)

    @property
    def gets_jobs(self) -> bool:
        """Returns whether its job-take polls may be answered with a job."""
        return self.state in READY and not self.is_stopping

    def take_stop_ids(self) -> list[str]:
        """Returns the jobs that it should stop; each is returned once."""
        taken = self.stop_ids
        self.stop_ids = []
        return taken


class WorkerRegistry:
    """Keeps every worker since the start, by id. All changes of state go through here, so that the meters agree.

    With `admits_external`, a worker that was started elsewhere is added when its first request comes. clock_began_at:
    the clock's 0 in seconds since 1970.
    """

    def __init__(
        self,
        settings: EndpointSettings,
        clock: Callable[[], float],
        *,
        admits_external: bool = True,
        clock_began_at: float = 0.0,
    ) -> None:
        self.workers: dict[str, Worker] = {}
        #: The present values; the management APIs change them.
        self.settings = settings
        #: The container of workers that start from now on.
        self.release = Release()
        #: Finds the GPUs of workers that start from now on.
        self.placer: Placer = SamePlace(Placement(usd_per_second=settings.usd_per_second))
        #: Stopped external workers whose id a later one uses; they stay on the bill.
        self._former: list[Worker] = []
        #: Of workers that have ended, the latest last.
        self._ended_outputs: deque[WorkerOutput] = deque()
        self._admits_external = admits_external
        self._clock = clock
        self._clock_began_at = clock_began_at

    def get(self, worker_id: str) -> Worker:
        """Returns a worker, adding an external one. Raises NotFound where external workers are not admitted."""
        worker = self.workers.get(worker_id)
        if worker is None and not self._admits_external:
            raise NotFound(f"no worker {worker_id}: this endpoint admits only the workers that it starts")
        return worker or self.start(worker_id)

    def start(self, worker_id: str, *, takes_batches: bool = False) -> Worker:
        """Adds a worker whose process starts now, and returns it."""
        worker = self.request(worker_id, takes_batches=takes_batches)
        if worker.state is State.THROTTLED:
            self._begin(worker, self.placer.place(must=True) or NOWHERE)
        return worker

    def request(self, worker_id: str, *, takes_batches: bool = False) -> Worker:
        """Adds a worker and returns it: initializing where there are GPUs for it, else throttled."""
        if worker_id in self.workers:
            self._former.append(self.workers[worker_id])
        now = self._clock()
        worker = self.workers[worker_id] = Worker(
            *(worker_id, now, Meter(now, Phase.THROTTLED), self.release, NOWHERE, WorkerOutput(self._now_us)),
            state=State.THROTTLED,
            since=now,
            takes_batches=takes_batches,
        )
        self.place(worker)
        return worker

    def place(self, worker: Worker) -> bool:
        """Returns whether there are GPUs for a throttled worker now; then it is initializing, and its meter runs."""
        placement = self.placer.place(must=False)
        if placement is not None:
            self._begin(worker, placement)
        return placement is not None

    def drop(self, worker: Worker) -> None:
        """Removes a throttled worker: it has cost nothing."""
        del self.workers[worker.id]

    def mark_ready(self, worker_id: str) -> Worker:
        """Returns the worker of a job-take request, idle if it was initializing. Raises NotFound."""
        worker = self.get(worker_id)
        # An external worker's id may come back with a new process.
        if worker.state is State.STOPPED and self._admits_external:
            worker = self.start(worker_id)
        if worker.state is State.INITIALIZING and not worker.is_stopping:
            self._move(worker, State.IDLE)
        return worker

    def ping(self, worker_id: str) -> None:
        """Records a heartbeat. An unhealthy worker becomes idle again, a stopped one does not. Raises NotFound."""
        worker = self.get(worker_id)
        worker.last_ping = self._clock()
        if worker.state is State.UNHEALTHY:
            self._move(worker, State.IDLE)

    def restore(self, worker: Worker) -> None:
        """Makes a worker running or idle that was initializing or unhealthy."""
        if worker.state in (State.INITIALIZING, State.UNHEALTHY) and not worker.is_stopping:
            self._move(worker, State.RUNNING if worker.jobs else State.IDLE)

    def make_initializing(self, worker: Worker) -> None:
        """Takes the worker out of the rotation: it loads, perhaps once more."""
        self._move(worker, State.INITIALIZING)

    def set_held_jobs(self, worker_id: str, jobs: int) -> None:
        """Sets how many jobs the worker holds; it is running if there are any, else idle."""
        worker = self.workers[worker_id]
        worker.jobs = jobs
        if worker.state in READY:
            self._move(worker, State.RUNNING if jobs else State.IDLE)

    def stop_job(self, worker_id: str, job_id: str) -> None:
        """Adds the job to the worker's next job-stop answer."""
        worker = self.workers[worker_id]
        worker.stop_ids.append(job_id)
        worker.stops.notify_all()

    def make_unhealthy(self, worker: Worker) -> None:
        """Marks the worker unhealthy: it gets no more jobs, and its time is not billed."""
        self._move(worker, State.UNHEALTHY)

    def is_given_up(self, worker: Worker) -> bool:
        """Returns whether the worker has to be killed: one of a load balancer that was ready has time to recover."""
        if worker.state is not State.UNHEALTHY:
            return False
        may_recover = self.settings.is_balanced and worker.meter.ready_at is not None
        return not may_recover or self._clock() - worker.since >= self.settings.unhealthy_seconds

    def end(self, worker: Worker, exit_code: int | None) -> None:
        """Marks the worker stopped, and stops its meter."""
        if worker.state is not State.STOPPED:
            self.placer.vacate(worker.placement)
        worker.exit_code = exit_code
        worker.is_stopping = True
        self._move(worker, State.STOPPED)
        worker.meter.stop(self._clock())
        worker.stops.notify_all()
        worker.output.end(f"The worker has ended, exit code {exit_code}.")
        self._ended_outputs.append(worker.output)
        if len(self._ended_outputs) > KEPT_OUTPUTS:
            self._ended_outputs.popleft().forget()

    def alive(self) -> list[Worker]:
        """Returns the workers that take jobs or will take some, the oldest first."""
        return [worker for worker in self.workers.values() if worker.state in ALIVE and not worker.is_stopping]

    def alive_for(self, *, batches: bool) -> list[Worker]:
        """Returns those of them that take the requests of batch jobs, or those that take the queue's."""
        return [worker for worker in self.alive() if worker.takes_batches is batches]

    def throttled(self) -> list[Worker]:
        """Returns the workers that wait for GPUs, the oldest first."""
        return [worker for worker in self.workers.values() if worker.state is State.THROTTLED]

    def throttled_for(self, *, batches: bool) -> list[Worker]:
        """Returns those of them that will take the requests of batch jobs, or those that will take the queue's."""
        return [worker for worker in self.throttled() if worker.takes_batches is batches]

    def has_ready(self) -> bool:
        """Returns whether a worker has taken or requested a job, and runs."""
        return any(worker.state in READY for worker in self.workers.values())

    def lost(self) -> list[tuple[Worker, str]]:
        """Returns the workers whose heartbeats stopped or that took too long to start, each with the reason."""
        now = self._clock()
        settings = self.settings
        lost: list[tuple[Worker, str]] = []
        for worker in self.alive():
            if worker.last_ping is not None and now - worker.last_ping > settings.heartbeat_timeout_seconds:
                lost.append((worker, f"worker {worker.id} sent no heartbeat for {now - worker.last_ping:.1f} s"))
            elif worker.state is State.INITIALIZING and now - worker.started_at > settings.init_timeout_seconds:
                lost.append((worker, f"worker {worker.id} was not ready after {settings.init_timeout_seconds:g} s"))
        return lost

    def is_stale(self, worker: Worker) -> bool:
        """Returns whether the worker runs a former release."""
        return worker.release.version != self.release.version

    def idle_too_long(self) -> list[Worker]:
        """Returns the workers to stop: idle for the idle time-out, the longest idle first, down to `min_workers`.

        Idle workers above `max_workers` come before them. All idle workers of a former release are stopped too.
        """
        settings = self.settings
        of_the_queue = self._to_stop(self.alive_for(batches=False), settings.min_workers, settings.max_workers)
        return of_the_queue + self._to_stop(self.alive_for(batches=True), 0, settings.max_batch_workers)

    def _to_stop(self, alive: list[Worker], min_workers: int, max_workers: int) -> list[Worker]:
        now = self._clock()
        idle = sorted((worker for worker in alive if worker.state is State.IDLE), key=lambda worker: worker.since)
        stale = [worker for worker in idle if self.is_stale(worker)]
        current = [worker for worker in idle if worker not in stale]
        left = len(alive) - len(stale)
        too_many = max(0, left - max_workers)
        timed_out = sum(now - worker.since >= self.settings.idle_timeout_seconds for worker in current)
        return stale + current[: min(max(too_many, timed_out), max(0, left - min_workers))]

    def counts(self) -> dict[str, int]:
        """Returns the numbers that /health reports, without the workers of batch jobs."""
        states = Counter(worker.state for worker in self.workers.values() if not worker.takes_batches)
        ready = sum(states[state] for state in READY)
        reported = (State.THROTTLED, State.IDLE, State.INITIALIZING, State.RUNNING, State.UNHEALTHY)
        return {"ready": ready} | {state.value: states[state] for state in reported}

    def all_workers(self) -> list[Worker]:
        """Returns every worker that has had GPUs, in the order of their starts."""
        placed = [*self._former, *(one for one in self.workers.values() if one.state is not State.THROTTLED)]
        return sorted(placed, key=lambda worker: worker.started_at)

    def bill(self, clock_began_at: float | None = None) -> Bill:
        """Returns what all workers have cost until now.

        clock_began_at: the clock's 0 in seconds since 1970; with it each line has the worker's times.
        """
        now = self._clock()
        lines = (
            bill_line(
                *(worker.id, worker.meter, now, worker.placement.usd_per_second, worker.exit_code),
                clock_began_at=clock_began_at,
            )
            for worker in self.all_workers()
        )
        return Bill(self.settings.usd_per_second, tuple(lines))

    def _begin(self, worker: Worker, placement: Placement) -> None:
        now = self._clock()
        worker.placement = placement
        worker.release = self.release
        worker.started_at = now
        worker.meter = Meter(now)
        self._move(worker, State.INITIALIZING)

    def _now_us(self) -> int:
        return round((self._clock_began_at + self._clock()) * 1_000_000)

    def _move(self, worker: Worker, state: State) -> None:
        if worker.state is state or worker.state is State.STOPPED:
            return
        worker.state = state
        worker.since = self._clock()
        if phase := PHASES.get(state):
            worker.meter.enter(phase, worker.since)
