"""The own endpoint: its queue, its workers' starts and stops, and the bill, as RunPod does it (as of 2026-11).

Two ways of scaling: the platform's (`by_queue_delay`, between `least` and `most` workers), or exactly as many workers
as a policy sets (`set_target`), which is what the platform's workersMin = workersMax does. A worker that is let go
takes no more jobs, ends those it has, and is billed for its idle timeout.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

from vllm_service.simulation.draws import Draws
from vllm_service.simulation.scenario import OwnPhysics
from vllm_service.simulation.worker import NEVER, Worker


class Endpoint:
    """The own endpoint on the virtual clock."""

    def __init__(self, physics: OwnPhysics, draws: Draws, *, least: int = 0, most: int | None = None) -> None:
        self._physics = physics
        self._draws = draws
        self._profile = physics.profile
        self._least = least
        self._most = physics.profile.max_workers if most is None else most
        self._by_queue_delay = True
        self._last_start = -NEVER
        #: Jobs that wait: (since when, request, prompt tokens, completion tokens).
        self.queue: deque[tuple[float, int, float, float]] = deque()
        #: Workers that are billed are in one of these two.
        self.starting: list[Worker] = []
        self.warm: list[Worker] = []
        self.billed_seconds = 0
        self.starts = 0
        #: (begun, ended) of each worker that has stopped.
        self.lifetimes: list[tuple[float, float]] = []
        #: Called with the time when a worker has changed its state.
        self.on_change: Callable[[float], None] | None = None
        #: When `step` has something to do.
        self.next_event = NEVER

    def open(self, now: float) -> None:
        """Starts the workers that the platform keeps without any job."""
        self._scale(now)
        self._schedule()

    def set_target(self, workers: int, now: float) -> None:
        """Keeps exactly this many workers from now on, at most the profile's maximum; no answer is interrupted."""
        self._by_queue_delay = False
        self._least = self._most = min(workers, self._profile.max_workers)
        self._scale(now)
        self._schedule()

    def submit(self, request: int, prompt_tokens: float, completion_tokens: float, now: float) -> None:
        """Sends a job to the worker that will first have read its prompts, or into the queue if no slot is free."""
        worker = None if self.queue else self._freest(now)
        if worker is None:
            self.queue.append((now, request, prompt_tokens, completion_tokens))
            self._scale(now)
        else:
            worker.add(request, prompt_tokens, completion_tokens, now)
        self._schedule()

    def busy(self) -> bool:
        """Returns whether a job waits or runs."""
        return bool(self.queue) or any(worker.in_flight for worker in self.warm)

    def free_slots(self) -> int:
        """Returns the free slots of the warm workers that take jobs."""
        return sum(self._profile.slots - worker.in_flight for worker in self.warm if not worker.draining)

    def step(self) -> list[tuple[int, bool]]:
        """Does what is due at `next_event`; returns (request, True) per first token, (request, False) per end."""
        now = self.next_event
        happened = []
        for worker in self.warm:
            if worker.next_event <= now:
                happened.append(worker.step())
        if not happened or self.queue:
            self._let_in(now)
        self._stop_idle(now)
        self._scale(now)
        self._schedule()
        return happened

    def close(self, now: float) -> None:
        """Ends the run: idle workers stop after their timeout. What the platform is starting, it still starts."""
        if not self._by_queue_delay:
            self.set_target(0, now)
        self._least = 0
        self._schedule()

    def _freest(self, now: float) -> Worker | None:
        """Returns the worker with a free slot that has the least to read, of equals the one with fewest in flight."""
        best = None
        least = (NEVER, 0)
        slots = self._profile.slots
        for worker in self.warm:
            if worker.in_flight < slots and not worker.draining:
                load = (max(worker.reads_until, now), worker.in_flight)
                if load < least:
                    best = worker
                    least = load
        return best

    def _let_in(self, now: float) -> None:
        ready = [worker for worker in self.starting if worker.ready_at <= now]
        if ready:
            self.starting = [worker for worker in self.starting if worker.ready_at > now]
            self.warm += ready
            self._changed(now)
        while self.queue and (worker := self._freest(now)):
            _, request, prompt_tokens, completion_tokens = self.queue.popleft()
            worker.add(request, prompt_tokens, completion_tokens, now)

    def _stop_idle(self, now: float) -> None:
        """Stops idle workers beyond `least` after the timeout, whether they were let go or the platform scales."""
        timeout = self._profile.idle_timeout_seconds
        spare = len(self.warm) + len(self.starting) - self._least
        for worker in [worker for worker in self.warm if not worker.in_flight]:
            if spare > 0 and worker.idle_since + timeout <= now and (worker.draining or self._by_queue_delay):
                spare -= 1
                self.warm.remove(worker)
                self._bill(worker, now)
                self._changed(now)

    def _bill(self, worker: Worker, now: float) -> None:
        self.billed_seconds += math.ceil(now - worker.billed_from - 1e-6)  # not a second more for a float's error
        self.lifetimes.append((worker.billed_from, now))

    def _scale(self, now: float) -> None:
        if self._by_queue_delay:
            self._scale_by_queue_delay(now)
            return
        taking = [worker for worker in self.warm if not worker.draining]
        lacking = self._least - len(taking) - len(self.starting)
        if lacking > 0:
            self._take_back_or_start(lacking, now)
        elif lacking < 0:
            self._let_go(-lacking, taking, now)

    def _take_back_or_start(self, lacking: int, now: float) -> None:
        for worker in [worker for worker in self.warm if worker.draining][:lacking]:
            worker.draining = False
            lacking -= 1
            self._changed(now)
        for _ in range(min(lacking, self._profile.max_workers - len(self.warm) - len(self.starting))):
            self._start(now)

    def _let_go(self, spare: int, taking: list[Worker], now: float) -> None:
        """Lets go of workers that are starting first, then of those with the least to do."""
        for worker in self.starting[len(self.starting) - min(spare, len(self.starting)) :]:
            self.starting.remove(worker)
            self._bill(worker, now)
            spare -= 1
        for worker in sorted(taking, key=lambda worker: worker.in_flight)[:spare]:
            worker.draining = True
            if not worker.in_flight:
                worker.idle_since = now
        self._changed(now)

    def _scale_by_queue_delay(self, now: float) -> None:
        """Starts the first worker at once; one more when the oldest job, and the last start, are a queue delay ago."""
        count = len(self.warm) + len(self.starting)
        delay = self._physics.queue_delay_seconds
        if count < self._least or (self.queue and not count):
            self._start(now)
        elif self.queue and count < self._most:
            due = max(self.queue[0][0], self._last_start) + delay
            if now >= due - 1e-9:
                self._start(now)

    def _start(self, now: float) -> None:
        cold_seconds = self._draws.cold_seconds(self.starts)
        self.starting.append(Worker(self.starts, now, now + cold_seconds, self._profile))
        self.starts += 1
        self._last_start = now
        self._changed(now)

    def _changed(self, now: float) -> None:
        if self.on_change is not None:
            self.on_change(now)

    def _schedule(self) -> None:
        timeout = self._profile.idle_timeout_seconds
        soonest = NEVER
        spare = len(self.warm) + len(self.starting) > self._least
        for worker in self.warm:
            soonest = min(soonest, worker.next_event)
            if spare and not worker.in_flight and (worker.draining or self._by_queue_delay):
                soonest = min(soonest, worker.idle_since + timeout)
        for worker in self.starting:
            soonest = min(soonest, worker.ready_at)
        if self._by_queue_delay and self.queue and 0 < len(self.warm) + len(self.starting) < self._most:
            soonest = min(soonest, max(self.queue[0][0], self._last_start) + self._physics.queue_delay_seconds)
        self.next_event = soonest
