"""How many workers an endpoint should have: a pure function of the settings and the present numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass

from runpod_emulator.jobs.store import Load
from runpod_emulator.settings import EndpointSettings


@dataclass(frozen=True)
class ScalingInput:
    """The present numbers of an endpoint."""

    load: Load
    #: The workers that start, wait or run, without those that stop.
    workers: int
    seconds_since_last_start: float


def desired_workers(settings: EndpointSettings, present: ScalingInput) -> int:
    """Returns a number between `min_workers` and `max_workers`, but never fewer than there are.

    Idle workers stop by their own time-out, so scaling only ever starts workers.
    """
    grown = STRATEGIES[settings.scaling](settings, present)
    desired = max(grown, present.workers, settings.min_workers)
    return min(desired, max(settings.max_workers, present.workers))


def by_queue_delay(settings: EndpointSettings, present: ScalingInput) -> int:
    """Returns 1 if there are none, else one more once the oldest job and the last start are a queue delay ago."""
    if not present.load.queued:
        return present.workers
    if not present.workers:
        return 1
    delay = settings.queue_delay_seconds
    # Without the second condition one job that waits through a cold start would start a worker at every tick.
    grows = present.load.oldest_wait_seconds >= delay and present.seconds_since_last_start >= delay
    return present.workers + grows


def by_request_count(settings: EndpointSettings, present: ScalingInput) -> int:
    """Returns ceil((queued + in progress) / requests per worker)."""
    return math.ceil((present.load.queued + present.load.in_progress) / settings.requests_per_worker)


STRATEGIES = {"queue_delay": by_queue_delay, "request_count": by_request_count}
