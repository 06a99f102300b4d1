"""The own endpoint: its queue, its workers' starts and stops, and the bill, as RunPod does it (as of 2026-11).

Two ways of scaling: the platform's (`by_queue_delay`, between `least` and `most` workers), or exactly as many workers
as a policy asks for (`set_target`), which is what the platform's workersMin = workersMax does. A worker that is let go
takes no more jobs, ends those it has, and is billed for its idle time-out.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

from vllm_service.simulation.draws import Draws
from vllm_service.simulation.scenario import OwnPhysics
from vllm_service.simulation.worker import NEVER, Worker


class Endpoint:
    """next_event: when `step` has something to do. Workers that are billed are in `starting` or `warm`."""

    def __init__(self, physics: OwnPhysics, draws: Draws, *, least: int = 0, most: int | None = None) -> None:
        self._physics, self._draws, self._profile = physics, draws, physics.profile
        self._least = least
        self._most = physics.profile.max_workers if most is None else most
        self._by_queue_delay = True
        self._last_start = -NEVER
        self.queue: deque[tuple[float, int, float, float]] = deque()
        self.starting: list[Worker] = []
        self.warm: list[Worker] = []
        self.billed_seconds = 0
        self.starts = 0
        self.lifetimes: list[tuple[float, float]] = []
        self.on_change: Callable[[float], None] | None = None
        self.next_event = NEVER

    def open(self, now: float) -> None:
        """The platform starts what it is to keep without any job."""
        self._scale(now)
        self._schedule()

    def set_target(self, workers: int, now: float) -> None:
        """From now on exactly this many, at most the profile's maximum; letting go never interrupts an answer."""
        self._by_queue_delay = False
        self._least = self._most = min(workers, self._profile.max_workers)
        self._scale(now)
        self._schedule()

    def submit(self, request: int, prompt_tokens: float, completion_tokens: float, now: float) -> None:
        """A job: to the worker that is the first to have read its prompts, or into the queue while no slot is free."""
        worker = None if self.queue else self._freest(now)
        if worker is None:
            self.queue.append((now, request, prompt_tokens, completion_tokens))
            self._scale(now)
        else:
            worker.add(request, prompt_tokens, completion_tokens, now)
        self._schedule()

    def busy(self) -> bool:
        """Whether a job waits or runs."""
        return bool(self.queue) or any(worker.in_flight for worker in self.warm)

    def free_slots(self) -> int:
        """Of the warm workers that take jobs."""
        return sum(self._profile.slots - worker.in_flight for worker in self.warm if not worker.draining)

    def step(self) -> list[tuple[int, bool]]:
        """Everything that is due at `next_event`: first tokens (request, True), ends of answers (request, False)."""
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
        """No more requests: what is idle leaves by its time-out. What the platform is starting, it starts."""
        if not self._by_queue_delay:
            self.set_target(0, now)
        self._least = 0
        self._schedule()

    def _freest(self, now: float) -> Worker | None:
        """Of those with a free slot: the one that has the least to read, of these the one with the fewest in flight."""
        best, least = None, (NEVER, 0)
        slots = self._profile.slots
        for worker in self.warm:
            if worker.in_flight < slots and not worker.draining:
                load = (max(worker.reads_until, now), worker.in_flight)
                if load < least:
                    best, least = worker, load
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
        """Idle ones beyond `least` leave after the time-out, whether or not they were told to."""
        timeout = self._profile.idle_timeout_seconds
        spare = len(self.warm) + len(self.starting) - self._least
        for worker in [worker for worker in self.warm if not worker.in_flight]:
            if spare > 0 and worker.idle_since + timeout <= now and (worker.draining or self._by_queue_delay):
                spare -= 1
                self.warm.remove(worker)
                self._bill(worker, now)
                self._changed(now)

    def _bill(self, worker: Worker, now: float) -> None:
        self.billed_seconds += math.ceil(now - worker.billed_from - 1e-6)
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
        """Those that start first, then those with the least to do."""
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
        """The first worker at once; one more whenever the oldest job, and the last start, are a queue delay ago."""
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
        timeout, soonest = self._profile.idle_timeout_seconds, NEVER
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
