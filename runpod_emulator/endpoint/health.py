"""What `/health` says: jobs and workers, counted now or, where that is the fault, some time ago."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from runpod_emulator.endpoint.registry import WorkerRegistry
from runpod_emulator.jobs.job import Status
from runpod_emulator.jobs.store import JobStore

Json = dict[str, Any]


class Health:
    """looks: how often it was asked for. What was is kept while `late_seconds` is above 0."""

    def __init__(self, store: JobStore, registry: WorkerRegistry, clock: Callable[[], float]) -> None:
        self.looks = 0
        self._store, self._registry, self._clock = store, registry, clock
        self._was: deque[tuple[float, Json]] = deque()

    def note(self, late_seconds: float) -> None:
        """To be called now and then: how things are, for who will be told so later."""
        if late_seconds <= 0:
            self._was.clear()
            return
        now = self._clock()
        self._was.append((now, self.now()))
        while len(self._was) > 1 and self._was[1][0] <= now - late_seconds:
            self._was.popleft()

    def told(self, late_seconds: float) -> Json:
        """The document for a client."""
        self.looks += 1
        self.note(late_seconds)
        return self._was[0][1] if self._was else self.now()

    def now(self) -> Json:
        """The truth."""
        counts, load = self._store.counts, self._store.load()
        jobs = {
            "completed": counts[Status.COMPLETED],
            "failed": counts[Status.FAILED] + counts[Status.TIMED_OUT],
            "inProgress": load.in_progress,
            "inQueue": load.queued,
            "retried": counts["retried"],
        }
        return {"jobs": jobs, "workers": self._registry.counts()}
