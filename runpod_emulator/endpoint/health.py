"""The document of `/health`: numbers of jobs and workers, as of now or, by an injected fault, as of some time ago."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from runpod_emulator.endpoint.failed_starts import FailedStarts
from runpod_emulator.endpoint.open_requests import OpenRequests
from runpod_emulator.endpoint.registry import WorkerRegistry
from runpod_emulator.jobs.job import Status
from runpod_emulator.jobs.store import JobStore

Json = dict[str, Any]


class Health:
    """Makes the health document, and keeps former ones for the fault `health_late_seconds`."""

    def __init__(
        self,
        store: JobStore,
        requests: OpenRequests,
        registry: WorkerRegistry,
        failed_starts: FailedStarts,
        clock: Callable[[], float],
    ) -> None:
        #: How often clients have requested the document.
        self.requests = 0
        self._store = store
        self._open = requests
        self._registry = registry
        self._failed_starts = failed_starts
        self._clock = clock
        self._history: deque[tuple[float, Json]] = deque()

    def record(self, late_seconds: float) -> None:
        """Records the present document for later requests. It has to be called regularly while the fault is set."""
        if late_seconds <= 0:
            self._history.clear()
            return
        now = self._clock()
        self._history.append((now, self.current()))
        # The first entry stays the youngest that is old enough.
        while len(self._history) > 1 and self._history[1][0] <= now - late_seconds:
            self._history.popleft()

    def document(self, late_seconds: float) -> Json:
        """Returns the document for a client: `late_seconds` old, or as old as the fault if that is younger."""
        self.requests += 1
        self.record(late_seconds)
        return self._history[0][1] if self._history else self.current()

    def current(self) -> Json:
        """Returns the document as of now."""
        counts = self._store.counts
        load, open_ = self._store.load(), self._open
        jobs = {
            "completed": counts[Status.COMPLETED] + open_.completed,
            "failed": counts[Status.FAILED] + counts[Status.TIMED_OUT] + open_.failed,
            "inProgress": load.in_progress + open_.in_progress,
            "inQueue": load.queued + open_.waiting,
            "retried": counts["retried"],
        }
        return {"jobs": jobs, "workers": self._registry.counts()} | self._failed_starts.document()
