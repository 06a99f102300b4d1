"""Measures cold starts from lists of workers: from a worker's start until it is first seen warm. Pure."""

from __future__ import annotations

from vllm_service.runpod.workers import EndpointWorkers, SeenWorker

#: After a longer time without a list, a worker that is warm may have been so for a while.
_LONGEST_GAP_US = 120 * 10**6
#: A longer start is a clock that is wrong; RunPod calls a worker unhealthy after seven minutes.
_LONGEST_START_SECONDS = 3600.0
#: RunPod's clock and this machine's are taken for equal as far as this.
_CLOCKS_APART_SECONDS = 3.0


class ColdStarts:
    """The starts of one endpoint's workers. Times are microseconds since 1970, by this machine's clock."""

    def __init__(self) -> None:
        #: The warm workers of the last list, with their starts: a worker that starts anew may keep its id.
        self._warm: dict[str, int | None] = {}
        self._listed_at_us: int | None = None

    def observe(self, workers: EndpointWorkers, now_us: int) -> tuple[float, ...] | None:
        """Returns the seconds of each start that has ended since the last list; None if a start lacks its time.

        Those of the first list, and of one after a long gap, are not known: nothing tells when they have ended.
        """
        warm = {worker.id: worker for worker in workers.workers if worker.status.is_warm}
        before = self._warm
        is_continued = self._listed_at_us is not None and 0 <= now_us - self._listed_at_us <= _LONGEST_GAP_US
        self._warm = {worker_id: worker.started_at_us for worker_id, worker in warm.items()}
        self._listed_at_us = now_us
        if not is_continued:
            return ()
        ended = [worker for worker in warm.values() if _is_new(worker, before)]
        seconds = [_start_seconds(worker, now_us) for worker in ended]
        if any(worker.started_at_us is None and worker.uptime_seconds is None for worker in ended):
            return None
        return tuple(second for second in seconds if second is not None)


def _is_new(worker: SeenWorker, before: dict[str, int | None]) -> bool:
    """Returns whether a warm worker was not warm before, or has started again since."""
    if worker.id not in before:
        return True
    started_at_us = before[worker.id]
    return started_at_us is not None and worker.started_at_us is not None and worker.started_at_us > started_at_us


def _start_seconds(worker: SeenWorker, now_us: int) -> float | None:
    """Returns the time since the worker's start: by its start, or by its uptime where the two clocks disagree."""
    seconds = None if worker.started_at_us is None else (now_us - worker.started_at_us) / 1e6
    uptime = worker.uptime_seconds
    if uptime is not None and (seconds is None or abs(seconds - uptime) > _CLOCKS_APART_SECONDS):
        seconds = float(uptime)
    return seconds if seconds is not None and 0.0 <= seconds <= _LONGEST_START_SECONDS else None
